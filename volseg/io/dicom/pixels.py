"""The pixels of sorted slices as one array of rescaled values, one slice in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io.dicom.archive import Member
from volseg.io.dicom.dataset import NATIVE_SYNTAXES, damaged, open_dataset, parse_errors, printable
from volseg.io.dicom.header import SliceHeader

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""

DECODER_PACKAGE = "python-gdcm"
"""Decodes JPEG, JPEG Lossless, JPEG-LS and JPEG 2000 for pydicom (BSD licence); RLE and the uncompressed syntaxes need nothing."""


def decode_slices(slices: Sequence[SliceHeader], progress: Progress | None = None) -> npt.NDArray[Any]:
    """Read, decode and rescale.

    Parameters
    ----------
    slices : sequence of SliceHeader
        In order along k, all of one matrix.
    progress : callable, optional
        Called after each slice with (done, total).

    Returns
    -------
    ndarray, (columns, rows, slices)
        Stored value x RescaleSlope + RescaleIntercept. int16 where every slice has the same whole-numbered slope and intercept and the values fit, int32 where they fit that;
        otherwise float32. Column varies fastest in memory, as in NIfTI.

    Raises
    ------
    InputError
        If a file is truncated, its pixels cannot be decoded, or they differ from what its header announced.
    """
    whole = _is_whole(slices)
    first = slices[0]
    frame = _rescaled(read_frame(first), first, whole)
    try:
        volume = np.empty((len(slices), first.rows, first.columns), dtype=np.int16 if whole else np.float32)
        for k, header in enumerate(slices):
            if k:
                frame = _rescaled(read_frame(header), header, whole)
            if whole and not np.can_cast(_narrowest(frame, header.member), volume.dtype):
                volume = volume.astype(np.int32)
            volume[k] = frame
            if progress is not None:
                progress(k + 1, len(slices))
    except MemoryError as error:
        msg = f"{first.member.path}: {first.columns}x{first.rows}x{len(slices)} voxels do not fit into memory; crop or resample the series first"
        raise InputError(msg) from error
    return volume.transpose(2, 1, 0)


def read_frame(header: SliceHeader) -> npt.NDArray[Any]:
    """Stored values (rows, columns) of one slice, bits above BitsStored removed and the sign extended; raises InputError when truncated or undecodable."""
    dataset = open_dataset(header.member, pixels=True)
    try:
        return _checked_frame(dataset, header)
    except parse_errors() as error:
        raise damaged(header.member, error) from error


def _checked_frame(dataset: Any, header: SliceHeader) -> npt.NDArray[Any]:
    if dataset is None or "PixelData" not in dataset:
        msg = f"{header.member}: has no complete PixelData (7FE0,0010); the file may be cut short; copy it again"
        raise InputError(msg)
    have = len(dataset.PixelData)
    if dataset.file_meta.TransferSyntaxUID in NATIVE_SYNTAXES and have < header.frame_bytes:
        matrix = f"{header.rows} rows x {header.columns} columns x {header.bits_allocated} bits"
        msg = f"{header.member}: truncated: {have} bytes of pixels where {matrix} need {header.frame_bytes}; copy it again"
        raise InputError(msg)
    frame = _decode(dataset, header.member)
    if frame.shape != (header.rows, header.columns):
        msg = f"{header.member}: its pixels are {frame.shape}, the header says {header.rows} rows and {header.columns} columns; copy it again"
        raise InputError(msg)
    return frame


def _decode(dataset: Any, member: Member) -> npt.NDArray[Any]:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    name = printable(f"{getattr(syntax, 'name', 'unnamed')} ({syntax})")
    try:
        decoder = get_decoder(syntax)
    except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
        msg = f"{member}: transfer syntax {name} cannot be decoded; convert it, e.g. with dcmtk's dcmconv or dcmdjpeg"
        raise InputError(msg) from error
    if not decoder.is_available:
        msg = f"{member}: transfer syntax {name} needs a decoder that is not installed; run: pip install {DECODER_PACKAGE}"
        raise InputError(msg)
    try:
        array, _ = decoder.as_array(dataset, raw=True)
    except parse_errors() as error:
        reason = printable(str(error))[:300]
        msg = f"{member}: pixels in {name} cannot be decoded ({reason}); copy it again or convert it, e.g. with gdcmconv --raw"
        raise InputError(msg) from error
    frame: npt.NDArray[Any] = array
    return frame


def _is_whole(slices: Sequence[SliceHeader]) -> bool:
    scales = {(s.slope, s.intercept) for s in slices}
    return len(scales) == 1 and all(value == int(value) for value in next(iter(scales)))


def _rescaled(frame: npt.NDArray[Any], header: SliceHeader, whole: bool) -> npt.NDArray[Any]:
    if whole:
        return frame.astype(np.int64) * int(header.slope) + int(header.intercept)
    return (frame.astype(np.float64) * header.slope + header.intercept).astype(np.float32)


def _narrowest(frame: npt.NDArray[Any], member: Member) -> np.dtype[Any]:
    low, high = int(frame.min()), int(frame.max())
    for dtype in (np.int16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return np.dtype(dtype)
    msg = f"{member}: values from {low} to {high} do not fit 32-bit integers; no CT or MR has such values, the file may be damaged"
    raise InputError(msg)
