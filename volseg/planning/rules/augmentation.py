"""Which patches are drawn and how they are varied."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, pi

from volseg.planning.rules.budget import Device
from volseg.planning.rules.topology import Size

FLAT = 3.0
"""A patch whose longest edge is more than this many times its edge along the thickest axis is rotated and scaled in its plane only (nnU-Net's dummy 2D augmentation)."""

ROTATION = pi / 6
"""30 degrees about each axis (nnU-Net)."""

SPATIAL_PROBABILITY = 0.36
"""nnU-Net rotates a patch in 1 of 5 and scales it in 1 of 5 independently: 1 - 0.8 * 0.8 are changed. MONAI's RandAffined does both at once."""

FEW_CASES = 50
SPATIAL_PROBABILITY_FEW = 0.6
"""volseg's own: below :data:`FEW_CASES` training cases a network overfits within minutes, and patches are varied more often."""

RAMP_PASSES = 50
"""volseg's own: augmentation grows to its full probabilities over so many passes over the cases. Before, a network does not know its cases by heart, and to vary them costs more
than it saves (``tests/bench/recipe.py``); nnU-Net, which makes thousands of passes, varies them from the first."""

OVERSAMPLED = 0.33
"""Share of a batch that is centred on foreground (nnU-Net's oversample_foreground_percent); of a batch of two it is one."""

CROP_MARGIN = 1.25
"""Patches are cut larger by about this factor, where scans are long enough, before they are rotated and scaled, so that what turns in is image, not padding."""

OPPOSITES: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"left", "l", "lt", "sinister", "lh"}), frozenset({"right", "r", "rt", "dexter", "rh"})),
    (frozenset({"anterior", "ant", "ventral", "front", "frontal"}), frozenset({"posterior", "post", "dorsal", "back", "rear"})),
    (frozenset({"superior", "sup", "upper", "cranial", "top"}), frozenset({"inferior", "inf", "lower", "caudal", "bottom"})),
)
"""Words for the two ends of the x, y and z axis (RAS+) in names of labels."""


@dataclass(frozen=True)
class Variation:
    """How patches are drawn and varied.

    Attributes
    ----------
    crop : tuple of 3 int
        Voxels cut out before rotation and scaling.
    foreground : float
        Probability that a patch is centred on foreground.
    plane_axis : int or None
        Axis about which alone patches turn; None turns about all three.
    rotation : float
        Largest angle (radians).
    probability : float
        Of a rotation and scaling.
    ramp : int
        Passes over the cases until ``probability``, and those of the changes of intensity, are reached.
    mirror : tuple of int
        Axes along which patches are mirrored.
    sided : tuple of int
        Axes left out because the names of labels tell their ends apart.
    """

    crop: Size
    foreground: float
    plane_axis: int | None
    rotation: float
    probability: float
    ramp: int
    mirror: tuple[int, ...]
    sided: tuple[int, ...]


def plan_variation(
    patch: Size, spacing: Sequence[float], median_shape: Sequence[float], *, batch: int, cases: int, device: Device, labels: Collection[str], divisor: Size
) -> Variation:
    """Choose how patches are drawn and varied.

    Parameters
    ----------
    patch : tuple of 3 int
        Patch size (voxels).
    spacing : sequence of 3 float
        Target spacing (mm).
    median_shape : sequence of 3 float
        Median scan at that spacing (voxels).
    batch : int
        Patches a batch.
    cases : int
        Training cases.
    device : str
        ``cpu`` or ``cuda``.
    labels : collection of str
        Names of the labels.
    divisor : tuple of 3 int
        What the patch is pooled by; the crop keeps it.
    """
    thick = max(range(3), key=lambda axis: spacing[axis])
    flat = max(patch) / patch[thick] > FLAT
    sided = sided_axes(labels)
    possible = (0, 1, 2) if device == "cuda" or cases < FEW_CASES else (0,)
    sizes = enumerate(zip(patch, median_shape, divisor, strict=True))
    wanted = [edge if flat and axis == thick else _crop_edge(edge, median, step, device) for axis, (edge, median, step) in sizes]
    return Variation(
        crop=(wanted[0], wanted[1], wanted[2]),
        foreground=(batch - round(batch * (1 - OVERSAMPLED))) / batch,
        plane_axis=thick if flat else None,
        rotation=pi if flat and not sided else ROTATION,
        probability=SPATIAL_PROBABILITY_FEW if cases < FEW_CASES else SPATIAL_PROBABILITY,
        ramp=RAMP_PASSES,
        mirror=tuple(axis for axis in possible if axis not in sided),
        sided=sided,
    )


def _crop_edge(edge: int, median: float, step: int, device: Device) -> int:
    """A larger edge where the median scan has more to show than the patch."""
    larger = ceil(edge * CROP_MARGIN / step) * step
    if device == "cpu":
        # One as long as the scan lies in one place only, and the patch in its middle with it; a crop can still be shifted half as far as the patch could be.
        return max(edge, min(larger, int((median + edge) / 2 // step) * step))
    return edge if median <= edge else min(larger, max(edge, ceil(median / step) * step))


def sided_axes(labels: Collection[str]) -> tuple[int, ...]:
    """Axes that must not be mirrored: two labels are told apart by their two ends, as left and right kidney or anterior and posterior hippocampus."""
    words = {word for name in labels for word in re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())}
    return tuple(axis for axis, (one, other) in enumerate(OPPOSITES) if words & one and words & other)
