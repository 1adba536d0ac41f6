"""A DICOM series and its conversion by dcm2niix are the same scan: the same grid, and the same segmentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bundle_factory import dice
from volseg.cli import main
from volseg.geometry import reorient
from volseg.io import load


def segment(scan: Path, out: Path) -> Path:
    with pytest.raises(SystemExit) as ended:
        main(["infer", str(scan), "-b", "ct_tumor", "-o", str(out), "--device", "cpu", "--no-preview", "-q"])
    assert ended.value.code in (0, None)
    (report,) = out.glob("*_seg.json")
    assert json.loads(report.read_text())["engine"]["precision"] in ("fp32", "bf16")
    (label,) = out.glob("*_seg.nii.gz")
    return label


def test_series_and_its_conversion_give_the_same_label(real_data, tmp_path):
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    series = real_data / "dicom" / "sts" / "STS_001" / "CT" / "image"
    (tmp_path / "nifti").mkdir()
    done = subprocess.run([sys.executable, "-m", "dcm2niix", "-z", "y", "-b", "n", "-f", "scan", "-o", str(tmp_path / "nifti"), str(series)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (converted,) = (tmp_path / "nifti").glob("*.nii.gz")
    from_series, from_nifti = load(segment(series, tmp_path / "a")), load(segment(converted, tmp_path / "b"))
    oracle = load(converted).grid
    label, grid = reorient(from_series.array, from_series.grid, "RAS")
    other, other_grid = reorient(from_nifti.array, from_nifti.grid, "RAS")
    assert np.allclose(grid.affine, oracle.reoriented("RAS").affine, atol=1e-3)
    # dcm2niix rounds the slice spacing to about 2e-5 mm, which adds up over the stack.
    assert grid.distance(other_grid) < 0.01
    assert label.any()
    assert dice(label == 1, other == 1) >= 0.999
