"""The separate pieces of a label: how many there are, and what each measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.components import number_pieces
from volseg.evaluation.regions.diameter import Diameter, Mask, diameter_bounds, longest_axial_diameter
from volseg.evaluation.regions.intensity import mean_value, values_inside
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


@dataclass(frozen=True, eq=False)
class NumberedPieces:
    """The connected pieces of one or more labels, numbered from 1 in the order of the array's memory.

    Parameters
    ----------
    array : ndarray of unsigned integers, (i, j, k)
        Number of the piece each voxel belongs to; 0 outside. A side may be one voxel longer than what was numbered.
    voxels : ndarray of int64, (n + 1,)
        Size of each piece; entry 0 is the background.
    boxes : ndarray of int64, (n + 1, 3, 2)
        First and last voxel along each axis.
    centroids : ndarray of float64, (n + 1, 3)
        Mean voxel index.
    """

    array: Labels
    voxels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float64]


def tabulate_pieces(labels: npt.NDArray[np.generic], connectivity: int) -> NumberedPieces:
    """Number and tabulate the connected pieces of a mask, or of all the labels of a map at once; voxels of different labels never share a piece.

    Parameters
    ----------
    labels : ndarray of bool or unsigned integers, (i, j, k)
        0 is background.
    connectivity : int
        6 (faces), 18 (and edges) or 26 (and corners).
    """
    import cc3d

    pieces, _ = number_pieces(labels, connectivity)
    table = cc3d.statistics(pieces, no_slice_conversion=True)
    return NumberedPieces(pieces, table["voxel_counts"].astype(np.int64), table["bounding_boxes"].astype(np.int64).reshape(-1, 3, 2), table["centroids"].astype(np.float64))


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
    pieces = tabulate_pieces(mask, connectivity)
    return measure_pieces(pieces, np.arange(1, len(pieces.voxels)), image, grid, start)


def measure_pieces(pieces: NumberedPieces, which: npt.NDArray[np.integer], image: npt.NDArray[np.generic], grid: Grid, start: Sequence[int]) -> Pieces:
    """Measure the pieces of one label.

    Parameters
    ----------
    pieces : NumberedPieces
        Those of this label among them.
    which : ndarray of integers, (m,)
        Their numbers, ascending; at least one.
    image, grid, start
        As for :func:`find_lesions`.
    """
    order = which[np.argsort(-pieces.voxels[which], kind="stable")]
    lesions = []
    for number, piece in enumerate(order[:MAX_LESIONS], 1):
        box = tuple(slice(low, high + 1) for low, high in pieces.boxes[piece])
        inside = pieces.array[box] == piece
        corner = pieces.boxes[piece, :, 0] + np.asarray(start)
        diameter = longest_axial_diameter(inside, grid, corner)
        assert diameter is not None
        centroid = as_point(grid.to_world(pieces.centroids[piece] + np.asarray(start)))
        around = bounding_box(grid, corner, pieces.boxes[piece, :, 1] + np.asarray(start))
        voxels = int(pieces.voxels[piece])
        lesions.append(Lesion(number, voxels, voxels * grid.voxel_volume_ml, centroid, around, diameter, mean_value(values_inside(image[box], inside))))
    longest = max((lesion.diameter for lesion in lesions), key=lambda diameter: diameter.length_mm)
    return Pieces(len(which), tuple(lesions), _longest_of_rest(pieces, order[MAX_LESIONS:], grid, start, longest))


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


def _longest_of_rest(pieces: NumberedPieces, rest: npt.NDArray[np.integer], grid: Grid, start: Sequence[int], longest: Diameter) -> Diameter:
    """A small piece may be longer than a large one; of those not listed, only the ones whose box is long enough are measured."""
    boxes = pieces.boxes[rest]
    across = [other for other in range(3) if other != grid.world_axes.index(2)]
    bounds = diameter_bounds((boxes[:, :, 1] - boxes[:, :, 0] + 1)[:, across], grid.affine[:3, across])
    for place in np.argsort(-bounds, kind="stable"):
        if bounds[place] <= longest.length_mm:
            break
        box = tuple(slice(low, high + 1) for low, high in boxes[place])
        longer = longest_axial_diameter(pieces.array[box] == rest[place], grid, boxes[place, :, 0] + np.asarray(start), longer_than=longest.length_mm)
        longest = longer or longest
    return longest
