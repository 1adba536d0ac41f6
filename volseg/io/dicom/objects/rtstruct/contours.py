"""Between the pixels of one slice and polygons around them. Pure functions in pixel coordinates: (column, row), integers are pixel *centres*, so pixel borders lie at halves.

Outlines follow the pixels' borders, with collinear points left out. Every pixel centre is then half a pixel away from the outline, so that the centre-of-voxel rule gives the very
same pixels back whatever the last digits of a decimal string do, the polygon's area is the pixels' area, and a single pixel or a line one pixel wide is nothing special.
Outlines through the half-way points (marching squares) look smoother but take an eighth of a pixel off every corner: half the area of a single pixel.

Holes are cut in by the keyhole technique of DICOM PS3.3 C.8.8.6.3: the outline runs to the hole, round it and back along the same line. Readers disagree about several contours of
one ROI on one slice (some add them up, some take their exclusive or), and many know no ``CLOSEDPLANAR_XOR``; a keyholed polygon is the same set under the even-odd and the non-zero
rule, added or combined by exclusive or. The bridge runs along pixel borders too, so it passes no pixel centre.

Pixels that touch only at a corner belong to different polygons (4-connected foreground, 8-connected holes), which touch at that corner and never cross.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.geometry import FloatArray

BoolArray = npt.NDArray[np.bool_]

TO_HOLE, FROM_HOLE = 4, 5
"""Directions of the two passes along a bridge; 0 to 3 are +column, +row, -column, -row, the foreground on the right hand (rows grow downwards)."""

CROSSINGS_AT_ONCE = 1 << 20
"""Crossings of polygon edges with pixel rows that are worked on together, so that a hostile contour needs no more than some 50 MB."""

VERTEX_DECIMALS = 4
"""Vertices are rounded to 1e-4 pixel before filling: contours through pixel centres (some editors draw them) are then decided by the border rule, not by rounding noise."""


@dataclass
class _Edges:
    """Directed unit edges between foreground and background, as linked loops; ``start`` is a vertex number (row-major on the grid of pixel corners)."""

    start: list[int]
    direction: list[int]
    following: list[int]


def outlines(mask: BoolArray) -> list[FloatArray]:
    """Polygons around the foreground of one slice.

    Parameters
    ----------
    mask : ndarray of bool, (rows, columns)

    Returns
    -------
    list of ndarray of float64, (n, 2)
        One closed polygon (column, row) per 4-connected component, holes keyholed in, the last point joined to the first; ordered by their topmost, then leftmost pixel.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    cut = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    exists = _border(cut)
    width = exists.shape[1]
    edges = _linked(exists)
    outer, holes = _loops(edges)
    _cut_keyholes(edges, holes, np.logical_or.reduce(exists, axis=2), width)
    corner = np.array([columns[0], rows[0]]) - 0.5
    return [_corners(edges, first, width) + corner for first in outer]


def _border(cut: BoolArray) -> BoolArray:
    """(vertex rows, vertex columns, 4): whether an edge leaves each pixel corner in each direction."""
    nw, ne, sw, se = cut[:-1, :-1], cut[:-1, 1:], cut[1:, :-1], cut[1:, 1:]
    return np.stack([se & ~ne, sw & ~se, nw & ~sw, ne & ~nw], axis=-1)


def _linked(exists: BoolArray) -> _Edges:
    flat = np.flatnonzero(exists)
    start, direction = flat >> 2, flat & 3
    end = start + np.array([1, exists.shape[1], -1, -exists.shape[1]])[direction]
    there = exists.reshape(-1)
    right = (direction + 1) & 3
    # Turning right first stays with the same pixel, which keeps pixels that touch at a corner apart.
    turned = np.where(there[end * 4 + right], right, np.where(there[end * 4 + direction], direction, (direction + 3) & 3))
    return _Edges(start.tolist(), direction.tolist(), np.searchsorted(flat, end * 4 + turned).tolist())


def _loops(edges: _Edges) -> tuple[list[int], list[int]]:
    """First edge of each outer loop and of each hole, both in order of their topmost, then leftmost corner."""
    seen = bytearray(len(edges.start))
    outer: list[int] = []
    holes: list[int] = []
    for first in range(len(edges.start)):
        if seen[first]:
            continue
        # At its topmost, leftmost corner a loop round foreground leaves to the right, a loop round a hole downwards.
        (outer if edges.direction[first] == 0 else holes).append(first)
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            edge = edges.following[edge]
    return outer, holes


def _cut_keyholes(edges: _Edges, holes: Sequence[int], on_border: BoolArray, width: int) -> None:
    """Join each hole to what lies above its topmost, leftmost corner: the outer loop, or a hole that starts higher up and is joined already."""
    if not holes:
        return
    leaving = {start: edge for edge, start in enumerate(edges.start)}
    before = [0] * len(edges.start)
    for edge, following in enumerate(edges.following):
        before[following] = edge
    for hole in holes:
        row, column = divmod(edges.start[hole], width)
        above = int(np.flatnonzero(on_border[:row, column])[-1]) * width + column
        # The pixels either side of the bridge are foreground, so exactly one edge leaves its upper end.
        after = leaving[above]
        there, back = len(edges.start), len(edges.start) + 1
        edges.start += [above, edges.start[hole]]
        edges.direction += [TO_HOLE, FROM_HOLE]
        edges.following += [hole, after]
        edges.following[before[after]] = there
        edges.following[before[hole]] = back
        before += [before[after], before[hole]]
        before[after], before[hole] = back, there


def _corners(edges: _Edges, first: int, width: int) -> FloatArray:
    loop = [first]
    edge = edges.following[first]
    while edge != first:
        loop.append(edge)
        edge = edges.following[edge]
    direction = np.array([edges.direction[e] for e in loop])
    start = np.array([edges.start[e] for e in loop])[direction != np.roll(direction, 1)]
    return np.stack([start % width, start // width], axis=1).astype(np.float64)


def fill(polygons: Iterable[FloatArray], shape: tuple[int, int]) -> tuple[BoolArray, tuple[slice, slice]]:
    """Pixels whose centres lie inside polygons, by the even-odd rule over all of them together (exclusive or).

    Parameters
    ----------
    polygons : iterable of ndarray of float64, (n, 2), n >= 3
        Vertices (column, row), the last joined to the first; may leave the image.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    inside : ndarray of bool
        The part of the image where there is anything.
    where : tuple of slice
        That part: ``image[where][inside] = value``.

    Notes
    -----
    A pixel centre on a left or upper border is inside, on a right or lower border outside, so polygons that share a border share no pixel and leave none out. A line gone both
    ways, as keyholes have, changes nothing: both passes are computed from the same end.
    """
    rounded = [np.round(p, VERTEX_DECIMALS) for p in polygons]
    if not rounded:
        return np.zeros((0, 0), dtype=bool), (slice(0, 0), slice(0, 0))
    start = np.concatenate(rounded)
    end = np.concatenate([np.roll(p, -1, axis=0) for p in rounded])
    # Clipped to integers that any array can hold; the pixels beyond the image are none of ours.
    low, high = start.min(axis=0), start.max(axis=0)
    left, top = (int(n) for n in np.clip(np.ceil(low), 0, shape[::-1]))
    right, bottom = (int(n) for n in np.clip(np.floor(high) + 1, 0, shape[::-1]))
    if right <= left or bottom <= top:
        return np.zeros((0, 0), dtype=bool), (slice(0, 0), slice(0, 0))
    height, width = bottom - top, right - left
    toggles = np.zeros(height * (width + 1), dtype=np.int64)
    for row, column in _crossings(start, end, top, bottom):
        first_inside = np.clip(np.ceil(column), left, right).astype(np.int64) - left
        toggles += np.bincount((row - top) * (width + 1) + first_inside, minlength=toggles.size)
    inside = (np.cumsum(toggles.reshape(height, width + 1)[:, :width], axis=1) & 1).astype(bool)
    return inside, (slice(top, bottom), slice(left, right))


def _crossings(start: FloatArray, end: FloatArray, top: int, bottom: int) -> Iterable[tuple[npt.NDArray[np.int64], FloatArray]]:
    """Row (int) and column (float) of each crossing of an edge with the centre line of a row in [top, bottom), in portions."""
    swap = (start[:, 1] > end[:, 1])[:, None]
    upper, lower = np.where(swap, end, start), np.where(swap, start, end)
    first = np.clip(np.ceil(upper[:, 1]), top, bottom).astype(np.int64)
    count = np.clip(np.ceil(lower[:, 1]), top, bottom).astype(np.int64) - first
    crossing = np.flatnonzero(count)
    upper, lower, first, count = upper[crossing], lower[crossing], first[crossing], count[crossing]
    slope = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    portion = np.cumsum(count) // CROSSINGS_AT_ONCE
    for n in np.unique(portion):
        chosen = np.flatnonzero(portion == n)
        edge = np.repeat(chosen, count[chosen])
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count[chosen]) - count[chosen], count[chosen])
        yield row, upper[edge, 0] + (row - upper[edge, 1]) * slope[edge]
