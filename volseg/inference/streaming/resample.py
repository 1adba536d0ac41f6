"""Separable linear and nearest resampling between two axis-aligned grids, slice by slice: no sampling grid, no second copy of the scan.

MONAI's ``Spacingd`` turns an orthogonal scan's spacing into another one and keeps the first voxel where it is, so that output index ``o`` of an axis lies at input index
``o * new / old``; its inverse is the same with old and new exchanged. Where rounding has left an oblique affine not quite orthogonal it aligns the centres instead, so that
a shift is added. Each axis is therefore a table of two indices and one weight (:class:`Axis`). Border voxels are repeated
(``padding_mode="border"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
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

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Axis:
    """Where the output samples of one axis lie on its input.

    Parameters
    ----------
    source : int
        Length of the input.
    low, high : ndarray of intp, (n,)
        Neighbouring input samples of each output sample.
    weight : ndarray of float32, (n,)
        Share of ``high``; the rest is ``low``'s.
    """

    source: int
    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: Floats

    @classmethod
    def linear(cls, source: int, target: int, step: float, shift: float = 0.0) -> Axis:
        """Output sample ``o`` lies at input index ``o * step + shift``, clipped to the input."""
        at = np.clip(np.arange(target) * step + shift, 0, source - 1)
        low = np.minimum(np.floor(at), max(source - 2, 0)).astype(np.intp)
        return cls(source, low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32))

    @classmethod
    def nearest(cls, source: int, target: int, step: float, shift: float = 0.0) -> Axis:
        """As :meth:`linear`, but each output sample is its nearest input sample; halves go to the even one, as ``grid_sample`` rounds."""
        at = np.rint(np.clip(np.arange(target) * step + shift, 0, source - 1)).astype(np.intp)
        return cls(source, at, at, np.zeros(target, dtype=np.float32))

    @property
    def is_identity(self) -> bool:
        """Whether every output sample is the input sample of its own index."""
        return len(self) == self.source and bool(np.array_equal(self.low + self.weight, np.arange(self.source)))

    def __len__(self) -> int:
        return len(self.low)


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


def resample(array: npt.NDArray[np.generic], axes: Sequence[Axis], threads: int = 1) -> Floats:
    """Resample a volume along its three axes.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        Any real dtype, any memory order; never copied as a whole.
    axes : sequence of 3 Axis
        One for each axis.
    threads : int
        Slices computed at the same time.

    Returns
    -------
    ndarray, float32, (len(axes[0]), len(axes[1]), len(axes[2]))
        C order. Interpolated in float32.
    """
    first, second, third = axes
    out = np.empty((len(first), len(second), len(third)), dtype=np.float32)
    # The axis along which the scan's slices lie in memory goes first: a slice is then one stretch of memory.
    slow = int(np.argmax([abs(s) for s in array.strides]))
    others = [axis for axis in range(3) if axis != slow]
    source = np.moveaxis(array, slow, 0)
    target = np.moveaxis(out, slow, 0)
    along, rows, columns = axes[slow], axes[others[0]], axes[others[1]]

    def work(part: range) -> None:
        kept: dict[int, Floats] = {}
        for o in part:
            low, high = int(along.low[o]), int(along.high[o])
            weight = float(along.weight[o])
            needed = (low,) if weight == 0 else (low, high)
            kept = {n: kept[n] if n in kept else _plane(source[n], rows, columns) for n in needed}
            target[o] = kept[low] if weight == 0 else kept[low] + weight * (kept[high] - kept[low])

    edges = np.linspace(0, len(along), max(1, threads) + 1).astype(int).tolist()
    parts = [range(a, b) for a, b in pairwise(edges) if b > a]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, parts))
    return out


def _plane(plane: npt.NDArray[np.generic], rows: Axis, columns: Axis) -> Floats:
    """One slice, resampled in its plane; the contiguous axis is gathered last, on fewer or on more rows, whichever is less work."""
    if len(rows) <= rows.source:
        return lerp(lerp(plane, rows, 0), columns, 1)
    return lerp(lerp(plane, columns, 1), rows, 0)


def lerp(array: npt.NDArray[np.generic], axis: Axis, dimension: int) -> Floats:
    """Resample one dimension of an array; float32 out."""
    if axis.is_identity:
        return np.asarray(array, dtype=np.float32)
    low = np.take(array, axis.low, axis=dimension).astype(np.float32, copy=False)
    if not axis.weight.any():
        return low
    high = np.take(array, axis.high, axis=dimension).astype(np.float32, copy=False)
    shape = [1] * array.ndim
    shape[dimension] = -1
    high -= low
    high *= axis.weight.reshape(shape)
    high += low
    return high
