"""An RT Structure Set file as frozen records: ROIs and their contours, LPS+ millimetres as in DICOM."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from volseg.errors import InputError
from volseg.geometry import FloatArray
from volseg.io.dicom.files.dataset import parse_errors, printable, text_of
from volseg.io.dicom.objects.origin import read_object, referenced_images

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage (PS3.4 B.5)."""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Geometric types that enclose an area (PS3.3 C.8.8.6.1)."""

MAX_COORDINATE_MM = 1e6
"""No point of a patient is a kilometre from the scanner; such a number is damage."""

LABEL_MARK = "volseg label"
"""Start of the ROI Description of our own files, followed by the label value."""


@dataclass(frozen=True, eq=False)
class Contour:
    """One contour of an ROI.

    Parameters
    ----------
    points : ndarray of float64, (n, 3)
        LPS+ mm, read-only.
    kind : str
        Contour Geometric Type (3006,0042), e.g. ``"CLOSED_PLANAR"``.
    """

    points: FloatArray = field(repr=False)
    kind: str

    @property
    def is_closed(self) -> bool:
        """Whether it encloses an area: of a closed type, with at least three points."""
        return self.kind in CLOSED and len(self.points) >= 3


@dataclass(frozen=True, eq=False)
class Roi:
    """One region of interest.

    Parameters
    ----------
    number : int
        ROI Number (3006,0022), unique in its structure set.
    name : str
        ROI Name (3006,0026); may be empty or the same as another's.
    contours : tuple of Contour
        In the order of the file.
    frame_of_reference_uid : str
        Of the coordinates; ``""`` where the file does not say.
    rgb : tuple of 3 int or None
        ROI Display Color (3006,002A).
    label : int or None
        The label value it was written for, where the file is one of ours.
    """

    number: int
    name: str
    contours: tuple[Contour, ...] = field(repr=False)
    frame_of_reference_uid: str = ""
    rgb: tuple[int, int, int] | None = None
    label: int | None = None

    def __str__(self) -> str:
        return f'{self.number} "{self.name}"'


@dataclass(frozen=True, eq=False)
class StructureSet:
    """What an RT Structure Set holds.

    Parameters
    ----------
    path : Path
        Its file.
    label : str
        Structure Set Label (3006,0002).
    rois : tuple of Roi
        By ROI number.
    series_uids : tuple of str
        SeriesInstanceUIDs of the images it was drawn on.
    """

    path: Path
    label: str
    rois: tuple[Roi, ...]
    series_uids: tuple[str, ...] = ()


def read_rtstruct(path: str | os.PathLike[str]) -> StructureSet:
    """Read an RT Structure Set.

    Parameters
    ----------
    path : path-like
        A DICOM file.

    Returns
    -------
    StructureSet
        All ROIs and contours of every geometric type, as they are in the file.

    Raises
    ------
    InputError
        If it is no RT Structure Set, a sequence or number that cannot be done without is missing, or contour data are no triples of finite numbers.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_object(path)
        try:
            return _interpret(path, dataset)
        except parse_errors() as error:
            reason = printable(str(error)) or type(error).__name__
            msg = f"{path}: damaged RT Structure Set ({reason[:160]}); export it again from its source"
            raise InputError(msg) from error


def _interpret(path: Path, dataset: Any) -> StructureSet:
    if dataset.SOPClassUID != RTSTRUCT_CLASS:
        msg = f"{path}: is no RT Structure Set but {printable(str(getattr(dataset.SOPClassUID, 'name', dataset.SOPClassUID)))}; give an RTSTRUCT file"
        raise InputError(msg)
    described = _items(path, dataset, "StructureSetROISequence", "(3006,0020)")
    drawn = _items(path, dataset, "ROIContourSequence", "(3006,0039)")
    contours: dict[int, list[Contour]] = {}
    colours: dict[int, tuple[int, int, int] | None] = {}
    for item in drawn:
        number = _number(path, item, "ReferencedROINumber", "(3006,0084)")
        colours[number] = colours.get(number) or _colour(item)
        kept = contours.setdefault(number, [])
        kept += [_contour(path, f"contour {n} of ROI {number}", c) for n, c in enumerate(item.get("ContourSequence") or [], 1)]
    rois: dict[int, Roi] = {}
    for item in described:
        number = _number(path, item, "ROINumber", "(3006,0022)")
        if number in rois:
            msg = f"{path}: two ROIs have the number {number} (ROI Number (3006,0022)), so their contours cannot be told apart; export it again from its source"
            raise InputError(msg)
        frame = text_of(item, "ReferencedFrameOfReferenceUID") or text_of(dataset, "FrameOfReferenceUID")
        rois[number] = Roi(number, text_of(item, "ROIName").strip(), tuple(contours.get(number, ())), frame, colours.get(number), _label_of(item))
    strangers = sorted(set(contours) - set(rois))
    if strangers:
        msg = f"{path}: has contours of ROI {strangers[0]}, which its Structure Set ROI Sequence (3006,0020) does not describe; export it again from its source"
        raise InputError(msg)
    return StructureSet(path, text_of(dataset, "StructureSetLabel"), tuple(rois[n] for n in sorted(rois)), tuple(referenced_images(dataset)))


def _items(path: Path, dataset: Any, keyword: str, tag: str) -> list[Any]:
    items = list(dataset.get(keyword) or [])
    if not items:
        msg = f"{path}: has no {keyword} {tag}, so there are no regions in it; give a structure set with contours"
        raise InputError(msg)
    return items


def _number(path: Path, item: Any, keyword: str, tag: str) -> int:
    if item.get(keyword) in (None, ""):
        msg = f"{path}: an ROI has no {keyword} {tag}; export it again from its source"
        raise InputError(msg)
    return int(item[keyword].value)


def _colour(item: Any) -> tuple[int, int, int] | None:
    values = item.get("ROIDisplayColor")
    if values is None or len(values) != 3:
        return None
    red, green, blue = (int(v) for v in values)
    return red, green, blue


def _label_of(item: Any) -> int | None:
    found = re.match(rf"{LABEL_MARK} (\d+)\b", text_of(item, "ROIDescription"))
    return int(found[1]) if found else None


def _contour(path: Path, name: str, item: Any) -> Contour:
    values = _values(path, name, item)
    if len(values) % 3:
        msg = f"{path}: {name} has {len(values)} numbers in ContourData (3006,0050), which is no multiple of 3 (x, y, z); export it again from its source"
        raise InputError(msg)
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    bad = points[~(np.abs(points) <= MAX_COORDINATE_MM)]
    if bad.size:
        msg = f"{path}: {name} has a coordinate of {bad[0]:g} mm in ContourData (3006,0050), which is no place in a patient; export it again from its source"
        raise InputError(msg)
    claimed = item.get("NumberOfContourPoints")
    if claimed not in (None, "") and int(claimed) != len(values) // 3:
        msg = f"{path}: {name} has {len(values) // 3} points, but NumberOfContourPoints (3006,0046) says {int(claimed)}: cut short or damaged; export it again from its source"
        raise InputError(msg)
    points.setflags(write=False)
    return Contour(points, text_of(item, "ContourGeometricType").strip().upper())


def _values(path: Path, name: str, item: Any) -> list[float]:
    # The bytes as they are: pydicom would make an object of every number, which takes minutes for a whole body.
    element = item.get_item("ContourData") if "ContourData" in item else None
    value = element.value if element is not None else None
    if not value:
        return []
    try:
        return [float(v) for v in (value.strip(b" \0").split(b"\\") if isinstance(value, bytes) else value)]
    except (ValueError, TypeError) as error:
        msg = f"{path}: {name} has something other than numbers in ContourData (3006,0050) ({printable(str(error))[:80]}); export it again from its source"
        raise InputError(msg) from error
