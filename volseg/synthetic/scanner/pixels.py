"""From values to what lies in PixelData: offset, sign, bits, padding and the per-slice scale of PET. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.synthetic.scanner.settings import ScannerSettings

T2_STAR_MS = 50.0
"""Decay of the MR signal with echo time: one round number for all tissues, of the order of brain at 3 T; made up, not measured."""

CT_INTERCEPTS = {(False, 16): -1024, (False, 12): -1024, (True, 16): 0, (True, 12): 1024}
"""HU of stored value 0 by (signed, bits): 12 bits hold -1024..3071 HU either way; scanners that store 16 signed bits store HU."""

PET_TOP = 32767
"""Largest stored value of a PET slice, each of which is scaled to use all positive 16-bit values."""


@dataclass(frozen=True, eq=False)
class Stored:
    """The pixels of one image as they are written.

    Parameters
    ----------
    values : ndarray, uint16 or int16 (little endian), (rows, columns)
        What goes into PixelData.
    slope, intercept : float
        RescaleSlope and RescaleIntercept.
    """

    values: npt.NDArray[np.uint16] | npt.NDArray[np.int16]
    slope: float
    intercept: float


def store(image: npt.NDArray[np.int16], modality: str, settings: ScannerSettings) -> Stored:
    """Encode one slice (rows, columns) of values in HU, arbitrary units or Bq/ml.

    Raises
    ------
    InputError
        If the values do not fit into the bits.
    """
    slope, intercept = _scale(image, modality, settings)
    stored = np.rint((image.astype(np.float64) - intercept) / slope).astype(np.int64)
    if settings.padding_value is not None:
        stored[outside_circle(image.shape[0], image.shape[1])] = settings.padding_value
    bits = settings.bits_stored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if settings.signed else (0, 2**bits - 1)
    if stored.min() < low or stored.max() > high:
        sign = "signed" if settings.signed else "unsigned"
        msg = f"values from {image.min()} to {image.max()} do not fit into {bits} {sign} bits with an intercept of {intercept:g}; ask for 16 bits or the other sign"
        raise InputError(msg)
    if settings.overlay_bits:
        # The low bits are two's complement already; every other column carries an overlay.
        stored = (stored & 0xFFF) | np.where(np.arange(stored.shape[1]) % 2, 0xF000, 0)
        return Stored(stored.astype("<u2").view("<i2" if settings.signed else "<u2"), slope, intercept)
    return Stored(stored.astype("<i2" if settings.signed else "<u2"), slope, intercept)


def outside_circle(rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """(rows, columns) bool: pixels outside the ellipse inscribed in the matrix, which a CT scanner pads."""
    down, across = ((np.arange(n) - (n - 1) / 2) / (n / 2) for n in (rows, columns))
    outside: npt.NDArray[np.bool_] = down[:, None] ** 2 + across[None, :] ** 2 > 1
    return outside


def echo(image: npt.NDArray[np.int16], echo_time: float, first: float) -> npt.NDArray[np.int16]:
    """The image at a later echo (ms): mono-exponential decay with :data:`T2_STAR_MS` from the first echo."""
    later: npt.NDArray[np.int16] = np.rint(image * np.exp((first - echo_time) / T2_STAR_MS)).astype(np.int16)
    return later


def _scale(image: npt.NDArray[np.int16], modality: str, settings: ScannerSettings) -> tuple[float, float]:
    if modality == "CT":
        return 1.0, float(CT_INTERCEPTS[settings.signed, settings.bits_stored])
    if modality == "PT":
        top = PET_TOP if settings.bits_stored == 16 else PET_TOP >> 4
        # Rounded to what a decimal string of 16 characters (PS3.5 6.2) holds, so that the slope written is the slope used.
        return float(f"{max(1, int(image.max())) / top:.8g}"), 0.0
    return 1.0, 0.0
