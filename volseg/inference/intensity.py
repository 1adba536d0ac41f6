"""Intensity transforms of MONAI in numpy: the same float32 arithmetic, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def apply_intensity(image: Floats, name: str, arguments: Mapping[str, Any]) -> Floats:
    """Apply one transform.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        Changed in place where that is possible.
    name : str
        MONAI's class name, a key of :data:`KERNELS`.
    arguments : mapping
        Its arguments; those left out have MONAI's defaults.
    """
    return KERNELS[name](image, **arguments)


def _scale_range(image: Floats, *, a_min: float, a_max: float, b_min: float | None = None, b_max: float | None = None, clip: bool = False) -> Floats:
    """``ScaleIntensityRange``."""
    image -= np.float32(a_min)
    if a_max == a_min:
        return image if b_min is None else image + np.float32(b_min)
    image /= np.float32(a_max - a_min)
    if b_min is not None and b_max is not None:
        image *= np.float32(b_max - b_min)
        image += np.float32(b_min)
    return np.clip(image, b_min, b_max, out=image) if clip and (b_min is not None or b_max is not None) else image


def _normalise(image: Floats, *, subtrahend: Any = None, divisor: Any = None, nonzero: bool = False, channel_wise: bool = False) -> Floats:
    """``NormalizeIntensity``; of a single number or one for each channel."""
    if not channel_wise:
        return _normalise_part(image, subtrahend, divisor, nonzero=nonzero)
    for number, channel in enumerate(image):
        image[number] = _normalise_part(channel, None if subtrahend is None else subtrahend[number], None if divisor is None else divisor[number], nonzero=nonzero)
    return image


def _normalise_part(image: Floats, subtrahend: float | None, divisor: float | None, *, nonzero: bool) -> Floats:
    inside = image != 0 if nonzero else np.True_
    if nonzero and not inside.any():
        return image
    values = image[inside] if nonzero else image
    # Sums of millions of voxels lose digits in float32.
    mean = np.float32(values.mean(dtype=np.float64) if subtrahend is None else subtrahend)
    spread = np.float32(values.std(dtype=np.float64) if divisor is None else divisor)
    np.subtract(image, mean, out=image, where=inside)
    np.divide(image, spread if spread != 0 else np.float32(1), out=image, where=inside)
    return image


def _scale(image: Floats, *, minv: float | None = 0.0, maxv: float | None = 1.0, factor: float | None = None, channel_wise: bool = False) -> Floats:
    """``ScaleIntensity``."""
    if minv is None and maxv is None:
        image *= np.float32(1 + (factor or 0))
        return image
    parts = image if channel_wise else [image]
    for part in parts:
        low, high = part.min(), part.max()
        if low == high:
            part *= np.float32(minv if minv is not None else 1)
            continue
        part -= low
        part /= high - low
        if minv is not None and maxv is not None:
            part *= np.float32(maxv - minv)
            part += np.float32(minv)
    return image


def _scale_percentiles(
    image: Floats, *, lower: float, upper: float, b_min: float | None, b_max: float | None, clip: bool = False, relative: bool = False, channel_wise: bool = False
) -> Floats:
    """``ScaleIntensityRangePercentiles``."""
    if relative and b_min is not None and b_max is not None:
        b_min, b_max = b_min + (b_max - b_min) * lower / 100, b_min + (b_max - b_min) * upper / 100
    for part in image if channel_wise else [image]:
        a_min, a_max = (float(np.percentile(part, share)) for share in (lower, upper))
        part[...] = _scale_range(part, a_min=a_min, a_max=a_max, b_min=b_min, b_max=b_max, clip=clip)
    return image


def _clip_percentiles(image: Floats, *, lower: float | None, upper: float | None, channel_wise: bool = False) -> Floats:
    """``ClipIntensityPercentiles`` without ``sharpness_factor``: a hard clip, on the sides that have a percentile."""
    for part in image if channel_wise else [image]:
        limits = [None if share is None else float(np.percentile(part, share)) for share in (lower, upper)]
        np.clip(part, *limits, out=part)
    return image


def _keep(image: Floats) -> Floats:
    """``CastToType`` to float32, which the image already is."""
    return image


KERNELS: dict[str, Callable[..., Floats]] = {
    "ScaleIntensityRange": _scale_range,
    "NormalizeIntensity": _normalise,
    "ScaleIntensity": _scale,
    "ScaleIntensityRangePercentiles": _scale_percentiles,
    "ClipIntensityPercentiles": _clip_percentiles,
    "CastToType": _keep,
}
