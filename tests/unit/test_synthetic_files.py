"""What the phantoms leave on disk, read back by programs that are not ours."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from volseg.errors import GeometryError, InputError, OutputError, WriteError
from volseg.geometry import LPS_TO_RAS, Grid
from volseg.io import staging
from volseg.synthetic import SyntheticScan, make_ct, make_mr, write_dataset, write_sample, write_series

SMALL = {"shape": (40, 36, 12), "spacing": (4.0, 4.5, 9.0)}

TYPE_1 = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
]
TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "Manufacturer",
    "PositionReferenceIndicator",
    "InstanceNumber",
    "SliceThickness",
    "PatientPosition",
]
OF_MODALITY = {
    "CT": (["RescaleIntercept", "RescaleSlope"], ["KVP", "AcquisitionNumber"]),
    "MR": (["ScanningSequence", "SequenceVariant"], ["ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength", "InversionTime"]),
}
"""Type 1 and type 2 attributes of PS3.3 tables A.3-1 and A.4-1 and the modules they name."""


def read_series(folder: Path) -> sitk.Image:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    return reader.Execute()


def itk_grid(image: sitk.Image) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Grid(image.GetSize(), LPS_TO_RAS @ affine)


@pytest.mark.parametrize("make", [make_ct, make_mr])
@pytest.mark.parametrize(("orientation", "oblique"), [("LPS", 0), ("LPS", 23.5), ("PSR", -40), ("LIP", 10)])
def test_gdcm_reads_the_series_at_the_positions_of_the_grid(tmp_path: Path, make, orientation: str, oblique: float) -> None:
    scan = make(1, **SMALL, orientation=orientation, oblique=oblique)
    write_series(scan, tmp_path / "series")
    image = read_series(tmp_path / "series")
    array, read = sitk.GetArrayFromImage(image).transpose(2, 1, 0), itk_grid(image)
    world = scan.grid.to_world(np.indices(scan.grid.shape).reshape(3, -1).T)
    index = read.to_voxel(world)
    # Readers sort slices along the normal, which turns k round where i, j, k are left-handed, so voxels are matched by position.
    np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
    assert sorted(read.shape) == sorted(scan.grid.shape)
    assert np.array_equal(array[tuple(np.rint(index).astype(int).T)], scan.image.ravel())


def test_slices_straight_from_the_patient_axes_come_back_as_the_same_grid(tmp_path: Path) -> None:
    scan = make_ct(2, **SMALL, oblique=12)
    write_series(scan, tmp_path / "series")
    assert itk_grid(read_series(tmp_path / "series")).distance(scan.grid) < 1e-6


@pytest.mark.parametrize("make", [make_ct, make_mr])
def test_headers_are_complete_and_say_synthetic(tmp_path: Path, make) -> None:
    scan = make(7, **SMALL, oblique=17.3)
    files = write_series(scan, tmp_path / "series")
    assert len(files) == SMALL["shape"][2]
    headers = [pydicom.dcmread(f) for f in files]
    filled, present = OF_MODALITY[scan.modality]
    for header in headers:
        assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert all(header.get(name) not in (None, "") for name in TYPE_1 + filled), [n for n in TYPE_1 + filled if header.get(n) in (None, "")]
        assert all(name in header for name in TYPE_2 + present)
        assert header.PatientName == "SYNTHETIC^VOLSEG"
        assert header.PatientID == "SYNTHETIC-7"
        assert "synthetic" in header.SeriesDescription
        assert header.ImageComments == "synthetic, not a patient"
        assert all(len(text) <= 16 for element in header if element.VR == "DS" for text in str(element.value).strip("[]").replace("'", "").split(", "))
    assert len({h.SOPInstanceUID for h in headers}) == len(headers)
    assert len({h.SeriesInstanceUID for h in headers}) == 1
    if scan.modality == "CT":
        assert headers[0].RescaleIntercept == -1024
        assert headers[0].PixelRepresentation == 0


def test_series_are_reproducible_and_series_of_other_scans_have_other_uids(tmp_path: Path) -> None:
    first, again = (write_series(make_ct(1, **SMALL), tmp_path / name) for name in ("a", "b"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in again]
    others = [make_ct(2, **SMALL), make_ct(1, **SMALL, oblique=1), make_ct(1, **SMALL, noise_hu=5), make_mr(1, **SMALL)]
    files = [first[0], *(write_series(scan, tmp_path / str(n))[0] for n, scan in enumerate(others))]
    for name in ("SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert len({pydicom.dcmread(f)[name].value for f in files}) == len(files)


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    affine = scan.grid.affine.copy()
    affine[1, 2] += 1
    sheared = SyntheticScan(scan.image, scan.label, Grid(scan.grid.shape, affine), "CT", scan.labels, 1, scan.tissues, scan.tissue_names)
    with pytest.raises(GeometryError, match="orthogonal"):
        write_series(sheared, tmp_path / "series")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("make", "stem"), [(make_ct, "sample_ct"), (make_mr, "sample_mri")])
def test_a_sample_holds_one_scan_in_both_forms(tmp_path: Path, make, stem: str) -> None:
    scan = make(3, **SMALL, oblique=15)
    document = write_sample(scan, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([f"{stem}.nii.gz", f"{stem}_label.nii.gz", f"{stem}_dicom", "sample.json"])
    assert json.loads((tmp_path / "out" / "sample.json").read_text()) == document
    image, label = (nibabel.load(tmp_path / "out" / document["files"][key]) for key in ("image", "label"))
    assert np.array_equal(image.dataobj, scan.image)
    assert np.array_equal(label.dataobj, scan.label)
    for nifti in (image, label):
        assert b"synthetic" in nifti.header["descrip"].item()
        # NIfTI keeps its forms in float32.
        np.testing.assert_allclose(nifti.affine, scan.grid.affine, rtol=1e-6, atol=1e-4)
    series = read_series(tmp_path / "out" / document["files"]["dicom"])
    assert np.array_equal(sitk.GetArrayFromImage(series).transpose(2, 1, 0), scan.image)
    for number, facts in document["labels"].items():
        # An independent count: voxels times the product of the asked spacings.
        assert facts["volume_ml"] == pytest.approx(np.sum(scan.label == int(number)) * 4.0 * 4.5 * 9.0 / 1000, abs=1e-3)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_dataset_has_the_decathlon_layout(tmp_path: Path, modality: str) -> None:
    folder = write_dataset(tmp_path / "set", 3, 10, modality=modality, **SMALL)
    listing = json.loads((folder / "dataset.json").read_text())
    assert listing["synthetic"] is True
    assert listing["labels"]["0"] == "background"
    assert modality != "CT" or listing["labels"] == {"0": "background", "1": "tumor"}
    assert listing["numTraining"] == len(listing["training"]) == 3
    make = make_ct if modality == "CT" else make_mr
    for case, entry in enumerate(listing["training"]):
        image, label = (nibabel.load(folder / entry[key]) for key in ("image", "label"))
        expected = make(10 + case, **SMALL)
        assert np.array_equal(image.dataobj, expected.image)
        assert np.array_equal(label.dataobj, expected.label)
        assert b"synthetic" in image.header["descrip"].item()


def test_a_full_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    for write in (lambda f: write_sample(make_ct(1, **SMALL), f), lambda f: write_dataset(f, 1, **SMALL), lambda f: write_series(make_ct(1, **SMALL), f)):
        with pytest.raises(OutputError, match="not empty"):
            write(tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]
    with pytest.raises(OutputError, match="is a file"):
        write_sample(make_ct(1, **SMALL), tmp_path / "out" / "mine.txt")


def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(make_ct(1, **SMALL), tmp_path / "out")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("volseg.synthetic.sample.write_series", full)
    with pytest.raises(WriteError, match="out: writing failed"):
        write_sample(make_ct(2, **SMALL), tmp_path / "out", replace=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_failed_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(staging.Path, "replace", refuse)
    with pytest.raises(WriteError), staging.staged_folder(tmp_path / "out", replace=True) as stage:
        (stage / "new.txt").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "old.txt"]


@pytest.mark.parametrize(("n", "seed", "modality"), [(0, 0, "CT"), (1, -1, "CT"), (1, 0, "PT")])
def test_an_impossible_dataset_is_refused(tmp_path: Path, n: int, seed: int, modality: str) -> None:
    with pytest.raises(InputError, match="synthetic dataset"):
        write_dataset(tmp_path / "set", n, seed, modality=modality)
