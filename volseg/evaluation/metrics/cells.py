"""Area of the surface of a mask in the cell between eight neighbouring voxel centres.

The surface is that of marching cubes (Lorensen and Cline, 1987) at the level half-way between inside and outside, so its corners are the middles of the cell's edges. Which of the
eight corners are inside makes a code of eight bits: bit ``i + 2 j + 4 k`` is corner ``(i, j, k)`` of the cell. Two choices, both the same when inside and outside change places:

- where inside and outside alternate round a face, the corners of the side with fewer corners in the cell are cut off, those inside where both have four;
- a polygon of more than three corners is a fan of triangles round its middle, since it need not be flat.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Edge = tuple[int, int]
"""Two corners of the cell, the lower first."""

CODES = 256
ROUND_A_FACE = ((0, 0), (1, 0), (1, 1), (0, 1))


def cell_areas(axes_mm: FloatArray) -> FloatArray:
    """Area of the surface for every code.

    Parameters
    ----------
    axes_mm : ndarray of float64, (3, 3)
        Columns are the steps from a voxel to the next along i, j and k (mm); a diagonal matrix for an upright grid, any other for an oblique or sheared one.

    Returns
    -------
    ndarray of float64, (256,)
        mm^2; 0 for a cell that is wholly inside (255) or outside (0).
    """
    triangles, codes = _triangles()
    corners = triangles @ axes_mm.T
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.bincount(codes, weights=np.linalg.norm(across, axis=1) / 2, minlength=CODES).astype(np.float64)


@cache
def _triangles() -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Triangles (n, corner, axis) in units of voxels, and the code each belongs to."""
    triangles, codes = [], []
    for code in range(1, CODES - 1):
        for polygon in _polygons(code):
            fan = _fan(polygon)
            triangles += fan
            codes += [code] * len(fan)
    return np.array(triangles), np.array(codes, dtype=np.intp)


def _fan(polygon: FloatArray) -> list[FloatArray]:
    if len(polygon) == 3:
        return [polygon]
    middle = polygon.mean(axis=0)
    return [np.stack([middle, start, end]) for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]


def _polygons(code: int) -> list[FloatArray]:
    """Closed polygons of a cell: each cut edge lies on two faces, so the segments of the faces join into rings."""
    neighbours: dict[Edge, list[Edge]] = {}
    for one, other in _segments(code):
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    polygons = []
    while neighbours:
        ring = [next(iter(neighbours))]
        while following := [edge for edge in neighbours.get(ring[-1], []) if edge not in ring]:
            ring.append(following[0])
        for edge in ring:
            del neighbours[edge]
        polygons.append(np.array([_middle(edge) for edge in ring]))
    return polygons


def _segments(code: int) -> list[tuple[Edge, Edge]]:
    """Where the surface meets the faces of the cell, each segment from a cut edge to another."""
    cut_off = code.bit_count() <= 4
    segments = []
    for axis in range(3):
        first, second = (other for other in range(3) if other != axis)
        for side in (0, 1):
            corners = [side << axis | u << first | v << second for u, v in ROUND_A_FACE]
            inside = [bool(code >> corner & 1) for corner in corners]
            edges: list[Edge] = [(min(pair), max(pair)) for pair in zip(corners, corners[1:] + corners[:1], strict=True)]
            cut = [edge for edge, here, there in zip(edges, inside, inside[1:] + inside[:1], strict=True) if here != there]
            if len(cut) == 2:
                segments.append((cut[0], cut[1]))
            elif len(cut) == 4:
                segments += [(edges[place - 1], edges[place]) for place in range(4) if inside[place] is cut_off]
    return segments


def _middle(edge: Edge) -> FloatArray:
    one, other = (np.array([corner >> axis & 1 for axis in range(3)], dtype=np.float64) for corner in edge)
    return (one + other) / 2
