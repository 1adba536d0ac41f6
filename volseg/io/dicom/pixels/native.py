"""Uncompressed little-endian pixels, read from where they lie in the file straight into the volume, without parsing the header a second time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.io.dicom.files.header import SliceHeader

LITTLE_ENDIAN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Implicit and Explicit VR Little Endian (PS3.5 A.1 and A.2)."""

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
        False where the file is compressed or big-endian, or ends too early: the caller then parses all of it, and names what is wrong.
    """
    first = task[0][1]
    if first.transfer_syntax not in LITTLE_ENDIAN_SYNTAXES or sys.byteorder != "little":
        return False
    with first.member.open() as stream:
        for k, header in task:
            if header.pixel_offset is None:
                return False
            stored = _stored_view(volume[k], header)
            stream.seek(header.pixel_offset)
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
