"""The script that compares the engine with stock MONAI voxel by voxel finds no difference that is more than a near tie, and finds one that is put there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundle_factory import tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import near_ties


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("ties"), weights=True)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    array = np.kron(np.random.default_rng(5).normal(40, 160, (11, 10, 9)), np.ones((4, 4, 4))).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([-3.0, -3.0, 4.0, 1.0])), path)
    return path


def test_the_engine_differs_in_near_ties_only(bundle, scan, tmp_path, capsys):
    assert near_ties.main([str(bundle), str(scan), "--engine", "torch", "-o", str(tmp_path / "ties.json")]) == 0
    found = json.loads((tmp_path / "ties.json").read_text())
    assert found["engine"] == "torch"
    assert found["voxels"] == 44 * 40 * 36
    assert found["labels_in_monai"] == [0, 1]
    assert found["differing_share"] <= 1e-4
    assert "0 are no near ties" in capsys.readouterr().out


def test_its_label_and_scores_are_monais(bundle, scan):
    from volseg.inference import Segmenter

    stock = Segmenter(bundle, engine="monai", precision="fp32", device="cpu").segment(scan, probabilities=True)
    label, best, rival = near_ties.monai_label(bundle, scan, 1 - stock.label)
    assert (label == stock.label).all()
    np.testing.assert_allclose(best + rival, 1, atol=1e-4)
    np.testing.assert_allclose(np.where(label == 1, best, rival), stock.probabilities[1], atol=1e-4)


def test_a_real_difference_is_found():
    theirs = np.zeros((4, 4, 4), dtype=np.uint8)
    ours = theirs.copy()
    ours[1, 2, 3] = ours[0, 0, 0] = 2
    best, rival = np.full((4, 4, 4), 0.5, dtype=np.float32), np.full((4, 4, 4), 0.49995, dtype=np.float32)
    rival[1, 2, 3] = 0.25
    found = near_ties.compare(ours, theirs, best, rival)
    assert (found["differing"], found["not_near_ties"]) == (2, 1)
    assert found["worst"][0] == {"voxel": [1, 2, 3], "gap": 0.25, "ours": 2, "monai": 0}
    assert found["differing_share"] == 2 / 64
