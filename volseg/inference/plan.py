"""From a bundle's inference config to a frozen plan the streaming engine can run, or the reason why stock MONAI has to run it.

Transforms are recognised by class and arguments, read from the config as data: nothing is instantiated and MONAI is not imported. Whatever is not recognised is never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from volseg.bundle import Bundle
from volseg.bundle.config import Step, follow, lookup, read_steps
from volseg.inference.cropping import STEP
from volseg.inference.streaming.restore import Decision
from volseg.inference.streaming.sliding import PAD_MODES, SlidingWindow


@dataclass(frozen=True)
class IntensityStep:
    """A recognised intensity transform: name of its MONAI class without the ``d``, and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class InferencePlan:
    """Everything the engine needs to know of a bundle's inference config.

    Parameters
    ----------
    orientation : str or None
        Axis codes the network wants, e.g. ``"RAS"``; None keeps the scan's own.
    spacing : tuple of 3 float or None
        Voxel size the network wants (mm); None keeps the scan's own.
    interpolation : str
        ``"bilinear"`` or ``"nearest"``, of the image.
    before, after : tuple of IntensityStep
        Intensity steps before and after the resampling, in order.
    window : SlidingWindow
        How windows are laid and blended.
    decision : Decision
        How scores become a label.
    """

    orientation: str | None
    spacing: tuple[float, float, float] | None
    interpolation: str
    before: tuple[IntensityStep, ...]
    after: tuple[IntensityStep, ...]
    window: SlidingWindow
    decision: Decision


class UnrecognisedError(Exception):
    """Why a config cannot be planned; the message names the part."""


PREPROCESSING = ("preprocessing", "pre_transforms")
POSTPROCESSING = ("postprocessing", "post_transforms")
"""Ids of the two transform chains, in the order MONAI Label looks for them."""

WITHOUT_EFFECT = frozenset({"LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "SaveImaged", "CopyItemsd", "DeleteItemsd", "ToTensord"})
"""Transforms that change no value and no place of what volseg hands over: one channel-first float32 image."""


def read_plan(bundle: Bundle, config: Mapping[str, Any], overlap: float | None = None) -> InferencePlan:
    """Plan a bundle's inference.

    Parameters
    ----------
    bundle : Bundle
        The bundle.
    config : mapping
        Its inference config as read.
    overlap : float, optional
        Overrides the overlap of the sliding window.

    Raises
    ------
    UnrecognisedError
        When a part of the config is none the engine knows.
    """
    spatial, before, after = _read_preprocessing(config)
    decision = _read_postprocessing(config)
    if spatial["interpolation"] == "nearest":
        # Without nearest_interp the inversion takes the mode of the image's own resampling.
        decision = replace(decision, nearest=True)
    channels = lookup(bundle.metadata, "network_data_format#outputs#pred#num_channels")
    if decision.threshold is not None and channels != 1:
        msg = f"a threshold on {channels} channels"
        raise UnrecognisedError(msg)
    if decision.threshold is not None and (decision.threshold < 0 or spatial["spacing"]) and any(step.name == STEP for step in after):
        msg = "a threshold on what was cropped after Spacingd"
        raise UnrecognisedError(msg)
    return InferencePlan(**spatial, before=before, after=after, window=_read_inferer(config, overlap), decision=decision)


def _find(config: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Step, ...]:
    name = next((name for name in names if lookup(config, name) is not None), None)
    steps = read_steps(config, name) if name else None
    if steps is None:
        msg = f"`{names[0]}` cannot be read without running it"
        raise UnrecognisedError(msg)
    return steps


def _read_preprocessing(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[IntensityStep, ...], tuple[IntensityStep, ...]]:
    spatial: dict[str, Any] = {"orientation": None, "spacing": None, "interpolation": "bilinear"}
    before: list[IntensityStep] = []
    after: list[IntensityStep] = []
    cropped = False
    for step in _find(config, PREPROCESSING):
        if step.target in WITHOUT_EFFECT or step.keys != ("image",):
            _check_without_effect(step)
            continue
        if step.target == "Orientationd":
            if spatial["orientation"] or spatial["spacing"] or cropped:
                msg = "Orientationd after another spatial transform"
                raise UnrecognisedError(msg)
            spatial["orientation"] = _read_orientation(step)
        elif step.target == "Spacingd":
            if spatial["spacing"]:
                msg = "two Spacingd"
                raise UnrecognisedError(msg)
            spatial |= _read_spacing(config, step)
        elif step.target == "CropForegroundd":
            if cropped:
                msg = "two CropForegroundd"
                raise UnrecognisedError(msg)
            cropped = True
            (after if spatial["spacing"] else before).append(_read_crop(config, step))
        elif step.target in INTENSITY:
            arguments = _arguments(config, step, INTENSITY[step.target])
            (after if spatial["spacing"] else before).append(IntensityStep(step.target.removesuffix("d"), arguments))
        else:
            msg = f"{step.target} in `preprocessing`"
            raise UnrecognisedError(msg)
    if spatial["spacing"] is None:
        before, after = [], before
    return spatial, tuple(before), tuple(after)


def _check_without_effect(step: Step) -> None:
    if step.target not in WITHOUT_EFFECT:
        msg = f"{step.target} on {', '.join(step.keys) or 'no key'}"
        raise UnrecognisedError(msg)
    if step.target in ("CopyItemsd", "DeleteItemsd") and {"image", "pred"} & {*step.keys, *_texts(step.arguments.get("names"))}:
        msg = f"{step.target} of the image itself"
        raise UnrecognisedError(msg)
    if step.target == "EnsureTyped" and step.arguments.get("dtype") not in (None, "$torch.float32", "float32", "$np.float32"):
        msg = f"EnsureTyped with dtype {step.arguments.get('dtype')}"
        raise UnrecognisedError(msg)


def _texts(value: Any) -> set[str]:
    return {value} if isinstance(value, str) else set(value or ())


def _read_orientation(step: Step) -> str:
    _only(step, {"axcodes", "labels"})
    labels = step.arguments.get("labels")
    codes = step.arguments.get("axcodes")
    if (labels is not None and [tuple(pair) for pair in labels] != [("L", "R"), ("P", "A"), ("I", "S")]) or not isinstance(codes, str) or len(codes) != 3:
        msg = f"Orientationd with axcodes {codes!r} and labels {labels!r}"
        raise UnrecognisedError(msg)
    return codes.upper()


def _read_crop(config: Mapping[str, Any], step: Step) -> IntensityStep:
    _only(step, {"source_key", "select_fn", "margin", "allow_smaller", "k_divisible", "mode", "start_coord_key", "end_coord_key"})
    given = {key: _plain(config, value) for key, value in step.arguments.items()}
    sizes = [given.get("margin", 0), given.get("k_divisible", 1)]
    whole = all(isinstance(n, int) and n >= 0 for size in sizes for n in (size if isinstance(size, list) and len(size) == 3 else [size]))
    above_zero = given.get("select_fn") is None or "".join(str(given["select_fn"]).split()) == "$lambdax:x>0"
    if given.get("source_key") != "image" or not above_zero or not whole or _single(given.get("mode", "constant")) != "constant":
        msg = f"CropForegroundd with {', '.join(f'{key}={value!r}' for key, value in given.items() if key != 'keys')}"
        raise UnrecognisedError(msg)
    return IntensityStep(STEP, {key: given[key] for key in ("margin", "allow_smaller", "k_divisible") if key in given})


def _read_spacing(config: Mapping[str, Any], step: Step) -> dict[str, Any]:
    _only(step, {"pixdim", "mode", "padding_mode", "dtype", "align_corners", "diagonal"})
    given = step.arguments
    pixdim, mode = _plain(config, given.get("pixdim")), _single(_plain(config, given.get("mode", "bilinear")))
    numbers = isinstance(pixdim, (list, tuple)) and len(pixdim) == 3 and all(isinstance(p, (int, float)) and p > 0 for p in pixdim)
    if not numbers or mode not in ("bilinear", "nearest", "trilinear") or _single(given.get("padding_mode", "border")) != "border" or given.get("diagonal", False):
        msg = f"Spacingd with {', '.join(f'{key}={value!r}' for key, value in given.items() if key != 'keys')}"
        raise UnrecognisedError(msg)
    return {"spacing": tuple(float(p) for p in pixdim), "interpolation": "nearest" if mode == "nearest" else "bilinear"}


INTENSITY: dict[str, tuple[str, ...]] = {
    "ScaleIntensityRanged": ("a_min", "a_max", "b_min", "b_max", "clip"),
    "NormalizeIntensityd": ("subtrahend", "divisor", "nonzero", "channel_wise"),
    "ScaleIntensityd": ("minv", "maxv", "factor", "channel_wise"),
    "ScaleIntensityRangePercentilesd": ("lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise"),
    "CastToTyped": (),
}
"""Recognised intensity transforms and the arguments they may have; another argument makes them unknown."""


def _arguments(config: Mapping[str, Any], step: Step, known: tuple[str, ...]) -> dict[str, Any]:
    dtype = _single(step.arguments.get("dtype"))
    if dtype not in (None, "$torch.float32", "float32", "$np.float32"):
        msg = f"{step.target} with dtype {dtype}"
        raise UnrecognisedError(msg)
    _only(step, {*known, "dtype"})
    arguments = {key: _plain(config, value) for key, value in step.arguments.items() if key in known}
    if any(isinstance(value, str) for value in arguments.values()):
        msg = f"{step.target} with an expression"
        raise UnrecognisedError(msg)
    return arguments


def _only(step: Step, known: set[str]) -> None:
    unknown = set(step.arguments) - known - {"keys", "allow_missing_keys", "_requires_", "_desc_"}
    if unknown:
        msg = f"{step.target} with {', '.join(sorted(unknown))}"
        raise UnrecognisedError(msg)


def _plain(config: Mapping[str, Any], value: Any) -> Any:
    """A value with the references in it followed; lists element by element."""
    value = follow(config, value)
    return [_plain(config, item) for item in value] if isinstance(value, (list, tuple)) else value


def _single(value: Any) -> Any:
    """MONAI takes one value for one key, or a list of one."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _read_postprocessing(config: Mapping[str, Any]) -> Decision:
    activation, threshold, nearest, inverted, decided = "none", None, False, False, False
    for step in _find(config, POSTPROCESSING):
        if step.target in WITHOUT_EFFECT:
            _check_without_effect(step)
            continue
        if step.keys != ("pred",):
            msg = f"{step.target} on {', '.join(step.keys) or 'no key'} in `postprocessing`"
            raise UnrecognisedError(msg)
        if step.target == "Activationsd" and not decided:
            _only(step, {"softmax", "sigmoid"})
            kind = "softmax" if _single(step.arguments.get("softmax")) else "sigmoid" if _single(step.arguments.get("sigmoid")) else "none"
            # After the inversion an activation no longer changes what is interpolated, and softmax not what is best.
            activation = kind if not inverted or kind == "sigmoid" else activation
            if inverted and kind == "sigmoid":
                msg = "sigmoid after Invertd"
                raise UnrecognisedError(msg)
        elif step.target == "Invertd" and not inverted:
            nearest = _read_inversion(step) or decided
            if decided and not _read_inversion(step):
                msg = "Invertd interpolates a label map"
                raise UnrecognisedError(msg)
            inverted = True
        elif step.target == "AsDiscreted" and not decided:
            threshold = _read_decision(step)
            decided = True
        elif not (step.target == "CastToTyped" and decided):
            msg = f"{step.target} in `postprocessing`"
            raise UnrecognisedError(msg)
    if not decided or not inverted:
        msg = "`postprocessing` without " + ("AsDiscreted" if not decided else "Invertd")
        raise UnrecognisedError(msg)
    if threshold is not None and activation == "softmax":
        msg = "a threshold on softmax"
        raise UnrecognisedError(msg)
    return Decision(activation, threshold, nearest)


def _read_inversion(step: Step) -> bool:
    """Whether the inversion takes nearest neighbours."""
    _only(step, {"transform", "orig_keys", "nearest_interp", "to_tensor", "meta_keys", "orig_meta_keys", "meta_key_postfix", "device"})
    nearest = _single(step.arguments.get("nearest_interp", True))
    if _texts(step.arguments.get("orig_keys", "image")) != {"image"} or not isinstance(nearest, bool):
        msg = "Invertd of something other than the image's transforms"
        raise UnrecognisedError(msg)
    return nearest


def _read_decision(step: Step) -> float | None:
    _only(step, {"argmax", "threshold"})
    argmax, threshold = _single(step.arguments.get("argmax", False)), _single(step.arguments.get("threshold"))
    if argmax is True and threshold is None:
        return None
    if not argmax and isinstance(threshold, (int, float)) and not isinstance(threshold, bool):
        return float(threshold)
    msg = f"AsDiscreted with argmax={argmax} and threshold={threshold}"
    raise UnrecognisedError(msg)


CHANGES_RESULT = frozenset({"roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval"})
CHANGES_NO_RESULT = frozenset({"_target_", "sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh"})
"""Arguments of ``SlidingWindowInferer``."""


def _read_inferer(config: Mapping[str, Any], overlap: float | None) -> SlidingWindow:
    inferer = follow(config, "@inferer")
    if not isinstance(inferer, Mapping) or str(inferer.get("_target_", "")).rpartition(".")[2] != "SlidingWindowInferer":
        msg = f"`inferer` is {inferer.get('_target_') if isinstance(inferer, Mapping) else inferer!r}"
        raise UnrecognisedError(msg)
    known = {
        "_target_",
        "roi_size",
        "overlap",
        "mode",
        "sigma_scale",
        "padding_mode",
        "cval",
        "sw_batch_size",
        "sw_device",
        "device",
        "progress",
        "cache_roi_weight_map",
        "cpu_thresh",
    }
    unknown = set(inferer) - known
    if unknown:
        msg = f"SlidingWindowInferer with {', '.join(sorted(unknown))}"
        raise UnrecognisedError(msg)
    roi = _three(config, inferer.get("roi_size"), int)
    share = (overlap,) * 3 if overlap is not None else _three(config, inferer.get("overlap", 0.25), float)
    sigma = _three(config, inferer.get("sigma_scale", 0.125), float)
    mode, padding = str(follow(config, inferer.get("mode", "constant"))), str(follow(config, inferer.get("padding_mode", "constant")))
    cval = follow(config, inferer.get("cval", 0.0))
    if mode not in ("constant", "gaussian") or padding not in PAD_MODES or not isinstance(cval, (int, float)) or not all(0 <= s < 1 for s in share):
        msg = f"SlidingWindowInferer with mode {mode!r}, padding {padding!r}, cval {cval!r}, overlap {share}"
        raise UnrecognisedError(msg)
    return SlidingWindow(roi, share, mode, sigma, padding, float(cval))


def _three(config: Mapping[str, Any], value: Any, kind: Callable[[Any], Any]) -> Any:
    plain = _plain(config, value)
    items = [plain] * 3 if isinstance(plain, (int, float)) else plain
    if not isinstance(items, list) or len(items) != 3 or not all(isinstance(item, (int, float)) for item in items):
        msg = f"SlidingWindowInferer with {value!r}"
        raise UnrecognisedError(msg)
    return tuple(kind(item) for item in items)
