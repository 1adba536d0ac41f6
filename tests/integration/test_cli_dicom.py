"""``volseg dicom info`` and ``convert`` as a person types them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless, RTStructureSetStorage

from tests.dicom_factory import Scan, ramp, report, write
from volseg.cli.main import main
from volseg.errors import InputError, WriteError
from volseg.io import load
from volseg.io.dicom import read_series
from volseg.io.dicom.listing.sidecar import describe_conversion

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "P-0042",
    "PatientBirthDate": "19600102",
    "AccessionNumber": "ACC77",
    "StudyDate": "20240305",
    "InstitutionName": "Mercy General",
    "ReferringPhysicianName": "House^Gregory",
    "StudyDescription": "Knee of DOE JANE",
}
SECRETS = ("doe", "jane", "p-0042", "19600102", "acc77", "20240305", "mercy", "house")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``volseg dicom``."""
    with pytest.raises(SystemExit) as stop:
        main(["dicom", *(str(a) for a in args)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def document(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    code, out, _ = run(capsys, *args, "--json")
    assert code == 0
    content: dict[str, Any] = json.loads(out)
    return content


def scan(folder: Path, name: str, *, slices: int = 4, **tags: object) -> Path:
    uid = str(tags.pop("uid", f"2.25.{int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)}"))
    positions = tags.pop("positions", None)
    return write(Scan(ramp(slices), uid=uid, positions=positions, tags={"SeriesNumber": 3, "SeriesDescription": name, **tags}).datasets(), folder / name)


def tilted(slices: int = 6) -> np.ndarray:
    """Positions of slices 2 mm apart, shifted by half a millimetre each: a tilt of arctan(0.25) = 14.04 degrees."""
    return np.array([(0.0, 0.5 * k, 2.0 * k) for k in range(slices)])


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A study with a usable, a tilted and a too short series, an RTSTRUCT, a text file and a damaged object."""
    folder = tmp_path / "export"
    scan(folder, "good Doe Jane", uid="2.1", **PATIENT)
    scan(folder, "tilted", uid="2.2", slices=6, positions=tilted(), **PATIENT)
    scan(folder, "short", uid="2.3", slices=1, **PATIENT)
    structures = report(RTStructureSetStorage, "2.4")
    reference = Dataset()
    reference.SeriesInstanceUID = "2.1"
    structures.ReferencedSeriesSequence = Sequence([reference])
    write([structures], folder / "rt")
    (folder / "readme.txt").write_text("hello")
    broken = folder / "broken.dcm"
    broken.write_bytes(next((folder / "short").iterdir()).read_bytes()[:180])
    return folder


def test_info_tells_everything_as_json(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = document(capsys, "info", export)
    assert (seen["files"], seen["not_dicom"]["count"], seen["unreadable"]["count"]) == (14, 1, 1)
    assert seen["not_dicom"]["files"] == [str(export / "readme.txt")]
    assert "broken.dcm" in seen["unreadable"]["messages"][0]
    series = {entry["key"]: entry for entry in seen["series"]}
    good = series["2.1"]
    assert (good["usable"], good["problem"], good["series_number"], good["description"], good["modality"]) == (True, None, 3, "good", "CT")
    assert (good["columns"], good["rows"], good["slices"], good["bits_stored"], good["signed"]) == (6, 4, 4, 16, True)
    assert good["slice_spacing_mm"] == pytest.approx(2)
    assert good["layout"] == {
        "plane": "axial",
        "oblique_degrees": 0,
        "orientation": "LPS",
        "slice_spacings_mm": [{"mm": 2.0, "times": 3}],
        "missing_slices": 0,
        "shared_positions": 0,
        "tilt_degrees": 0,
    }
    assert good["transfer_syntaxes"] == ["Explicit VR Little Endian"]
    assert series["2.2"]["layout"]["tilt_degrees"] == pytest.approx(np.degrees(np.arctan(0.25)), abs=0.005)
    assert "gantry tilt" in series["2.2"]["problem"]
    assert "only 1 slice" in series["2.3"]["problem"]
    assert [(o["classes"], o["refers_to"]) for o in seen["objects"]] == [(["RT Structure Set Storage"], [{"series_instance_uid": "2.1", "here": True}])]


def test_info_prints_tables_with_the_reasons(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "info", export)
    assert code == 0
    assert "1 usable as a volume" in out
    assert re.search(r"cannot be used: .*gantry tilt: slices are stacked 14\.04 degrees", out)
    assert "RT Structure Set Storage" in out
    assert "1 file that is no DICOM" in out
    assert "readme.txt" not in out
    assert "broken.dcm: damaged DICOM" in out
    assert "reading headers 14/14" in err
    assert "readme.txt" in run(capsys, "info", export, "-v")[1]
    code, out, err = run(capsys, "info", export, "-q")
    assert (code, out, err) == (0, "", "")


def test_patients_are_shown_only_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(tmp_path, "x", **PATIENT | {"SeriesDescription": "ax DOE, JANE P-0042"})
    for extra in ([], ["--json"], ["-v"]):
        _, out, err = run(capsys, "info", folder, *extra)
        assert not [word for word in SECRETS if word in (out + err).lower()]
    _, out, _ = run(capsys, "info", folder, "--show-patient")
    assert all(text in out for text in ("Doe^Jane", "P-0042", "20240305", "ax DOE, JANE P-0042"))
    (patient,) = document(capsys, "info", folder, "--show-patient")["patients"]
    assert (patient["id"], patient["name"]) == ("P-0042", "Doe^Jane")


def test_many_damaged_files_are_counted_after_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(tmp_path, "x")
    bytes_ = next(folder.iterdir()).read_bytes()[:180]
    for n in range(13):
        (folder / f"broken{n:02d}.dcm").write_bytes(bytes_)
    _, out, _ = run(capsys, "info", folder)
    assert "13 files that cannot be read" in out
    assert len([line for line in out.splitlines() if line.startswith("  ") and "broken" in line]) == 10
    assert "broken00.dcm: damaged DICOM" in out.split("cannot be used: ")[1]
    assert "... and 3 more" in out
    assert len(document(capsys, "info", folder)["unreadable"]["messages"]) == 13


@pytest.mark.parametrize("command", ["info", "convert"])
def test_no_dicom_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    where = ["-o", tmp_path / "out"] if command == "convert" else []
    for place, words in ((tmp_path / "in", "holds no DICOM"), (tmp_path / "absent", "no such file")):
        code, _, err = run(capsys, command, place, *where)
        assert code == 2
        assert words in err
    assert not (tmp_path / "out").exists()


def test_info_of_nothing_usable_is_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "info", write([report(RTStructureSetStorage)], tmp_path))[0] == 0


@pytest.mark.parametrize("suffix", ["nifti", "nrrd", "mha"])
def test_a_converted_series_is_the_volume_that_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    folder = scan(tmp_path, "Thorax 1.5 mm", SeriesNumber=7)
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out", "--format", suffix)["converted"]
    assert Path(result["image"]).name == {"nifti": "7_Thorax_1.5_mm.nii.gz", "nrrd": "7_Thorax_1.5_mm.nrrd", "mha": "7_Thorax_1.5_mm.mha"}[suffix]
    volume, again = read_series(folder), load(result["image"])
    stored = SimpleITK.ReadImage(result["image"])
    assert stored.GetPixelIDTypeAsString() == "16-bit signed integer"
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.grid.isclose(volume.grid, 1e-4)
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == sorted([Path(result["image"]).suffix, ".json"])


def test_the_sidecar_speaks_bids_in_seconds_and_names_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = PATIENT | {
        "Modality": "MR",
        "EchoTime": "2.46",
        "RepetitionTime": "1900",
        "MagneticFieldStrength": "3",
        "FlipAngle": "9",
        "ProtocolName": "t1 Jane",
        "SoftwareVersions": "x",
    }
    folder = scan(tmp_path, "head", uid="2.77", **tags)
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out")["converted"]
    text = Path(result["sidecar"]).read_text()
    assert not [word for word in (*SECRETS, str(tmp_path)) if word in text.lower()]
    sidecar = json.loads(text)
    expected = {"Modality": "MR", "EchoTime": 0.00246, "RepetitionTime": 1.9, "MagneticFieldStrength": 3, "FlipAngle": 9, "SliceThickness": 9.9, "ProtocolName": "t1"}
    assert {key: sidecar[key] for key in expected} == expected
    assert sidecar["ConversionSoftware"] == "volseg"
    ours = sidecar["volseg"]
    volume = read_series(folder)
    assert (ours["series_instance_uid"], ours["shape"], ours["orientation"]) == ("2.77", [6, 4, 4], "LPS")
    np.testing.assert_allclose(ours["affine_ras"], volume.grid.affine)
    uids = volume.source.details["sop_instance_uids"]
    assert ours["sop_instance_uids_sha256"] == hashlib.sha256("\n".join(uids).encode()).hexdigest()
    assert "sop_instance_uids" not in ours


def test_a_number_that_is_none_is_left_out_of_the_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(tmp_path, "odd", EchoTime="2.46")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"9.9 ", b"abc "))
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out")["converted"]
    sidecar = json.loads(Path(result["sidecar"]).read_text())
    assert sidecar["EchoTime"] == 0.00246
    assert "SliceThickness" not in sidecar


def test_a_file_that_changed_after_the_search_is_told(tmp_path: Path) -> None:
    volume = read_series(scan(tmp_path, "gone"))
    first = volume.source.header.slices[0].member.path
    first.write_text("no DICOM at all")
    with pytest.raises(InputError, match="changed while it was read"):
        describe_conversion(volume, keep_patient=False)
    first.unlink()
    with pytest.raises(InputError, match=str(first)):
        describe_conversion(volume, keep_patient=False)


def test_the_patient_is_kept_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(tmp_path, "knee Doe", **PATIENT)
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out", "--keep-patient")["converted"]
    assert Path(result["image"]).name == "3_knee_Doe.nii.gz"
    sidecar = json.loads(Path(result["sidecar"]).read_text())
    assert {key: sidecar[key] for key in PATIENT} == PATIENT
    assert sidecar["volseg"]["sop_instance_uids"] == read_series(folder).source.details["sop_instance_uids"]
    assert sidecar["volseg"]["source"] == str(folder)


def test_hostile_descriptions_stay_in_the_folder_and_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["../../etc/passwd", "..", "CON", "a/b\\c:d*?", "A/B_C_D", "x" * 64, "Sagitt\u00e9", "", ".hidden", "-rf"]
    for n, text in enumerate(texts):
        write(Scan(ramp(2), uid=f"2.{n}", tags={"SeriesNumber": 1, "SeriesDescription": text, "SpecificCharacterSet": "ISO_IR 192"}).datasets(), tmp_path / "in" / str(n))
    results = document(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out" / "here")["converted"]
    names = sorted(p.name for p in (tmp_path / "out" / "here").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["here"]
    assert len({name.lower() for name in names}) == 2 * len(texts) == len(names)
    assert [name for name in names if not re.fullmatch(r"1_[A-Za-z0-9][A-Za-z0-9_.-]*\.(nii\.gz|json)", name)] == []
    # Names that differ only in case collide on some file systems, so both get a digest of their key.
    clash = {Path(r["image"]).name for r in results if "b_c_d" in r["image"].lower()}
    assert clash == {f"1_a_b_c_d_{hashlib.sha256(b'2.3').hexdigest()[:8]}.nii.gz", f"1_A_B_C_D_{hashlib.sha256(b'2.4').hexdigest()[:8]}.nii.gz"}


def test_a_description_cannot_take_the_place_of_another_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256(b"2.1").hexdigest()[:8]
    for uid, text in (("2.1", "knee"), ("2.2", "knee"), ("2.3", f"knee_{digest}")):
        write(Scan(ramp(2), uid=uid, tags={"SeriesNumber": 1, "SeriesDescription": text}).datasets(), tmp_path / "in" / uid)
    results = document(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out")["converted"]
    assert len({r["image"] for r in results}) == len(list((tmp_path / "out").glob("*.nii.gz"))) == 3


def test_headers_are_read_once_however_many_series_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from volseg.io.dicom import find

    for n in range(4):
        scan(tmp_path / "in", f"s{n}")
    read = []
    monkeypatch.setattr(find, "read_headers", lambda member, original=find.read_headers: (read.append(member), original(member))[1])
    assert len(document(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out")["converted"]) == 4
    assert len(read) == len(set(read)) == 16


def test_a_multi_frame_object_is_converted_with_its_frames_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from volseg.synthetic import make_scan
    from volseg.synthetic.scanner import ScannerSettings, write_multiframe

    scanned = make_scan("MR", 1, shape=(24, 20, 8), spacing=(8, 8, 16))
    write_multiframe([scanned], tmp_path / "in" / "m.dcm", settings=ScannerSettings(echo_times_ms=(3.0, 9.0)))
    results = document(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out")["converted"]
    assert [json.loads(Path(r["sidecar"]).read_text())["EchoTime"] for r in results] == [0.003, 0.009]
    assert [tuple(r["shape"]) for r in results] == [(24, 20, 8)] * 2
    seen = document(capsys, "info", tmp_path / "in")["series"]
    assert ["EchoTime 3 ms" in s["distinction"] for s in seen] == [True, False]


def test_a_dicomdir_stands_for_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pydicom.fileset import FileSet

    disc = FileSet()
    for ds in Scan(ramp(3), uid="2.1", tags={"StudyDate": "20240305", "StudyTime": "1200", "StudyID": "1", "SeriesNumber": 3, "AccessionNumber": "1"}).datasets():
        disc.add(ds)
    disc.write(tmp_path / "disc")
    seen = document(capsys, "info", tmp_path / "disc" / "DICOMDIR")
    assert [(s["key"], s["slices"], s["usable"]) for s in seen["series"]] == [("2.1", 3, True)]
    (result,) = document(capsys, "convert", tmp_path / "disc" / "DICOMDIR", "-o", tmp_path / "out")["converted"]
    assert result["shape"] == [6, 4, 3]


def test_one_file_names_its_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coronal = Scan(ramp(2), uid="2.1", cosines=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)).datasets()
    folder = write([*Scan(ramp(3), uid="2.1").datasets(), *coronal], tmp_path / "in", shuffle=None)
    (result,) = document(capsys, "convert", folder / "0004.dcm", "-o", tmp_path / "out")["converted"]
    assert (result["slices"], result["orientation"]) == (2, "LIP")


def test_one_unusable_series_does_not_stop_the_others(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "convert", export, "-o", tmp_path / "out", "--json")
    assert code == 0
    result = json.loads(out)
    assert [r["series"] for r in result["converted"]] == ["2.1"]
    assert {entry["series"] for entry in result["left_out"]} == {"2.2", "2.3"}
    assert "left out series 2.2: " in err
    assert "gantry tilt" in err
    assert "broken.dcm" in err


def test_series_are_picked_by_name_and_a_bad_one_is_exit_2(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "convert", export, "-o", tmp_path / "out", "--series", "2.2", "--series", "2.1", "--json")
    assert code == 2
    result = json.loads(out)
    assert [r["series"] for r in result["converted"]] == ["2.1"]
    assert [r["series"] for r in result["failed"]] == ["2.2"]
    assert "gantry tilt" in err
    code, _, err = run(capsys, "convert", export, "-o", tmp_path / "none", "--series", "9.9")
    assert code == 2
    assert "holds no series of images 9.9; it holds: 2.1; 2.2; 2.3" in err
    assert not (tmp_path / "none").exists()


def test_nothing_to_convert_is_exit_2(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "convert", export / "tilted", "-o", tmp_path / "out")
    assert code == 2
    assert "none of its 1 series can be converted" in err
    code, _, err = run(capsys, "convert", export / "rt", "-o", tmp_path / "out")
    assert code == 2
    assert "series of objects and no images" in err
    assert not (tmp_path / "out").exists()


def test_stacks_that_share_a_series_need_all_or_their_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coronal = Scan(ramp(2), uid="2.1", cosines=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)).datasets()
    folder = write([*Scan(ramp(3), uid="2.1").datasets(), *coronal], tmp_path / "in")
    code, _, err = run(capsys, "convert", folder, "-o", tmp_path / "out")
    assert code == 2
    assert "mixed orientations" in err
    assert "--all" in err
    results = document(capsys, "convert", folder, "-o", tmp_path / "all", "--all")["converted"]
    assert [(r["series"], r["slices"]) for r in results] == [("2.1#1", 3), ("2.1#2", 2)]
    (one,) = document(capsys, "convert", folder, "-o", tmp_path / "one", "--series", "2.1#2")["converted"]
    assert Path(one["image"]).name in {p.name for p in (tmp_path / "all").iterdir()}


def test_echoes_of_one_series_become_a_file_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    echoes = [
        Scan(ramp(3) + n, uid="2.1", tags={"EchoTime": te, "Modality": "MR", "SeriesDescription": "fm", "SeriesNumber": 3}).datasets() for n, te in enumerate(("4.92", "7.38"))
    ]
    folder = write([ds for echo in echoes for ds in echo], tmp_path / "in")
    results = document(capsys, "convert", folder, "-o", tmp_path / "out")["converted"]
    assert [Path(r["image"]).name for r in results] == ["3_fm_EchoTime4.92ms.nii.gz", "3_fm_EchoTime7.38ms.nii.gz"]
    found = {json.loads(Path(r["sidecar"]).read_text())["EchoTime"]: load(r["image"]).array.ravel(order="F")[0] for r in results}
    assert found == {0.00492: 0, 0.00738: 1}


def test_a_tilted_series_is_straightened_on_request(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = document(capsys, "convert", export, "-o", tmp_path / "out", "--fix-geometry")["converted"]
    fixed = {r["series"]: r for r in results}["2.2"]
    assert fixed["geometry_correction"]
    volume = load(fixed["image"])
    assert volume.grid.shear < 1e-6
    assert volume.grid.isclose(read_series(export / "tilted", fix_geometry=True).grid, 1e-4)


def test_suv_without_pet_is_said_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(tmp_path, "ct")
    code, _, err = run(capsys, "convert", folder, "-o", tmp_path / "out", "--suv")
    assert code == 0
    assert "--suv changes nothing" in err


def test_a_pet_series_that_lacks_the_dose_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "in", "ct", uid="2.1")
    scan(tmp_path / "in", "pet", uid="2.2", Modality="PT", Units="BQML")
    code, out, err = run(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out", "--suv", "--json")
    assert code == 2
    result = json.loads(out)
    assert ([r["series"] for r in result["converted"]], [r["series"] for r in result["failed"]]) == (["2.1"], ["2.2"])
    assert result["failed"][0]["error"] in err


@pytest.mark.parametrize("keep", [False, True])
def test_a_pet_becomes_suv_and_its_json_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: bool) -> None:
    drug = Dataset()
    drug.RadionuclideTotalDose = "4e8"
    tags = {"Modality": "PT", "Units": "BQML", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "ADMIN", "PatientWeight": "80"}
    folder = scan(tmp_path, "pet", RadiopharmaceuticalInformationSequence=Sequence([drug]), **tags)
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out", "--suv", *(["--keep-patient"] if keep else []))["converted"]
    # SUV = activity / (dose / weight in g): 80 000 g / 4e8 Bq = 2e-4.
    np.testing.assert_allclose(load(result["image"]).array, read_series(folder).array * 2e-4, rtol=1e-6)
    sidecar = json.loads(Path(result["sidecar"]).read_text())
    assert (sidecar["Units"], sidecar["volseg"]["suv"]["dose_bq"]) == ("SUVbw", 4e8)
    assert sidecar["volseg"]["suv"].get("weight_kg") == (80 if keep else None)
    assert ("PatientWeight" in sidecar) is keep


def test_only_earlier_conversions_of_the_same_series_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, out = scan(tmp_path / "a", "knee", uid="2.1"), tmp_path / "out"
    second = scan(tmp_path / "b", "knee", uid="2.2", slices=3)
    assert run(capsys, "convert", first, "-o", out)[0] == 0
    before = (out / "3_knee.nii.gz").read_bytes()
    assert run(capsys, "convert", first, "-o", out)[0] == 0
    code, _, err = run(capsys, "convert", second, "-o", out)
    assert code == 2
    assert "no earlier conversion of this series" in err
    assert (out / "3_knee.nii.gz").read_bytes() == before
    assert run(capsys, "convert", second, "-o", out, "--overwrite")[0] == 0
    assert nibabel.load(out / "3_knee.nii.gz").shape == (6, 4, 3)
    (out / "3_knee.json").write_text("[1]")
    assert run(capsys, "convert", second, "-o", out)[0] == 2


def test_an_image_that_is_read_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(Scan(ramp(2), uid="2.1", tags={"SeriesNumber": 3, "SeriesDescription": "knee"}).datasets(), tmp_path, shuffle=None)
    (folder / "0000.dcm").rename(folder / "3_knee.nii.gz")
    before = (folder / "3_knee.nii.gz").read_bytes()
    code, _, err = run(capsys, "convert", folder, "-o", folder, "--overwrite")
    assert code == 2
    assert "would replace an image that is read" in err
    assert (folder / "3_knee.nii.gz").read_bytes() == before


def test_nothing_half_written_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setattr("volseg.io.dicom.listing.convert.save_volume", full)
    code, _, err = run(capsys, "convert", scan(tmp_path / "in", "knee"), "-o", tmp_path / "out")
    assert code == 1
    assert "the disk is full" in err
    assert not (tmp_path / "out").exists()


def test_pixels_that_cannot_be_read_are_exit_2_and_the_others_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "in", "good", uid="2.1")
    bad = Scan(ramp(3), uid="2.2").datasets()
    for ds in bad:
        ds.file_meta.TransferSyntaxUID = RLELossless
        ds.PixelData = encapsulate([b"no run lengths at all"])
        ds["PixelData"].is_undefined_length = True
    write(bad, tmp_path / "in" / "bad")
    code, out, _ = run(capsys, "convert", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert code == 2
    assert [r["series"] for r in json.loads(out)["converted"]] == ["2.1"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["3_good.json", "3_good.nii.gz"]


def test_the_output_folder_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    code, _, err = run(capsys, "convert", scan(tmp_path, "knee"), "-o", tmp_path / "file" / "below")
    assert code == 2
    assert "output folder cannot be made" in err


def test_help_is_quick_to_load() -> None:
    code = "import sys\nfrom click.testing import CliRunner\nfrom volseg.cli.dicom import dicom\n"
    code += "assert all('Examples:' in CliRunner().invoke(dicom, a).output for a in (['--help'], ['info', '--help'], ['convert', '--help']))\n"
    code += "print([m for m in ('torch', 'monai', 'scipy', 'nibabel', 'pydicom', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["info"], ["convert"]])
def test_every_example_of_the_help_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    scan(tmp_path / "DICOM_FOLDER", "knee", uid="2.1")
    shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "DICOM_FOLDER")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^\s+volseg dicom (.+)$", run(capsys, *command, "--help")[1], re.MULTILINE)
    assert len(examples) == {0: 2, 1: {"info": 3, "convert": 4}[command[0]] if command else 2}[len(command)]
    for example in examples:
        assert run(capsys, *shlex.split(example.replace("SERIES_UID", "2.1")))[0] == 0


REASONS = {
    "gantrytilting/001": "gantry tilt: slices are stacked 14.00 degrees",
    "notavolume/001": "duplicate positions: 4 different images share 1 slice position",
    "sliceincrement/001": "gap: 1 slice missing from a spacing of 5.000 mm",
    "sliceincrement/002": "gantry tilt: slices are stacked 15.50 degrees",
    "sliceorientation/001": "mixed orientations in one series: 2 + 2 slices",
}


def test_real_failing_series_are_listed_with_their_reasons(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = real_data / "dicom" / "vendors" / "failing"
    seen = document(capsys, "info", root)["series"]
    for name, reason in REASONS.items():
        entries = [s for s in seen if str(root / name) in s["folders"]]
        assert entries
        assert all(not s["usable"] and reason in s["problem"] for s in entries), name
    assert [s["usable"] for s in seen if str(root / "slicecount/001") in s["folders"]] == [True]
    head = document(capsys, "info", real_data / "dicom" / "head_ct_tilt_uneven")["series"][0]
    # 18.5 is what GantryDetectorTilt says; the spacings are those the data set's own description gives.
    assert head["layout"]["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    assert [round(s["mm"]) for s in head["layout"]["slice_spacings_mm"] if s["times"] > 1] == [4, 7]


def test_real_series_convert_to_what_is_read(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = real_data / "dicom"
    usable = [s["key"] for s in document(capsys, "info", root)["series"] if s["usable"]]
    results = document(capsys, "convert", root, "-o", tmp_path)["converted"]
    assert [r["series"] for r in results] == usable
    assert len(usable) >= 10
    for result in results:
        volume, again = read_series(root, result["series"]), nibabel.load(result["image"])
        assert again.get_data_dtype() == volume.array.dtype
        np.testing.assert_array_equal(np.asanyarray(again.dataobj), volume.array)
        np.testing.assert_allclose(again.affine, volume.grid.affine, atol=1e-4)


def test_real_objects_name_their_series(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = document(capsys, "info", real_data / "dicom" / "sts")
    series = {s["key"]: s["modality"] for s in seen["series"]}
    assert len(seen["patients"]) == 2
    assert sorted(series.values()) == ["CT", "CT", "PT", "PT"]
    named = [reference["series_instance_uid"] for entry in seen["objects"] for reference in entry["refers_to"]]
    assert sorted(named) == sorted(series)


@pytest.mark.parametrize("name", ["vendors/anatomical/001", "vendors/generic/anatomical/001", "sts/STS_001/CT/image", "sts/STS_001/PET/image"])
def test_real_sidecars_agree_with_dcm2niix(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    dcm2niix = shutil.which("dcm2niix") or getattr(pytest.importorskip("dcm2niix"), "bin", None)
    folder = real_data / "dicom" / name
    subprocess.run([str(dcm2niix), "-b", "o", "-f", "oracle", "-o", str(tmp_path), str(folder)], capture_output=True, check=True)
    oracle = json.loads((tmp_path / "oracle.json").read_text())
    (result,) = document(capsys, "convert", folder, "-o", tmp_path / "out")["converted"]
    ours = json.loads(Path(result["sidecar"]).read_text())
    numbers = {key: value for key, value in ours.items() if isinstance(value, (int, float)) and key in oracle}
    # dcm2niix prints six digits.
    assert numbers == pytest.approx({key: oracle[key] for key in numbers}, rel=1e-5)
    assert {"EchoTime", "RepetitionTime"} <= set(numbers) if ours["Modality"] == "MR" else "SeriesNumber" in numbers
    texts = ("Modality", "ManufacturersModelName", "SoftwareVersions", "PatientPosition", "ScanningSequence", "MRAcquisitionType", "ConvolutionKernel", "BodyPart", "Units")
    assert {key: ours[key] for key in texts if key in ours and key in oracle} == {key: oracle[key] for key in texts if key in ours and key in oracle}


def test_values_that_break_a_rule_of_their_vr_are_no_noise(tmp_path: Path) -> None:
    """pydicom would warn on stderr of each, one line and a piece of its code."""
    folder = scan(tmp_path, "long", AccessionNumber="x" * 18, ProtocolName="y" * 80)
    done = subprocess.run([sys.executable, "-m", "volseg", "dicom", "convert", str(folder), "-o", str(tmp_path / "o"), "-q"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
