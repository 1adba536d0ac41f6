"""Measurement reports: what is written is read back by a walk over plain pydicom, by highdicom, dcmtk and dciodvfy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.dicom_factory import Scan, ramp, write
from tests.dicom_peers import program, run, validator_errors
from volseg.errors import InputError, OutputError
from volseg.io import Volume, load
from volseg.io.dicom.objects.seg import write_seg
from volseg.io.dicom.objects.segments import ABNORMAL, ANATOMY, NEOPLASM, Algorithm, Code, Segment, SegmentMeasurements
from volseg.io.dicom.objects.sr import write_sr
from volseg.synthetic import make_ct, make_mr, write_multiframe, write_series

LEG = Code("30021000", "SCT", "Lower leg")
KIDNEY = Code("64033007", "SCT", "Kidney")
LEFT = Code("7771000", "SCT", "Left")
SEGMENTS = {
    2: Segment(2, "tumor", ABNORMAL, NEOPLASM, anatomic_region=LEG),
    5: Segment(5, "left kidney", ANATOMY, KIDNEY, type_modifier=LEFT),
    7: Segment(7, "rest"),
}
ALGORITHM = Algorithm("ct_tumor", "0.3.1", "ab" * 32)
HU = "[hnsf'U]"
MEASURED = [
    SegmentMeasurements(5, 1.0 / 3.0, 12.5, -17.123456789012345, 1e-7, HU),
    SegmentMeasurements(2, 2333.25, 97.03125, 41.5, 33.0, HU),
]


@dataclass
class Case:
    """A scan, its label map and the SEG made of it."""

    volume: Volume
    label: np.ndarray
    seg: Path
    folder: Path

    def report(self, measurements: list[SegmentMeasurements] | None = None, **changes: Any) -> Dataset:
        """The report, written and read again."""
        options: dict[str, Any] = {"segments": SEGMENTS, "algorithm": ALGORITHM, "seg": self.seg, **changes}
        path = self.folder / "scan_sr.dcm"
        assert write_sr(MEASURED if measurements is None else measurements, options.pop("volume", self.volume), path, **options) == path
        return pydicom.dcmread(path)


def labelled(volume: Volume, *values: int) -> np.ndarray:
    """One slab of each label value."""
    label = np.zeros(volume.grid.shape, np.uint8)
    for n, value in enumerate(values):
        label[1:-1, n + 1, 1:-1] = value
    return label


def case(folder: Path, volume: Volume, *values: int, **options: Any) -> Case:
    label = labelled(volume, *values)
    seg = folder / "scan_seg.dcm"
    assert write_seg(label, volume, seg, segments=SEGMENTS, algorithm=ALGORITHM, **options) == seg
    return Case(volume, label, seg, folder)


@pytest.fixture(scope="module")
def ct_volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    folder = tmp_path_factory.mktemp("ct") / "scan"
    write_series(make_ct(4, shape=(24, 20, 8), spacing=(8, 8, 12)), folder, series_number=3)
    return load(folder)


@pytest.fixture
def ct(ct_volume: Volume, tmp_path: Path) -> Case:
    return case(tmp_path, ct_volume, 2, 5)


def walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def code(sequence: Any) -> tuple[str, str, str]:
    (item,) = sequence
    return (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


def name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def children(item: Dataset, concept: str) -> list[Dataset]:
    return [child for child in item.ContentSequence if name(child).casefold() == concept.casefold()]


def child(item: Dataset, concept: str) -> Dataset:
    (found,) = children(item, concept)
    return found


def groups(report: Dataset) -> list[Dataset]:
    return children(child(report, "Imaging Measurements"), "Measurement Group")


def numbers(group: Dataset) -> dict[tuple[str, str], tuple[float, float, str]]:
    """By concept and derivation: the number as decimal string and as double, and the unit's code."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            (value,) = item.MeasuredValueSequence
            derivation = [code(c.ConceptCodeSequence)[2] for c in item.get("ContentSequence", []) if name(c) == "Derivation"]
            unit = code(value.MeasurementUnitsCodeSequence)
            assert unit[1] == "UCUM"
            found[(name(item), "".join(derivation))] = (float(value.NumericValue), float(value.FloatingPointValue), unit[0])
    return found


def test_numbers_come_back_exactly_with_their_units_and_derivations(ct: Case) -> None:
    for given, group in zip(MEASURED, groups(ct.report()), strict=True):
        expected = {
            ("Volume", ""): (given.volume_ml, "ml"),
            ("Long Axis", ""): (given.longest_axial_diameter_mm, "mm"),
            ("Attenuation Coefficient", "Mean"): (given.mean, HU),
            ("Attenuation Coefficient", "Standard Deviation"): (given.sd, HU),
        }
        found = numbers(group)
        assert {key: (double, unit) for key, (_, double, unit) in found.items()} == expected
        for decimal, double, _ in found.values():
            # A decimal string has 16 characters, sign, point and exponent among them (PS3.5 6.2).
            assert decimal == pytest.approx(double, rel=1e-9)


def test_a_group_refers_to_its_segment_and_says_what_it_is(ct: Case) -> None:
    seg = pydicom.dcmread(ct.seg)
    kidney, tumor = groups(ct.report())
    # Segments are numbered from 1 in the order of their label values: 2 and 5.
    for group, number, segment in ((kidney, 2, SEGMENTS[5]), (tumor, 1, SEGMENTS[2])):
        described = seg.SegmentSequence[number - 1]
        assert described.SegmentLabel == segment.name
        assert child(group, "Tracking Identifier").TextValue == described.TrackingID
        assert described.TrackingUID == child(group, "Tracking Unique Identifier").UID
        (reference,) = child(group, "Referenced Segment").ReferencedSOPSequence
        assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (seg.SOPClassUID, seg.SOPInstanceUID)
        assert reference.ReferencedSegmentNumber == number
        assert code(child(group, "Finding").ConceptCodeSequence) == (segment.type.value, "SCT", segment.type.meaning)
        assert code(child(group, "Finding category").ConceptCodeSequence) == (segment.category.value, "SCT", segment.category.meaning)
        assert ct.volume.source.series_instance_uid == child(group, "Source Series for Segmentation").UID
        assert child(group, "Algorithm Name").TextValue == "ct_tumor"
        assert child(group, "Algorithm Version").TextValue == "0.3.1"
        assert child(group, "Algorithm Parameters").TextValue == f"weights SHA-256 {'ab' * 32}"
    assert code(child(tumor, "Finding Site").ConceptCodeSequence)[0] == LEG.value
    site = child(kidney, "Finding Site")
    assert code(site.ConceptCodeSequence)[0] == KIDNEY.value
    assert code(child(site, "Laterality").ConceptCodeSequence) == (LEFT.value, "SCT", "Left")


def test_the_report_says_what_it_is_and_who_made_it(ct: Case) -> None:
    report = ct.report()
    assert report.SOPClassUID.name == "Enhanced SR Storage"
    assert code(report.ConceptNameCodeSequence) == ("126000", "DCM", "Imaging Measurement Report")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert [group.ContentTemplateSequence[0].TemplateIdentifier for group in groups(report)] == ["1411", "1411"]
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert code(child(report, "Language of Content Item and Descendants").ConceptCodeSequence)[0] == "en-US"
    assert code(child(report, "Procedure Reported").ConceptCodeSequence) == ("25045-6", "LN", "CT unspecified body region")
    assert code(child(report, "Observer Type").ConceptCodeSequence)[2] == "Device"
    assert child(report, "Device Observer Name").TextValue == "ct_tumor 0.3.1"
    assert child(report, "Device Observer Manufacturer").TextValue == report.Manufacturer == "volseg"
    # 3 for the scan (see the fixture), the SEG behind it, the report behind both.
    assert 3 < pydicom.dcmread(ct.seg).SeriesNumber < report.SeriesNumber


def test_the_device_is_the_same_for_the_same_weights_only(ct: Case) -> None:
    uids = [child(ct.report(algorithm=algorithm), "Device Observer UID").UID for algorithm in (ALGORITHM, ALGORITHM, replace(ALGORITHM, weights_sha256="cd" * 32))]
    assert uids[0] == uids[1] != uids[2]
    assert all(uid.is_valid for uid in uids)


def test_seg_and_every_slice_are_its_evidence_in_the_same_study(ct: Case) -> None:
    report = ct.report()
    seg = pydicom.dcmread(ct.seg)
    slices = [pydicom.dcmread(s.member.path) for s in ct.volume.source.header.slices]
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert "PertinentOtherEvidenceSequence" not in report
    found = {
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for series in study.ReferencedSeriesSequence for item in series.ReferencedSOPSequence
    }
    assert found == {(ds.SeriesInstanceUID, ds.SOPClassUID, ds.SOPInstanceUID) for ds in (seg, *slices)}
    assert study.StudyInstanceUID == report.StudyInstanceUID == slices[0].StudyInstanceUID
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription"):
        assert report[keyword].value == slices[0][keyword].value, keyword
    assert report.SeriesInstanceUID not in {ds.SeriesInstanceUID for ds in (seg, *slices)}


def test_without_a_unit_the_values_are_left_out(ct: Case) -> None:
    (group,) = groups(ct.report([SegmentMeasurements(2, 3.0, None, 5.0, 6.0, None)]))
    assert numbers(group) == {("Volume", ""): (3.0, 3.0, "ml")}


def test_suv_body_weight(ct: Case) -> None:
    (group,) = groups(ct.report([SegmentMeasurements(2, 3.0, None, 5.25, None, "{SUVbw}g/ml")]))
    assert numbers(group)[("SUVbw", "Mean")] == (5.25, 5.25, "g/ml{SUVbw}")
    assert ("SUVbw", "Standard Deviation") not in numbers(group)


def test_a_segment_without_measurements_makes_the_report_partial(ct: Case) -> None:
    report = ct.report(MEASURED[:1])
    assert (report.CompletionFlag, len(groups(report))) == ("PARTIAL", 1)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_names_survive_with_the_letters_of_the_findings(tmp_path: Path, charset: Any) -> None:
    patient = "Müller^Jörg" if charset == "ISO_IR 100" else "Yamada^Tarou=山田^太郎=やまだ^たろう"
    slices = Scan(ramp(4, 6, 5), tags={"SpecificCharacterSet": charset, "PatientName": patient}).datasets()
    volume = load(write(slices, tmp_path / "scan"))
    segments = {2: Segment(2, "Łagodny guz 腫瘍", ABNORMAL, Code("108369006", "SCT", "Neoplasm ü"))}
    label = np.zeros(volume.grid.shape, np.uint8)
    label[1:3, 1:3, 1:3] = 2
    seg = tmp_path / "seg.dcm"
    write_seg(label, volume, seg, segments=segments, algorithm=ALGORITHM)
    report = Case(volume, label, seg, tmp_path).report([SegmentMeasurements(2, 1.0)], segments=segments)
    assert str(report.PatientName) == patient
    (group,) = groups(report)
    assert "Łagodny guz 腫瘍" in child(group, "Tracking Identifier").TextValue
    assert child(group, "Tracking Identifier").TextValue == pydicom.dcmread(seg).SegmentSequence[0].TrackingID
    assert code(child(group, "Finding").ConceptCodeSequence)[2] == "Neoplasm ü"
    assert validator_errors(tmp_path / "scan_sr.dcm") == []


def test_highdicom_reads_it(ct: Case) -> None:
    ct.report()
    report = hd.sr.srread(ct.folder / "scan_sr.dcm")
    found = report.content.get_volumetric_roi_measurement_groups(finding_type=hd.sr.CodedConcept(NEOPLASM.value, "SCT", NEOPLASM.meaning))
    assert [[m.value for m in group.get_measurements()] for group in found] == [[2333.25, 97.03125, 41.5, 33.0]]


def test_dcmtk_reads_it(ct: Case) -> None:
    ct.report()
    text = run(program("dsrdump"), ct.folder / "scan_sr.dcm")
    assert 'NUM:(,,"Volume")="2333.25" (ml,UCUM,"milliliter")' in text
    assert 'NUM:(,,"Long Axis")="97.03125" (mm,UCUM,"millimeter")' in text


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_validator_finds_no_error(modality: str, kind: str, tmp_path: Path) -> None:
    make = make_ct if modality == "CT" else make_mr
    write_series(make(1, shape=(20, 24, 8), spacing=(8, 8, 12)), tmp_path / "scan")
    made = case(tmp_path, load(tmp_path / "scan"), 2, 5, kind=kind)
    report = made.report([*MEASURED[:1], replace(MEASURED[1], unit=None if modality == "MR" else HU)])
    assert code(child(report, "Procedure Reported").ConceptCodeSequence)[0] == {"CT": "25045-6", "MR": "25056-3"}[modality]
    errors = validator_errors(tmp_path / "scan_sr.dcm")
    if kind == "labelmap":
        # Label Map Segmentation Storage is of 2024; a dciodvfy that does not know it yet cannot know that it has segments either.
        errors = [error for error in errors if "Referenced SOP Class that is not segmentation" not in error]
    assert errors == []


def test_frames_of_one_enhanced_object_are_one_piece_of_evidence(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    file = write_multiframe([make_ct(2, shape=(20, 24, 8), spacing=(8, 8, 12))], tmp_path / "scan" / "frames.dcm")
    report = case(tmp_path, load(file), 2, 5).report()
    found = [item.ReferencedSOPInstanceUID for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence for item in series.ReferencedSOPSequence]
    assert sorted(found) == sorted(pydicom.dcmread(path).SOPInstanceUID for path in (file, tmp_path / "scan_seg.dcm"))
    assert validator_errors(tmp_path / "scan_sr.dcm") == []


def test_a_careless_scan_still_gets_a_valid_report(tmp_path: Path) -> None:
    slices = Scan(ramp(4, 6, 5), tags={"PatientSex": "W", "Modality": "OT"}).datasets()
    for ds in slices:
        del ds.PatientID, ds.PatientName, ds.SeriesDescription
    made = case(tmp_path, load(write(slices, tmp_path / "scan")), 2)
    report = made.report([MEASURED[1]])
    assert [report[keyword].value or "" for keyword in ("PatientID", "PatientName", "PatientSex", "StudyDate", "AccessionNumber", "StudyID")] == [""] * 6
    assert code(child(report, "Procedure Reported").ConceptCodeSequence)[2] == "Imaging procedure"
    assert validator_errors(tmp_path / "scan_sr.dcm") == []


def refused(made: Case, words: str, measurements: list[SegmentMeasurements] | None = None, **changes: Any) -> None:
    with pytest.raises(InputError, match=words):
        made.report(measurements, **changes)
    assert not list(made.folder.glob("*sr*"))


def test_nothing_measured(ct: Case) -> None:
    refused(ct, "nothing was measured", [])


def test_a_label_that_the_seg_does_not_hold(ct: Case) -> None:
    refused(ct, r"label 7 was measured but has no segment in .*scan_seg\.dcm", [SegmentMeasurements(7, 1.0)])


def test_a_label_that_is_not_described(ct: Case) -> None:
    refused(ct, "label 5 was measured but is not described", segments={2: SEGMENTS[2]})


@pytest.mark.parametrize(("changes", "words"), [({"mean": float("nan")}, "mean of label 2 is nan"), ({"volume_ml": float("inf")}, "volume_ml of label 2 is inf")])
def test_a_number_that_is_none(changes: dict[str, float], words: str, ct: Case) -> None:
    refused(ct, words, [replace(MEASURED[1], **changes)])


def test_an_unknown_unit(ct: Case) -> None:
    refused(ct, "the values of label 2 are in 'furlong'", [replace(MEASURED[1], unit="furlong")])


def test_a_seg_that_is_not_there(ct: Case) -> None:
    refused(ct, r"absent\.dcm: no such file", seg=ct.folder / "absent.dcm")


def test_a_scan_in_place_of_the_seg(ct: Case) -> None:
    refused(ct, "is CT Image Storage, not a DICOM segmentation", seg=ct.volume.source.header.slices[0].member.path)


def test_the_seg_of_another_scan(ct: Case, tmp_path: Path) -> None:
    other = load(write(Scan(ramp(4, 6, 5), uid="1.2.3.99").datasets(), tmp_path / "other"))
    refused(ct, r"was made for series .*, not for .*other \(1\.2\.3\.99\)", volume=other)


def test_a_scan_that_is_not_from_dicom(ct: Case, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    refused(ct, "needs a DICOM series", volume=load(tmp_path / "scan.nii.gz"))


def test_a_scan_whose_study_was_wiped_after_the_seg_was_made(tmp_path: Path) -> None:
    slices = Scan(ramp(4, 6, 5)).datasets()
    made = case(tmp_path, load(write(slices, tmp_path / "scan")), 2)
    for ds in slices:
        del ds.StudyInstanceUID
    write(slices, tmp_path / "scan")
    refused(made, r"no report can be made from the headers of .*scan \(.*StudyInstanceUID", [MEASURED[1]])


def test_a_folder_in_the_way(ct: Case) -> None:
    (ct.folder / "scan_sr.dcm").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        ct.report()
