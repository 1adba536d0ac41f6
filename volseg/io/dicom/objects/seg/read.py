"""DICOM Segmentation objects, by any maker, as facts: their segments, and where each frame lies. Nothing is placed here."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import NATIVE_SYNTAXES, TagError, damaged, integer_of, numbers_of, parse_errors, printable, text_of
from volseg.io.dicom.geometry import check_cosines
from volseg.io.dicom.objects.origin import read_object, referenced_images
from volseg.io.dicom.objects.seg.write import MANUFACTURER
from volseg.io.dicom.objects.segments import Code

SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5)."""

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
"""Segmentation Type (0062,0001), PS3.3 C.8.20.2.3."""

RECORDED_VALUE = re.compile(r"\(label (\d+)\)$")
"""How :func:`~volseg.io.dicom.objects.seg.write.write_seg` keeps a label's value in Tracking ID (0062,0020)."""


@dataclass(frozen=True)
class SegSegment:
    """One segment.

    Parameters
    ----------
    number : int
        Segment Number (0062,0004).
    value : int or None
        Label value where volseg wrote the object; None in others'.
    name : str
        Segment Label (0062,0005).
    category, type : Code or None
        Segmented property category and type.
    """

    number: int
    value: int | None
    name: str
    category: Code | None = None
    type: Code | None = None


@dataclass(frozen=True)
class SegFrame:
    """Where one frame lies.

    Parameters
    ----------
    number : int or None
        Its segment; None in a label map, whose pixels are segment numbers.
    position : tuple of 3 float
        Centre of its first pixel, LPS+ mm.
    orientation : tuple of 6 float
        Direction cosines of rows and columns.
    spacing : tuple of 2 float
        Between rows, between columns (mm).
    """

    number: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]


@dataclass(frozen=True)
class SegObject:
    """A DICOM Segmentation object without its pixels, which :meth:`masks` reads.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        ``"BINARY"``, ``"FRACTIONAL"`` or ``"LABELMAP"``.
    series_uid : str
        SeriesInstanceUID of the images it was made for; ``""`` where it names none.
    frame_of_reference : str
        FrameOfReferenceUID; ``""`` where absent.
    rows, columns : int
        Matrix of every frame.
    segments : tuple of SegSegment
        In order of their numbers; a label map's background (number 0) is left out.
    frames : tuple of SegFrame
        In the order of the pixels.
    maximum : int
        Pixel value that means wholly inside: Maximum Fractional Value (0062,000E), else 1.
    """

    path: Path
    kind: str
    series_uid: str
    frame_of_reference: str
    rows: int
    columns: int
    segments: tuple[SegSegment, ...]
    frames: tuple[SegFrame, ...] = field(repr=False)
    maximum: int = 1

    def pixels(self) -> Iterator[npt.NDArray[Any]]:
        """Yield each frame's stored values (rows, columns), one in memory at a time; raises InputError where they are truncated or cannot be decoded."""
        member = Member(self.path, None, self.path.stat().st_size if self.path.exists() else 0)
        dataset = read_object(self.path, pixels=True)
        try:
            yield from _decoded(dataset, self)
        except parse_errors() as error:
            raise damaged(member, error) from error


def read_seg(path: str | os.PathLike[str]) -> SegObject:
    """Read a DICOM Segmentation object's segments and frames.

    Parameters
    ----------
    path : path-like
        The file; any maker's.

    Returns
    -------
    SegObject

    Raises
    ------
    InputError
        If it is not a DICOM Segmentation, is damaged, or its frames do not say what segment they belong to.
    GeometryError
        If a frame does not say where it lies.
    """
    path = Path(path)
    dataset = read_object(path)
    if dataset.SOPClassUID not in SOP_CLASSES:
        name = printable(str(getattr(dataset.SOPClassUID, "name", dataset.SOPClassUID)))
        msg = f"{path}: is no DICOM Segmentation but {name}; give a DICOM-SEG file"
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _interpret(dataset, path)
    except TagError as reason:
        msg = f"{path}: {reason}"
        raise InputError(msg) from reason
    except parse_errors() as error:
        raise damaged(Member(path, None, path.stat().st_size), error) from error


def _interpret(dataset: Any, path: Path) -> SegObject:
    kind = text_of(dataset, "SegmentationType").upper() or "BINARY"
    if kind not in KINDS:
        msg = f"has SegmentationType (0062,0001) {kind!r}, not one of {', '.join(KINDS)}; repair the header"
        raise TagError(msg)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    items = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = integer_of(dataset, "NumberOfFrames", len(items))
    if len(items) != count or not count:
        msg = f"describes {len(items)} frames (Per-Frame Functional Groups Sequence (5200,9230)) where NumberOfFrames (0028,0008) is {count}; the file may be damaged"
        raise TagError(msg)
    rows, columns = integer_of(dataset, "Rows", 0), integer_of(dataset, "Columns", 0)
    if rows < 1 or columns < 1:
        msg = f"has {rows} rows and {columns} columns; repair the header"
        raise TagError(msg)
    ours = text_of(dataset, "Manufacturer") == MANUFACTURER
    segments = tuple(sorted((_segment(s, ours) for s in dataset.get("SegmentSequence") or []), key=lambda s: s.number))
    segments = tuple(s for s in segments if kind != "LABELMAP" or s.number)
    frames = tuple(_frame(item, shared, kind, path, n) for n, item in enumerate(items, 1))
    unknown = {f.number for f in frames} - {s.number for s in segments} - {None}
    if unknown or not segments:
        msg = f"has frames of segment {sorted(n or 0 for n in unknown)} that Segment Sequence (0062,0002) does not describe; repair the header"
        raise TagError(msg)
    return SegObject(
        path,
        kind,
        next(iter(referenced_images(dataset)), ""),
        text_of(dataset, "FrameOfReferenceUID"),
        rows,
        columns,
        segments,
        frames,
        maximum=integer_of(dataset, "MaximumFractionalValue", 255) if kind == "FRACTIONAL" else 1,
    )


def _segment(item: Any, ours: bool) -> SegSegment:
    number = integer_of(item, "SegmentNumber", -1)
    recorded = RECORDED_VALUE.search(text_of(item, "TrackingID")) if ours else None
    name = text_of(item, "SegmentLabel") or f"segment {number}"
    return SegSegment(
        number,
        int(recorded[1]) if recorded else None,
        name,
        _code(item.get("SegmentedPropertyCategoryCodeSequence")),
        _code(item.get("SegmentedPropertyTypeCodeSequence")),
    )


def _code(sequence: Any) -> Code | None:
    if not sequence:
        return None
    value = text_of(sequence[0], "CodeValue") or text_of(sequence[0], "LongCodeValue") or text_of(sequence[0], "URNCodeValue")
    return Code(value, text_of(sequence[0], "CodingSchemeDesignator"), text_of(sequence[0], "CodeMeaning"))


def _frame(item: Any, shared: Any, kind: str, path: Path, n: int) -> SegFrame:
    def group(name: str) -> Any:
        # A functional group is either shared by all frames or given for each (PS3.3 C.7.6.16).
        found = item.get(name) or shared.get(name)
        return found[0] if found else {}

    try:
        position = numbers_of(group("PlanePositionSequence"), "ImagePositionPatient", 3)
        orientation = numbers_of(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        rows, columns = numbers_of(group("PixelMeasuresSequence"), "PixelSpacing", 2)
    except TagError as reason:
        msg = f"{path}: frame {n} {reason}"
        raise GeometryError(msg) from reason
    wrong = check_cosines(orientation) or (None if min(rows, columns) > 0 else f"PixelSpacing (0028,0030) is {rows:g}\\{columns:g} mm")
    if wrong:
        msg = f"{path}: frame {n}: {wrong}; repair the header"
        raise GeometryError(msg)
    if kind == "LABELMAP":
        return SegFrame(None, position, orientation, (rows, columns))
    number = integer_of(group("SegmentIdentificationSequence"), "ReferencedSegmentNumber", 0)
    if number < 1:
        msg = f"frame {n} has no ReferencedSegmentNumber (0062,000B), so nobody knows what it shows; repair the header"
        raise TagError(msg)
    return SegFrame(number, position, orientation, (rows, columns))


def _decoded(dataset: Any, seg: SegObject) -> Iterator[npt.NDArray[Any]]:
    from pydicom.pixels import get_decoder

    size, syntax = seg.rows * seg.columns, dataset.file_meta.TransferSyntaxUID
    bits = integer_of(dataset, "BitsAllocated", 1)
    data = dataset.get("PixelData") or b""
    needed = -(-size * len(seg.frames) * bits // 8)
    native = syntax in NATIVE_SYNTAXES or syntax.is_deflated
    if not data or (native and len(data) < needed):
        msg = f"{seg.path}: truncated: {len(data)} bytes of pixels where {len(seg.frames)} frames of {seg.rows}x{seg.columns} need {needed}; copy it again"
        raise InputError(msg)
    if bits == 1 and native:
        yield from _unpacked(data, size, seg)
        return
    decoder = get_decoder(syntax)
    count = 0
    for frame, _ in decoder.iter_array(dataset, raw=True):
        count += 1
        yield frame
    if count != len(seg.frames):
        msg = f"{seg.path}: truncated: {count} frames of pixels where the header says {len(seg.frames)}; copy it again"
        raise InputError(msg)


def _unpacked(data: bytes, size: int, seg: SegObject) -> Iterator[npt.NDArray[np.uint8]]:
    # Frames follow each other bit by bit, without padding to whole bytes between them (PS3.5 8.1.1 and A.2).
    stream = np.frombuffer(data, dtype=np.uint8)
    for n in range(len(seg.frames)):
        first, skipped = divmod(n * size, 8)
        part = np.unpackbits(stream[first : -(-(n + 1) * size // 8)], bitorder="little")
        yield part[skipped : skipped + size].reshape(seg.rows, seg.columns)
