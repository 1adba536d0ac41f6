"""Separable linear and nearest resampling between two grids of parallel axes, slice by slice: no sampling grid, no second copy of the scan.

Each axis is a table of two indices and one weight (:class:`Axis`). Border voxels are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

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


def resample(array: npt.NDArray[np.generic], axes: Sequence[Axis], threads: int = 1, out: Floats | None = None) -> Floats:
    """Resample a volume along its three axes.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        Any real dtype, any memory order; never copied as a whole.
    axes : sequence of 3 Axis
        One for each axis.
    threads : int
        Slices computed at the same time.
    out : ndarray, float32, (len(axes[0]), len(axes[1]), len(axes[2])), optional
        Where the result goes; a new array by default.

    Returns
    -------
    ndarray, float32, (len(axes[0]), len(axes[1]), len(axes[2]))
        ``out``, or a new array in C order. Interpolated in float32.
    """
    first, second, third = axes
    if out is None:
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
