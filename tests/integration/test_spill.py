"""A run whose scores lie in a file, since ``--max-memory`` leaves no room for them: the same label, and nothing left of the file, however the run ends."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import WINDOW_HU, copy_bundle, edit_config
from volseg.cli import main
from volseg.inference.executors.torch_executor import TorchExecutor

resource = pytest.importorskip("resource", reason="needs POSIX limits of a file's size")

CLASSES = 120
PATCH = 40
OPTIONS = ("--device", "cpu", "--precision", "fp32", "--engine", "torch", "--no-preview", "--no-report", "-q")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A network of many classes and no arithmetic: each class is a line in the image's values, the highest of which changes along them."""
    folder = copy_bundle(tmp_path_factory.mktemp("bundles"), "many")
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": CLASSES, "kernel_size": 1}
    edit_config(folder, "inference", network_def=network, spacing=[2.0, 2.0, 2.0], patch_size=[PATCH] * 3, inferer__overlap=0.25)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"] |= {"num_channels": CLASSES, "channel_def": {str(n): f"class {n}" if n else "background" for n in range(CLASSES)}}
    metadata.pop("dicom_segments", None)
    path.write_text(json.dumps(metadata))
    # Tangents of a parabola: at value v (0 to 1) the highest is that of the class nearest to v * CLASSES.
    touch = torch.arange(CLASSES) / CLASSES
    torch.save({"weight": (2000 * touch).reshape(CLASSES, 1, 1, 1, 1), "bias": -1000 * touch**2}, folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A slope from the low to the high end of the intensity window: every class lies somewhere along it."""
    path = tmp_path_factory.mktemp("scans") / "slope.nii.gz"
    x, y, _ = np.ogrid[0:1:100j, 0:1:60j, 0:60]
    values = WINDOW_HU[0] + (WINDOW_HU[1] - WINDOW_HU[0]) * (0.9 * x + 0.1 * y) + np.zeros((1, 1, 60))
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    # What a test process holds besides is not what is asked about, and differs from run to run.
    monkeypatch.setattr("volseg.inference.forecaster.resident_bytes", lambda: 10**8)
    monkeypatch.setattr("volseg.inference.forecaster.coming_bytes", lambda: 0)
    return folder


def infer(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["infer", *map(str, arguments), *OPTIONS])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def mapped(folder: Path) -> list[str]:
    """Files of a folder, nameless ones too, that are mapped into this process."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


@pytest.fixture(name="limit")
def limit_fixture(capsys, bundle, scan, tmp_path):
    """Half way between what the run takes with all scores in memory and what it takes without them."""
    code, out, err = infer(capsys, scan, "-b", bundle, "--dry-run", "--json")
    assert code == 0, err
    forecast = json.loads(out)["results"][0]["forecast"]
    # A slab of all classes, one window thick; most of it is out of memory once it lies in a file.
    scores = CLASSES * PATCH * 60 * 60 * 4
    assert not forecast["spill"] and scores > 60e6
    return forecast["peak_memory_bytes"] - scores // 2


def test_the_label_is_that_of_a_run_in_memory(capsys, bundle, scan, tmp_path, temporary, limit, monkeypatch):
    seen = []
    run = TorchExecutor.__call__
    monkeypatch.setattr(TorchExecutor, "__call__", lambda self, windows: seen.append(len(mapped(temporary))) or run(self, windows))
    for name, more in (("plain", ()), ("spilled", ("--max-memory", limit))):
        seen.clear()
        code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / name, *more)
        assert code == 0, err
        assert max(seen) == (1 if name == "spilled" else 0)
        assert json.loads((tmp_path / name / "slope_seg.json").read_text())["forecast"]["spill"] is (name == "spilled")
    assert mapped(temporary) == [] and list(temporary.iterdir()) == []
    plain, spilled = (np.asarray(nib.load(tmp_path / name / "slope_seg.nii.gz").dataobj) for name in ("plain", "spilled"))
    assert np.array_equal(plain, spilled)
    assert len(np.unique(plain)) > CLASSES // 2


def test_nothing_is_left_after_an_interrupt(capsys, bundle, scan, tmp_path, temporary, limit, monkeypatch):
    seen = []
    run = TorchExecutor.__call__

    def interrupted(self, windows):
        if mapped(temporary):
            seen.append(mapped(temporary))
            raise KeyboardInterrupt
        return run(self, windows)

    monkeypatch.setattr(TorchExecutor, "__call__", interrupted)
    code, out, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out", "--max-memory", limit)
    assert (code, out, err.strip()) == (130, "", "volseg: error: stopped")
    assert len(seen) == 1
    assert mapped(temporary) == [] and list(temporary.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_for_the_scores_is_told(capsys, bundle, scan, tmp_path, temporary, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, hard))
    try:
        code, out, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out", "--max-memory", limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert f"no room in the temporary folder {temporary} for 0.07 GB of scores" in err and "free some" in err
    assert mapped(temporary) == [] and list(temporary.iterdir()) == []
    assert not (tmp_path / "out").exists()
