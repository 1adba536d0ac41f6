from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.inference.calibration import Calibration, calibrate, load_calibration, machine_facts, store_calibration
from volseg.inference.engine import prepare
from volseg.inference.forecast import Forecast, fit, forecast, measuring_memory, memory_model
from volseg.inference.memory import PeakMeter, format_bytes, parse_bytes, resident_bytes
from volseg.inference.plan import InferencePlan
from volseg.inference.streaming import SlidingWindow, stream
from volseg.inference.streaming.restore import Decision
from volseg.inference.streaming.sliding import Tally, slab_axis
from volseg.inference.workload import Workload, count_repeated, expected_seconds, workload
from volseg.io.volume import Source, Volume
from volseg.provenance import peak_memory_bytes

FACTS = {"weights_sha256": "0" * 64, "roi": [8, 8, 8], "batch": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Slow:
    """An executor of known cost: seconds for each call, bytes while it lasts."""

    def __init__(self, seconds: float, amount: int, batch: int = 1) -> None:
        self.seconds, self.amount, self.batch = seconds, amount, batch
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, windows):
        self.seen.append(windows.shape)
        space = np.ones(self.amount, dtype=np.uint8)
        time.sleep(self.seconds)
        return np.zeros((len(windows), 2, *windows.shape[2:]), np.float32) + space[0]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4G", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("4GB", 4 * 10**9),
        ("4Gi", 4 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("800M", 8 * 10**8),
        ("900000K", 9 * 10**8),
        ("2Ti", 2**41),
        ("12345678", 12345678),
    ],
)
def test_amounts_of_memory(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "G", "-4G", "4X", "four", "4G4", "nan", "inf", "1e9", "4,5G", "0", "0G", "4", "4K", "9M"])
def test_nonsense_is_refused_with_a_remedy(text):
    with pytest.raises(InputError, match=r"--max-memory .*(e\.g\.) "):
        parse_bytes(text)


def test_an_amount_is_written_as_it_is_read():
    assert format_bytes(2_100_000_000) == "2.1 GB"
    assert parse_bytes(format_bytes(2_100_000_000)) == 2_100_000_000
    assert format_bytes(64_000_000) == "64 MB"


def test_the_meter_sees_memory_that_is_gone_again():
    with PeakMeter() as meter:
        space = np.ones(150_000_000, dtype=np.uint8)
        time.sleep(0.05)
        del space
    assert 140e6 < meter.rise < 200e6
    assert resident_bytes() > 10e6


COMING = """
from volseg.inference.memory import coming_bytes, resident_bytes
import numpy, nibabel
before, told = resident_bytes(), coming_bytes()
from volseg.cli.job import Job
from volseg.cli.results import import_writers
from pathlib import Path
import_writers(Job(Path("scan.nii.gz"), "scan", Path("."), ("nifti",)))
import volseg.evaluation.regions.statistics, volseg.report
print(told, resident_bytes() - before, coming_bytes())
"""


def test_libraries_still_to_come_take_about_what_is_said():
    done = subprocess.run([sys.executable, "-c", COMING], capture_output=True, text=True, check=True)
    told, took, left = map(int, done.stdout.split())
    assert left == 0
    assert told / 2 < took < 1.25 * told


def test_calibration_is_of_one_window_of_a_batch():
    executor = Slow(0.1, 100_000_000, batch=2)
    found = calibrate(executor, (3, 8, 9, 10))
    assert executor.seen == [(2, 3, 8, 9, 10)] * 2
    assert 0.05 <= found.seconds_per_window < 0.15
    assert 90e6 < found.network_bytes < 150e6


def test_a_calibration_is_kept():
    assert load_calibration(FACTS) is None
    kept = Calibration(0.5, 123, {"restore": 1.5})
    store_calibration(FACTS, kept)
    assert load_calibration(FACTS) == kept


@pytest.mark.parametrize("change", [{"batch": 1}, {"roi": (8, 8, 9)}, {"weights_sha256": "1" * 64}, {"versions": {"torch": "0"}}])
def test_a_calibration_is_of_its_facts_only(change):
    store_calibration(FACTS, Calibration(0.5, 123))
    assert load_calibration({**FACTS, **change}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:20],
        lambda _: "[]",
        lambda _: "null",
        lambda text: text.replace("0.5", "-1"),
        lambda text: text.replace("0.5", "NaN"),
        lambda text: text.replace("0000", "0001"),
    ],
)
def test_a_damaged_calibration_is_none(cache, damage):
    store_calibration(FACTS, Calibration(0.5, 123))
    (file,) = (cache / "calibrations").iterdir()
    file.write_text(damage(file.read_text()))
    assert load_calibration(FACTS) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "file"))
    store_calibration(FACTS, Calibration(0.5, 123))
    assert load_calibration(FACTS) is None


def test_the_machine_is_named():
    facts = machine_facts()
    assert facts["processor"] and facts["processors"] >= 1 and "numpy" in facts["versions"]
    assert json.loads(json.dumps(facts)) == facts


def test_a_run_sharpens_the_calibration():
    start = Calibration(9.0, 7, {"read": 1.0, "restore": 1.0})
    expected = {"read": 5.0, "preprocess": 4.0, "restore": 10.0, "write": 1.0}
    after = start.after_run(100, {"network": 50.0, "restore": 20.0, "preprocess": 1.0, "load": 5.0}, expected)
    assert after == Calibration(0.5, 7, {"read": 1.0, "restore": 2.0, "preprocess": 0.25})
    assert start.after_run(2, {"network": 50.0}, expected).seconds_per_window == 9.0


def plan(roi=(16, 16, 16), spacing=(2.0, 2.0, 2.0), orientation="RAS", overlap=0.5) -> InferencePlan:
    return InferencePlan(orientation, spacing, "bilinear", (), (), SlidingWindow(roi, (overlap,) * 3, "gaussian"), Decision())


def scan(shape, spacing, directions) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    return Volume(np.zeros(shape, np.int16), Grid(shape, affine), Source(Path("x"), "nifti", "x"))


SAGITTAL = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]])


@pytest.mark.parametrize("directions", [np.eye(3), np.diag([-1, -1, 1]), SAGITTAL])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.5, 3.0), None])
def test_shapes_are_those_of_the_engine(directions, spacing):
    volume = scan((41, 30, 23), (0.9, 1.1, 4.0), directions)
    asked = plan(spacing=spacing)
    found, made = workload(asked, volume.grid, channels=1, classes=2), prepare(asked, volume)
    assert (found.scan_shape, found.network_shape) == (made.oriented.shape, made.grid.shape)


def test_no_workload_for_a_sheared_grid():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 1] = 0.1
    assert workload(plan(), Grid((10, 10, 10), affine), channels=1, classes=2) is None


@pytest.mark.parametrize("seed", range(4))
def test_repeated_windows_are_those_the_engine_repeats(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((1, 40, 33, 50), np.float32)
    image[:, :, :, 30:] = 1
    at = rng.integers(0, 25, 3)
    image[:, at[0] : at[0] + 9, at[1] : at[1] + 7, at[2] : at[2] + 8] = rng.random((9, 7, 8))
    window = SlidingWindow((8, 10, 12), (0.5, 0.25, 0.5))
    tally = Tally()
    for _ in stream(image, Slow(0, 1), window, slab_axis(image.shape[1:], window.roi), tally=tally):
        pass
    assert tally.repeated > 0
    assert count_repeated(image, window) == tally.repeated


@pytest.mark.parametrize("mode", ["constant", "replicate"])
@pytest.mark.parametrize("cval", [0.0, 1.0])
def test_repeated_windows_of_a_padded_image_are_those_the_engine_repeats(mode, cval):
    """A scan of few slices: air beside the body is one value with its padding, or not, by what it is padded with."""
    image = np.zeros((1, 5, 40, 40), np.float32)
    image[:, :, 25:35, 25:35] = np.random.default_rng(0).random((5, 10, 10))
    window = SlidingWindow((8, 8, 8), (0.5, 0.5, 0.5), padding_mode=mode, cval=cval)
    tally = Tally()
    for _ in stream(image, Slow(0, 1), window, slab_axis(image.shape[1:], window.roi), tally=tally):
        pass
    assert (tally.repeated > 0) == (mode == "replicate" or cval == 0)
    assert count_repeated(image, window) == tally.repeated


WORK = Workload((400, 400, 300), (200, 200, 300), 1, 25, SlidingWindow((96, 96, 96), (0.5, 0.5, 0.5)))


def test_seconds_are_windows_by_calibration_and_stages_by_pace():
    pace = {"preprocess": 2.0, "restore": 0.5}
    told = forecast(replace(WORK, repeated=10), Calibration(0.5, 0, pace), batch=1, resident=0)
    # Steps of 48 over 200 voxels: 0 48 96 104, over 300: 0 48 96 144 192 204.
    assert told.windows == 4 * 4 * 6
    plain = expected_seconds(WORK)
    assert told.stages_s == pytest.approx({**plain, "network": 86 * 0.5, "preprocess": 2 * plain["preprocess"], "restore": plain["restore"] / 2})
    assert told.seconds == pytest.approx(sum(told.stages_s.values()))
    assert forecast(WORK, Calibration(0.5, 0), batch=1, resident=0, read_s=1.5).stages_s["read"] == 1.5
    assert json.loads(json.dumps(told.as_dict()))["peak_memory_bytes"] == told.peak_memory_bytes


def test_without_a_calibration_there_is_a_reason_instead_of_seconds():
    told = forecast(WORK, None, batch=1, resident=0, unknown="nobody has measured it")
    assert told.seconds is None and told.as_dict()["seconds"] is None and told.as_dict()["windows"] == 96
    assert told.as_dict()["seconds_unknown"] == "nobody has measured it"


def test_restoring_grows_with_classes_and_scan():
    """Without a run to learn from: more classes take longer, and twice the scan twice as long, network grid and all."""
    seconds = [expected_seconds(replace(WORK, classes=classes))["restore"] for classes in (3, 25, 100)]
    assert seconds[0] < seconds[1] / 3 < seconds[2] / 9
    double = replace(WORK, scan_shape=(400, 400, 600), network_shape=(200, 200, 600))
    assert expected_seconds(double) == pytest.approx({stage: 2 * s for stage, s in expected_seconds(WORK).items()})


def test_memory_holds_no_classes_times_volume():
    def peak(slices: int, classes: int) -> int:
        return sum(memory_model(replace(WORK, scan_shape=(400, 400, slices), network_shape=(200, 200, slices), classes=classes), 1, 0, 0).values())

    # Each slice more costs its label (1 byte) and its network input (4 bytes a voxel), whatever the classes.
    for classes in (3, 25, 100):
        assert peak(1000, classes) - peak(500, classes) == 500 * (400 * 400 + 200 * 200 * 4)
    assert peak(500, 100) < 100 * prod((400, 400, 500)) * 4 / 7


def test_memory_counts_what_is_given():
    base = sum(memory_model(WORK, 1, 0, 0).values())
    assert sum(memory_model(WORK, 1, 10**8, 10**9).values()) == base + 10**8 + 10**9
    assert sum(memory_model(WORK, 2, 0, 0).values()) > base


MEASURE = """
import sys
import numpy as np
import scipy.spatial
from volseg.evaluation.regions.statistics import label_statistics
from volseg.geometry import Grid
from volseg.inference.memory import resident_bytes
from volseg.io.volume import Source, Volume
from volseg.provenance import peak_memory_bytes
side, classes = int(sys.argv[1]), int(sys.argv[2])
rng, shape = np.random.default_rng(0), (side, side, side)
coarse = rng.integers(0, classes, (side // 2,) * 3, dtype=np.uint8)
label = np.asfortranarray(coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2))
volume = Volume(np.asfortranarray(rng.integers(-1000, 1000, shape, dtype=np.int16)), Grid(shape, np.eye(4)), Source("x", "nifti", "x"))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident_bytes()
label_statistics(label, volume, {1: "one"})
print(peak_memory_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a process's highest memory")
@pytest.mark.parametrize(("side", "classes"), [(280, 2), (280, 3)])
def test_ragged_labels_are_measured_in_the_memory_foretold(side, classes):
    """Noise on a grid twice as coarse as the scan's, as ragged as an untrained network gives it."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(side), str(classes)], capture_output=True, text=True, check=True)
    work = replace(WORK, scan_shape=(side, side, side), classes=classes)
    assert int(done.stdout) <= measuring_memory(work, 0, 0)["its statistics"] + CHUNKS


CHUNKS = 50_000_000
"""A million values at a time are widened to 8 bytes, several times over, whatever the size of the scan."""


def test_a_long_scan_is_foretold_with_its_statistics():
    """Few classes on a fine grid: no slab of scores is as large as what the label's pieces are numbered in."""
    long = replace(WORK, scan_shape=(512, 512, 1000), network_shape=(100, 100, 100), classes=3)
    told = forecast(long, None, batch=1, resident=10**9)
    assert told.memory_bytes == measuring_memory(long, 0, 10**9)
    assert told.peak_memory_bytes == pytest.approx(10**9 + 512 * 512 * 1000 * 7.5)


def test_the_largest_batch_that_fits_is_taken_and_at_last_a_file():
    def foretell(batch: int, spill: bool) -> Forecast:
        return Forecast(1, 0, None, {"network": 10**9 * batch, "scores": 10**8 if spill else 10**9}, batch, spill)

    def way(limit: float) -> tuple[int, bool]:
        told = fit(int(limit), 4, foretell, "scan")
        return told.batch, told.spill

    assert [way(limit) for limit in (5e9, 4.9e9, 3e9, 2.9e9, 2e9, 1.9e9, 1.1e9)] == [(4, False), (2, False), (2, False), (1, False), (1, False), (1, True), (1, True)]
    with pytest.raises(InputError, match=r"scan: --max-memory 1\.0 GB is too little: the run needs at least 1\.1 GB \(network 1\.0 GB, scores 100 MB\); give --max-memory 1\.3G, "):
        fit(10**9, 4, foretell, "scan")
    assert way(parse_bytes("1.3G")) == (1, True)


RUN = """
import json, sys
from pathlib import Path
import numpy as np
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.forecast import forecast
from volseg.inference.calibration import calibrate
from volseg.inference.memory import resident_bytes
from volseg.inference.plan import InferencePlan
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.restore import Decision
from volseg.inference.workload import workload
from volseg.io.volume import Source, Volume
from volseg.provenance import peak_memory_bytes
told = json.loads(sys.argv[1])
shape, classes, spill, dtype = told["shape"], told["classes"], told["spill"], told["dtype"]
affine = np.diag([1.0, 1.0, 1.0, 1.0])
array = np.empty(shape, dtype, order="F")
for k in range(shape[2]):
    array[:, :, k] = np.random.default_rng(k).integers(-100, 100, shape[:2]) * (k % 40 > 20)
if dtype == "float32":
    array[0, 0, 0] = np.nan
volume = Volume(array, Grid(array.shape, affine), Source(Path("x"), "nifti", "x"))
plan = InferencePlan("RAS", (1.5, 1.5, 1.5), "bilinear", (), (), SlidingWindow((64, 64, 64), (0.25,) * 3, "gaussian"), Decision())
class Bands:
    batch = 2
    def __call__(self, windows):
        return np.repeat(windows, classes, axis=1) * np.linspace(-1, 1, classes, dtype=np.float32)[:, None, None, None]
network = Bands()
resident = resident_bytes()
work = workload(plan, volume.grid, channels=1, classes=classes, float_scan=dtype == "float32")
network.batch = min(network.batch, work.windows_at_once)
known = calibrate(network, (1, 64, 64, 64))
told = forecast(work, known, batch=network.batch, resident=resident, spill=spill)
run(plan, volume, network, classes=classes, spill=spill)
print(json.dumps({"told": told.peak_memory_bytes, "parts": told.memory_bytes, "seen": peak_memory_bytes(), "resident": resident}))
"""


@pytest.mark.parametrize(
    ("shape", "classes", "spill", "dtype"),
    [
        ((240, 240, 160), 3, False, "int16"),
        ((240, 240, 120), 25, False, "int16"),
        ((240, 240, 120), 25, True, "int16"),
        ((120, 120, 100), 3, False, "int16"),
        ((120, 120, 100), 25, False, "int16"),
        ((120, 120, 100), 80, False, "int16"),
        ((120, 120, 100), 80, True, "int16"),
        ((300, 120, 60), 12, False, "int16"),
        ((60, 90, 400), 12, False, "int16"),
        ((50, 50, 20), 12, False, "int16"),
        ((200, 200, 160), 3, False, "float32"),
    ],
)
def test_peak_memory_is_what_was_foretold(shape, classes, spill, dtype):
    """Whole process: no more is taken over the loaded scan than was foretold, and the forecast is no scare; small scans, many classes, NaN voxels, padding."""
    asked = json.dumps({"shape": shape, "classes": classes, "spill": spill, "dtype": dtype})
    done = subprocess.run([sys.executable, "-c", RUN, asked], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    took, told = seen["seen"] - seen["resident"], seen["told"] - seen["resident"]
    assert took <= 1.05 * told + SLACK
    assert told <= 2 * took + SLACK


SLACK = 5_000_000
"""Modules imported while it runs, threads' stacks, and what the allocator keeps."""


def test_peak_memory_is_of_this_program_not_of_its_parent():
    """Linux starts a child's ru_maxrss at its parent's; a run started by a large program must not report that program's memory."""
    space = np.ones(400_000_000, dtype=np.uint8)
    done = subprocess.run([sys.executable, "-c", "from volseg.provenance import peak_memory_bytes; print(peak_memory_bytes())"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100e6
    assert peak_memory_bytes() > space.nbytes
