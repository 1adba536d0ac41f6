"""Probabilities are MONAI's inverse, voxel by voxel, in memory and in a file; scores in a file give the same answer; the memory model holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from volseg.errors import BundleError, VolsegError, WriteError
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan
from volseg.inference.probability_store import ProbabilityStore
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
    store = ProbabilityStore(range(3), volume.grid.shape)
    run(PLAN, volume, Three(), classes=3, probabilities=store)
    np.testing.assert_allclose(np.stack(list(store.values())), expected, atol=2e-4)
    assert all(array.min() >= 0 and array.max() <= 1 for array in store.values())


def test_a_file_holds_them_in_steps_and_only_those_asked_for(volume, expected, tmp_path):
    store = ProbabilityStore([2, 1], volume.grid.shape, tmp_path)
    run(PLAN, volume, Three(), classes=3, probabilities=store)
    assert list(store) == [2, 1]
    for number, array in store.items():
        assert array.dtype == np.uint8
        # Half a step of 1/255, and what float32 positions differ by.
        np.testing.assert_allclose(array / 255, expected[number], atol=0.5 / 255 + 2e-4)
    # The file has no name.
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_begun_anew_overwrites_the_first(volume, expected):
    store = ProbabilityStore(range(3), volume.grid.shape)
    for axis in (0, 1):
        store.arrays(axis)[1][...] = 7
    run(PLAN, volume, Three(), classes=3, probabilities=store)
    np.testing.assert_allclose(store[1], expected[1], atol=2e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_any_axis_are_stretches_of_the_file(axis, tmp_path):
    arrays = ProbabilityStore([1, 3], (5, 6, 7), tmp_path).arrays(axis)
    assert {array.shape for array in arrays.values()} == {(5, 6, 7)}
    assert max(stride for n, stride in enumerate(arrays[1].strides) if n != axis) < arrays[1].strides[axis]
    assert not any(array.any() for array in arrays.values())


LOOKED_AT = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from volseg.inference.probability_store import ProbabilityStore
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
store = ProbabilityStore(range(16), (200, 200, 200), Path(sys.argv[1]))
ones = np.ones((200, 200, 200), dtype=np.float32)
before = peak()
for label in store:
    store.fill(label, ones)
assert all(array.min() == 255 for array in store.values())
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_what_is_no_longer_looked_at_leaves_memory(tmp_path):
    """Sixteen labels of 8 MB, 128 MB in all."""
    done = subprocess.run([sys.executable, "-c", LOOKED_AT, str(tmp_path)], capture_output=True, text=True, check=True)
    # A label's own 8 MB, what numpy compares it with, and the interpreter's slack.
    assert int(done.stdout) < 3 * 8e6 + 10e6


@pytest.mark.parametrize("in_file", [False, True])
def test_no_room_for_them_is_told(tmp_path, in_file):
    """A petabyte, which no machine here has."""
    with pytest.raises(WriteError, match=f"no room for {4e6 if not in_file else 1e6:.2f} GB".replace(".", r"\.")):
        ProbabilityStore([1], (100_000,) * 3, tmp_path if in_file else None).arrays(0)


def test_a_full_disk_is_told_before_the_network_runs(volume, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    class Never:
        batch = 1

        def __call__(self, windows):
            raise AssertionError("the network ran")

    monkeypatch.setattr("volseg.inference.probability_store.scratch_file", full)
    with pytest.raises(WriteError, match="No space left"):
        run(PLAN, volume, Never(), classes=3, probabilities=ProbabilityStore([1], volume.grid.shape, tmp_path))


def test_more_labels_than_channels_are_refused(volume):
    with pytest.raises(BundleError, match="gives 3 channels"):
        run(PLAN, volume, Three(), classes=4, probabilities=ProbabilityStore([1, 3], volume.grid.shape))


def test_a_threshold_of_one_channel_gives_label_one(volume):
    class One:
        batch = 2

        def __call__(self, windows):
            return windows

    plan = replace(PLAN, decision=Decision("sigmoid", threshold=0.5))
    store = ProbabilityStore([1], volume.grid.shape)
    label = run(plan, volume, One(), classes=2, probabilities=store)[0]
    assert 0 < label.mean() < 1
    assert ((store[1] >= 0.5) == (label == 1)).mean() > 0.999


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
    monkeypatch.setattr("volseg.inference.streaming.blending.scratch_file", none)
    monkeypatch.setattr("volseg.inference.streaming.blending.np.zeros", lambda shape, **kw: none() if len(shape) == 4 else real(shape, **kw))
    with pytest.raises(VolsegError, match="no room in"):
        Ring(3, (8, 8, 8), 0, weights, None, spill=spill)


MEASURED = """
import resource, sys
import numpy as np
from pathlib import Path
from volseg.geometry import Grid
from volseg.processors import usable_threads
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


KEPT = """
import sys
from time import perf_counter
import numpy as np
from pathlib import Path
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan
from volseg.inference.probability_cost import probability_memory
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.decision import Decision
from volseg.inference.workload import workload
from volseg.io.volume import Source, Volume
classes, kept = 24, int(sys.argv[2])
array = np.random.default_rng(0).integers(-1000, 1000, size=(160, 160, 96), dtype=np.int16)
volume = Volume(array, Grid(array.shape, np.eye(4)), Source(Path("x"), "nifti", "x"))
plan = InferencePlan("RAS", (2.0, 2.0, 2.0), "bilinear", (), (), SlidingWindow((32, 32, 32), (0.5,) * 3, "gaussian"), Decision())
buffer = np.ones((1, classes, 32, 32, 32), dtype=np.float32)
class Network:
    batch = 1
    def __call__(self, windows):
        for n in range(classes):
            np.multiply(windows[0, 0], np.sin(n + 1), out=buffer[0, n])
        return buffer
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
store = ProbabilityStore(range(kept), array.shape, Path(sys.argv[1])) if kept else None
before = peak()
seconds = run(plan, volume, Network(), classes=classes, probabilities=store)[2]
told = probability_memory(workload(plan, volume.grid, channels=1, classes=classes), store) if kept else 0
print(peak() - before, told, seconds.get("probabilities", 0) / max(kept, 1) / array.size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_for_probabilities_is_foretold_and_not_that_of_all_of_them(tmp_path):
    """24 labels of 2.5 MB on the scan's grid: 59 MB in bytes, 236 MB in floats."""
    (without, _, _), (used, told, _) = (
        [float(n) for n in subprocess.run([sys.executable, "-c", KEPT, str(tmp_path), str(kept)], capture_output=True, text=True, check=True).stdout.split()] for kept in (0, 24)
    )
    assert used - without < told + 5e6
    assert told < 24 * 160 * 160 * 96 / 2
