"""int8: which windows it is calibrated on and checked with, and that it is refused where it changes the labels."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundle_factory import edit_config, threshold_bundle
from volseg.bundle import read_bundle
from volseg.errors import DeviceError
from volseg.inference.executors.compiled import MANIFEST
from volseg.inference.executors.conversion.int8 import LEAST_DICE, MOST_WINDOWS, check_labels, choose_windows, dice_per_label, masks, read_agreement, split
from volseg.inference.executors.converted import score_threshold
from volseg.inference.network import Network, NetworkSettings

needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed (pip install 'volseg[int8]')")

PATCH = 16
THRESHOLD = 0.55
"""Of the threshold bundle's network on normalised values: (60 + 160) / (240 + 160)."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# Windows


def test_windows_lie_side_by_side_and_are_not_constant():
    image = np.zeros((1, 20, 40, 30), np.float32)
    image[0, :, :20] = np.arange(20 * 20 * 30).reshape(20, 20, 30) + 1
    windows = choose_windows(image, (10, 10, 15))
    # Half of the image is constant: 2 x 2 x 2 windows are left, of different voxels each.
    assert len(windows) == 8
    assert {window.shape for window in windows} == {(1, 1, 10, 10, 15)}
    values = np.concatenate([window.ravel() for window in windows])
    assert len(np.unique(values)) == len(values) == 8 * 10 * 10 * 15


def test_windows_are_chosen_evenly():
    image = np.arange(4.0 * 4 * 4 * 100, dtype=np.float32).reshape(1, 4, 4, 400)
    windows = choose_windows(image, (4, 4, 4))
    starts = [int(window[0, 0, 0, 0, 0]) // 4 for window in windows]
    assert len(windows) == MOST_WINDOWS
    assert (starts[0], starts[-1]) == (0, 99)
    assert np.ptp(np.diff(starts)) <= 1


def test_scan_smaller_than_a_window_is_padded():
    (window,) = choose_windows(np.ones((2, 3, 4, 5), np.float32), (5, 4, 8), cval=-1.0)
    assert window.shape == (1, 2, 5, 4, 8)
    assert window.sum() == 2 * (3 * 4 * 5 - (5 * 4 * 8 - 3 * 4 * 5))


def test_windows_with_labels_are_shared_out():
    labelled = [0, 7, 8, 3, 11, 5]
    labels = [np.full((1, 2, 2, 2), n in labelled) for n in range(12)]
    learnt, held = split([np.zeros(1)] * 12, labels)
    assert sorted(learnt + held) == list(range(12))
    assert len(held) == 4
    assert len(set(held) & set(labelled)) == 2


# Labels


def test_masks_of_scores():
    scores = np.array([[0.0, 3, 1], [1, 2, 5], [2, 1, 0]], np.float32).reshape(1, 3, 3, 1, 1)
    assert masks(scores, None)[:, :, 0, 0].tolist() == [[False, False, True], [True, False, False]]
    assert masks(scores[:, 1:2], 1.5)[:, :, 0, 0].tolist() == [[False, True, True]]


def test_dice_over_all_windows_together():
    empty, one = np.zeros((2, 4, 1, 1), bool), np.zeros((2, 4, 1, 1), bool)
    one[0, :2] = True
    other = one.copy()
    other[0, 2] = True
    # 2 * (2 + 2) / ((2 + 2) + (2 + 3)); the second label is nowhere.
    assert dice_per_label([one, one], [one, other]) == {"1": pytest.approx(8 / 9)}
    assert dice_per_label([one], [empty]) == {"1": 0.0}


class Saying:
    """An executor with one answer for every window."""

    def __init__(self, scores):
        self.batch, self.scores = 1, scores

    def __call__(self, windows):
        return self.scores


def test_labels_that_change_are_refused_with_the_number():
    expected = np.zeros((1, 1000, 1, 1), bool)
    expected[0, :500] = True
    scores = np.zeros((1, 2, 1000, 1, 1), np.float32)
    scores[0, 1, :511] = 1
    scores[0, 0, 511:] = 1
    # 2 * 500 / (500 + 511) is below 0.99, and 2 * 500 / (500 + 510) is above.
    with pytest.raises(DeviceError, match=r"int8 is not offered.* in 1 windows of scan\.nii label 1 agrees with fp32 at Dice 0\.9891, below 0\.99"):
        check_labels(Saying(scores), [np.zeros(1)], [expected], None, "scan.nii", 5)
    scores[0, :, 510, 0, 0] = (1, 0)
    told = check_labels(Saying(scores), [np.zeros(1)], [expected], None, "scan.nii", 5)
    assert told.worst == ("1", pytest.approx(1000 / 1010))
    assert (told.calibrated_on, told.checked_on) == (5, 1)


def test_nothing_to_compare_is_no_agreement():
    empty = np.zeros((1, 1, 4, 4, 4), np.float32)
    with pytest.raises(DeviceError, match=r"scan\.nii: no label is found in the 1 windows"):
        check_labels(Saying(np.concatenate([empty + 1, empty], axis=1)), [empty], [np.zeros((1, 4, 4, 4), bool)], None, "scan.nii", 2)


@pytest.mark.parametrize(
    ("activation", "threshold", "score"), [("sigmoid", 0.5, 0.0), ("sigmoid", 0.9, np.log(9)), ("softmax", None, None), ("none", 0.3, 0.3), ("sigmoid", 1.0, np.inf)]
)
def test_threshold_of_scores(activation, threshold, score):
    assert score_threshold(activation, threshold) == (score if score is None else pytest.approx(score))


# Calibration


def threshold_network(tmp_path) -> Network:
    """A voxel has the label where it is above ``THRESHOLD``, whatever is around it."""
    bundle = read_bundle(threshold_bundle(tmp_path, patch=PATCH))
    return Network(bundle, bundle.weights, False, (PATCH, PATCH, PATCH), NetworkSettings("auto", "cpu", "int8"))


def two_levels() -> np.ndarray:
    """A ball of 0.9 in 0.1, far from the threshold on either side."""
    at = np.stack(np.meshgrid(*[np.arange(2 * PATCH) - PATCH + 0.5] * 3, indexing="ij"))
    return np.where(np.linalg.norm(at, axis=0) < 0.8 * PATCH, 0.9, 0.1).astype(np.float32)[None]


@needs_nncf
def test_calibrated_network_is_kept_and_found_again(tmp_path, monkeypatch):
    first = threshold_network(tmp_path / "first")
    assert first.needs_calibration
    with pytest.raises(DeviceError, match="needs a calibration"):
        first.executor(8)
    first.calibrate(two_levels(), "scan.nii")
    assert not first.needs_calibration
    assert "calibrated on 5 windows of one scan; on 3 others" in first.notes[0]
    again = threshold_network(tmp_path / "again")
    monkeypatch.setattr("volseg.inference.network.can_calibrate", lambda: False)
    assert not again.needs_calibration
    assert again.from_cache
    assert again.notes == first.notes
    window = np.ascontiguousarray(two_levels()[None, :, :PATCH, :PATCH, :PATCH])
    found = masks(again.executor(8)(window), None)
    assert np.array_equal(found[0], window[0, 0] > THRESHOLD)
    assert again.describe("openvino")["precision"] == "int8"


def test_calibration_is_of_one_normalisation(tmp_path, monkeypatch):
    """With other intensities the same network needs other ranges; in floating point it stays what it is."""
    asked: list[dict] = []
    monkeypatch.setattr("volseg.inference.executors.converted.find_converted", lambda facts, name: asked.append(dict(facts)))
    folder = threshold_bundle(tmp_path, patch=PATCH)
    for precision in ("int8", "fp32"):
        for steepest in (240, 3000):
            chain = json.loads((folder / "configs" / "inference.json").read_text())["preprocessing"]
            scaling = next(step for step in chain["transforms"] if step["_target_"] == "ScaleIntensityRanged")
            scaling["a_max"] = steepest
            edit_config(folder, "inference", preprocessing=chain)
            bundle = read_bundle(folder)
            network = Network(bundle, bundle.weights, False, (PATCH, PATCH, PATCH), NetworkSettings("openvino", "cpu", precision))
            assert network.needs_calibration == (precision == "int8")
    assert asked[0] != asked[1]
    assert asked[2] == asked[3]


@needs_nncf
def test_network_whose_labels_hang_on_small_differences_is_refused(tmp_path, cache):
    """Values within 0.002 of the threshold, with two that span 0 to 1: steps of 8 bits, 1/255, are coarser than what decides."""
    network = threshold_network(tmp_path)
    image = (THRESHOLD + np.random.default_rng(0).uniform(-0.002, 0.002, (1, *[2 * PATCH] * 3))).astype(np.float32)
    image[:, ::PATCH, ::PATCH, ::PATCH], image[:, 1::PATCH, ::PATCH, ::PATCH] = 0, 1
    with pytest.raises(DeviceError, match=rf"--precision int8 is not offered .* at Dice 0\.\d+, below {LEAST_DICE}") as raised:
        network.calibrate(image, "scan.nii")
    assert "\n" not in str(raised.value)
    # The network in fp32 that it was made of is kept, nothing of the refused one.
    kept = list((cache / "networks").iterdir())
    assert len(kept) == 1
    assert "precision" not in json.loads((kept[0] / MANIFEST).read_text())["facts"]
    assert network.needs_calibration


@needs_nncf
def test_too_few_windows_are_told(tmp_path):
    with pytest.raises(DeviceError, match=r"scan\.nii: int8 is calibrated on some windows .* this one has 1 that are not empty"):
        threshold_network(tmp_path).calibrate(two_levels()[:, :PATCH, :PATCH, :PATCH], "scan.nii")


def test_missing_nncf(tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.inference.network.can_calibrate", lambda: False)
    with pytest.raises(DeviceError, match=r"--precision int8: calibrating needs NNCF.*pip install 'volseg\[int8\]'"):
        threshold_network(tmp_path).calibrate(two_levels(), "scan.nii")


def test_int8_without_openvino(tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.inference.executors.openvino_executor.is_installed", lambda: False)
    with pytest.raises(DeviceError, match="--precision int8: OpenVINO is not installed"):
        threshold_network(tmp_path)


@needs_nncf
def test_nothing_is_sent_and_nothing_is_kept_to_be_sent(tmp_path):
    """NNCF reports to its makers by OpenVINO's package for that, which must not even be loaded; under pytest it would not report, hence the process."""
    code = """
import socket, sys
def refuse(*_):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np, torch
from volseg.inference.executors.conversion.int8 import calibrate
from volseg.inference.executors.conversion.openvino import convert
network = torch.nn.Conv3d(1, 2, 1).eval()
network.weight.data[:], network.bias.data[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), torch.tensor([0.0, -0.5])
model = convert({"test": "fp32"}, lambda: network, 1, (8, 8, 8))
windows = [np.full((1, 1, 8, 8, 8), n % 2, np.float32) for n in range(6)]
calibrate({"test": "int8"}, model, windows, "scan", threshold=None, precision="fp32", threads=1)
assert not [name for name in sys.modules if name.partition(".")[0] == "openvino_telemetry"]
"""
    environment = {**os.environ, "HOME": str(tmp_path), "VOLSEG_CACHE": str(tmp_path / "cache")}
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_record_that_is_damaged_is_no_record(tmp_path):
    assert read_agreement(tmp_path / "network.xml") is None
    (tmp_path / "calibration.json").write_text('{"calibrated_on": 3}')
    assert read_agreement(tmp_path / "network.xml") is None


def test_weights_hold(tmp_path):
    """The bundle's own numbers behind ``THRESHOLD``."""
    state = torch.load(read_bundle(threshold_bundle(tmp_path, patch=PATCH)).weights, weights_only=True)
    assert float(-state["bias"][1] / state["weight"][1]) == pytest.approx(THRESHOLD)
