"""Uncompressed little-endian pixels, read from where they lie in the file straight into the volume, without parsing the header a second time."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from volseg.io.dicom.dataset import parse_errors
from volseg.io.dicom.header import SliceHeader

LITTLE_ENDIAN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Implicit and Explicit VR Little Endian (PS3.5 A.1 and A.2)."""

PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"
"""PixelData (7FE0,0010) as it stands in a little-endian file."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of a value in fragments (PS3.5 A.4), which uncompressed pixels never are."""

Rescale = Callable[[npt.NDArray[Any], SliceHeader, npt.NDArray[Any]], None]
"""Takes stored values (rows, columns), their header, and where the values of the volume go."""


def read_native(task: Sequence[tuple[int, SliceHeader]], volume: npt.NDArray[Any], rescale: Rescale) -> bool:
    """Read slices of one file into the volume.

    Parameters
    ----------
    task : sequence of (int, SliceHeader)
        Indices k and headers, all of one file.
    volume : ndarray, (slices, rows, columns)
        C-contiguous; int16, int32 or float32.
    rescale : callable
        Called for each slice with its stored values, bits above BitsStored removed and the sign extended.

    Returns
    -------
    bool
        False where the file is compressed or anything in it is unusual: the caller then parses all of it, and names what is wrong.
    """
    first = task[0][1]
    if first.transfer_syntax not in LITTLE_ENDIAN_SYNTAXES or sys.byteorder != "little":
        return False
    with first.member.open() as stream:
        start, length = _find_pixels(stream, first)
        for k, header in task:
            offset = header.frame_bytes * (header.frame or 0)
            if offset + header.frame_bytes > length:
                return False
            stored = _stored_view(volume[k], header)
            stream.seek(start + offset)
            # BufferedReader and ZipExtFile both fill the whole buffer unless the file ends.
            if stream.readinto(stored.reshape(-1).view(np.uint8)) != header.frame_bytes:  # type: ignore[attr-defined]
                return False
            _drop_unused_bits(stored, header)
            rescale(stored, header, volume[k])
    return True


def _stored_view(target: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[Any]:
    """Where stored values are read to: the volume itself when they are as wide as its voxels."""
    dtype = np.dtype(f"<{'i' if header.signed else 'u'}{header.bits_allocated // 8}")
    if target.dtype.itemsize == dtype.itemsize and target.dtype.kind == "i":
        return target.view(dtype)
    return np.empty(target.shape, dtype)


def _drop_unused_bits(stored: npt.NDArray[Any], header: SliceHeader) -> None:
    """Bits above BitsStored may hold anything (PS3.5 8.1.1); shifting back extends the sign of signed values."""
    unused = header.bits_allocated - header.bits_stored
    if unused:
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)


def _find_pixels(stream: IO[bytes], header: SliceHeader) -> tuple[int, int]:
    """Offset and length (bytes) of the value of PixelData; length 0 where it is not found."""
    size = header.member.size
    # Values have an even length (PS3.5 7.1.1). In most files one frame's pixels are the last thing, and their tag and length stand where they must.
    length = header.frame_bytes + header.frame_bytes % 2
    # A zip's member can only be read forwards quickly.
    if header.frame is None and header.member.inside is None:
        for head in (12, 8):
            if size >= length + head and _element_at(stream, size - length - head) == (size - length, length):
                return size - length, length
    return _parse_to_pixels(stream)


def _parse_to_pixels(stream: IO[bytes]) -> tuple[int, int]:
    import pydicom

    stream.seek(0)
    try:
        pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=["TransferSyntaxUID"])
    except parse_errors():
        return 0, 0
    return _element_at(stream, stream.tell()) or (0, 0)


def _element_at(stream: IO[bytes], position: int) -> tuple[int, int] | None:
    """Offset and length of PixelData's value if its element begins at ``position`` (explicit VR: PS3.5 table 7.1-1, implicit: 7.1-3)."""
    stream.seek(position)
    head = stream.read(12)
    if len(head) < 12 or head[:4] != PIXEL_DATA_TAG:
        return None
    explicit = head[4:6] in (b"OW", b"OB")
    length = struct.unpack("<I", head[8:12] if explicit else head[4:8])[0]
    return None if length == UNDEFINED_LENGTH else (position + (12 if explicit else 8), length)
