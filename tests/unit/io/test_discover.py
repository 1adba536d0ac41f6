"""Which scans lie under a path, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import RTStructureSetStorage

from tests.dicom_factory import Scan, ramp, report, write
from volseg.errors import InputError
from volseg.io import discover, output_stems, scan_stem

DICOM = bytes(128) + b"DICM" + bytes(20)


def tree(root: Path, *names: str) -> None:
    """Make empty files; those called ``*.dicom-like`` get a DICOM preamble and lose that suffix."""
    for name in names:
        path = root / name.removesuffix(".dicom-like")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DICOM if name.endswith(".dicom-like") else b"")


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in discover(root)]


def test_a_file_is_itself(tmp_path: Path) -> None:
    tree(tmp_path, "a_seg.nii.gz", "b.xyz")
    assert discover(tmp_path / "a_seg.nii.gz") == [tmp_path / "a_seg.nii.gz"]
    assert discover(str(tmp_path / "b.xyz")) == [tmp_path / "b.xyz"]


def test_images_of_a_folder_sorted_without_hidden_files_and_outputs(tmp_path: Path) -> None:
    tree(tmp_path, "c.mha", "b.NII.GZ", "a.nii", "d.nrrd", "e.nhdr", "f.mhd", "f.raw", "._a.nii", "a_seg.nii.gz", "d_seg.nrrd", "notes.txt", "below/g.nii")
    assert found(tmp_path) == ["a.nii", "b.NII.GZ", "c.mha", "d.nrrd", "e.nhdr", "f.mhd"]


def test_probabilities_beside_their_record_are_no_scans(tmp_path: Path) -> None:
    tree(tmp_path, "a.nii.gz", "a_seg.json", "a_seg.nii.gz", "a_prob_tumor.nii.gz", "b_prob_x.nii.gz", "b_prob_x_seg.json", "b_prob_x_prob_left_prob_right.nii.gz")
    assert found(tmp_path) == ["a.nii.gz", "b_prob_x.nii.gz"]


def test_a_dicom_folder_is_one_scan(tmp_path: Path) -> None:
    tree(tmp_path, "IM0001.dicom-like", "IM0002.dicom-like", "DICOMDIR.dicom-like")
    assert discover(tmp_path) == [tmp_path]


def test_dicom_without_preamble_is_known_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(b"\x08\x00\x05\x00" + bytes(200))
    assert discover(tmp_path) == [tmp_path]


def test_sub_folders_are_searched_and_each_dicom_folder_is_one_scan(tmp_path: Path) -> None:
    tree(tmp_path, "p1/ct/1.dicom-like", "p1/ct/2.dicom-like", "p1/pt/1.dicom-like", "p2/scan.nii.gz", "p3/text.txt", ".hidden/x.nii", "DICOMDIR.dicom-like")
    assert found(tmp_path) == ["p1/ct", "p1/pt", "p2/scan.nii.gz"]


def test_images_beside_dicom_are_not_lost_nor_is_the_series(tmp_path: Path) -> None:
    tree(tmp_path, "s/1.dicom-like", "s/a.nii")
    assert found(tmp_path) == ["s/a.nii", "s"]


def test_structure_sets_beside_scans_are_no_scans(tmp_path: Path) -> None:
    """A study exported one folder a series must not end in an error for its RTSTRUCT."""
    write(Scan(ramp()).datasets(), tmp_path / "study" / "ct")
    mask = tmp_path / "study" / "mask"
    mask.mkdir()
    report(RTStructureSetStorage).save_as(mask / "rs.dcm", enforce_file_format=True)
    assert discover(tmp_path) == [tmp_path / "study" / "ct"]
    # Alone it is told what it is.
    assert discover(mask) == [mask]
    broken = tmp_path / "study" / "broken"
    broken.mkdir()
    (broken / "a.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x00\x00ZZ\x00")
    assert discover(tmp_path) == [broken, tmp_path / "study" / "ct"]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    tree(tmp_path, "p/scan.nii")
    (tmp_path / "q").symlink_to(tmp_path)
    assert found(tmp_path) == ["p/scan.nii"]


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("sub/notes.txt",), ("only_seg.nii.gz",), ("DICOMDIR.dicom-like",)])
def test_a_folder_without_scans_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    tree(tmp_path, *names)
    with pytest.raises(InputError, match="no scan is in this folder"):
        discover(tmp_path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        discover(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("scan.nii.gz", "scan"), ("scan.NII", "scan"), ("p1.v2.nii.gz", "p1.v2"), ("a.nrrd", "a"), ("a.mhd", "a"), ("study.zip", "study"), ("plain", "plain"), (".nii", ".nii")],
)
def test_stem(tmp_path: Path, name: str, stem: str) -> None:
    assert scan_stem(tmp_path / name) == stem
    tree(tmp_path, name)
    assert scan_stem(tmp_path / name) == stem


def test_stem_of_a_series_is_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "ct.1/1.dicom-like", "ct.1/2.dcm")
    assert scan_stem(tmp_path / "ct.1") == scan_stem(tmp_path / "ct.1/1") == scan_stem(tmp_path / "ct.1/2.dcm") == "ct.1"
    monkeypatch.chdir(tmp_path / "ct.1")
    assert scan_stem(Path()) == "ct.1"


def test_parents_are_put_in_front_only_where_names_collide(tmp_path: Path) -> None:
    tree(tmp_path, "p1/ct/scan.nii.gz", "p2/ct/scan.nii.gz", "p2/mr/scan.nrrd", "p3/other.nii")
    paths = [tmp_path / "p1/ct/scan.nii.gz", tmp_path / "p2/ct/scan.nii.gz", tmp_path / "p2/mr/scan.nrrd", tmp_path / "p3/other.nii"]
    assert output_stems(paths) == ["p1_ct_scan", "p2_ct_scan", "mr_scan", "other"]


def test_dicom_folders_of_the_same_name(tmp_path: Path) -> None:
    tree(tmp_path, "STS_001/CT/image/0.dicom-like", "STS_002/CT/image/0.dicom-like")
    assert output_stems([tmp_path / f"STS_00{n}/CT/image" for n in (1, 2)]) == ["STS_001_CT_image", "STS_002_CT_image"]
    assert output_stems([tmp_path / f"STS_00{n}/CT/image/0" for n in (1, 2)]) == ["STS_001_CT_image", "STS_002_CT_image"]


def test_scans_side_by_side_that_differ_only_in_their_suffix(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.dicom-like", "a.nii.gz", "a.nrrd", "A.mha")
    assert output_stems([tmp_path / name for name in ("a", "a.nii.gz", "a.nrrd", "A.mha")]) == ["a", "a_nii", "a_nrrd", "A_mha"]


def test_a_name_that_looks_like_a_lengthened_one(tmp_path: Path) -> None:
    tree(tmp_path, "x/a.nii", "y/a.nii", "z/x_a.nii")
    stems = output_stems([tmp_path / name for name in ("x/a.nii", "y/a.nii", "z/x_a.nii")])
    assert len(set(stems)) == 3
    assert stems[1:] == ["y_a", "z_x_a"]


def test_one_scan_given_twice_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.nii")
    with pytest.raises(InputError, match="given twice"):
        output_stems([tmp_path / "a.nii", tmp_path / "." / "a.nii"])
