"""How often each value of a label map occurs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK_VOXELS = 1 << 20
"""Voxels counted at a time: ``numpy.bincount`` needs int64, so 8 MiB, and not eight bytes for every voxel of the scan."""


def count_values(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Voxels of every value, 0 included: element ``n`` counts the voxels that are ``n``.

    Most of a label map is background: eight bytes of it are passed over at a time, and only the rest is counted.

    Parameters
    ----------
    array : ndarray of bool or integers, none negative
        A label map of any memory order.

    Returns
    -------
    ndarray of int64
        As long as the highest value and one.
    """
    numbers = array.view(np.uint8) if array.dtype.kind == "b" else array
    counts = np.zeros(int(numbers.max(initial=0)) + 1, dtype=np.int64)
    for chunk in _flat_chunks(numbers):
        busy = _without_empty_words(chunk)
        counts[0] += chunk.size - busy.size
        counts += np.bincount(busy, minlength=len(counts))
    return counts


def _flat_chunks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The voxels as they lie in memory; copied piece by piece only where they do not lie in one piece."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        flat = array.ravel(order="K")
        yield from (flat[start : start + CHUNK_VOXELS] for start in range(0, flat.size, CHUNK_VOXELS))
        return
    view = array.transpose(np.argsort([-abs(stride) for stride in array.strides], kind="stable"))
    thickness = max(1, CHUNK_VOXELS // max(1, int(np.prod(view.shape[1:]))))
    yield from (np.ascontiguousarray(view[start : start + thickness]).ravel() for start in range(0, view.shape[0], thickness))


def _without_empty_words(chunk: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop those runs of eight bytes, counted from the start, in which every voxel is 0."""
    each = 8 // chunk.itemsize
    whole = chunk.size // each * each
    words = chunk[:whole].view(np.uint64)
    busy = words[words != 0].view(chunk.dtype)
    return np.concatenate([busy, chunk[whole:]]) if whole < chunk.size else busy
