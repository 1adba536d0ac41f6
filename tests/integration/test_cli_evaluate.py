"""``volseg evaluate`` from the command line to its files."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import volseg
from tests.dicom_factory import Scan
from tests.dicom_factory import write as series_folder
from volseg.cli.evaluate import EXAMPLES
from volseg.cli.main import main
from volseg.io import save_label
from volseg.io.dicom.objects.rtstruct import write_rtstruct
from volseg.io.dicom.objects.seg import write_seg
from volseg.io.dicom.objects.segments import Algorithm, describe_segments

AFFINE = np.diag([-1.5, -1.5, 4.0, 1.0])
SHAPE = (16, 14, 9)


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def slab(start: int, stop: int, label: int = 1) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[start:stop] = label
    return array


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: Dice 0.5, 0.75 and undefined (both empty)."""
    predictions, references = tmp_path / "out", tmp_path / "references"
    for case, prediction, reference in (("a", slab(0, 4), slab(2, 6)), ("b", slab(0, 8), slab(2, 10)), ("c", slab(0, 0), slab(0, 0))):
        write(predictions / f"{case}_CT_seg.nii.gz", prediction)
        write(references / f"{case}.nii.gz", reference)
        (predictions / f"{case}_CT_seg.json").write_text("{}")
    return predictions, references


def test_folders_give_a_table_json_and_csv(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, cases = tmp_path / "report.json", tmp_path / "cases.csv"
    code, out, err = run(capsys, *folders, "-o", report, "--csv", cases, "--labels", "1=tumor")
    assert code == 0, err
    assert re.search(r"^a +tumor +0\.5000", out, re.M)
    assert re.search(r"^c +tumor +- .*both empty$", out, re.M)
    # n, undefined, missed, spurious, mean of 0.5 and 0.75, sample SD 0.25/sqrt(2), median.
    assert re.search(r"^tumor +2 +1 +0 +0 +0\.6250 +0\.1768 +0\.6250", out, re.M)
    content = json.loads(report.read_text())
    assert content["summary"][0]["dice"]["mean"] == pytest.approx(0.625)
    assert content["summary"][0]["name"] == "tumor"
    assert content["inputs"]["predictions"] == str(folders[0])
    assert len(content["cases"][0]["reference"]["sha256"]) == 64
    assert content["cases"][0]["labels"][0]["reference_ml"] == pytest.approx(4 * 14 * 9 * 1.5 * 1.5 * 4 / 1000)
    assert [row["dice"] for row in csv.DictReader(cases.open())] == ["0.5", "0.75", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "out", "references", "report.html", "report.json"]


def test_json_is_the_only_thing_on_stdout(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *folders, "--json")
    assert code == 0
    assert json.loads(out)["mean_dice"] == pytest.approx(0.625)


def test_quiet_prints_nothing(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *folders, "-q") == (0, "", "")


def test_two_files(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, folders[0] / "a_CT_seg.nii.gz", folders[1] / "b.nii.gz", "--json")
    (case,) = json.loads(out)["cases"]
    # 0-4 against 2-10.
    assert (code, case["case"], case["labels"][0]["dice"]) == (0, "b", pytest.approx(2 * 2 / (4 + 8)))


def test_missing_predictions_stop_unless_allowed(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    write(folders[1] / "lost.nii.gz", slab(0, 3))
    write(folders[0] / "stray_seg.nii.gz", slab(0, 3))
    code, out, err = run(capsys, *folders)
    assert (code, out) == (2, "")
    assert "1 of 4 references have no prediction: lost.nii.gz" in err
    assert "--allow-missing" in err
    code, out, err = run(capsys, *folders, "--allow-missing", "--json")
    assert code == 0
    assert "lost.nii.gz" in err
    assert "stray_seg.nii.gz" in err
    content = json.loads(out)
    assert [Path(path).name for path in content["references_without_prediction"]] == ["lost.nii.gz"]
    assert [Path(path).name for path in content["predictions_without_reference"]] == ["stray_seg.nii.gz"]
    assert content["mean_dice"] == pytest.approx(0.625)


def test_more_than_fifty_cases_are_cut_on_the_terminal_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = np.ones((2, 2, 2), np.uint8)
    for number in range(52):
        write(tmp_path / "p" / f"case_{number:03d}.nii", tiny)
        write(tmp_path / "r" / f"case_{number:03d}.nii", tiny)
    code, out, _ = run(capsys, tmp_path / "p", tmp_path / "r", "--csv", tmp_path / "all.csv")
    assert code == 0
    assert "case_049" in out
    assert "case_050" not in out
    assert "2 more cases" in out
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 53
    assert "case_051" in run(capsys, tmp_path / "p", tmp_path / "r", "-v")[1]


def wrong_grid(folder: Path) -> list[object]:
    moved = AFFINE.copy()
    moved[0, 3] = 2.5
    return [write(folder / "p.nii.gz", slab(0, 3)), write(folder / "r.nii.gz", slab(0, 3), moved)]


def image_for_label(folder: Path) -> list[object]:
    return [write(folder / "p.nii.gz", np.full(SHAPE, 0.3, np.float32)), write(folder / "r.nii.gz", slab(0, 3))]


def four_dimensional(folder: Path) -> list[object]:
    return [write(folder / "p.nii.gz", np.zeros((*SHAPE, 2), np.uint8)), write(folder / "r.nii.gz", slab(0, 3))]


def truncated(folder: Path) -> list[object]:
    path = write(folder / "p.nii.gz", np.random.default_rng(0).integers(0, 2, (30, 30, 30), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    return [path, write(folder / "r.nii.gz", np.zeros((30, 30, 30), np.uint8))]


def text_file(folder: Path) -> list[object]:
    folder.joinpath("p.nii.gz").write_text("hello")
    return [folder / "p.nii.gz", write(folder / "r.nii.gz", slab(0, 3))]


def file_and_folder(folder: Path) -> list[object]:
    return [write(folder / "p.nii.gz", slab(0, 3)), folder]


def absent(folder: Path) -> list[object]:
    return [folder / "nowhere.nii.gz", write(folder / "r.nii.gz", slab(0, 3))]


def empty_folder(folder: Path) -> list[object]:
    (folder / "empty").mkdir()
    write(folder / "r" / "r.nii.gz", slab(0, 3))
    return [folder / "empty", folder / "r"]


def bad_labels(folder: Path) -> list[object]:
    return [write(folder / "p.nii.gz", slab(0, 3)), write(folder / "r.nii.gz", slab(0, 3)), "--labels", "tumor"]


def output_is_folder(folder: Path) -> list[object]:
    (folder / "report").mkdir()
    return [write(folder / "p.nii.gz", slab(0, 3)), write(folder / "r.nii.gz", slab(0, 3)), "-o", folder / "report"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (wrong_grid, r"16x14x9 voxels .* against 16x14x9 .*up to 2\.5 mm"),
        (image_for_label, r"p\.nii\.gz: not a label map"),
        (four_dimensional, r"p\.nii\.gz"),
        (truncated, r"p\.nii\.gz"),
        (text_file, r"p\.nii\.gz"),
        (file_and_folder, "holds several label maps"),
        (absent, r"nowhere\.nii\.gz: no such file"),
        (empty_folder, "empty: no label maps"),
        (bad_labels, "'tumor' is neither NUMBER=NAME"),
        (output_is_folder, "report"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(make: Callable[[Path], list[object]], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    extra = [] if "-o" in arguments else ["-o", tmp_path / "report.json"]
    code, out, err = run(capsys, *arguments, *extra, "-q")
    assert (code, out) == (2, "")
    assert re.search(says, err), err
    if make is not output_is_folder:
        assert len(err.splitlines()) == 1, err
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be written"


def test_a_label_map_stored_the_other_way_round_and_as_floats_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = slab(2, 6)
    flipped = AFFINE.copy()
    flipped[0] = [1.5, 0, 0, -1.5 * (SHAPE[0] - 1)]
    one = write(tmp_path / "one.nii.gz", label[::-1].astype(np.float32), flipped)
    other = write(tmp_path / "other.nii", label)
    code, out, err = run(capsys, one, other, "--json")
    assert code == 0, err
    assert json.loads(out)["mean_dice"] == 1


def test_json_brings_a_csv_and_a_page_with_pictures_on_the_scans(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    write(tmp_path / "scans" / "a_0000.nii.gz", random.normal(0, 100, SHAPE).astype(np.float32))
    write(tmp_path / "scans" / "b_CT.nii.gz", random.normal(0, 100, (4, 4, 4)).astype(np.float32))
    code, out, err = run(capsys, *folders, "-o", tmp_path / "results" / "report.json", "--images", tmp_path / "scans", "--labels", "1=tumor")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["report.csv", "report.html", "report.json"]
    assert all(f"wrote {path}" in out for path in (tmp_path / "results").iterdir())
    page = (tmp_path / "results" / "report.html").read_text()
    # Case c has no Dice; b's image lies elsewhere.
    assert "Scan: a_0000." in page
    assert "The scan b_CT does not lie on the labels" in page
    assert page.index("<h3>a</h3>") < page.index("<h3>b</h3>")
    assert "<h3>c</h3>" not in page
    assert str(tmp_path) not in page
    rows = list(csv.DictReader((tmp_path / "results" / "report.csv").open()))
    # 4 slices of 1.5 mm, two of which stick out at either end.
    assert [row["hd_mm"] for row in rows] == ["3.0", "3.0", ""]
    content = json.loads((tmp_path / "results" / "report.json").read_text())
    assert content["settings"] == {"tolerance_mm": 2.0, "label_tolerances_mm": {}, "lesion_iou": 0.1, "lesion_connectivity": 26}
    low, high = (content["summary"][0]["dice"][f"mean_{end}"] for end in ("low", "high"))
    assert 0.5 <= low <= 0.625 <= high <= 0.75


def test_no_pictures_are_drawn_when_none_are_asked_for(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *folders, "-o", tmp_path / "report.json", "--worst", 0)[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Worst cases" not in page
    assert "Statistics per label" in page


def test_an_unreadable_scan_costs_its_picture_only(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_text("no image")
    assert run(capsys, *folders, "-o", tmp_path / "report.json", "--images", tmp_path / "scans")[0] == 0
    assert "The scan cannot be read" in (tmp_path / "report.html").read_text()


def test_tolerances_are_for_all_labels_or_for_one(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Two faces of case a's slab are 3 mm away, the other four coincide: the NSD is 1 from 3 mm on."""
    for options, expected in (((), False), (("--tolerance", "3"), True), (("--tolerance", "tumor=3"), True), (("--tolerance", "3", "--tolerance", "1=2"), False)):
        code, out, err = run(capsys, *folders, "--labels", "1=tumor", *options, "--json")
        assert code == 0, err
        assert (json.loads(out)["cases"][0]["labels"][0]["nsd"] == 1) is expected, options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tolerance", "wide"), "neither MM nor LABEL=MM"),
        (("--tolerance", "1", "--tolerance", "2"), "given twice"),
        (("--tolerance", "tumor=1", "--tolerance", "1=2"), "given twice"),
        (("--tolerance", "liver=1"), "no label is called 'liver'; the labels are 1 tumor"),
        (("--tolerance", "-1"), "at least 0, got -1"),
        (("--lesion-iou", "7"), "between 0 and 1, got 7"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], says: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *folders, "--labels", "1=tumor", *options)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_tolerance_of_a_label_needs_its_name_or_value(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Without names a value will do."""
    assert json.loads(run(capsys, *folders, "--tolerance", "1=3", "--json")[1])["settings"]["label_tolerances_mm"] == {"1": 3}
    code, _, err = run(capsys, *folders, "--tolerance", "tumor=3")
    assert code == 2
    assert "no label is called 'tumor'; none has a name: give its value, or names with --labels" in err


def test_a_lesion_is_found_from_the_given_overlap(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Case a: 2 of 6 slices are common."""
    found = [json.loads(run(capsys, *folders, "--lesion-iou", value, "--json")[1])["cases"][0]["labels"][0]["true_positive_lesions"] for value in ("0.33", "0.34")]
    assert found == [1, 0]


def test_two_models_are_compared_case_by_case(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in "abc":
        write(tmp_path / "other" / f"{case}_seg.nii.gz", slab(0, 0) if case == "c" else slab(2, 6))
    code, out, err = run(capsys, *folders, "--compare", tmp_path / "other", "-o", tmp_path / "report.json", "--labels", "1=tumor")
    assert code == 0, err
    assert "out (first) against other (second)" in out
    comparison = json.loads((tmp_path / "report.json").read_text())["comparison"]
    dice = next(each for each in comparison["labels"][0]["differences"] if each["metric"] == "dice")
    # 0.5 against 1 and 0.75 against 2 * 4 / (4 + 8).
    assert dice["difference"] == pytest.approx(((0.5 - 1) + (0.75 - 2 / 3)) / 2)
    assert (dice["n"], dice["wins"], dice["losses"]) == (2, 1, 1)
    assert comparison["second"]["mean_dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert "Compared with other" in (tmp_path / "report.html").read_text()


def test_every_case_that_cannot_be_compared_is_named_in_one_run(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, references = folders
    moved = AFFINE.copy()
    moved[0, 3] = 2.5
    write(predictions / "a_CT_seg.nii.gz", slab(0, 4), moved)
    write(predictions / "b_CT_seg.nii.gz", slab(0, 8, label=7))
    write(references / "c.nii.gz", np.full(SHAPE, 0.5, np.float32))
    code, out, err = run(capsys, predictions, references, "--labels", "1=tumor", "-o", tmp_path / "report.json", "-q")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 4
    assert re.search(r"a: .*a_CT_seg\.nii\.gz: not on the grid .* 2\.5 mm apart", lines[0])
    assert re.search(r"b: .*b_CT_seg\.nii\.gz: holds label 7 \(1008 voxels\), while the named labels are 1 tumor", lines[1])
    assert re.search(r"c: .*c\.nii\.gz: not a label map", lines[2])
    assert "3 problems in 3 of 3 cases" in lines[3]
    assert not (tmp_path / "report.json").exists()


def test_the_page_may_not_take_the_place_of_the_json(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *folders, "-o", tmp_path / "report.html")
    assert code == 2
    assert "name two files" in err


def write_dicom_labels(folder: Path) -> None:
    """``scan_seg.dcm`` and ``RTSTRUCT.dcm`` (an ROI called GTV) beside the series they belong to."""
    volume = volseg.load(series_folder(Scan(np.zeros((6, 12, 10), np.int16)).datasets(), folder / "DICOM_FOLDER"))
    label = np.zeros(volume.grid.shape, np.uint8)
    label[3:8, 2:9, 1:4] = 1
    segments = describe_segments({1: "GTV"})
    write_seg(label, volume, folder / "scan_seg.dcm", segments=segments, algorithm=Algorithm("test", "1"))
    write_rtstruct(label, volume, folder / "RTSTRUCT.dcm", segments=segments, algorithm=Algorithm("test", "1"))


def test_the_examples_of_the_help_run(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "scan_seg.nii.gz", slab(0, 4))
    write(tmp_path / "scan_label.nii.gz", slab(0, 4))
    training = [{"image": f"imagesTr/{case}_CT.nii.gz", "label": f"../references/{case}.nii.gz"} for case in "abc"]
    (tmp_path / "DATASET").mkdir()
    (tmp_path / "DATASET" / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "mass"}, "training": training}))
    for case in "abc":
        write(tmp_path / "other" / f"{case}_seg.nii.gz", slab(0, 3))
    write_dicom_labels(tmp_path)
    commands = [line.strip() for line in EXAMPLES.splitlines() if line.strip().startswith("volseg ")]
    assert len(commands) == 6
    for command in commands:
        code, out, err = run(capsys, *shlex.split(command)[2:])
        assert code == 0, f"{command}: {err}"
        assert "DATASET" not in command or "mass" in out


def test_real_references_against_themselves_and_shifted(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = nib.load(real_data / "sts" / "labelsTr" / "STS_001.nii.gz")
    array = np.asanyarray(label.dataobj)
    shifted = np.zeros_like(array)
    shifted[3:] = array[:-3]
    write(tmp_path / "STS_001_CT_seg.nii.gz", shifted, label.affine)
    code, out, err = run(capsys, tmp_path, real_data / "sts", "--allow-missing", "--json")
    assert code == 0, err
    content = json.loads(out)
    (case,) = content["cases"]
    expected = 2 * np.count_nonzero((array == 1) & (shifted == 1)) / (np.count_nonzero(array == 1) + np.count_nonzero(shifted == 1))
    assert (case["case"], case["labels"][0]["name"]) == ("STS_001", "tumor")
    assert case["labels"][0]["dice"] == pytest.approx(expected)
    assert len(content["references_without_prediction"]) == 40


@pytest.mark.parametrize(("columns", "drawn"), [(120, True), (60, False)])
def test_a_terminal_gets_whole_numbers_at_any_width(folders: tuple[Path, Path], columns: int, drawn: bool) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from volseg.cli import main; main()", "evaluate", *map(str, folders)]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(theirs)
    out = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            out += part
    os.close(ours)
    text = out.decode()
    assert done.returncode == 0, done.stderr
    assert ("\u2500" in text) is drawn
    assert all(number in text for number in ("0.5000", "0.7500", "0.6250", "0.1768"))
    assert "\u2026" not in text


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from volseg.cli.main import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "loaded = {'torch', 'monai', 'numpy', 'matplotlib', 'rich'} & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "volseg evaluate out/ references/" in done.stdout


def test_no_report_replaces_a_label_map_or_the_other_report(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = folders[1] / "a.nii.gz"
    before = label.read_bytes()
    code, _, err = run(capsys, folders[0] / "a_CT_seg.nii.gz", label, "-o", label)
    assert code == 2
    assert "would replace a label map" in err
    assert label.read_bytes() == before
    code, _, err = run(capsys, *folders, "-o", tmp_path / "same", "--csv", tmp_path / "same")
    assert code == 2
    assert "name two files" in err
    assert not (tmp_path / "same").exists()


@pytest.mark.parametrize(
    "description",
    [
        {"labels": {"0": "background", "1": "tumor"}, "ignore_label": 255},
        {"labels": {"background": 0, "tumor": 1, "ignore": 255}, "numTraining": 1, "file_ending": ".nii.gz"},
    ],
)
def test_voxels_to_be_ignored_are_in_no_score(capsys, tmp_path, description):
    """Where nothing is known the prediction may say what it likes, here along other axes than the reference's; elsewhere 4 of 8 slabs agree: Dice 0.5."""
    reference, prediction = slab(2, 6), slab(0, 4)
    reference[8:12], prediction[8:14] = 255, [[[1]]]
    reference[12:14] = 255
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = SHAPE[0] - 1
    write(tmp_path / "out" / "a_seg.nii.gz", np.ascontiguousarray(prediction[::-1]), AFFINE @ turned)
    write(tmp_path / "data" / "labelsTr" / "a.nii.gz", reference)
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description))
    code, out, err = run(capsys, tmp_path / "out", tmp_path / "data", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [label["name"] for label in document["summary"]] == ["tumor"]
    assert document["summary"][0]["dice"]["mean"] == pytest.approx(0.5)
    assert document["inputs"]["ignore_label"] == 255


def test_references_of_a_datalist(capsys, tmp_path):
    """What `volseg train` takes as DATASET is taken here, whatever the file is called; the reference's name is not that of the scan."""
    write(tmp_path / "out" / "scan7_seg.nii.gz", slab(0, 4))
    write(tmp_path / "data" / "drawn" / "by_hand.nii.gz", slab(2, 6))
    write(tmp_path / "data" / "scan7.nii.gz", slab(0, 8))
    listing = tmp_path / "data" / "fold_list.json"
    listing.write_text(json.dumps({"labels": {"0": "background", "1": "tumor"}, "training": [{"image": "scan7.nii.gz", "label": "drawn/by_hand.nii.gz"}]}))
    code, out, err = run(capsys, tmp_path / "out", listing, "--json", "--images", listing)
    assert code == 0, err
    (label,) = json.loads(out)["summary"]
    assert (label["name"], label["dice"]["mean"]) == ("tumor", pytest.approx(0.5))
    code, _, err = run(capsys, tmp_path / "out", tmp_path / "data" / "scan7.nii.gz")
    assert code == 2
    assert "JSON datalist" in err
    code, _, err = run(capsys, tmp_path / "out", listing, "--images", tmp_path / "data" / "scan7.nii.gz", "-o", tmp_path / "r.json")
    assert code == 2
    assert "--images" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_regions_of_a_datalist(capsys, tmp_path):
    """The structures that training takes of an RT Structure Set, by name, and not by their numbers in it; the list names no labels."""
    volume = volseg.load(series_folder(Scan(np.zeros((6, 12, 10), np.int16)).datasets(), tmp_path / "data" / "CT"))
    drawn = np.zeros(volume.grid.shape, np.uint8)
    drawn[1:3], drawn[5:8] = 1, 2
    write_rtstruct(drawn, volume, tmp_path / "data" / "rs.dcm", segments=describe_segments({1: "edema", 2: "GTV"}), algorithm=Algorithm("test", "1"))
    save_label((drawn == 2).astype(np.uint8), volume, tmp_path / "out" / "CT_seg.nii.gz")
    listing = tmp_path / "data" / "list.json"
    listing.write_text(json.dumps({"rois": {"GTV": 1}, "training": [{"image": "CT", "label": "rs.dcm"}]}))
    code, out, err = run(capsys, tmp_path / "out", listing, "--json")
    assert code == 0, err
    assert [label["dice"]["mean"] for label in json.loads(out)["summary"]] == [1.0]
    listing.write_text(json.dumps({"rois": ["GTV"], "training": [{"image": "CT", "label": "rs.dcm"}]}))
    code, _, err = run(capsys, tmp_path / "out", listing)
    assert code == 2
    assert "rois ['GTV']" in err


def test_a_label_to_be_ignored_is_a_number(capsys, tmp_path, folders):
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": {"1": "tumor"}, "ignore_label": "all"}))
    code, _, err = run(capsys, *folders)
    assert code == 2
    assert "dataset.json: ignore_label is 'all'; give a label value" in err


def partly_annotated(tmp_path: Path, annotated: object) -> tuple[Path, Path]:
    """Case a: liver and spleen drawn, Dice 0.5 each. Case b: only the spleen is drawn (Dice 1), and the model, rightly or not, marks a liver too."""
    write(tmp_path / "out" / "a_seg.nii.gz", slab(0, 4) + slab(8, 12, 2))
    write(tmp_path / "out" / "b_seg.nii.gz", slab(0, 4) + slab(8, 12, 2))
    write(tmp_path / "data" / "a.nii.gz", slab(2, 6) + slab(10, 14, 2))
    write(tmp_path / "data" / "b.nii.gz", slab(8, 12, 2))
    items = [{"image": "a_scan.nii.gz", "label": "a.nii.gz"}, {"image": "b_scan.nii.gz", "label": "b.nii.gz", "annotated": annotated}]
    (tmp_path / "data" / "list.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "spleen"}, "training": items}))
    return tmp_path / "out", tmp_path / "data" / "list.json"


@pytest.mark.parametrize("annotated", [["spleen"], [2]])
def test_a_case_counts_for_the_classes_it_is_annotated_for(capsys, tmp_path, annotated):
    out, listing = partly_annotated(tmp_path, annotated)
    code, text, err = run(capsys, out, listing, "--compare", out, "-o", tmp_path / "r.json", "--json")
    assert code == 0, err
    document = json.loads(text)
    liver, spleen = document["summary"]
    assert (liver["n_cases"], liver["n_spurious"], liver["dice"]["mean"]) == (1, 0, pytest.approx(0.5))
    assert (spleen["n_cases"], spleen["dice"]["mean"]) == (2, pytest.approx(0.75))
    assert document["overall"]["dice"]["mean"] == pytest.approx((0.5 + 1) / 2)
    assert [[label["name"] for label in case["labels"]] for case in document["cases"]] == [["liver", "spleen"], ["spleen"]]
    assert [label["differences"][0]["n"] for label in document["comparison"]["labels"]] == [1, 2]
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [(row["case"], row["name"]) for row in rows] == [("a", "liver"), ("a", "spleen"), ("b", "spleen")]
    assert (tmp_path / "r.html").is_file()


@pytest.mark.parametrize(
    ("annotated", "says"),
    [
        (["kidney"], "annotated for 'kidney', but the classes are liver, spleen"),
        ([0], "annotated for 0, but the classes are liver, spleen"),
        ("spleen", "list the names or values"),
        (["liver"], "b.nii.gz: holds label 2, for which it is said not to be annotated"),
    ],
)
def test_what_a_case_is_annotated_for_is_checked(capsys, tmp_path, annotated, says):
    out, listing = partly_annotated(tmp_path, annotated)
    code, _, err = run(capsys, out, listing, "-o", tmp_path / "r.json")
    assert code == 2
    assert says in err
    assert not (tmp_path / "r.json").exists()


def test_a_label_no_case_is_annotated_for_is_in_no_table(capsys, tmp_path):
    out, listing = partly_annotated(tmp_path, ["spleen"])
    (out / "a_seg.nii.gz").unlink()
    code, text, err = run(capsys, out, listing, "--allow-missing", "-o", tmp_path / "r.json")
    assert code == 0, err
    assert [label["name"] for label in json.loads((tmp_path / "r.json").read_text())["summary"]] == ["spleen"]
    assert "liver" not in text


def test_what_a_case_is_annotated_for_without_names_or_under_others(capsys, tmp_path):
    """Values need no names; names are those of the list, whatever --labels calls them, or else those of --labels."""
    out, listing = partly_annotated(tmp_path, ["spleen"])

    def mean_of_last(*options: object) -> tuple[str, float]:
        code, text, err = run(capsys, out, listing, "--json", *options)
        assert code == 0, err
        label = json.loads(text)["summary"][-1]
        return label["name"], label["dice"]["mean"]

    assert mean_of_last("--labels", "1=Leber,2=Milz") == ("Milz", pytest.approx(0.75))
    content = json.loads(listing.read_text())
    del content["labels"]
    listing.write_text(json.dumps(content))
    assert mean_of_last("--labels", "1=liver,2=spleen") == ("spleen", pytest.approx(0.75))
    code, _, err = run(capsys, out, listing)
    assert code == 2
    assert "annotated for 'spleen', but no label has a name; name them with --labels" in err
    content["training"][1]["annotated"] = [2]
    listing.write_text(json.dumps(content))
    assert mean_of_last() == ("2", pytest.approx(0.75))
    document = json.loads(run(capsys, out, listing, "--json")[1])
    assert document["n_partly_annotated"] == 1


def test_the_picture_of_a_partly_annotated_case_shows_what_is_scored(capsys, tmp_path, monkeypatch):
    """The liver that the model marks and nobody drew is in no picture."""
    drawn = []
    monkeypatch.setattr("volseg.report.evaluation_pictures.draw_disagreement", lambda found, truth, *rest: drawn.append((found, truth)) or [])
    out, listing = partly_annotated(tmp_path, ["spleen"])
    code, _, err = run(capsys, out, listing, "-o", tmp_path / "r.json")
    assert code == 0, err
    assert [sorted(np.unique(found)) for found, _ in drawn] == [[0, 1, 2], [0, 2]]
    assert "1 of the cases are annotated for some labels only" in (tmp_path / "r.html").read_text()
