"""The separate pieces of a label: how many there are, and what each measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.diameter import Diameter, Mask, diameter_bounds, longest_axial_diameter
from volseg.evaluation.intensity import mean_value, values_inside
from volseg.geometry import Grid

MAX_LESIONS = 200
"""Most lesions listed for a label; a label with more is speckled, and the rest are counted."""

Point = tuple[float, float, float]
Index = tuple[int, int, int]
Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class BoundingBox:
    """The smallest box of voxels around a region.

    Parameters
    ----------
    first, last : tuple of 3 int
        Voxel indices (i, j, k) of its first and last voxel, both inside.
    low_mm, high_mm : tuple of 3 float
        Least and greatest x, y and z (RAS+ mm) of the box, to the outer edges of its voxels; in an oblique scan this world-aligned box is the larger one.
    """

    first: Index
    last: Index
    low_mm: Point
    high_mm: Point


@dataclass(frozen=True)
class Lesion:
    """One connected piece of a label.

    Parameters
    ----------
    number : int
        From 1, the largest first.
    voxels : int
        Size in voxels.
    volume_ml : float
        Size in millilitres.
    centroid_mm : tuple of 3 float
        Mean position of its voxels (RAS+ mm).
    bounding_box : BoundingBox
        Where it lies.
    diameter : Diameter
        Its longest axial diameter.
    mean_intensity : float or None
        Mean of the scan's finite values inside, in the label's unit; None where there are none.
    """

    number: int
    voxels: int
    volume_ml: float
    centroid_mm: Point
    bounding_box: BoundingBox
    diameter: Diameter
    mean_intensity: float | None


@dataclass(frozen=True)
class Pieces:
    """What :func:`find_lesions` found: the number of pieces, the largest of them, and the longest axial diameter of them all."""

    count: int
    lesions: tuple[Lesion, ...]
    longest: Diameter


def find_lesions(mask: Mask, image: npt.NDArray[np.generic], grid: Grid, start: Sequence[int], connectivity: int) -> Pieces:
    """Split a region into connected pieces and measure them.

    connected-components-3d numbers 26-connected pieces about ten times as fast as ``scipy.ndimage.label`` (0.08 s against 0.95 s in 26 million voxels).

    Parameters
    ----------
    mask : ndarray of bool, (i, j, k)
        The region, cut out of the scan; not empty.
    image : ndarray, (i, j, k)
        The scan's values there.
    grid : Grid
        Of the whole scan (RAS+ mm).
    start : sequence of 3 int
        Voxel of ``grid`` that ``mask[0, 0, 0]`` is.
    connectivity : int
        6 (faces), 18 (and edges) or 26 (and corners).
    """
    import cc3d

    # cc3d 4.1.1 expects one piece in eight voxels at most, which is true of even sides only: one row of three voxels with two pieces overruns its table.
    even = np.pad(mask, [(0, side % 2) for side in mask.shape]) if any(side % 2 for side in mask.shape) else mask
    pieces, count = cc3d.connected_components(even, connectivity=connectivity, return_N=True)
    table = cc3d.statistics(pieces, no_slice_conversion=True)
    voxels, boxes = table["voxel_counts"].astype(np.int64), table["bounding_boxes"].astype(np.int64).reshape(-1, 3, 2)
    order = np.argsort(-voxels[1:], kind="stable") + 1
    lesions = []
    for number, piece in enumerate(order[:MAX_LESIONS], 1):
        box = tuple(slice(low, high + 1) for low, high in boxes[piece])
        inside = pieces[box] == piece
        corner = boxes[piece, :, 0] + np.asarray(start)
        diameter = longest_axial_diameter(inside, grid, corner)
        assert diameter is not None
        centroid = as_point(grid.to_world(table["centroids"][piece] + np.asarray(start)))
        around = bounding_box(grid, corner, boxes[piece, :, 1] + np.asarray(start))
        lesions.append(Lesion(number, int(voxels[piece]), float(voxels[piece]) * grid.voxel_volume_ml, centroid, around, diameter, mean_value(values_inside(image[box], inside))))
    longest = max((lesion.diameter for lesion in lesions), key=lambda diameter: diameter.length_mm)
    return Pieces(int(count), tuple(lesions), _longest_of_rest(pieces, boxes, order[MAX_LESIONS:], grid, start, longest))


def bounding_box(grid: Grid, first: npt.NDArray[np.integer], last: npt.NDArray[np.integer]) -> BoundingBox:
    """Box from voxel ``first`` to voxel ``last``, both inside."""
    ends = np.array([first - 0.5, last + 0.5])
    corners = grid.to_world(np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(8, 3))
    return BoundingBox(_as_index(first), _as_index(last), as_point(corners.min(axis=0)), as_point(corners.max(axis=0)))


def as_point(values: npt.NDArray[np.float64]) -> Point:
    """Three floats of Python's own, which JSON can hold."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def _as_index(values: npt.NDArray[np.integer]) -> Index:
    i, j, k = (int(v) for v in values)
    return i, j, k


def _longest_of_rest(pieces: Labels, boxes: npt.NDArray[np.int64], rest: npt.NDArray[np.int64], grid: Grid, start: Sequence[int], longest: Diameter) -> Diameter:
    """A small piece may be longer than a large one; of those not listed, only the ones whose box is long enough are measured."""
    across = [other for other in range(3) if other != grid.world_axes.index(2)]
    bounds = diameter_bounds((boxes[rest, :, 1] - boxes[rest, :, 0] + 1)[:, across], grid.affine[:3, across])
    for place in np.argsort(-bounds, kind="stable"):
        if bounds[place] <= longest.length_mm:
            break
        box = tuple(slice(low, high + 1) for low, high in boxes[rest[place]])
        longer = longest_axial_diameter(pieces[box] == rest[place], grid, boxes[rest[place], :, 0] + np.asarray(start), longer_than=longest.length_mm)
        longest = longer or longest
    return longest
