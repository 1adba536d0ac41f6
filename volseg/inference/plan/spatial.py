"""Orientation, spacing and cropping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volseg.bundle.config import Step
from volseg.inference.cropping import STEP
from volseg.inference.plan.facts import IntensityStep, UnrecognisedError
from volseg.inference.plan.steps import only, plain, shown, single

ANATOMICAL_LABELS = [("L", "R"), ("P", "A"), ("I", "S")]
"""What ``Orientationd`` calls the ends of the axes by default."""


def read_orientation(step: Step) -> str:
    """Axis codes of an ``Orientationd``, upper case."""
    only(step, {"axcodes", "labels"})
    labels = step.arguments.get("labels")
    codes = step.arguments.get("axcodes")
    if (labels is not None and [tuple(pair) for pair in labels] != ANATOMICAL_LABELS) or not isinstance(codes, str) or len(codes) != 3:
        msg = f"Orientationd with axcodes {codes!r} and labels {labels!r}"
        raise UnrecognisedError(msg)
    return codes.upper()


def read_spacing(config: Mapping[str, Any], step: Step) -> tuple[tuple[float, float, float], str]:
    """Voxel size (mm) and interpolation (``"bilinear"`` or ``"nearest"``) of a ``Spacingd``."""
    only(step, {"pixdim", "mode", "padding_mode", "dtype", "align_corners", "diagonal"})
    given = step.arguments
    pixdim, mode = plain(config, given.get("pixdim")), single(plain(config, given.get("mode", "bilinear")))
    numbers = isinstance(pixdim, (list, tuple)) and len(pixdim) == 3 and all(isinstance(p, (int, float)) and p > 0 for p in pixdim)
    if not numbers or mode not in ("bilinear", "nearest", "trilinear") or single(given.get("padding_mode", "border")) != "border" or given.get("diagonal", False):
        msg = f"Spacingd with {shown(given)}"
        raise UnrecognisedError(msg)
    x, y, z = (float(p) for p in pixdim)
    return (x, y, z), "nearest" if mode == "nearest" else "bilinear"


def read_crop(config: Mapping[str, Any], step: Step) -> IntensityStep:
    """``CropForegroundd``, which stands among the intensity steps since it looks at their values."""
    only(step, {"source_key", "select_fn", "margin", "allow_smaller", "k_divisible", "mode", "start_coord_key", "end_coord_key"})
    given = {key: plain(config, value) for key, value in step.arguments.items()}
    sizes = [given.get("margin", 0), given.get("k_divisible", 1)]
    whole = all(isinstance(n, int) and n >= 0 for size in sizes for n in (size if isinstance(size, list) and len(size) == 3 else [size]))
    above_zero = given.get("select_fn") is None or "".join(str(given["select_fn"]).split()) == "$lambdax:x>0"
    if given.get("source_key") != "image" or not above_zero or not whole or single(given.get("mode", "constant")) != "constant":
        msg = f"CropForegroundd with {shown(given)}"
        raise UnrecognisedError(msg)
    return IntensityStep(STEP, {key: given[key] for key in ("margin", "allow_smaller", "k_divisible") if key in given})
