"""Stored numbers to voxel values: rescale slope and intercept, and the smallest dtype that holds the result exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

INTEGERS: tuple[type[np.integer[Any]], ...] = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32)
"""Integer dtypes a volume may have, smallest first; 64 bits would double the memory of every later step and hold nothing a scanner writes."""


def smallest_integer(low: int, high: int) -> np.dtype[Any] | None:
    """Return the first of :data:`INTEGERS` that holds ``low`` to ``high``, or None when none does."""
    for kind in INTEGERS:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return np.dtype(kind)
    return None


def rescaled(raw: npt.NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Apply ``slope * raw + intercept`` and store the result as small as it goes exactly.

    Parameters
    ----------
    raw : ndarray
        Real numbers of any dtype and byte order, axes ``(i, j, k)``.
    slope, intercept : float
        Rescaling, computed in float64.

    Returns
    -------
    values : ndarray
        The smallest of :data:`INTEGERS` when every value is a whole number that fits one, else float32 (rounded). The input itself when nothing had to change.
    warnings : tuple of str
        NaN or infinite voxels, and whole numbers too large to be exact in float32. NaN and infinity are kept: what they mean is for the caller to decide.
    """
    if raw.dtype.kind == "b":
        raw = raw.view(np.uint8)
    limits = _whole_number_range(raw, slope, intercept)
    dtype = None if limits is None else smallest_integer(*limits)
    if dtype is not None:
        if raw.dtype.kind in "iu" and slope == 1 and intercept == 0:
            return raw.astype(dtype, copy=False), ()
        return _fill(raw, slope, intercept, dtype), ()
    values = _fill(raw, slope, intercept, np.dtype(np.float32))
    odd = sum(int(np.count_nonzero(~np.isfinite(values[..., k]))) for k in range(values.shape[-1]))
    notes = [f"{odd} of {values.size} voxels are NaN, infinite or beyond float32; they are kept as they are"] if odd else []
    if limits is not None:
        notes.append(f"values from {limits[0]} to {limits[1]} do not fit 32-bit integers; they are kept as float32, which rounds above 2^24")
    return values, tuple(notes)


def lowest_finite(array: npt.NDArray[Any]) -> float | None:
    """Smallest value that is neither NaN nor infinite; None when there is none."""
    lowest = float(array.min())
    if np.isfinite(lowest):
        return lowest
    values = array[np.isfinite(array)]
    return float(values.min()) if values.size else None


def finite(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """NaN and infinite voxels become the lowest finite value (0 where there is none), in a copy; the array itself where all are finite."""
    if array.dtype.kind in "iub" or np.isfinite(array).all():
        return array
    return np.where(np.isfinite(array), array, array.dtype.type(lowest_finite(array) or 0))


def _whole_number_range(raw: npt.NDArray[Any], slope: float, intercept: float) -> tuple[int, int] | None:
    """Least and greatest result when all results are whole numbers, else None; stops at the first slice with a fraction."""
    if raw.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (raw.min(), raw.max())]
        return min(ends), max(ends)
    low, high = np.inf, -np.inf
    for k in range(raw.shape[-1]):
        values = _scaled(raw[..., k], slope, intercept)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            return None
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return int(low), int(high)


def _fill(raw: npt.NDArray[Any], slope: float, intercept: float, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Rescale slice by slice, so that no float64 copy of the scan exists."""
    values = np.empty_like(raw, dtype=dtype)
    exact = dtype.kind in "iu" and raw.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(raw.shape[-1]):
            values[..., k] = raw[..., k].astype(np.int64) * int(slope) + int(intercept) if exact else _scaled(raw[..., k], slope, intercept)
    return values


def _scaled(raw: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.float64]:
    values = raw.astype(np.float64)
    if slope != 1:
        values *= slope
    if intercept != 0:
        values += intercept
    return values
