"""Arithmetic of sliding windows, as MONAI's ``SlidingWindowInferer`` does it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def count_windows(size: Sequence[int], roi: Sequence[int], overlap: Sequence[float]) -> int:
    """Number of windows that cover a volume.

    Parameters
    ----------
    size : sequence of int
        Spatial shape of the network's input (voxels).
    roi : sequence of int
        Window size (voxels); an axis of 0 or less takes the whole volume, and volumes smaller than the window are padded to it.
    overlap : sequence of float
        Share of a window that its neighbour covers again, 0 to below 1, per axis.

    Notes
    -----
    Source: ``monai.inferers.utils._get_scan_interval`` and ``monai.data.utils.dense_patch_slices``, MONAI 1.6; the tests compare with the latter.
    """
    total = 1
    for length, wanted, share in zip(size, roi, overlap, strict=True):
        window = wanted if wanted > 0 else length
        padded = max(length, window)
        step = window if window == padded else max(1, int(window * (1 - share)))
        total *= ceil((padded - window) / step) + 1
    return total
