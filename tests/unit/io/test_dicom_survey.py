"""What a search tells of a folder: patients, series, objects and what they refer to, how slices lie; numbers follow from how the files were made."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTDoseStorage, RTStructureSetStorage

from tests.dicom_factory import AXIAL, Scan, ramp, report, write
from volseg.errors import InputError
from volseg.io.dicom.find import find
from volseg.io.dicom.listing.identity import identity_of
from volseg.io.dicom.listing.layout import measure_layout
from volseg.io.dicom.listing.survey import survey
from volseg.io.dicom.objects.references import MAX_DEPTH, references_of

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"


def turned(degrees: float) -> tuple[float, ...]:
    """Axial slices leaning by this angle about the left-right axis."""
    angle = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))


def item(**elements: object) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return ds


def layout_of(tmp_path: Path, scan: Scan):
    (series,) = find(write(scan.datasets(), tmp_path / "s")).series
    return measure_layout(series.slices)


@pytest.mark.parametrize(
    ("cosines", "plane", "codes", "oblique"),
    [
        (AXIAL, "axial", "LPS", 0),
        (CORONAL, "coronal", "LIP", 0),
        (SAGITTAL, "sagittal", "PIR", 0),
        (turned(20), "axial", "LPS", 20),
        (turned(70), "coronal", "LSA", 20),
        ((0.0, -1.0, 0.0, 1.0, 0.0, 0.0), "axial", "ALS", 0),
    ],
)
def test_the_plane_follows_from_the_cosines(tmp_path: Path, cosines: tuple[float, ...], plane: str, codes: str, oblique: float) -> None:
    layout = layout_of(tmp_path, Scan(ramp(), cosines=cosines))
    assert layout is not None
    assert (layout.plane, layout.orientation) == (plane, codes)
    assert layout.oblique_degrees == pytest.approx(oblique, abs=0.01)
    assert str(layout) == (f"{plane}, oblique by 20.0 degrees" if oblique else plane)


def test_an_axial_slice_turned_in_its_plane_is_oblique_too(tmp_path: Path) -> None:
    c, s = float(np.cos(np.radians(12))), float(np.sin(np.radians(12)))
    layout = layout_of(tmp_path, Scan(ramp(), cosines=(c, s, 0.0, -s, c, 0.0)))
    assert layout is not None
    assert (layout.plane, layout.oblique_degrees) == ("axial", pytest.approx(12, abs=0.01))


@pytest.mark.parametrize(
    ("heights", "spacings", "missing", "shared"),
    [
        ((0, 2, 4, 6, 8), ((2.0, 4),), 0, 0),
        ((0, 2, 4, 10, 12), ((2.0, 3), (6.0, 1)), 2, 0),
        ((0, 4, 8, 15, 22), ((4.0, 2), (7.0, 2)), 0, 0),
        ((0, 0, 3, 3, 6), ((3.0, 2),), 0, 2),
        ((5, 5, 5, 5, 5), (), 0, 4),
    ],
)
def test_spacings_gaps_and_shared_positions_are_counted(tmp_path: Path, heights: tuple[int, ...], spacings: tuple, missing: int, shared: int) -> None:
    positions = np.array([(0.0, 0.0, z) for z in heights])
    layout = layout_of(tmp_path, Scan(ramp(), positions=positions))
    assert layout is not None
    assert (layout.slice_spacings_mm, layout.missing_slices, layout.shared_positions, layout.tilt_degrees) == (spacings, missing, shared, 0)


def test_a_tilt_is_told_in_degrees(tmp_path: Path) -> None:
    shift = 3 * np.tan(np.radians(15))
    layout = layout_of(tmp_path, Scan(ramp(), positions=np.array([(0.0, shift * k, 3.0 * k) for k in range(5)])))
    assert layout is not None
    assert layout.tilt_degrees == pytest.approx(15, abs=0.01)
    assert layout.slice_spacings_mm == ((3.0, 4),)


def test_slices_without_place_or_with_several_orientations_have_no_layout(tmp_path: Path) -> None:
    one, other = (find(write(Scan(ramp(), cosines=c).datasets(), tmp_path / name)).series[0].slices for c, name in ((AXIAL, "a"), (CORONAL, "b")))
    assert measure_layout([*one, *other]) is None
    colour = Scan(ramp().astype(np.uint8), tags={"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"})
    assert layout_of(tmp_path, colour) is None


def test_patients_are_told_apart_by_id_and_issuer_and_never_named(tmp_path: Path) -> None:
    people = [
        {"PatientID": "7", "PatientName": "Doe^Jane", "StudyInstanceUID": "1.1"},
        {"PatientID": "7", "PatientName": "DOE^JANE", "StudyInstanceUID": "1.2"},
        {"PatientID": "7", "PatientName": "Roe^Jim", "IssuerOfPatientID": "other hospital", "StudyInstanceUID": "1.3"},
        {"PatientID": "", "PatientName": "", "StudyInstanceUID": "1.4"},
        {"PatientID": "", "PatientName": "", "StudyInstanceUID": "1.5"},
        {"PatientID": "", "PatientName": "", "StudyInstanceUID": "1.5"},
    ]
    for n, tags in enumerate(people):
        write(Scan(ramp(2), uid=f"2.{n}", tags=tags).datasets(), tmp_path / str(n))
    seen = survey(tmp_path)
    assert [(p.number, p.studies) for p in seen.patients] == [(1, ("1.1", "1.2")), (2, ("1.3",)), (3, ("1.4",)), (4, ("1.5",))]
    assert [s.series for s in seen.studies] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Thorax DOE JANE venous", "Thorax venous"),
        ("IBSI_P-0042_CT", "IBSI_CT"),
        ("doe^jane", ""),
        ("Janet's does", "Janet's does"),
        ("P-00421", "P-00421"),
        ("born 19600102 ax", "born ax"),
    ],
)
def test_the_patient_is_taken_out_of_descriptions(text: str, left: str) -> None:
    identity = identity_of(item(PatientID="P-0042", PatientName="Doe^Jane", PatientBirthDate="19600102"))
    assert identity.hidden_in(text) == left


def test_a_header_that_names_nobody_hides_nothing() -> None:
    identity = identity_of(Dataset())
    assert identity.key is None
    assert identity.hidden_in("T1 - ax") == "T1 - ax"


def test_objects_name_the_series_they_refer_to(tmp_path: Path) -> None:
    scan = Scan(ramp(2), uid="2.1")
    write(scan.datasets(), tmp_path / "ct")
    study = item(RTReferencedSeriesSequence=[item(SeriesInstanceUID="2.1")])
    structures = report(RTStructureSetStorage, "3.1")
    structures.ReferencedFrameOfReferenceSequence = Sequence([item(FrameOfReferenceUID="9", RTReferencedStudySequence=[study])])
    dose = report(RTDoseStorage, "3.2")
    dose.ReferencedStructureSetSequence = Sequence([item(ReferencedSOPInstanceUID=structures.SOPInstanceUID)])
    text = report("1.2.840.10008.5.1.4.1.1.88.33", "3.3")
    text.CurrentRequestedProcedureEvidenceSequence = Sequence([item(StudyInstanceUID="9", ReferencedSeriesSequence=[item(SeriesInstanceUID="2.99")])])
    write([structures, dose, text], tmp_path / "objects")
    seen = survey(tmp_path)
    assert [(o.series.uid, o.refers_to, o.absent) for o in seen.objects] == [("3.1", ("2.1",), ()), ("3.2", ("3.1",), ()), ("3.3", ("2.99",), ("2.99",))]
    assert seen.objects[0].classes == ("RT Structure Set Storage",)
    assert [s.series.uid for s in seen.scans] == ["2.1"]


def test_references_nested_without_end_are_not_followed() -> None:
    deepest = innermost = item(SeriesInstanceUID="1.1")
    for n in range(40):
        deepest = item(ReferencedSeriesSequence=[deepest], SeriesInstanceUID=f"2.{n}")
    series, _ = references_of(deepest)
    assert innermost.SeriesInstanceUID not in series
    assert len(series) == MAX_DEPTH


def test_copies_strangers_and_damage_are_counted_and_named(tmp_path: Path) -> None:
    folder = write(Scan(ramp(3), uid="2.1").datasets(), tmp_path / "in", shuffle=None)
    shutil.copy(folder / "0001.dcm", folder / "copy.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "broken.dcm").write_bytes((folder / "0000.dcm").read_bytes()[:200])
    calls: list[tuple[int, int]] = []
    seen = survey(folder, lambda done, total: calls.append((done, total)))
    assert calls == [(n, 6) for n in range(1, 7)]
    assert seen.found.files == 6
    assert [member.short for member in seen.found.strangers] == ["notes.txt"]
    assert len(seen.found.damaged) == 1
    assert "broken.dcm" in seen.found.damaged[0]
    (facts,) = seen.scans
    assert facts.copies == 1
    assert len(facts.series.slices) == 3


def test_a_zip_a_folder_and_one_file_of_it_tell_the_same(tmp_path: Path) -> None:
    folder = write(Scan(ramp(3), uid="2.1", tags={"SeriesNumber": 12, "ManufacturerModelName": "Mk 2"}).datasets(), tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    for place in (folder, tmp_path / "in.zip", folder / "0000.dcm"):
        (facts,) = survey(place).scans
        assert (facts.number, facts.model, facts.transfer_syntaxes, len(facts.series.slices)) == (12, "Mk 2", ("Explicit VR Little Endian",), 3)
        assert facts.series.problem is None


def test_no_dicom_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="holds no DICOM"):
        survey(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        survey(tmp_path / "absent")
