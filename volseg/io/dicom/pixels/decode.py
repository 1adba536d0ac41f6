"""The pixels of sorted slices as one array of rescaled values, written straight into it by a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import NATIVE_SYNTAXES, damaged, open_dataset, parse_errors, printable
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.pixels.encoded import HIGH_THROUGHPUT, decode_encoded
from volseg.io.dicom.pixels.native import read_native
from volseg.processors import usable_threads

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""

DECODER_PACKAGE = "python-gdcm"
"""Decodes JPEG, JPEG Lossless, JPEG-LS and (High-Throughput) JPEG 2000 (BSD licence); RLE and the uncompressed syntaxes need nothing."""

MAX_THREADS = 8
"""Each thread holds one unpacked slice beside the volume, so this bounds the extra memory; reading is bound by the disk or the memory bus well before."""

FRAMES_PER_TASK = 32
"""Frames of one uncompressed multi-frame file that a thread reads in one go: enough to open it seldom, few enough to share a file of 500 frames."""

Task = tuple[tuple[int, SliceHeader], ...]
"""Slices of one file with their indices k."""


class _TooWideError(Exception):
    """Values do not fit the integers of the volume."""

    def __init__(self, member: Member, low: int, high: int) -> None:
        super().__init__(f"{member}: values from {low} to {high} do not fit 32-bit integers; no CT or MR has such values, the file may be damaged")


def decode_slices(slices: Sequence[SliceHeader], progress: Progress | None = None) -> npt.NDArray[Any]:
    """Read, decode and rescale.

    Parameters
    ----------
    slices : sequence of SliceHeader
        In order along k, all of one matrix; several may be frames of one file, which is then opened once (an uncompressed one once for every 32 frames).
    progress : callable, optional
        Called after each slice with (done, total).

    Returns
    -------
    ndarray, (columns, rows, slices)
        Stored value x RescaleSlope + RescaleIntercept. int16 where every slice has the same whole-numbered slope and intercept and the values fit, int32 where they fit that;
        otherwise float32. Column varies fastest in memory, as in NIfTI. Beside it only a slice per thread is held.

    Raises
    ------
    InputError
        If a file is truncated, its pixels cannot be decoded, or they differ from what its header announced.
    """
    first = slices[0]
    shape = (len(slices), first.rows, first.columns)
    try:
        if not _is_whole(slices):
            return _decode_as(np.empty(shape, np.float32), slices, progress)
        try:
            return _decode_as(np.empty(shape, np.int16), slices, progress)
        except _TooWideError:
            return _decode_as(np.empty(shape, np.int32), slices, progress)
    except _TooWideError as error:
        raise InputError(str(error)) from error
    except MemoryError as error:
        msg = f"{first.member.path}: {first.columns}x{first.rows}x{len(slices)} voxels do not fit into memory; crop or resample the series first"
        raise InputError(msg) from error


def _decode_as(volume: npt.NDArray[Any], slices: Sequence[SliceHeader], progress: Progress | None) -> npt.NDArray[Any]:
    """Fill ``volume`` (slices, rows, columns) and give it as (columns, rows, slices)."""
    tasks = _tasks(slices)
    done = 0
    with ThreadPoolExecutor(min(MAX_THREADS, usable_threads())) as pool:
        try:
            for count in pool.map(lambda task: _decode_task(task, volume), tasks):
                for _ in range(count):
                    done += 1
                    if progress is not None:
                        progress(done, len(slices))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return volume.transpose(2, 1, 0)


def _tasks(slices: Sequence[SliceHeader]) -> list[Task]:
    """Slices by file, in order of first use; uncompressed files of many frames in several tasks."""
    files: dict[tuple[str, str | None], list[tuple[int, SliceHeader]]] = {}
    for k, header in enumerate(slices):
        files.setdefault((str(header.member.path), header.member.inside), []).append((k, header))
    tasks: list[Task] = []
    for frames in files.values():
        frames.sort(key=lambda entry: entry[1].frame or 0)
        # A packed file would have to be unpacked again by every task, and a compressed one parsed again.
        divisible = frames[0][1].transfer_syntax in NATIVE_SYNTAXES and frames[0][1].member.inside is None
        step = FRAMES_PER_TASK if divisible else len(frames)
        tasks += [tuple(frames[n : n + step]) for n in range(0, len(frames), step)]
    return tasks


def _decode_task(task: Task, volume: npt.NDArray[Any]) -> int:
    if not read_native(task, volume, _rescale):
        for (k, header), stored in zip(task, _parsed_frames([header for _, header in task]), strict=True):
            _rescale(stored, header, volume[k])
    return len(task)


def read_frame(header: SliceHeader) -> npt.NDArray[Any]:
    """Stored values (rows, columns) of one slice, bits above BitsStored removed and the sign extended; raises InputError when truncated or undecodable."""
    return next(_parsed_frames([header]))


def _parsed_frames(headers: Sequence[SliceHeader]) -> Iterator[npt.NDArray[Any]]:
    """Decode slices of one file, which is parsed once."""
    member = headers[0].member
    dataset = open_dataset(member, pixels=True)
    try:
        _check_complete(dataset, headers)
        for header, frame in zip(headers, _frames(dataset, headers), strict=True):
            if frame.shape != (header.rows, header.columns):
                msg = f"{member}: its pixels are {frame.shape}, the header says {header.rows} rows and {header.columns} columns; copy it again"
                raise InputError(msg)
            yield frame
    except parse_errors() as error:
        raise damaged(member, error) from error


def _check_complete(dataset: Any, headers: Sequence[SliceHeader]) -> None:
    last = max(headers, key=lambda header: header.frame or 0)
    if dataset is None or "PixelData" not in dataset:
        msg = f"{last.member}: has no complete PixelData (7FE0,0010); the file may be cut short; copy it again"
        raise InputError(msg)
    have, needed = len(dataset.PixelData), last.frame_bytes * (1 + (last.frame or 0))
    if dataset.file_meta.TransferSyntaxUID in NATIVE_SYNTAXES and have < needed:
        frames = "" if last.frame is None else f" x {last.frame + 1} frames"
        matrix = f"{last.rows} rows x {last.columns} columns x {last.bits_allocated} bits{frames}"
        msg = f"{last.member}: truncated: {have} bytes of pixels where {matrix} need {needed}; copy it again"
        raise InputError(msg)


def _frames(dataset: Any, headers: Sequence[SliceHeader]) -> Iterator[npt.NDArray[Any]]:
    decoder = _decoder_of(headers[0])
    encoded = _Encoded(dataset) if decoder.UID.is_encapsulated else None
    for header in headers:
        try:
            frame = decoder.as_array(dataset, raw=True, index=header.frame)[0] if encoded is None else decode_encoded(encoded.frame(header.frame or 0), header, decoder)
        except parse_errors() as error:
            where = "" if header.frame is None else f"frame {header.frame + 1}: "
            reason = printable(str(error))[:300]
            msg = f"{header.member}: {where}pixels in {_syntax_name(header)} cannot be decoded ({reason}); copy it again or convert it, e.g. with gdcmconv --raw"
            raise InputError(msg) from error
        yield frame


def _decoder_of(header: SliceHeader) -> Any:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(HIGH_THROUGHPUT.get(header.transfer_syntax, header.transfer_syntax)))
    except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
        msg = f"{header.member}: transfer syntax {_syntax_name(header)} cannot be decoded; convert it, e.g. with dcmtk's dcmconv or dcmdjpeg"
        raise InputError(msg) from error
    if not decoder.is_available:
        msg = f"{header.member}: transfer syntax {_syntax_name(header)} needs a decoder that is not installed; run: pip install {DECODER_PACKAGE}"
        raise InputError(msg)
    return decoder


def _syntax_name(header: SliceHeader) -> str:
    from pydicom.uid import UID

    return printable(f"{UID(header.transfer_syntax).name or 'unnamed'} ({header.transfer_syntax})")


class _Encoded:
    """The compressed frames of one file, cut out in one pass where they are asked for in their order."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._rewind()

    def _rewind(self) -> None:
        from pydicom.encaps import generate_frames

        ds = self._dataset
        table = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds else None
        self._frames = generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1), extended_offsets=table)
        self._next = 0

    def frame(self, index: int) -> bytes:
        """The bytes of one frame, its fragments joined."""
        if index < self._next:
            self._rewind()
        for encoded in self._frames:
            self._next += 1
            if self._next > index:
                return bytes(encoded)
        msg = f"there are only {self._next} frames"
        raise ValueError(msg)


def _is_whole(slices: Sequence[SliceHeader]) -> bool:
    scales = {(s.slope, s.intercept) for s in slices}
    return len(scales) == 1 and all(value == int(value) for value in next(iter(scales)))


def _rescale(stored: npt.NDArray[Any], header: SliceHeader, target: npt.NDArray[Any]) -> None:
    """Write the rescaled values of one slice; ``stored`` and ``target`` may be two views of the same memory."""
    if target.dtype.kind == "f":
        target[...] = stored.astype(np.float64) * header.slope + header.intercept
        return
    slope, intercept = int(header.slope), int(header.intercept)
    low, high = sorted((int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept))
    limits = np.iinfo(target.dtype)
    if low < limits.min or high > limits.max:
        raise _TooWideError(header.member, low, high)
    # Sums and products modulo 2^16 (2^32) are exact when the result fits, so nothing wider is needed on the way.
    np.copyto(target, stored, casting="unsafe")
    if slope != 1:
        np.multiply(target, _wrapped(slope, target.dtype), out=target)
    if intercept != 0:
        np.add(target, _wrapped(intercept, target.dtype), out=target)


def _wrapped(value: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    bits = 8 * dtype.itemsize
    return np.array((value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1), dtype=dtype)
