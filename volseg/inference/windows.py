"""Arithmetic of sliding windows, as MONAI's ``SlidingWindowInferer`` does it, in numpy alone.

Source of every rule: ``monai.inferers.utils.sliding_window_inference`` and ``monai.data.utils`` (``dense_patch_slices``, ``compute_importance_map``), MONAI 1.6; the tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

SMALLEST_WEIGHT = 1e-3
"""Weights of a Gaussian window are not below this (``compute_importance_map``)."""


def window_sizes(size: Sequence[int], roi: Sequence[int]) -> tuple[int, ...]:
    """Window length per axis: ``roi``, or the whole axis where it is 0 or less."""
    return tuple(wanted if wanted > 0 else length for wanted, length in zip(roi, size, strict=True))


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis.

    Parameters
    ----------
    length : int
        Length of the axis; taken as ``window`` where it is shorter, since such volumes are padded.
    window : int
        Window length.
    overlap : float
        Share of a window that its neighbour covers again, 0 to below 1.
    """
    padded = max(length, window)
    if padded == window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    last = padded - window
    return [min(start, last) for start in range(0, last + step, step)]


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
    """
    windows = window_sizes(size, roi)
    return prod(len(window_starts(length, window, share)) for length, window, share in zip(size, windows, overlap, strict=True))


def padding(size: Sequence[int], window: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis so that a volume is no smaller than the window; the odd one goes behind."""
    missing = [max(wanted - length, 0) for wanted, length in zip(window, size, strict=True)]
    return [(n // 2, n - n // 2) for n in missing]


def importance_map(window: Sequence[int], mode: str, sigma_scale: Sequence[float]) -> npt.NDArray[np.float32]:
    """Weight of each voxel of a window when overlapping windows are averaged.

    Parameters
    ----------
    window : sequence of int
        Window size (voxels).
    mode : str
        ``"constant"`` or ``"gaussian"``.
    sigma_scale : sequence of float
        Standard deviation of the Gaussian as a share of the window, per axis.

    Returns
    -------
    ndarray, float32, of the window's shape
    """
    if mode == "constant":
        return np.ones(tuple(window), dtype=np.float32)
    weights = np.ones((), dtype=np.float32)
    for n, share in zip(window, sigma_scale, strict=True):
        x = np.arange(-(n - 1) / 2.0, (n - 1) / 2.0 + 1, dtype=np.float32)[:n]
        weights = weights[..., None] * np.exp(x**2 / np.float32(-2 * (n * share) ** 2)).astype(np.float32)
    return np.maximum(weights, np.float32(max(float(weights.min()), SMALLEST_WEIGHT)))
