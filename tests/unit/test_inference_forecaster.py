from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.inference.fast import FastRunner
from volseg.inference.forecaster import Forecaster, forecast_stock
from volseg.inference.memory import resident_bytes
from volseg.inference.plan import InferencePlan
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.restore import Decision
from volseg.inference.streaming.sliding import slab_axis, stream
from volseg.inference.workload import Workload
from volseg.io.volume import Source, Volume

FACTS = {"engine": "fake", "weights_sha256": "0" * 64}
LARGE, SMALL = Grid((80, 80, 80), np.eye(4)), Grid((20, 20, 20), np.eye(4))
PLAN = InferencePlan("RAS", (1.0, 1.0, 1.0), "bilinear", (), (), SlidingWindow((32, 32, 32), (0.5, 0.5, 0.5)), Decision())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    # What is still to be imported depends on the tests before.
    monkeypatch.setattr("volseg.inference.forecaster.coming_bytes", lambda: 0)
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))


class Hungry:
    """Takes 100 MB for each window while it runs."""

    def __init__(self, batch: int) -> None:
        self.batch, self.calls, self.largest = batch, 0, 0

    def __call__(self, windows):
        self.calls, self.largest = self.calls + 1, max(self.largest, len(windows))
        space = np.ones(len(windows) * 100_000_000, np.uint8)
        time.sleep(0.05)
        return np.zeros((len(windows), 2, *windows.shape[2:]), np.float32) + space[-1]


def forecaster(executor) -> Forecaster:
    return Forecaster(PLAN, executor, FACTS, channels=1, classes=2)


def test_the_network_is_measured_once_and_remembered_by_the_next_process():
    first, second = Hungry(1), Hungry(1)
    told = forecaster(first).forecast(LARGE, "scan")
    assert (first.calls, told.windows) == (2, 4**3)
    assert told.seconds > 0 and 90e6 < told.memory_bytes["network"] < 130e6
    again = forecaster(second).forecast(LARGE, "scan")
    assert second.calls == 0 and again.stages_s == told.stages_s


def test_libraries_still_to_come_are_counted(monkeypatch):
    before = forecaster(Hungry(1)).forecast(SMALL, "scan").memory_bytes["scan and programs"]
    monkeypatch.setattr("volseg.inference.forecaster.coming_bytes", lambda: 10**9)
    assert forecaster(Hungry(1)).forecast(SMALL, "scan").memory_bytes["scan and programs"] == pytest.approx(before + 10**9, abs=5e7)


def test_few_windows_are_not_worth_a_measurement_unless_asked():
    executor = Hungry(1)
    told = forecaster(executor).forecast(SMALL, "scan")
    assert told.seconds is None and "fewer than 8 windows" in told.unknown and "--dry-run" in told.unknown
    assert executor.calls == 0
    assert forecaster(executor).forecast(SMALL, "scan", always=True).seconds > 0
    assert executor.calls == 2


def test_another_window_size_is_another_calibration():
    forecaster(Hungry(1)).forecast(LARGE, "scan")
    other = Hungry(1)
    plan = InferencePlan("RAS", (1.0, 1.0, 1.0), "bilinear", (), (), SlidingWindow((32, 32, 16), (0.5, 0.5, 0.5)), Decision())
    Forecaster(plan, other, FACTS, channels=1, classes=2).forecast(LARGE, "scan")
    assert other.calls == 2


def test_constant_windows_take_no_time():
    image = np.random.default_rng(0).random((1, 80, 80, 80), dtype=np.float32)
    image[:, :48] = 0
    told = forecaster(Hungry(1)).forecast(LARGE, "scan", image=image)
    # Of the starts 0, 16, 32, 48 the first two lie in the constant part (0-31, 16-47), 16 windows each; one of them is computed.
    assert told.repeated == 31
    assert told.stages_s["network"] == pytest.approx((64 - 31) / 64 * forecaster(Hungry(1)).forecast(LARGE, "scan").stages_s["network"])


def test_a_limit_makes_the_batch_smaller_or_refuses():
    resident = resident_bytes()
    plain = Hungry(4)
    needed = forecaster(plain).forecast(LARGE, "scan").peak_memory_bytes - resident
    assert plain.batch == 4 and needed > 400e6
    # Three windows' worth is left: batches of two fit.
    executor = Hungry(4)
    told = forecaster(executor).forecast(LARGE, "scan", limit=resident_bytes() + 300_000_000)
    assert executor.batch == 2
    assert told.peak_memory_bytes <= resident_bytes() + 300_000_000
    with pytest.raises(InputError, match=r"scan: --max-memory .* is too little: the run needs at least .* give --max-memory [0-9.]+G"):
        forecaster(Hungry(4)).forecast(LARGE, "scan", limit=resident_bytes() + 50_000_000)


def test_a_limit_on_one_scan_is_none_on_the_next():
    executor = Hungry(4)
    mine = forecaster(executor)
    way = mine.forecast(LARGE, "scan", limit=resident_bytes() + 300_000_000)
    assert executor.batch == way.batch == 2
    # The same scan again, now with its prepared image: what was found holds.
    image = np.random.default_rng(0).random((1, 80, 80, 80), dtype=np.float32)
    assert mine.forecast(LARGE, "scan", image=image, batch=way.batch, spill=way.spill).batch == executor.batch == 2
    assert mine.forecast(LARGE, "scan").batch == executor.batch == 4
    # What the executor sets itself, such as after the graphics card ran out of memory, stays.
    executor.batch = 3
    assert mine.forecast(LARGE, "scan").batch == executor.batch == 3


def test_a_run_under_a_limit_keeps_the_batch_that_was_found_for_it():
    executor = Hungry(4)
    network = SimpleNamespace(
        needs_calibration=False,
        notes=(),
        weights=(),
        bundle=SimpleNamespace(name="fake", input_channels=1),
        averaging=SimpleNamespace(facts=dict),
        executor=lambda windows: executor,
        describe=lambda: {"engine": "fake", "device": "cpu", "device_name": "fake", "precision": "fp32", "cached_network": None},
        identity=lambda: {"weights_sha256": "0" * 64},
    )
    scan = Volume(np.random.default_rng(0).integers(0, 100, LARGE.shape).astype(np.int16), LARGE, Source(Path("scan"), "nifti", "scan"))
    limit = resident_bytes() + 300_000_000
    runner = FastRunner(PLAN, network, 2, limit)
    told = runner.plan(scan)
    assert (told["forecast"]["batch"], told["measured_now"]) == (2, True)
    assert told["forecast"]["peak_memory_bytes"] <= limit
    assert runner.plan(scan)["measured_now"] is False
    executor.largest = 0
    found = runner.segment(scan, None)
    assert executor.largest == found.forecast.batch == 2
    assert found.forecast.peak_memory_bytes <= limit


def test_a_batch_is_no_larger_than_the_windows_that_lie_side_by_side():
    executor = Hungry(4)
    long = Grid((48, 30, 200), np.eye(4))
    # Worked along the last axis, two windows across: starts 0 and 16.
    assert forecaster(executor).forecast(long, "scan").batch == executor.batch == 2
    assert forecaster(Hungry(4)).forecast(LARGE, "scan").batch == 4


@pytest.mark.parametrize(
    ("shape", "roi", "overlap"),
    [
        ((80, 80, 80), (32, 32, 32), 0.5),
        ((48, 30, 200), (32, 32, 32), 0.5),
        ((20, 20, 20), (32, 32, 32), 0.5),
        ((70, 40, 33), (32, 0, 16), 0.25),
        ((33, 90, 64), (16, 32, 64), 0.0),
    ],
)
def test_the_engine_never_runs_more_windows_at_once_than_lie_side_by_side(shape, roi, overlap):
    seen = []

    class Recording:
        batch = 10**6

        def __call__(self, windows):
            seen.append(len(windows))
            return np.zeros((len(windows), 2, *windows.shape[2:]), np.float32)

    window = SlidingWindow(roi, (overlap,) * 3)
    image = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    for _ in stream(image, Recording(), window, slab_axis(shape, roi)):
        pass
    assert max(seen) == Workload(shape, shape, 1, 2, window).windows_at_once


def test_many_classes_go_to_a_file_before_a_scan_is_refused():
    many = Forecaster(PLAN, Hungry(1), FACTS, channels=1, classes=100)
    plain = many.forecast(LARGE, "scan")
    limit = resident_bytes() + (plain.peak_memory_bytes - plain.memory_bytes["scan and programs"]) * 4 // 5
    told = many.forecast(LARGE, "scan", limit=limit)
    assert not plain.spill and told.spill and told.peak_memory_bytes <= limit
    assert many.forecast(LARGE, "scan", spill=True).memory_bytes["scores, windows and label"] == told.memory_bytes["scores, windows and label"]


def test_a_cropped_image_is_foretold_by_its_own_size():
    told = forecaster(Hungry(1)).forecast(LARGE, "scan", image=np.random.default_rng(0).random((1, 48, 48, 80), dtype=np.float32))
    # Starts 0 16, 0 16, and 0 16 32 48.
    assert told.windows == 2 * 2 * 4


def test_a_run_teaches_the_next_forecast():
    mine = forecaster(Hungry(1))
    mine.forecast(LARGE, "scan")
    mine.learn(64, {"network": 6.4, "restore": 2.0})
    # Twice the voxels: twice what the run took, whatever a machine that nothing was learnt from would have taken.
    told = forecaster(Hungry(1)).forecast(Grid((80, 80, 160), np.eye(4)), "scan")
    assert told.stages_s["network"] == pytest.approx(told.windows * 0.1)
    assert told.stages_s["restore"] == pytest.approx(4.0)


def test_nothing_is_learnt_of_a_network_that_was_never_measured():
    mine = forecaster(Hungry(1))
    mine.forecast(SMALL, "scan")
    mine.learn(1, {"network": 1.0})
    assert forecaster(Hungry(1)).forecast(SMALL, "scan").seconds is None


def test_a_sheared_scan_is_refused_with_a_way_out():
    affine = np.eye(4)
    affine[0, 1] = 0.1
    with pytest.raises(InputError, match=r"scan: .*--engine monai"):
        forecaster(Hungry(1)).forecast(Grid((40, 40, 40), affine), "scan")


@pytest.mark.parametrize(("shape", "classes", "measured"), [((512, 512, 99), 3, 2.8e9), ((512, 512, 99), 25, 10.1e9), ((512, 512, 304), 3, 5.5e9)])
def test_stock_monai_needs_what_was_measured_of_it(shape, classes, measured):
    """The peaks of whole MONAI processes in the design notes, whose programs (torch, MONAI, weights) take 0.6 GB."""
    told = forecast_stock(Grid(shape, np.eye(4)), "scan", classes=classes)
    assert told.peak_memory_bytes - told.memory_bytes["scan and programs"] + 0.6e9 == pytest.approx(measured, rel=0.2)


def test_libraries_that_stock_monai_still_has_to_import_are_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    there = forecast_stock(SMALL, "scan", classes=2).memory_bytes["scan and programs"]
    monkeypatch.delitem(sys.modules, "monai")
    assert forecast_stock(SMALL, "scan", classes=2).memory_bytes["scan and programs"] == pytest.approx(there + 0.5e9, abs=5e7)


def test_stock_monai_is_refused_under_a_limit():
    with pytest.raises(InputError, match=r"scan: --max-memory 4.0 GB is too little: .*scores of all classes"):
        forecast_stock(Grid((512, 512, 99), np.eye(4)), "scan", classes=25, limit=4 * 10**9)


def test_stock_monai_holds_every_channel():
    one, four = (forecast_stock(Grid((64, 64, 64), np.eye(4)), "scan", classes=2, channels=channels) for channels in (1, 4))
    assert four.memory_bytes["image and sampling grid"] - one.memory_bytes["image and sampling grid"] == 3 * 4 * 64**3
