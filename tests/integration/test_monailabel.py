"""The bundle in the real MONAI Label server: listed, asked for a label, trained for an epoch; and its label is the one ``volseg infer`` gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.environ.get("VOLSEG_MONAILABEL") != "1",
        reason="builds a MONAI Label environment of several GB and starts its server; set VOLSEG_MONAILABEL=1 to run it (VOLSEG_MONAILABEL_ENV: where the environment is)",
    ),
]

CASES = ("STS_042", "STS_019")
"""The two smallest scans."""

LEAST_DICE = 0.99
"""The two resample and blend with different code; only voxels at the edge may differ."""


def weights(folder: Path) -> Path:
    """The bundle's own weights, or random ones until it has some."""
    shipped = REPOSITORY / "bundles" / "ct_tumor" / "models" / "model.pt"
    if shipped.is_file():
        return shipped
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(REPOSITORY / "bundles" / "ct_tumor" / "configs" / "inference.json"))
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    return folder / "model.pt"


@cache
def serve(data: Path) -> dict[str, Any]:
    """What docker/monailabel/run.sh reports; run once for all tests, whatever comes of it."""
    pairs = [(data / "sts" / "imagesTr" / f"{case}_CT.nii.gz", data / "sts" / "labelsTr" / f"{case}.nii.gz") for case in CASES]
    folder = Path(tempfile.mkdtemp(prefix="volseg-monailabel-"))
    command = [str(REPOSITORY / "docker" / "monailabel" / "run.sh"), "--bundle", str(REPOSITORY / "bundles" / "ct_tumor"), "--weights", str(weights(folder))]
    command += ["--scan", str(pairs[0][0]), "-o", str(folder)]
    for image, label in pairs:
        command += ["--train", f"{image}={label}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    summary: dict[str, Any] = json.loads(done.stdout)
    return {**summary, "scan": str(pairs[0][0]), "code": done.returncode}


@pytest.fixture(name="served")
def served_fixture(real_data: Path) -> dict[str, Any]:
    return serve(real_data)


def test_everything_asked_for_worked(served: dict[str, Any]) -> None:
    assert (served["ok"], served["code"]) == (True, 0), served


def test_info_lists_the_bundle_with_its_label(served: dict[str, Any]) -> None:
    assert served["info"]["labels"] == {"tumor": 1}
    assert "ct_tumor" in served["info"]["trainers"]


def test_infer_gives_a_label_on_the_scans_grid(served: dict[str, Any]) -> None:
    assert served["infer"]["status"] == 200
    assert served["infer"]["same_grid"] is True


def test_training_ends(served: dict[str, Any]) -> None:
    assert served["train"]["status"] == "DONE"
    assert served["train"]["scans"] == len(CASES)


def test_label_agrees_with_volseg_infer(served: dict[str, Any], tmp_path: Path) -> None:
    import nibabel

    bundle = tmp_path / "ct_tumor"
    shutil.copytree(REPOSITORY / "bundles" / "ct_tumor", bundle, ignore=shutil.ignore_patterns("*.pt", "eval"))
    (bundle / "models").mkdir(exist_ok=True)
    shutil.copy(weights(tmp_path), bundle / "models" / "model.pt")
    call = [sys.executable, "-c", "from volseg.cli import main; main()", "infer", served["scan"], "-b", str(bundle), "-o", str(tmp_path / "out"), "--device", "cpu", "-q"]
    subprocess.run(call, check=True)
    ours = np.asanyarray(nibabel.load(next((tmp_path / "out").glob("*_seg.nii.gz"))).dataobj) > 0
    theirs = np.asanyarray(nibabel.load(served["infer"]["label"]).dataobj) > 0
    assert ours.any()
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= LEAST_DICE
