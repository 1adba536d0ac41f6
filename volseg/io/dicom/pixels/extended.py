"""JPEG Extended with 12 bits (1.2.840.10008.1.2.4.51): GDCM decodes it, pydicom does not ask it to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.io.dicom.pixels.complaints import complaints_raised

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""JPEG Extended, processes 2 (8 bits) and 4 (12 bits) (PS3.5 A.4.2)."""


def decode_extended(encoded: bytes, rows: int, columns: int, bits: int, signed: bool) -> npt.NDArray[Any]:
    """Decode one frame of 9 to 12 bits.

    Parameters
    ----------
    encoded : bytes
        The JPEG stream of the frame.
    rows, columns, bits : int
        Matrix and BitsStored.
    signed : bool
        PixelRepresentation is 1.

    Returns
    -------
    ndarray, uint16 or int16, (rows, columns)
        Stored values, the sign extended.

    Raises
    ------
    RuntimeError
        If GDCM is missing or cannot decode it all; libjpeg fills what is missing of a frame with grey and only complains on stderr.
    """
    try:
        import gdcm  # type: ignore[import-untyped]
    except ImportError as error:
        msg = "python-gdcm is not installed; run: pip install python-gdcm"
        raise RuntimeError(msg) from error
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(encoded)
    fragments.AddFragment(fragment)
    packed, unpacked = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010)), gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    packed.SetValue(fragments.__ref__())
    codec = gdcm.JPEGCodec()
    codec.SetNumberOfDimensions(2)
    codec.SetDimensions((columns, rows, 1))
    codec.SetPlanarConfiguration(0)
    codec.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    codec.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, int(signed)))
    with complaints_raised():
        content = unpacked.GetByteValue() if codec.Decode(packed, unpacked) else None
        if content is None:
            msg = "GDCM finds no JPEG stream of 12 bits"
            raise RuntimeError(msg)
    # GDCM's Python wrapper hands bytes over as text.
    values = np.frombuffer(content.GetBuffer().encode("utf-8", "surrogateescape"), "<u2").reshape(rows, columns)
    return _extend_sign(values, bits) if signed else values


def _extend_sign(values: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.int16]:
    shift = 16 - bits
    return np.asarray((values << shift).view("<i2") >> shift, dtype=np.int16)
