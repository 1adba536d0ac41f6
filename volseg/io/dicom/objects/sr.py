"""Write what was measured on the segments of a DICOM-SEG as a structured report that a PACS can store and a workstation can list.

The report follows DICOM PS3.16 template TID 1500 "Measurement Report" and its parts:

========  ==========================================================================================================================
TID 1204  Language: ``en-US`` (RFC 5646)
TID 1002  Observer context: a device (CID 270), by TID 1004; its UID follows from the bundle's name, version and weights
TID 1411  One "Volumetric ROI Measurements and Qualitative Evaluations" a segment: the SEG's tracking identifier and UID, the
          referenced segment, finding category, finding and finding site, and the series that was segmented
TID 4019  Algorithm identification; the family is (123110, DCM, "Artificial Intelligence") of CID 7162
TID 1419  The measurements below, each a TID 300 NUM item
========  ==========================================================================================================================

=====================  =======================================================  =====================================================
measured               concept                                                  unit (UCUM)
=====================  =======================================================  =====================================================
volume                 (118565006, SCT, "Volume"), CID 7472; method             ``ml``
                       (126030, DCM, "Sum of segmented voxel method for
                       volume"), CID 7474
longest axial          (103339001, SCT, "Long Axis"), CID 7470                  ``mm``
diameter
mean, SD of CT         (112031, DCM, "Attenuation Coefficient"), CID 7469       ``[hnsf'U]``
mean, SD of PET        (126401, DCM, "SUVbw"), CID 7469                         ``g/ml{SUVbw}`` (CID 85)
=====================  =======================================================  =====================================================

Mean and standard deviation are told apart by (121401, DCM, "Derivation"): (373098007, SCT, "Mean") and (386136009, SCT, "Standard Deviation") of CID 7464. The title is
(126000, DCM, "Imaging Measurement Report") of CID 7021; the procedure reported is of CID 100, by modality. Laterality (a segment's type modifier) is of CID 244.

The object is an Enhanced SR (PS3.3 A.35.2), the simplest class that can hold all this and the one most systems take. It is UNVERIFIED and PRELIMINARY, since no person has
looked at it, and COMPLETE when every segment of the SEG is reported, else PARTIAL (PS3.3 C.17.2). Text is written in UTF-8 (``ISO_IR 192``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from volseg.errors import InputError
from volseg.io.dicom.files.dataset import parse_errors, printable, text_of
from volseg.io.dicom.objects.origin import read_object, referenced_images, source_datasets
from volseg.io.dicom.objects.seg.read import RECORDED_VALUE, SOP_CLASSES
from volseg.io.dicom.objects.segments import ANATOMY, Algorithm, Code, Segment, SegmentMeasurements
from volseg.io.text import check_output, write_bytes
from volseg.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.sr import Measurement, MeasurementReport, VolumetricROIMeasurementsAndQualitativeEvaluations

VOLUME = Code("118565006", "SCT", "Volume")
VOXEL_SUM = Code("126030", "DCM", "Sum of segmented voxel method for volume")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MILLILITRE = Code("ml", "UCUM", "milliliter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

INTENSITY = {
    "[hnsf'U]": (Code("112031", "DCM", "Attenuation Coefficient"), Code("[hnsf'U]", "UCUM", "Hounsfield unit")),
    "{SUVbw}g/ml": (Code("126401", "DCM", "SUVbw"), Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")),
}
"""What the scan's values are, by the unit of :class:`SegmentMeasurements`. CID 85 writes the annotation of the SUV unit behind it; to UCUM both are the same unit."""

PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}
"""Procedure reported (CID 100) by modality."""

IMAGING = Code("363679005", "SCT", "Imaging procedure")

LATERALITY = ("7771000", "24028007", "51440002", "66459002")
"""Left, right, both, unilateral (CID 244): type modifiers that say on which side a finding lies."""

SERIES_OFFSET = 2000
"""Added to the SEG's SeriesNumber, so that the report sorts behind it in a study list and does not share the number of another result."""


@dataclass(frozen=True)
class _Reference:
    """A segment of the SEG file: its number, tracking identifier and tracking UID."""

    number: int
    tracking_id: str
    tracking_uid: str


def write_sr(
    measurements: Sequence[SegmentMeasurements],
    volume: Volume,
    path: Path,
    *,
    segments: Mapping[int, Segment],
    algorithm: Algorithm,
    seg: Path,
) -> Path:
    """Write a measurement report (TID 1500) that refers to a SEG file and to the scan.

    Parameters
    ----------
    measurements : sequence of SegmentMeasurements
        At least one; volumes in ml, diameters in mm, mean and SD in ``unit``. A mean or SD without a unit is left out.
    volume : Volume
        The DICOM scan that was segmented.
    path : Path
        Where the report is to appear; its folder is made.
    segments : mapping of int to Segment
        What each label value stands for.
    algorithm : Algorithm
        What made the segmentation.
    seg : Path
        The SEG file that :func:`~volseg.io.dicom.objects.seg.write_seg` made of the same label map. Patient and study are taken from it, which has them from the scan.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    InputError
        If nothing was measured, a number is not finite, a unit or label value is unknown, the SEG was made for another scan, or the scan is not from DICOM.
    OutputError, WriteError
        If the file cannot be written; nothing half-written is left.
    """
    check_output(path)
    with warnings.catch_warnings():
        # pydicom and highdicom warn of every oddity of a header on stderr.
        warnings.simplefilter("ignore")
        sources = source_datasets(volume)
        segmentation = _read_segmentation(seg, volume)
        references = _references(segmentation)
        _check(measurements, segments, references, path, seg)
        try:
            groups = [_group(m, segments[m.value], references[m.value], algorithm, segmentation, volume) for m in measurements]
            report = _report(groups, algorithm, volume)
            document = _document(report, sources, segmentation, algorithm, complete={m.value for m in measurements} >= set(references))
            buffer = BytesIO()
            document.save_as(buffer, enforce_file_format=True)
        except parse_errors() as error:
            msg = f"{path}: no report can be made from the headers of {volume.source.path} ({printable(str(error))[:200] or type(error).__name__}); repair them"
            raise InputError(msg) from error
    return write_bytes(path, buffer.getvalue())


def _read_segmentation(seg: Path, volume: Volume) -> Any:
    dataset = read_object(seg)
    if dataset.SOPClassUID not in SOP_CLASSES:
        msg = f"{seg}: is {printable(dataset.SOPClassUID.name)}, not a DICOM segmentation; give the SEG file that was written for the scan"
        raise InputError(msg)
    referenced = referenced_images(dataset)
    if volume.source.series_instance_uid not in referenced:
        msg = (
            f"{seg}: was made for series {' and '.join(referenced) or '(none named)'}, not for {volume.source.path} ({volume.source.series_instance_uid}); "
            "give the SEG file that was written for this scan"
        )
        raise InputError(msg)
    # Decoding thousands of items that a report does not need would take most of its time.
    for keyword in ("PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence"):
        if keyword in dataset:
            del dataset[keyword]
    return dataset


def _references(segmentation: Any) -> dict[int, _Reference]:
    """The segments that :func:`~volseg.io.dicom.objects.seg.write_seg` wrote, by label value."""
    found = {}
    for item in segmentation.get("SegmentSequence") or []:
        recorded = RECORDED_VALUE.search(text_of(item, "TrackingID"))
        if recorded and item.get("TrackingUID"):
            found[int(recorded[1])] = _Reference(int(item.SegmentNumber), str(item.TrackingID), str(item.TrackingUID))
    return found


def _check(measurements: Sequence[SegmentMeasurements], segments: Mapping[int, Segment], references: Mapping[int, _Reference], path: Path, seg: Path) -> None:
    if not measurements:
        msg = f"{path}: nothing was measured, so there is nothing to report; write no report for an empty segmentation"
        raise InputError(msg)
    for m in measurements:
        lacking = f"has no segment in {seg}" if m.value not in references else "is not described" if m.value not in segments else None
        if lacking:
            msg = f"{path}: label {m.value} was measured but {lacking}; measure the label map that the SEG was written from, and describe each of its labels"
            raise InputError(msg)
        numbers = {"volume_ml": m.volume_ml, "longest_axial_diameter_mm": m.longest_axial_diameter_mm, "mean": m.mean, "sd": m.sd}
        wrong = {name: value for name, value in numbers.items() if value is not None and not math.isfinite(value)}
        if wrong:
            msg = f"{path}: {', '.join(f'{name} of label {m.value} is {value}' for name, value in wrong.items())}; a report holds finite numbers only, leave it out (None)"
            raise InputError(msg)
        if m.unit is not None and m.unit not in INTENSITY:
            msg = f"{path}: the values of label {m.value} are in {m.unit!r}, for which no concept is known; use one of {', '.join(INTENSITY)}, or None to leave them out"
            raise InputError(msg)


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _group(
    m: SegmentMeasurements, segment: Segment, reference: _Reference, algorithm: Algorithm, segmentation: Any, volume: Volume
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411 of one segment."""
    from highdicom import sr

    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=reference.tracking_uid, identifier=reference.tracking_id),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=reference.number,
            source_series=sr.SourceSeriesForSegmentation(str(volume.source.series_instance_uid)),
        ),
        finding_category=_concept(segment.category),
        finding_type=_concept(segment.type),
        finding_sites=_finding_sites(segment),
        algorithm_id=sr.AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version or "unknown",
            parameters=[f"weights SHA-256 {algorithm.weights_sha256}"] if algorithm.weights_sha256 else None,
            family=_concept(ARTIFICIAL_INTELLIGENCE),
        ),
        measurements=_measurements(m),
    )


def _finding_sites(segment: Segment) -> list[Any] | None:
    from highdicom import sr

    modifier = segment.type_modifier
    side = modifier if modifier is not None and modifier.value in LATERALITY else None
    # An organ is its own site; without a side to add, saying so would only repeat the finding.
    site = segment.anatomic_region or (segment.type if side is not None and segment.category == ANATOMY else None)
    if site is None:
        return None
    return [sr.FindingSite(_concept(site), laterality=_concept(side) if side else None)]


def _measurements(m: SegmentMeasurements) -> list[Measurement]:
    from highdicom import sr

    found = [sr.Measurement(_concept(VOLUME), float(m.volume_ml), _concept(MILLILITRE), method=_concept(VOXEL_SUM))]
    if m.longest_axial_diameter_mm is not None:
        found.append(sr.Measurement(_concept(LONG_AXIS), float(m.longest_axial_diameter_mm), _concept(MILLIMETRE)))
    if m.unit is not None:
        quantity, unit = INTENSITY[m.unit]
        for value, derivation in ((m.mean, MEAN), (m.sd, STANDARD_DEVIATION)):
            if value is not None:
                found.append(sr.Measurement(_concept(quantity), float(value), _concept(unit), derivation=_concept(derivation)))
    return found


def _report(groups: Sequence[VolumetricROIMeasurementsAndQualitativeEvaluations], algorithm: Algorithm, volume: Volume) -> MeasurementReport:
    """TID 1500."""
    from highdicom import sr

    from volseg import __version__

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_device_uid(algorithm),
        name=f"{algorithm.name} {algorithm.version}".strip(),
        manufacturer_name="volseg",
        model_name=f"volseg {__version__}",
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(observer_type=_concept(Code("121007", "DCM", "Device")), observer_identifying_attributes=device)
        ),
        procedure_reported=_concept(PROCEDURES.get(volume.source.modality or "", IMAGING)),
        imaging_measurements=groups,
    )


def _device_uid(algorithm: Algorithm) -> str:
    """The same UID for the same bundle and weights anywhere, derived from a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid5(NAMESPACE_URL, f'volseg {algorithm.name} {algorithm.version} {algorithm.weights_sha256}').int}"


def _document(report: MeasurementReport, sources: Sequence[Any], segmentation: Any, algorithm: Algorithm, *, complete: bool) -> Any:
    """Enhanced SR around the report, with patient and study of the SEG and both SEG and images as evidence."""
    from highdicom import UID
    from highdicom.sr import EnhancedSR
    from pydicom.dataset import Dataset

    from volseg import __version__

    def identified(source: Any) -> Any:
        evidence = Dataset()
        evidence.SOPClassUID, evidence.SOPInstanceUID, evidence.SeriesInstanceUID = source.SOPClassUID, source.SOPInstanceUID, source.SeriesInstanceUID
        evidence.StudyInstanceUID = source.StudyInstanceUID
        return evidence

    segmentation.decode()
    # Names and findings may need letters that the scan's own character set lacks.
    segmentation.SpecificCharacterSet = "ISO_IR 192"
    return EnhancedSR(
        evidence=[segmentation, *(identified(source) for source in sources)],
        content=report[0],
        series_instance_uid=UID(),
        series_number=_series_number(segmentation),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="volseg",
        manufacturer_model_name="volseg",
        software_versions=f"volseg {__version__}",
        series_description=f"Measurements, {algorithm.name} {algorithm.version}"[:64].strip(),
        is_complete=complete,
        is_final=False,
        is_verified=False,
    )


def _series_number(segmentation: Any) -> int:
    number = int(segmentation.get("SeriesNumber") or 0)
    # VR IS ends at 2^31 - 1 (PS3.5 6.2).
    return number + SERIES_OFFSET if number < 2**31 - SERIES_OFFSET else number
