"""The chain after the network: activation, inversion and decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volseg.bundle import Bundle
from volseg.bundle.config import Step, lookup
from volseg.errors import BundleError
from volseg.inference.plan.facts import UnrecognisedError
from volseg.inference.plan.steps import POSTPROCESSING, WITHOUT_EFFECT, check_without_effect, find_steps, only, plain, shown, single, texts
from volseg.inference.refine import ARGUMENTS, NEIGHBOURS, SMALL, Refinement
from volseg.inference.streaming.restore import Decision

SMALLEST_OBJECT = 64
"""``min_size`` of MONAI's ``RemoveSmallObjectsd`` where it is not given."""

KEEPS_CHANNELS = WITHOUT_EFFECT | {"Invertd", "CastToTyped", "Activationsd"}
"""Transforms after a threshold that leave as many maps as there were."""


def read_postprocessing(config: Mapping[str, Any]) -> tuple[Decision, tuple[Refinement, ...]]:
    """How scores become a label, and how the label is corrected.

    Raises
    ------
    UnrecognisedError
        When a part is none the engine knows.
    """
    activation, threshold, nearest, inverted, decided = "none", None, False, False, False
    refinements: list[Refinement] = []
    for step in find_steps(config, POSTPROCESSING):
        if step.target in WITHOUT_EFFECT:
            check_without_effect(step)
            continue
        if step.keys != ("pred",):
            msg = f"{step.target} on {', '.join(step.keys) or 'no key'} in `postprocessing`"
            raise UnrecognisedError(msg)
        if step.target == "Activationsd" and not decided:
            only(step, {"softmax", "sigmoid"})
            kind = "softmax" if single(step.arguments.get("softmax")) else "sigmoid" if single(step.arguments.get("sigmoid")) else "none"
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
        elif step.target.removesuffix("d") in ARGUMENTS and inverted and decided:
            refinements.append(read_refinement(config, step))
        elif not (step.target == "CastToTyped" and decided):
            msg = f"{step.target} in `postprocessing`"
            raise UnrecognisedError(msg)
    if not decided or not inverted:
        msg = "`postprocessing` without " + ("AsDiscreted" if not decided else "Invertd")
        raise UnrecognisedError(msg)
    if threshold is not None and activation == "softmax":
        msg = "a threshold on softmax"
        raise UnrecognisedError(msg)
    return Decision(activation, threshold, nearest), tuple(refinements)


def read_refinement(config: Mapping[str, Any], step: Step) -> Refinement:
    """One correction of the label; see :mod:`volseg.inference.refine`.

    Raises
    ------
    UnrecognisedError
        When its arguments are unknown, or do not fit one channel of labels.
    """
    name = step.target.removesuffix("d")
    only(step, ARGUMENTS[name])
    arguments = {key: plain(config, value) for key, value in step.arguments.items() if key in ARGUMENTS[name]}
    labels, size = arguments.get("applied_labels"), arguments.get("min_size", SMALLEST_OBJECT)
    listed = labels if isinstance(labels, list) else [] if labels is None else [labels]
    flags = all(isinstance(arguments[key], bool) for key in ("independent", "independent_channels", "by_measure") if key in arguments)
    one_map = not arguments.pop("is_onehot", None) and arguments.pop("num_components", 1) == 1
    numbers = isinstance(size, (int, float)) and size >= 1 and all(type(label) is int and label > 0 for label in listed)
    if not (flags and one_map and numbers and arguments.get("connectivity") in tuple(NEIGHBOURS)):
        msg = f"{step.target} with {shown(step.arguments)}"
        raise UnrecognisedError(msg)
    return Refinement(name, arguments | ({"min_size": size} if name == SMALL else {}))


def refuse_overlapping_regions(bundle: Bundle, config: Mapping[str, Any]) -> None:
    """Refuse a bundle that thresholds several channels one by one (BraTS' nested regions), before anything runs.

    Stock MONAI saves such a result as one map a channel, in which regions may overlap. Which one value a voxel of several regions gets is the bundle's to say, and neither its
    config nor its metadata can: so there is no label map.

    Parameters
    ----------
    bundle : Bundle
        Whose metadata names the channels.
    config : mapping
        Its inference config.

    Raises
    ------
    BundleError
        For such a bundle; one whose chain cannot be read, or goes on with transforms that may merge the maps, is left to run.
    """
    channels = lookup(bundle.metadata, "network_data_format#outputs#pred#num_channels")
    try:
        steps = find_steps(config, POSTPROCESSING)
    except UnrecognisedError:
        return
    decisions = [number for number, step in enumerate(steps) if step.target == "AsDiscreted" and "pred" in step.keys]
    if not decisions or not isinstance(channels, int) or channels < 2:
        return
    given = steps[decisions[0]].arguments
    merged = any(step.target not in KEEPS_CHANNELS for step in steps[decisions[0] + 1 :])
    if single(given.get("threshold")) is None or single(given.get("argmax", False)) or merged:
        return
    msg = (
        f"{bundle.inference_config}: `postprocessing` puts a threshold on each of {channels} channels ({', '.join(bundle.labels.values())}), so that regions may overlap, "
        "and a label map holds one value for each voxel; volseg runs bundles of exclusive classes, which end in AsDiscreted(argmax=True)"
    )
    raise BundleError(msg)


def _read_inversion(step: Step) -> bool:
    """Whether the inversion takes nearest neighbours."""
    only(step, {"transform", "orig_keys", "nearest_interp", "to_tensor", "meta_keys", "orig_meta_keys", "meta_key_postfix", "device"})
    nearest = single(step.arguments.get("nearest_interp", True))
    if texts(step.arguments.get("orig_keys", "image")) != {"image"} or not isinstance(nearest, bool):
        msg = "Invertd of something other than the image's transforms"
        raise UnrecognisedError(msg)
    return nearest


def _read_decision(step: Step) -> float | None:
    only(step, {"argmax", "threshold"})
    argmax, threshold = single(step.arguments.get("argmax", False)), single(step.arguments.get("threshold"))
    if argmax is True and threshold is None:
        return None
    if not argmax and isinstance(threshold, (int, float)) and not isinstance(threshold, bool):
        return float(threshold)
    msg = f"AsDiscreted with argmax={argmax} and threshold={threshold}"
    raise UnrecognisedError(msg)
