"""The parts of an RT Structure Set that say whose it is, what made it and which images it belongs to (DICOM PS3.3 A.19): everything but the contours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.dataset import parse_errors, text_of
from volseg.io.dicom.objects.origin import series_of, source_datasets
from volseg.io.dicom.objects.rtstruct.read import RTSTRUCT_CLASS
from volseg.io.dicom.objects.segments import ANATOMY, NEOPLASM, Algorithm, Segment
from volseg.io.volume import Volume

REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
"""What a structure set refers to and nothing can stand in for (type 1 of PS3.3 C.7.2.1, C.7.4.1 and C.8.8.5)."""

CARRIED_OVER = {
    "PatientName": True,
    "PatientID": True,
    "IssuerOfPatientID": False,
    "PatientBirthDate": True,
    "PatientSex": True,
    "PatientIdentityRemoved": False,
    "DeidentificationMethod": False,
    "StudyInstanceUID": True,
    "StudyDate": True,
    "StudyTime": True,
    "ReferringPhysicianName": True,
    "StudyID": True,
    "AccessionNumber": True,
    "StudyDescription": False,
    "PatientAge": False,
    "PatientSize": False,
    "PatientWeight": False,
    "FrameOfReferenceUID": True,
    "PositionReferenceIndicator": True,
}
"""Elements of the scan's Patient, General Study, Patient Study and Frame of Reference modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.4.1), and whether they must be there, if only
empty."""

CHECKED_VR = ("DA", "TM", "AS", "DS", "CS")
"""Formatted values that archives refuse when misspelt; they are left empty then. Names and identifiers are carried over as they are, or the object would be filed as another's."""

STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: PS3.3 C.8.8.5 still wants a class for the referenced study, and this is what every system writes."""

SERIES_OFFSET = 2000
"""Added to the scan's SeriesNumber, so that the result sorts behind the scans in a study list."""

SHORT, LONG = 16, 64
"""Most characters of VR SH and LO (PS3.5 6.2)."""


def sources_of(volume: Volume) -> list[Any]:
    """Headers behind a DICOM volume, with all that a structure set must refer to.

    Raises
    ------
    InputError
        If the volume is not from DICOM, its files have gone, or a required UID is missing.
    """
    datasets = source_datasets(volume)
    for dataset in datasets:
        missing = [keyword for keyword in REQUIRED if not text_of(dataset, keyword)]
        if missing:
            member = series_of(volume).slices[0].member
            msg = f"{member}: its series has no {' and no '.join(missing)}, which an RT Structure Set must refer to; repair the header"
            raise InputError(msg)
    return datasets


def new_structure_set(volume: Volume, sources: Sequence[Any], algorithm: Algorithm, version: str) -> Any:
    """Everything about the object itself: SOP Common, Patient, General Study, RT Series, Equipment, Frame of Reference, Structure Set (without ROIs) and Approval.

    Parameters
    ----------
    volume : Volume
        The scan.
    sources : sequence of pydicom.Dataset
        From :func:`sources_of`.
    algorithm : Algorithm
        What made the contours.
    version : str
        Of volseg.

    Returns
    -------
    pydicom.Dataset
        In UTF-8 (ISO_IR 192), whatever the scan's character set is.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    # UIDs made from a UUID (PS3.5 B.2) need no registered root.
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = RTSTRUCT_CLASS, generate_uid(prefix=None), generate_uid(prefix=None)
    ds.InstanceCreationDate, ds.InstanceCreationTime = date, time
    _carry_over(ds, sources[0])
    ds.Modality, ds.SeriesNumber, ds.OperatorsName, ds.InstanceNumber = "RTSTRUCT", _series_number(sources[0]), "", 1
    ds.SeriesDate, ds.SeriesTime, ds.SeriesDescription = date, time, fit(f"{algorithm.name} {algorithm.version}", LONG)
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "volseg", "volseg", fit(version, LONG)
    ds.StructureSetLabel = fit(algorithm.name, SHORT) or "volseg"
    ds.StructureSetName = fit(f"{algorithm.name} {algorithm.version}", LONG)
    ds.StructureSetDate, ds.StructureSetTime = date, time
    ds.ApprovalStatus = "UNAPPROVED"
    ds.ReferencedFrameOfReferenceSequence = [_referenced_frame(volume, sources)]
    return ds


def _series_number(source: Any) -> int | None:
    try:
        return int(source.SeriesNumber) + SERIES_OFFSET
    except parse_errors():
        return None


def _carry_over(ds: Any, source: Any) -> None:
    from pydicom import config
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, needed in CARRIED_OVER.items():
            vr = str(dictionary_VR(keyword))
            try:
                # A backslash would split the one value that is allowed here.
                text = text_of(source, keyword).replace("\\", " ")
                if vr in CHECKED_VR:
                    validate_value(vr, text, config.RAISE)
            except parse_errors():
                text = ""
            if text or needed:
                setattr(ds, keyword, text)
    if ds.PatientSex not in ("M", "F", "O", ""):
        ds.PatientSex = ""
    if ds.get("PatientIdentityRemoved") == "YES":
        # Scans from archives say in the text that the codes say it.
        if source.get("DeidentificationMethodCodeSequence"):
            ds.DeidentificationMethodCodeSequence = source.DeidentificationMethodCodeSequence
        elif "DeidentificationMethod" not in ds:
            ds.DeidentificationMethod = "not stated by the images"


def _referenced_frame(volume: Volume, sources: Sequence[Any]) -> Any:
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ContourImageSequence = [reference(source, None) for source in sources]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, sources[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def reference(source: Any, frame: int | None) -> Any:
    """Item of a Contour Image Sequence (3006,0016): the image, and its frame (from 0; written from 1) where it has several."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    return item


def code_item(segment: Segment) -> Any:
    """Item of an RT ROI Identification Code Sequence (3006,0086): the segment's property type."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = segment.type.value, segment.type.scheme, segment.type.meaning
    return item


def interpreted_type(segment: Segment) -> str:
    """RT ROI Interpreted Type (3006,00A4), PS3.3 C.8.8.8.1: ``GTV`` for a neoplasm, ``ORGAN`` for an anatomical structure, else empty (unknown)."""
    if segment.type == NEOPLASM:
        return "GTV"
    return "ORGAN" if segment.category == ANATOMY else ""


def fit(text: str, length: int) -> str:
    """The text without what VR SH and LO forbid (backslashes, control characters), cut to a length."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in text).strip()[:length].rstrip()


def values_present(counts: Mapping[int, int], segments: Mapping[int, Segment], path: object) -> list[int]:
    """Label values with voxels, ascending.

    Raises
    ------
    InputError
        If one of them has no segment.
    """
    present = [value for value, count in sorted(counts.items()) if value != 0 and count]
    unknown = [value for value in present if value not in segments]
    if unknown:
        msg = f"{path}: the label map has the value {unknown[0]} ({counts[unknown[0]]} voxels), which none of the segments {sorted(segments)} describes; name it in the labels"
        raise InputError(msg)
    return present
