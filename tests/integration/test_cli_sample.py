"""``volseg sample`` as a person types it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result

from volseg.cli.main import main
from volseg.cli.sample import sample
from volseg.io import load

SMALL = ["--size", "40", "36", "12", "--spacing", "4", "4.5", "9"]


def run(*args: object) -> Result:
    return CliRunner().invoke(sample, [str(a) for a in args], catch_exceptions=False)


def exit_of(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Exit code and stderr of the whole program."""
    with pytest.raises(SystemExit) as stop:
        main(["sample", *(str(a) for a in args)])
    return int(stop.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(("kind", "stem"), [("ct", "sample_ct"), ("mri", "sample_mri")])
def test_a_sample_is_written_and_named(tmp_path: Path, kind: str, stem: str) -> None:
    out = tmp_path / "new" / "out"
    result = run(kind, out, "--seed", 4, "--oblique", 20, *SMALL)
    assert result.exit_code == 0
    for name in (f"{stem}.nii.gz", f"{stem}_label.nii.gz", f"{stem}_dicom"):
        assert str(out / name) in result.stdout
    assert "synthetic" in result.stdout.lower()
    # The default bundle is one for CT, so that no command is proposed for an MRI.
    assert (f"volseg infer {out / f'{stem}_dicom'} -o {tmp_path / 'new' / 'out_out'}" in result.stdout) == (kind == "ct")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


def test_both_forms_of_a_sample_load_as_the_same_volume(tmp_path: Path) -> None:
    assert run("ct", tmp_path / "out", "--oblique", -31, *SMALL).exit_code == 0
    series, nifti = load(tmp_path / "out" / "sample_ct_dicom"), load(tmp_path / "out" / "sample_ct.nii.gz")
    assert np.array_equal(series.array, nifti.array)
    assert series.grid.isclose(nifti.grid)
    # The asked geometry, and a stack that no longer lies in the patient's planes.
    assert series.grid.shape == (40, 36, 12)
    assert series.grid.spacing == pytest.approx((4, 4.5, 9))
    assert np.abs(series.grid.direction).max() < 0.99
    assert (series.source.modality, series.source.name) == ("CT", "sample_ct_dicom")


def test_json_is_one_document(tmp_path: Path) -> None:
    result = run("ct", tmp_path / "out", "--json", "--seed", 2, *SMALL)
    document = json.loads(result.stdout)
    assert document["synthetic"] is True
    assert document["seed"] == 2
    assert document["labels"]["1"]["name"] == "tumor"
    assert nibabel.load(document["files"]["image"]).shape == (40, 36, 12)
    saved = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert saved["note"] == "synthetic, not a patient"
    assert saved["labels"] == document["labels"]


def test_quiet_prints_nothing_and_verbose_more(tmp_path: Path) -> None:
    assert run("ct", tmp_path / "a", "-q", *SMALL).output == ""
    assert "noise_hu" in run("ct", tmp_path / "b", "-v", *SMALL).stderr


def test_cases_make_a_dataset(tmp_path: Path) -> None:
    result = run("ct", tmp_path / "set", "--cases", 3, "--seed", 5, *SMALL)
    assert result.exit_code == 0
    assert "drawing 3/3" in result.stderr
    assert f"--data {tmp_path / 'set'}" in result.stdout
    listing = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert [Path(item["image"]).name for item in listing["training"]] == [f"synthetic_{n:04d}.nii.gz" for n in (5, 6, 7)]
    assert all(nibabel.load(tmp_path / "set" / item["label"]).shape == (40, 36, 12) for item in listing["training"])


def test_only_our_own_samples_are_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "scan.txt").write_text("keep")
    assert exit_of(capsys, "ct", out, "-q", *SMALL) == (0, "")
    code, message = exit_of(capsys, "ct", out, "--seed", 1, *SMALL)
    assert (code, message.count("\n")) == (2, 1)
    assert "not empty" in message
    assert "--overwrite" in message
    code, _ = exit_of(capsys, "ct", out, "--seed", 1, "--overwrite", "-q", *SMALL)
    assert code == 0
    headers = [pydicom.dcmread(f) for f in (out / "sample_ct_dicom").iterdir()]
    assert {str(h.PatientID) for h in headers} == {"SYNTHETIC-1"}
    assert len(headers) == 12
    code, message = exit_of(capsys, "ct", mine, "--overwrite", *SMALL)
    assert code == 2
    assert "no earlier sample" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]
    assert [p.name for p in mine.iterdir()] == ["scan.txt"]


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["xray", "OUT"], "xray"),
        (["ct"], "OUT_DIR"),
        (["ct", "OUT", "--size", "2", "40", "40"], "8 voxels"),
        (["ct", "OUT", "--spacing", "0", "1", "1"], "spacing"),
        (["mri", "OUT", "--oblique", "100"], "100"),
        (["ct", "OUT", "--cases", "0"], "--cases"),
        (["ct", "OUT", "--seed", "-1"], "--seed"),
        (["ct", "OUT/../file/below", *SMALL], "file"),
    ],
)
def test_bad_usage_is_exit_2_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], names: str) -> None:
    (tmp_path / "OUT").mkdir()
    (tmp_path / "file").write_text("a file where a folder should be")
    code, message = exit_of(capsys, *[a.replace("OUT", str(tmp_path / "OUT"), 1) if a != "--oblique" else a for a in args])
    assert code == 2
    assert names in message
    assert "Traceback" not in message
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["OUT", "file"]


def test_help_is_quick_to_load() -> None:
    code = "import sys\nfrom click.testing import CliRunner\nfrom volseg.cli.sample import sample\nassert 'Examples:' in CliRunner().invoke(sample, ['--help']).output\n"
    code += "print([m for m in ('torch', 'monai', 'scipy', 'nibabel', 'pydicom', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_example_of_the_help_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^\s+volseg sample (.+)$", run("--help").output, re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        assert run(*shlex.split(example)).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample_ct", "sample_mri", "sample_small", "synthetic_set"]
