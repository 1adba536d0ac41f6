"""The longest diameter of a region in an axial plane, as a reader would measure it with a caliper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROUNDING = 1 + 1e-9
"""A bound must exceed the longest line found by more than rounding before another slice is searched."""


@dataclass(frozen=True)
class Diameter:
    """A straight line across a region within one axial plane.

    Parameters
    ----------
    length_mm : float
        Length (mm).
    start_mm, end_mm : tuple of 3 float
        Its ends (RAS+ mm).
    slice_index : int
        Index of the plane along ``slice_axis``, from 0.
    slice_axis : int
        Array axis (0 i, 1 j, 2 k) the planes are counted along: the one closest to superior-inferior.
    """

    length_mm: float
    start_mm: tuple[float, float, float]
    end_mm: tuple[float, float, float]
    slice_index: int
    slice_axis: int


def longest_axial_diameter(mask: Mask, grid: Grid, start: Sequence[int] = (0, 0, 0), *, longer_than: float = 0.0) -> Diameter | None:
    """Longest line between two points of a region's outline in one axial plane (its largest Feret diameter in that plane).

    The outline passes half-way between a voxel's centre inside and its neighbour's outside, as the contours in our pictures do, and as the surface mesh does on which PyRadiomics
    measures ``Maximum2DDiameterSlice``: a single voxel measures its own width, and a sampled disc is neither shortened by a voxel (centre to centre) nor lengthened by its corners.
    RECIST 1.1 (Eisenhauer et al., Eur J Cancer 45:228-247, 2009) takes the longest in-plane diameter of a lesion on axial images. The planes are the scan's own: those
    across the array axis closest to superior-inferior, also in an oblique or sagittal scan.

    Parameters
    ----------
    mask : ndarray of bool
        The region; axes (i, j, k).
    grid : Grid
        Of the whole scan (RAS+ mm).
    start : sequence of 3 int
        Voxel of ``grid`` that ``mask[0, 0, 0]`` is.
    longer_than : float
        Only look for lines longer than this (mm).

    Returns
    -------
    Diameter or None
        None where nothing is inside, or no line is longer than ``longer_than``.
    """
    axis = grid.world_axes.index(2)
    across = [other for other in range(3) if other != axis]
    steps = grid.affine[:3, across]
    planes = np.moveaxis(mask, axis, 0)
    counts = np.stack([_extent(np.any(planes, axis=2)), _extent(np.any(planes, axis=1))], axis=1)
    bounds = diameter_bounds(counts, steps)
    best, found = longer_than, None
    for index in np.argsort(-bounds, kind="stable"):
        if bounds[index] <= best * ROUNDING:
            break
        length, ends = _widest(planes[index], steps)
        if length > best * ROUNDING:
            best, found = length, (int(index), ends)
    if found is None:
        return None
    index, ends = found
    voxels = np.insert(ends, axis, index, axis=1) + np.asarray(start)
    first, last = (tuple(float(v) for v in point) for point in grid.to_world(voxels))
    return Diameter(best, first, last, index + int(start[axis]), axis)  # type: ignore[arg-type]


def diameter_bounds(counts: npt.NDArray[np.integer], steps: FloatArray) -> FloatArray:
    """Diameter (mm) of filled rectangles of voxels, which nothing inside them can exceed.

    Parameters
    ----------
    counts : ndarray of int, (n, 2)
        Voxels along the two axes of the plane; 0 where there is nothing.
    steps : ndarray, (3, 2)
        What one voxel along each of them is in space (mm).
    """
    most = np.zeros(len(counts))
    # Outline points lie half a voxel off the centre along one axis only, so a rectangle's outline is an octagon with these diagonals.
    for shorter in (0, 1):
        size = counts.astype(np.float64)
        size[:, shorter] -= 1
        for sign in (1.0, -1.0):
            most = np.maximum(most, np.linalg.norm((size * (1.0, sign)) @ steps.T, axis=1))
    return np.where(counts.min(axis=1) > 0, most, 0.0)


def _extent(occupied: Mask) -> npt.NDArray[np.int64]:
    """For each row of (n, m), how many entries lie from the first to the last that is set; 0 where none is."""
    first, last = occupied.argmax(axis=1), occupied.shape[1] - 1 - occupied[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(occupied.any(axis=1), last - first + 1, 0), dtype=np.int64)


def _widest(plane: Mask, steps: FloatArray) -> tuple[float, FloatArray]:
    """Length (mm) and the two ends (2, 2; voxel indices in the plane) of the longest line across."""
    from scipy.spatial import ConvexHull

    outline = np.concatenate([_row_ends(plane), _row_ends(plane.T)[:, ::-1]])
    # Never degenerate: even one voxel has four outline points that are not in line.
    corners = outline[ConvexHull(outline).vertices]
    places = corners @ steps.T
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    one, other = np.unravel_index(int(distances.argmax()), distances.shape)
    return float(distances[one, other]), corners[[one, other]]


def _row_ends(plane: Mask) -> FloatArray:
    """The outline's first and last point in every row that holds anything; no point between them can be a corner of the convex hull."""
    rows = np.flatnonzero(plane.any(axis=1))
    inside = plane[rows]
    first, last = inside.argmax(axis=1), plane.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([rows, first - 0.5], axis=1), np.stack([rows, last + 0.5], axis=1)])
