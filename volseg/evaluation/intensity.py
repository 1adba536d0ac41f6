"""How a scan's values are distributed inside a region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.io import Volume

CHUNK_VALUES = 1 << 20
"""Values turned into float64 at a time (8 MiB)."""


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
    low, quarter, median, three_quarters, high = (_percentile(values, percent) for percent in (5, 25, 50, 75, 95))
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


def _percentile(ordered: npt.NDArray[np.generic], percent: float) -> float:
    position = percent / 100 * (ordered.size - 1)
    below = int(position)
    low, high = float(ordered[below]), float(ordered[min(below + 1, ordered.size - 1)])
    return low + (high - low) * (position - below)
