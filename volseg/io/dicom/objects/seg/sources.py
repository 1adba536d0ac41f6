"""The headers of a scan, made fit to write a segmentation from: real scanners and anonymisers leave out or misspell what the standard requires."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.dataset import parse_errors, printable
from volseg.io.dicom.objects.origin import series_of, source_datasets
from volseg.io.dicom.series import Series
from volseg.io.volume import Volume

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""What a segmentation refers to and nothing can stand in for (type 1 of PS3.3 A.51.3, C.7.4.1, C.12.1)."""

MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
"""Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): empty where unknown."""

SEXES = ("M", "F", "O", "")
"""PatientSex (0010,0040), PS3.3 C.7.1.1."""

UNSTATED = "not stated by the images"
"""De-identification Method (0012,0063) of images that give none."""

UTF8 = "ISO_IR 192"
"""Specific Character Set of UTF-8 (PS3.3 C.12.1.1.2)."""


def prepared_sources(volume: Volume) -> list[Any]:
    """Headers that refer to exactly the volume's slices, in their order.

    Parameters
    ----------
    volume : Volume
        From a DICOM series.

    Returns
    -------
    list of pydicom.Dataset
        One a slice; or one for a multi-frame object, whose per-frame items are those of the volume's slices, in order (:func:`frame_numbers` gives their true numbers).
        Missing type 2 elements are empty, orientation, thickness and spacing are what was checked when the series was read.

    Raises
    ------
    InputError
        If the volume is not from DICOM, its files have gone, or a UID is missing or shared by several slices.
    """
    series = series_of(volume)
    datasets = source_datasets(volume)
    framed = series.slices[0].frame is not None
    if framed and len(datasets) > 1:
        msg = f"{volume.source.path}: its slices are frames of {len(datasets)} multi-frame objects; a segmentation can only refer to one (PS3.3 C.8.20.2); convert the series first"
        raise InputError(msg)
    _check_identity(datasets, series)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Patient and study are copied from the first; decoding it frees it from its file's byte order and character set.
        datasets[0].decode()
        _complete(datasets[0])
        if framed:
            _keep_frames(datasets[0], series)
        else:
            for dataset in datasets:
                _set_plane(dataset, series)
    return datasets


def frame_numbers(volume: Volume) -> list[int] | None:
    """Frame (from 1) of the source object that each slice is; None where every slice is an object of its own."""
    frames = [s.frame for s in series_of(volume).slices]
    return [f + 1 for f in frames if f is not None] if frames[0] is not None else None


def character_set(source: Any, texts: Iterable[str]) -> Any:
    """Specific Character Set (0008,0005) to write with: the source's own where it is a defined one and our own texts need no other, else UTF-8."""
    from pydicom.charset import python_encoding

    given = source.get("SpecificCharacterSet")
    if not all(text.isascii() for text in texts):
        return UTF8
    if given is None or given == "":
        return given or None
    values = [given] if isinstance(given, str) else list(given)
    return given if all(str(value) in python_encoding for value in values) else UTF8


def _check_identity(datasets: list[Any], series: Series) -> None:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    members = list(dict.fromkeys(s.member for s in series.slices))
    seen: dict[str, Any] = {}
    for dataset, member in zip(datasets, members, strict=True):
        for keyword in REQUIRED:
            if not printable(str(dataset.get(keyword) or "")):
                tag = str(Tag(tag_for_keyword(keyword) or 0)).replace(", ", ",")
                msg = f"{member}: has no {keyword} {tag}, which a segmentation must refer to; repair the header, e.g. with dcmtk's dcmodify"
                raise InputError(msg)
        other = seen.setdefault(str(dataset.SOPInstanceUID), member)
        if other is not member:
            msg = f"{member}: has the SOPInstanceUID of {other.short} too ({dataset.SOPInstanceUID}); a segmentation cannot tell them apart; anonymise again with unique UIDs"
            raise InputError(msg)


def _complete(dataset: Any) -> None:
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset or dataset[keyword].value is None:
            setattr(dataset, keyword, "")
    if dataset.PatientSex not in SEXES:
        dataset.PatientSex = ""
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime"):
        if not _is_valid_time(keyword, str(dataset[keyword].value)):
            setattr(dataset, keyword, "")
    _state_deidentification(dataset)


def _state_deidentification(dataset: Any) -> None:
    """Where the identity was removed, the method is required, in words or in codes (PS3.3 C.7.1.1); archives leave the words empty."""
    if "DeidentificationMethod" in dataset and not dataset.DeidentificationMethod:
        del dataset.DeidentificationMethod
    if dataset.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in dataset and not dataset.get("DeidentificationMethodCodeSequence"):
        dataset.DeidentificationMethod = UNSTATED


def _is_valid_time(keyword: str, text: str) -> bool:
    from pydicom.valuerep import DA, TM

    try:
        (TM if keyword.endswith("Time") else DA)(text)
    except parse_errors():
        return False
    return True


def _set_plane(dataset: Any, series: Series) -> None:
    first = series.slices[0]
    # Within the reader's tolerance the slices' own strings may differ in their last digits.
    dataset.ImageOrientationPatient = [_decimal(v) for v in first.orientation]
    dataset.PixelSpacing = [_decimal(v) for v in first.spacing]
    step = _step(series)
    if dataset.get("SliceThickness") in (None, ""):
        dataset.SliceThickness = _decimal(step if step is not None else _closest(series))
    # The header's own SpacingBetweenSlices is often wrong; absent, it is worked out from the positions.
    if "SpacingBetweenSlices" in dataset:
        del dataset.SpacingBetweenSlices
    if step is not None:
        dataset.SpacingBetweenSlices = _decimal(step)


def _keep_frames(dataset: Any, series: Series) -> None:
    """Leave only the frames of the series' slices, in their order, and say in the shared groups what they share."""
    from pydicom.dataset import Dataset

    items = dataset.PerFrameFunctionalGroupsSequence
    first = series.slices[0]
    step = _step(series)
    if not dataset.get("SharedFunctionalGroupsSequence"):
        dataset.SharedFunctionalGroupsSequence = [Dataset()]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measured = [item for item in (shared, items[first.frame or 0]) if "PixelMeasuresSequence" in item]
    thickness = measured[0].PixelMeasuresSequence[0].get("SliceThickness") if measured else None
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [_decimal(v) for v in first.orientation]
    measures.PixelSpacing = [_decimal(v) for v in first.spacing]
    measures.SliceThickness = thickness or _decimal(step if step is not None else _closest(series))
    if step is not None:
        measures.SpacingBetweenSlices = _decimal(step)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    kept = []
    for header in series.slices:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [_decimal(v) for v in header.position]
        frame.PlanePositionSequence = [position]
        kept.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = kept
    dataset.NumberOfFrames = len(kept)


def _step(series: Series) -> float | None:
    return None if series.grid is None else series.grid.spacing[2]


def _closest(series: Series) -> float:
    from numpy import array, diff
    from numpy.linalg import norm

    return float(norm(diff(array([s.position for s in series.slices]), axis=0), axis=1).min())


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(value, auto_format=True)
