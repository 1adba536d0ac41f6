"""Probabilities are MONAI's inverse, voxel by voxel; files of them are readable by others; scores in a file give the same answer; the memory model holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from volseg.errors import VolsegError, WriteError
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan
from volseg.inference.probability_files import probability_files
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.blending import Ring
from volseg.inference.streaming.restore import Decision
from volseg.io.volume import Source, Volume

PLAN = InferencePlan("RAS", (1.5, 1.5, 1.5), "bilinear", (), (), SlidingWindow((16, 16, 16), (0.5,) * 3, "gaussian"), Decision())


class Three:
    batch = 2

    def __call__(self, windows):
        x = windows[:, 0]
        return np.stack([x, 1 - x, np.sin(3 * x)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def volume():
    array = np.random.default_rng(5).normal(size=(20, 33, 14)).astype(np.float32)
    affine = np.array([[-1.1, 0, 0, 5], [0, 0, 2.2, -7], [0, 0.8, 0, 11], [0, 0, 0, 1.0]])
    return Volume(array, Grid(array.shape, affine), Source(Path("scan.nii"), "nifti", "scan"))


@pytest.fixture(scope="module")
def expected(volume):
    chain = Compose([Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))), Spacingd(keys="image", pixdim=PLAN.spacing, mode="bilinear")])
    data = chain({"image": MetaTensor(torch.from_numpy(volume.array)[None], affine=torch.from_numpy(volume.grid.affine.copy()))})
    network = Three()
    scores = sliding_window_inference(data["image"].as_tensor()[None], (16, 16, 16), 2, lambda x: torch.from_numpy(network(x.numpy())), overlap=0.5, mode="gaussian")
    data["pred"] = MetaTensor(torch.softmax(scores[0], 0), meta=dict(data["image"].meta))
    return Invertd(keys="pred", transform=chain, orig_keys="image", nearest_interp=False)(data)["pred"].numpy()


def test_probabilities_are_monais(volume, expected):
    arrays = {n: np.zeros(volume.grid.shape, dtype=np.float32) for n in range(3)}
    run(PLAN, volume, Three(), classes=3, probabilities=arrays)
    np.testing.assert_allclose(np.stack(list(arrays.values())), expected, atol=2e-4)


def test_files_are_read_by_nibabel_and_simpleitk(volume, expected, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    paths = {1: tmp_path / "a_1.nii", 2: tmp_path / "a_2.nii"}
    with probability_files(paths, volume.grid) as arrays:
        run(PLAN, volume, Three(), classes=3, probabilities=arrays)
        assert not paths[1].exists()
    for number, path in paths.items():
        image = nib.load(path)
        np.testing.assert_allclose(image.affine, volume.grid.affine, atol=1e-6)
        # Half a step of 1/255, and what float32 positions differ by.
        np.testing.assert_allclose(image.get_fdata(), expected[number], atol=0.5 / 255 + 2e-4)
        np.testing.assert_allclose(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, image.get_fdata(), atol=1e-6)
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_no_file_is_left_by_a_run_that_fails(volume, tmp_path):
    def fails():
        with probability_files({1: tmp_path / "a.nii"}, volume.grid, "float32"):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_the_network_runs(volume, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("volseg.inference.probability_files._reserve", full)
    with pytest.raises(WriteError, match="no space left"), probability_files({1: tmp_path / "a.nii"}, volume.grid):
        pass
    assert list(tmp_path.iterdir()) == []


def test_scores_in_a_file_give_the_same_label(volume):
    in_memory, on_disk = (run(PLAN, volume, Three(), classes=3, spill=spill)[0] for spill in (False, True))
    assert np.array_equal(in_memory, on_disk)
    assert len(np.unique(on_disk)) == 3


@pytest.mark.parametrize("spill", [False, True])
def test_no_room_for_the_scores_is_told(monkeypatch, spill):
    def none(*_, **__):
        raise OSError(28, "No space left on device") if spill else MemoryError("none left")

    weights = np.ones((4, 4, 4), dtype=np.float32)
    real = np.zeros
    monkeypatch.setattr("volseg.inference.streaming.blending._spill_file", none)
    monkeypatch.setattr("volseg.inference.streaming.blending.np.zeros", lambda shape, **kw: none() if len(shape) == 4 else real(shape, **kw))
    with pytest.raises(VolsegError, match="no room in"):
        Ring(3, (8, 8, 8), 0, weights, None, spill=spill)


MEASURED = """
import resource, sys
import numpy as np
from pathlib import Path
from volseg.geometry import Grid
from volseg.inference.device import usable_threads
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.memory import engine_memory
from volseg.inference.streaming.restore import Decision
from volseg.io.volume import Source, Volume
classes, spill = int(sys.argv[1]), sys.argv[2] == "True"
array = np.random.default_rng(0).integers(-1000, 1000, size=(96, 96, 160), dtype=np.int16)
volume = Volume(array, Grid(array.shape, np.eye(4)), Source(Path("x"), "nifti", "x"))
window = SlidingWindow((48, 48, 48), (0.5,) * 3, "gaussian")
plan = InferencePlan("RAS", (1.0, 1.0, 0.9), "bilinear", (), (), window, Decision())
buffer = np.ones((1, classes, 48, 48, 48), dtype=np.float32)
class Network:
    batch = 1
    def __call__(self, windows):
        for n in range(classes):
            np.multiply(windows[0, 0], np.sin(n + 1), out=buffer[0, n])
        return buffer
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
run(plan, volume, Network(), classes=classes, spill=spill)
told = engine_memory(window, array.shape, (96, 96, 178), channels=1, classes=classes, batch=1, threads=usable_threads(), spill=spill)
print(peak() - before, told)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("classes", "spill"), [(4, False), (40, False), (40, True)])
def test_memory_stays_below_the_model_and_the_model_is_no_guess(classes, spill):
    done = subprocess.run([sys.executable, "-c", MEASURED, str(classes), str(spill)], capture_output=True, text=True, check=True)
    used, told = (int(n) for n in done.stdout.split())
    # The network's own buffer was there before; threads' stacks and the allocator take some megabytes.
    assert used < told + 12e6
    assert spill or used > told / 4
    print(classes, spill, used, told)
