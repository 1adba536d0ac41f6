"""How a scan's values are distributed inside a region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.io import Volume

CHUNK_VALUES = 1 << 20
"""Values turned into float64 at a time (8 MiB)."""

MAX_TABLE = 1 << 22
"""Most entries of a table of labels by values (32 MiB): 1024 labels of a 12 bit CT, 64 of a full 16 bit range."""


@dataclass(frozen=True)
class Intensity:
    """Values inside a region, in the unit of :func:`intensity_unit`; not-a-number and infinite values are left out.

    Parameters
    ----------
    mean, sd : float
        Mean and standard deviation; the divisor is the number of values, as in PyRadiomics and IBSI (feature ECT3), not one less as in ITK.
    minimum, maximum, median : float
        Smallest, largest and middle value.
    percentile_5, percentile_25, percentile_75, percentile_95 : float
        Interpolated linearly between neighbouring values, as ``numpy.percentile`` does.
    """

    mean: float
    sd: float
    minimum: float
    maximum: float
    median: float
    percentile_5: float
    percentile_25: float
    percentile_75: float
    percentile_95: float


def intensity_unit(volume: Volume) -> str | None:
    """``"HU"`` for CT, ``"SUVbw"`` (g/ml) where ``source.details["units"]`` says so, else None: MR has no unit, and PET in Bq/ml cannot be compared between patients."""
    if volume.source.details.get("units") == "SUVbw":
        return "SUVbw"
    return "HU" if volume.source.modality == "CT" else None


def values_inside(image: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
    """Copy of the values where the mask is set, in the order of the mask's memory: gathering a Fortran-ordered scan in C order takes several times as long."""
    order = sorted(range(mask.ndim), key=lambda axis: -abs(mask.strides[axis]))
    values: npt.NDArray[np.generic] = image.transpose(order)[mask.transpose(order)]
    return values


def describe_values(values: npt.NDArray[np.generic]) -> Intensity | None:
    """Describe the values inside a region.

    Parameters
    ----------
    values : ndarray, (n,)
        Integers or floats, in any order; a copy, since it is sorted in place (a copy in float64 would take four times the memory of CT).

    Returns
    -------
    Intensity or None
        None where no value is finite.
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    values.sort()
    mean = _sum(values) / values.size
    sd = float(np.sqrt(_sum(values, centre=mean) / values.size))
    low, quarter, median, three_quarters, high = (_percentile(lambda place: float(values[place]), values.size, percent) for percent in (5, 25, 50, 75, 95))
    return Intensity(mean, sd, float(values[0]), float(values[-1]), median, low, quarter, three_quarters, high)


def count_pairs(label: npt.NDArray[np.integer], image: npt.NDArray[np.generic]) -> tuple[int, npt.NDArray[np.int64]] | None:
    """How often each value of a scan occurs in each label, in one walk over both.

    Parameters
    ----------
    label : ndarray of unsigned integers, (i, j, k)
        0 is background.
    image : ndarray, (i, j, k)
        The scan's values.

    Returns
    -------
    lowest : int
        Value of the first column.
    counts : ndarray of int64, (labels, values)
        Row 0 is the background.

    None where the values are not whole numbers, or range so widely that the table would not be small.
    """
    if image.dtype.kind not in "iu":
        return None
    lowest, highest = int(image.min()), int(image.max())
    rows, columns = int(label.max()) + 1, highest - lowest + 1
    if rows * columns > MAX_TABLE:
        return None
    counts = np.zeros(rows * columns, np.int64)
    order = sorted(range(3), key=lambda axis: -abs(label.strides[axis]))
    planes = max(1, CHUNK_VALUES // max(1, label.size // label.shape[order[0]]))
    walked_label, walked_image = label.transpose(order), image.transpose(order)
    for start in range(0, walked_label.shape[0], planes):
        part = slice(start, start + planes)
        pairs = walked_label[part].astype(np.int64) * columns + (walked_image[part].astype(np.int64) - lowest)
        counts += np.bincount(pairs.reshape(-1), minlength=counts.size)
    return lowest, counts.reshape(rows, columns)


def describe_counts(lowest: int, counts: npt.NDArray[np.int64]) -> Intensity | None:
    """Describe the values inside a region, given how often each occurs.

    Parameters
    ----------
    lowest : int
        Value of the first count.
    counts : ndarray of int64, (values,)
        Occurrences of ``lowest``, ``lowest + 1``, ...

    Returns
    -------
    Intensity or None
        The same as :func:`describe_values` gives; None where nothing occurs.
    """
    present = np.flatnonzero(counts)
    if present.size == 0:
        return None
    times, values = counts[present], present.astype(np.float64) + lowest
    total, reached = int(times.sum()), np.cumsum(times)

    def at(place: int) -> float:
        return float(values[np.searchsorted(reached, place, side="right")])

    mean = float(np.dot(values, times)) / total
    sd = float(np.sqrt(float(np.dot(np.square(values - mean), times)) / total))
    low, quarter, median, three_quarters, high = (_percentile(at, total, percent) for percent in (5, 25, 50, 75, 95))
    return Intensity(mean, sd, float(values[0]), float(values[-1]), median, low, quarter, three_quarters, high)


def mean_value(values: npt.NDArray[np.generic]) -> float | None:
    """Mean of the finite values, or None where there are none."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return _sum(values) / values.size if values.size else None


def _sum(values: npt.NDArray[np.generic], centre: float | None = None) -> float:
    """Sum of the values or, with a centre, of their squared distances from it."""
    total = 0.0
    for start in range(0, values.size, CHUNK_VALUES):
        part = values[start : start + CHUNK_VALUES].astype(np.float64)
        total += float(part.sum()) if centre is None else float(np.square(part - centre).sum())
    return total


def _percentile(at: Callable[[int], float], count: int, percent: float) -> float:
    """Percentile, by linear interpolation, of ``count`` ordered values of which ``at`` gives one by its place."""
    position = percent / 100 * (count - 1)
    below = int(position)
    low, high = at(below), at(min(below + 1, count - 1))
    return low + (high - low) * (position - below)
