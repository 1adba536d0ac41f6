"""One compressed frame: held to be whole and of the announced matrix, then decoded. Decoders themselves fill what is missing of a frame and go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.pixels.complaints import complaints_raised
from volseg.io.dicom.pixels.extended import JPEG_EXTENDED, decode_extended

JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
"""JPEG baseline, extended, lossless and lossless SV1 (PS3.5 A.4.1), which libjpeg decodes."""

JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
"""JPEG-LS (PS3.5 A.4.3)."""

JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
"""JPEG 2000 (PS3.5 A.4.4) and High-Throughput JPEG 2000."""

HIGH_THROUGHPUT = {"1.2.840.10008.1.2.4.201": "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.202": "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.203": "1.2.840.10008.1.2.4.91"}
"""JPEG 2000 syntaxes whose decoder also reads High-Throughput JPEG 2000 (ISO/IEC 15444-15): GDCM's OpenJPEG does since 2.5, pydicom does not ask it to."""

END = b"\xff\xd9"
"""Last marker of a JPEG, JPEG-LS (EOI) and JPEG 2000 (EOC) stream (ISO/IEC 10918-1 B.1.1.3, 14495-1 C.1, 15444-1 A.4.4)."""

_START_OF_FRAME = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_2000_START = b"\xff\x4f\xff\x51"


def decode_encoded(encoded: bytes, header: SliceHeader, decoder: Any) -> npt.NDArray[Any]:
    """Decode one frame.

    Parameters
    ----------
    encoded : bytes
        Its fragments joined.
    header : SliceHeader
        What it must be.
    decoder : pydicom.pixels.Decoder
        Of its transfer syntax, or of the one in :data:`HIGH_THROUGHPUT`.

    Returns
    -------
    ndarray, (rows, columns)
        Stored values, bits above BitsStored removed and the sign extended.

    Raises
    ------
    RuntimeError, ValueError
        If it is cut short, of another matrix, or cannot be decoded; pydicom may raise what :func:`~volseg.io.dicom.files.dataset.parse_errors` lists.
    """
    syntax = header.transfer_syntax
    if syntax in (*JPEG, *JPEG_LS, *JPEG_2000):
        _check_stream(encoded, header)
    if syntax == JPEG_EXTENDED and header.bits_stored > 8:
        return decode_extended(encoded, header.rows, header.columns, header.bits_stored, header.signed)
    if syntax in (*JPEG, *JPEG_2000):
        # Another decoder that is installed as well must not get a frame that GDCM found to be damaged: Pillow says nothing.
        plugin = "gdcm" if "gdcm" in decoder.available_plugins else ""
        with complaints_raised():
            return _decoded(encoded, header, decoder, plugin)
    return _decoded(encoded, header, decoder, "")


def _decoded(encoded: bytes, header: SliceHeader, decoder: Any, plugin: str) -> npt.NDArray[Any]:
    from pydicom.encaps import encapsulate

    array, _ = decoder.as_array(
        encapsulate([encoded]),
        raw=True,
        decoding_plugin=plugin,
        rows=header.rows,
        columns=header.columns,
        samples_per_pixel=1,
        # Whether small values are shown dark or bright changes nothing in what is stored.
        photometric_interpretation="MONOCHROME2",
        bits_allocated=header.bits_allocated,
        bits_stored=header.bits_stored,
        pixel_representation=int(header.signed),
        number_of_frames=1,
        pixel_keyword="PixelData",
    )
    return np.asarray(array)


def _check_stream(encoded: bytes, header: SliceHeader) -> None:
    # A frame is filled up to an even length with a zero (PS3.5 A.4); some writers add more.
    if not encoded[-4096:].rstrip(b"\0").endswith(END) and not encoded.rstrip(b"\0").endswith(END):
        msg = f"its stream of {len(encoded)} bytes has no end marker (FFD9), so it is cut short"
        raise ValueError(msg)
    matrix = stream_matrix(encoded)
    if matrix is not None and matrix != (header.rows, header.columns):
        msg = f"its stream holds {matrix[0]} rows and {matrix[1]} columns, the header says {header.rows} and {header.columns}"
        raise ValueError(msg)


def stream_matrix(encoded: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream announces (10918-1 B.2.2, 15444-1 A.5.1); None where it does not say, which is left to its decoder."""
    if encoded.startswith(_JPEG_2000_START):
        right, bottom, left, top = (int.from_bytes(encoded[at : at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns = (int.from_bytes(encoded[at + n : at + n + 2], "big") for n in (5, 7))
            # The number of rows may stand behind the first scan (10918-1 B.2.5).
            return (rows, columns) if rows else None
        if marker == _START_OF_SCAN:
            return None
        if marker == 0xFF:
            at += 1
        else:
            at += 2 if marker in _WITHOUT_LENGTH else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None
