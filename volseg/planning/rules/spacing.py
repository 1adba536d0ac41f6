"""Voxel size of a bundle: the median of the set, finer along a thick axis, coarser where a patch would see too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from volseg.planning.rules.topology import Topology

Triple = tuple[float, float, float]

ANISOTROPY = 3.0
"""An axis whose spacing is more than this many times the others', and which has fewer voxels than they by the same factor, is thick (nnU-Net's ANISO_THRESHOLD)."""

THICK_PERCENTILE = 10
"""Percentile of the spacings along a thick axis that is taken instead of the median: the median would make the thinner-sliced scans coarser than the network can do without."""

LOW_RESOLUTION_SHARE = 0.25
"""A patch that covers less than this of the median scan sees too little (nnU-Net's lowres_creation_threshold)."""

STEP = 1.03
"""Factor by which the spacing grows at a time (nnU-Net's spacing_increase_factor)."""

EVEN = 2.0
"""Axes finer than the coarsest by more than this factor grow first."""

SMALLEST_PIECE_VOXELS = 64
"""volseg's own guard: a typical piece of the smallest label keeps at least this many voxels (4 along each axis), below which its outline is lost."""


@dataclass(frozen=True)
class Target:
    """A target spacing (mm) and what it was made from."""

    spacing: Triple
    median: Triple
    thick_axis: int | None


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Target:
    """Median spacing of each axis; along a thick axis the 10th percentile, but not below the other axes'.

    Parameters
    ----------
    spacings : sequence of 3 float each
        Of the cases (mm).
    shapes : sequence of 3 int each
        Of the cases, cropped to what is not zero (voxels).
    """
    middle = np.median(np.array(spacings, dtype=float), axis=0)
    size = np.median(np.array(shapes, dtype=float), axis=0)
    worst = int(np.argmax(middle))
    others = [axis for axis in range(3) if axis != worst]
    thick = middle[worst] > ANISOTROPY * middle[others].max() and size[worst] * ANISOTROPY < size[others].min()
    target = middle.copy()
    if thick:
        finer = float(np.percentile(np.array(spacings, dtype=float)[:, worst], THICK_PERCENTILE))
        # As nnU-Net: where that falls below the other axes' spacing, a hundredth of a micrometre above them, so that it stays the worst axis.
        target[worst] = finer if finer >= middle[others].max() else max(float(middle[others].max()), finer) + 1e-5
    return Target(_triple(target), _triple(middle), worst if thick else None)


def median_shape(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], target: Sequence[float]) -> Triple:
    """Median size of the cases (voxels) once they are resampled to ``target`` (mm)."""
    resampled = [[round(own / wanted * count) for own, wanted, count in zip(spacing, target, shape, strict=True)] for spacing, shape in zip(spacings, shapes, strict=True)]
    return _triple(np.median(np.array(resampled, dtype=float), axis=0))


def coarsen(spacing: Triple, shape: Triple, sees_enough: Callable[[Triple, Triple], bool], most_voxel_mm3: float) -> Triple:
    """Let the spacing grow until a patch sees enough.

    The finest axes grow first, until all are within a factor of two of the coarsest; then all grow alike.

    Parameters
    ----------
    spacing, shape : tuple of 3 float
        Target spacing (mm) and median scan at it (voxels).
    sees_enough : callable
        (spacing, median scan at it) to whether the patch that the budget allows there is large enough.
    most_voxel_mm3 : float
        Largest voxel that keeps the smallest structures; the spacing does not grow beyond it.
    """
    current = spacing
    while not sees_enough(current, scaled_shape(shape, spacing, current)):
        lagging = [axis for axis in range(3) if max(current) / current[axis] > EVEN] or [0, 1, 2]
        grown = _triple([value * STEP if axis in lagging else value for axis, value in enumerate(current)])
        if prod(grown) > most_voxel_mm3:
            return current
        current = grown
    return current


def sees_enough(topology: Topology, spacing: Triple, shape: Triple, share: float, least_mm: float) -> bool:
    """Whether a patch covers enough of the median scan, and is long enough along every axis (or as long as the scan).

    Parameters
    ----------
    topology : Topology
        With the patch.
    spacing, shape : tuple of 3 float
        Of the patch (mm), and median scan at it (voxels).
    share : float
        Wanted share of the median scan's voxels.
    least_mm : float
        Wanted length; 0 for none.
    """
    long = all(edge * own >= min(least_mm, size * own) for edge, own, size in zip(topology.patch, spacing, shape, strict=True))
    return long and topology.voxels >= share * prod(shape)


def scaled_shape(shape: Triple, spacing: Triple, new: Triple) -> Triple:
    """A size in voxels of ``spacing`` (mm) in those of ``new``, not rounded."""
    return _triple([count * old / fresh for count, old, fresh in zip(shape, spacing, new, strict=True)])


def _triple(values: Sequence[float] | np.ndarray) -> Triple:  # type: ignore[type-arg]
    x, y, z = (float(value) for value in values)
    return x, y, z
