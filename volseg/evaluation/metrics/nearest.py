"""The distance from each cell of one surface to the nearest cell of another.

Two ways to the same numbers. A tree of the other surface's cells answers fast where the surfaces lie close, as they do when a segmentation is any good: a few us a cell. Far away
it may have to look at all of the other surface, since all of it is almost equally near (a small prediction inside a large reference). There a distance map of the whole box (Maurer
et al., 2003, in SimpleITK) is faster, whose time depends on the box only: about 50 ns a voxel. A few cells show how far apart the surfaces lie, and so which way is taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Cells = npt.NDArray[np.intp]

SAMPLED = 256
"""Cells that are asked first, for distances that may be up to twice too long."""

NEAR_CELLS = 10.0
"""Up to this mean distance, in cells, the tree is fast."""

NEAR_NS, FAR_NS_PER_OTHER, MAP_NS = 4000.0, 15.0, 50.0
"""Time of one cell in the tree where the surfaces are near; at worst where they are far, for each cell of the other surface; of one voxel in the map. Measured on a 2-core Xeon."""

ORTHOGONAL = 1e-6
"""Greatest cosine between two axes at which a map, which knows spacings only, is used; at 400 mm it stands for 0.0004 mm."""


def nearest_distances(cells: Cells, others: Cells, shape: tuple[int, ...], axes_mm: FloatArray, threads: int) -> FloatArray:
    """Distance of each cell to the nearest of the others.

    Parameters
    ----------
    cells, others : ndarray of intp
        Places in the flattened array of ``shape``, none in both; at least one each.
    shape : tuple of 3 int
        Of the array of cells.
    axes_mm : ndarray of float64, (3, 3)
        Columns are the steps along i, j and k (mm).
    threads : int
        Of the tree; -1 for all processors.

    Returns
    -------
    ndarray of float64
        mm; from the map within 1e-4 mm, since that is single precision.
    """
    from scipy.spatial import cKDTree

    # Neither balancing nor shrinking its boxes pays for a tree that is asked once.
    tree = cKDTree(_positions(others, shape, axes_mm), compact_nodes=False, balanced_tree=False)
    sample = _positions(cells[:: max(1, len(cells) // SAMPLED)], shape, axes_mm)
    apart = float(tree.query(sample, eps=1.0)[0].mean()) / float(np.linalg.norm(axes_mm, axis=0).min())
    by_tree = len(cells) * (NEAR_NS if apart <= NEAR_CELLS else FAR_NS_PER_OTHER * len(others))
    by_map = float(np.prod(shape)) * MAP_NS
    if by_map < by_tree and _is_orthogonal(axes_mm):
        return _from_map(cells, others, shape, axes_mm)
    return np.asarray(tree.query(_positions(cells, shape, axes_mm), workers=threads)[0], dtype=np.float64)


def _positions(cells: Cells, shape: tuple[int, ...], axes_mm: FloatArray) -> FloatArray:
    return np.stack(np.unravel_index(cells, shape), axis=1) @ axes_mm.T


def _is_orthogonal(axes_mm: FloatArray) -> bool:
    direction = axes_mm / np.linalg.norm(axes_mm, axis=0)
    return bool(np.abs(direction.T @ direction - np.eye(3)).max() <= ORTHOGONAL)


def _from_map(cells: Cells, others: Cells, shape: tuple[int, ...], axes_mm: FloatArray) -> FloatArray:
    import SimpleITK as sitk  # noqa: N813

    occupied = np.zeros(shape, dtype=np.uint8)
    occupied.ravel()[others] = 1
    image = sitk.GetImageFromArray(occupied)
    del occupied
    # SimpleITK names the axis first that varies fastest in memory.
    image.SetSpacing([float(step) for step in np.linalg.norm(axes_mm, axis=0)[::-1]])
    distances = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.asarray(sitk.GetArrayViewFromImage(distances).ravel()[cells], dtype=np.float64)
