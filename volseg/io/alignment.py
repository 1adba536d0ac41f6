"""Channels on several grids of one frame, brought to the grid of the first by linear interpolation at its voxel centres.

A channel's field of view is that of its voxels, edge to edge; outside it a CT gets its lowest finite value (air), anything else 0. The same is done before training and before
inference, so that a bundle stays plain MONAI and sees the same voxels in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import FloatArray, Grid
from volseg.io.intensity import finite
from volseg.io.modality import expected_modality
from volseg.io.resample import Axis, resample
from volseg.io.volume import Volume

SAME_GRID_MM = 1e-2
"""NIfTI keeps affines in float32 and tools round spacings; two grids whose voxels are nowhere further apart than this are one."""

PARALLEL_TOLERANCE = 1e-3
"""Axes are parallel when following one of them leads nowhere further than this (voxels) along another."""

EDGE = 0.5 + 1e-3
"""How far from its centre the outermost voxel still reaches (voxels), with room for rounding."""

SAMPLES = 64
"""Voxel centres looked at along each axis to tell how much of a field of view is covered: a per cent is two thirds of a step."""


def align(volumes: Sequence[Volume], threads: int = 1) -> tuple[Volume, ...]:
    """Bring channels to the grid of the first.

    Parameters
    ----------
    volumes : sequence of Volume
        At least one; ``source.channel`` (else ``source.modality``) tells what is a CT.
    threads : int
        Slices computed at the same time.

    Returns
    -------
    tuple of Volume
        All on the first one's grid. Those that lay there are unchanged (but for NaN and infinite voxels, which become the lowest finite value), the others are float32.
    """
    first, *others = volumes
    aligned = [Volume(voxels_on(v, first.grid, threads), first.grid, replace(v.source, header=None), v.warnings) for v in others]
    return (first, *aligned)


def voxels_on(volume: Volume, grid: Grid, threads: int = 1) -> npt.NDArray[Any]:
    """Voxels of one channel on a grid.

    Parameters
    ----------
    volume : Volume
        Its ``further`` channels are not looked at.
    grid : Grid
        Any grid of the same frame.
    threads : int
        Slices computed at the same time.

    Returns
    -------
    ndarray, (i, j, k) of ``grid``
        The volume's own array where it lies on the grid and is finite, else a new one: float32 where it was interpolated. NaN and infinite voxels count as the lowest finite value.
    """
    array = finite(volume.array)
    if volume.grid.isclose(grid, SAME_GRID_MM):
        return array
    matrix: FloatArray = np.asarray(np.linalg.solve(volume.grid.affine, grid.affine), dtype=np.float64)
    partners = _parallel_axes(matrix, grid.shape)
    if partners is None:
        return _interpolated(array, matrix, grid.shape, outside_value(volume), threads)
    out = np.full(grid.shape, outside_value(volume), dtype=np.float32)
    box, axes = [], []
    for axis, own in enumerate(partners):
        step, shift, length = float(matrix[own, axis]), float(matrix[own, 3]), array.shape[own]
        at = np.arange(grid.shape[axis]) * step + shift
        inside = np.flatnonzero((at >= -EDGE) & (at <= length - 1 + EDGE))
        if not inside.size:
            return out
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
        axes.append(Axis.linear(length, inside.size, step, float(at[inside[0]])))
    resample(array.transpose(partners), axes, threads, out[tuple(box)])
    return out


def outside_value(volume: Volume) -> float:
    """What stands for a channel outside its field of view: the lowest finite value of a CT, 0 of anything else."""
    channel = volume.source.channel
    modality = expected_modality(channel) if channel is not None else volume.source.modality
    return float(finite(volume.array).min()) if modality == "CT" else 0.0


def covered_share(grid: Grid, other: Grid) -> float:
    """Share of a grid's voxels whose centres lie in another's field of view, from at most 64 along each axis."""
    index = np.meshgrid(*(np.linspace(0, n - 1, min(n, SAMPLES)) for n in grid.shape), indexing="ij")
    at = other.to_voxel(grid.to_world(np.stack(index, axis=-1)))
    inside = ((at >= -EDGE) & (at <= np.array(other.shape) - 1 + EDGE)).all(axis=-1)
    return float(inside.mean())


def _parallel_axes(matrix: FloatArray, shape: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """For each axis of the target the source axis it runs along; None when an axis runs between two. ``matrix`` maps target indices to source indices."""
    # How far (source voxels) each source index moves along the whole of each target axis.
    moved = np.abs(matrix[:3, :3]) * (np.array(shape) - 1).clip(1)
    main = np.abs(matrix[:3, :3]).argmax(axis=0)
    i, j, k = (int(n) for n in main)
    if len({i, j, k}) < 3:
        return None
    moved[main, [0, 1, 2]] = 0
    return (i, j, k) if moved.max() <= PARALLEL_TOLERANCE else None


def _interpolated(array: npt.NDArray[Any], matrix: FloatArray, shape: tuple[int, int, int], outside: float, threads: int) -> npt.NDArray[np.float32]:
    """An array at the places that ``matrix`` gives for the voxels of another shape, whatever the angle."""
    from scipy.ndimage import affine_transform

    out = np.empty(shape, dtype=np.float32)
    last = np.array(array.shape)[:, None, None] - 1
    j, k = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij", sparse=True)
    in_plane = matrix[:3, 1, None, None] * j + matrix[:3, 2, None, None] * k + matrix[:3, 3, None, None]

    def work(number: int) -> None:
        plane, start = out[number], matrix[:3, 0] * number
        affine_transform(array, matrix[:3, :3], matrix[:3, 3] + start, output=plane[None], order=1, mode="nearest")
        at = in_plane + start[:, None, None]
        plane[((at < -EDGE) | (at > last + EDGE)).any(axis=0)] = outside

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(work, range(shape[0])))
    return out
