"""Which resampling MONAI's ``Spacingd`` is.

It turns an orthogonal scan's spacing into another one and keeps the first voxel where it is, so that output index ``o`` of an axis lies at input index ``o * new / old``; its
inverse is the same with old and new exchanged. Where rounding has left an oblique affine not quite orthogonal it aligns the centres instead, so that a shift is added. Border
voxels are repeated (``padding_mode="border"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid

UNCHANGED_TOLERANCE = 1e-3
"""MONAI leaves an image alone whose affine would change by less (``monai.data.utils.AFFINE_TOL``)."""

FIRST_CORNER_TOLERANCE = 1e-8
"""MONAI's ``compute_shape_offset`` takes ``numpy.allclose(..., 0)``, whose absolute tolerance this is (voxels)."""

SHEAR_LIMIT = 1e-6
"""Axes that are less orthogonal than this (cosine) cannot be resampled one by one."""


@dataclass(frozen=True)
class Spacing:
    """What ``Spacingd`` does to a grid.

    Parameters
    ----------
    grid : Grid
        Where the resampled voxels lie.
    steps : tuple of float
        Input voxels per output voxel, per axis.
    shifts : tuple of float
        Where the first output voxel lies on the input (voxels), per axis.
    """

    grid: Grid
    steps: tuple[float, float, float]
    shifts: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def is_identity(self) -> bool:
        """Nothing changes."""
        return self.steps == (1.0, 1.0, 1.0) and self.shifts == (0.0, 0.0, 0.0)


def match_monai(grid: Grid, pixdim: Sequence[float]) -> Spacing | None:
    """What MONAI's ``Spacingd(pixdim=...)`` makes of a grid.

    Parameters
    ----------
    grid : Grid
        Of the image, in the orientation the network wants.
    pixdim : sequence of 3 float
        Wanted spacing (mm).

    Returns
    -------
    Spacing or None
        None where the axes are not orthogonal, so that MONAI resamples with a full affine.

    Notes
    -----
    Source: ``monai.transforms.Spacing``, ``monai.data.utils.zoom_affine`` and ``compute_shape_offset`` (1.6): the output has ``round((n - 1) * old / new + 1)`` voxels; a
    spacing that differs by no more than 1e-3 mm is kept. Its first voxel is the input's first where that corner comes before all others along every output axis, to within 1e-8
    voxels; an oblique affine rounded to float32 misses that, and then the middles ``n / 2`` of input and output coincide.
    """
    if grid.shear > SHEAR_LIMIT:
        return None
    old = np.array(grid.spacing)
    new = np.array([o if abs(o - float(p)) <= UNCHANGED_TOLERANCE else float(p) for o, p in zip(old, pixdim, strict=True)])
    matrix = grid.affine[:3, :3]
    zoomed = np.linalg.cholesky(matrix.T @ matrix).T
    affine = np.eye(4)
    affine[:3, :3] = matrix @ np.linalg.inv(zoomed) @ np.diag(np.sign(np.diag(zoomed)) * new)
    corners = np.stack(np.meshgrid(*((0.0, n - 1.0) for n in grid.shape), indexing="ij")).reshape(3, -1)
    placed = np.linalg.solve(affine, grid.affine)[:3, :3] @ corners
    shape = tuple(int(n) for n in np.round(np.ptp(placed, axis=1) + 1))
    # The corners of a right-angled grid come first to last: only the first can be before all others.
    is_first = bool((np.abs((placed - placed[:, :1]).min(axis=1)) <= FIRST_CORNER_TOLERANCE).all())
    middle = matrix @ (np.array(grid.shape) / 2) - affine[:3, :3] @ (np.array(shape) / 2)
    affine[:3, 3] = grid.affine[:3, 3] + (0 if is_first else middle)
    shifts = np.zeros(3) if is_first else np.linalg.solve(matrix, middle)
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = np.diag(new / old), shifts
    if shape == grid.shape and (np.allclose(grid.affine, affine, rtol=1e-5, atol=UNCHANGED_TOLERANCE) or np.allclose(moved, np.eye(4), rtol=1e-5, atol=UNCHANGED_TOLERANCE)):
        return Spacing(grid, (1.0, 1.0, 1.0))
    return Spacing(Grid((shape[0], shape[1], shape[2]), affine), _three(new / old), _three(shifts))


def _three(values: npt.NDArray[np.floating[Any]]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
