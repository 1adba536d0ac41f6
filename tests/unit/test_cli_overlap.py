"""Several scans in one call: reading ahead and writing behind, in order, bounded, with errors where they belong."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from volseg.bundle import find_bundle
from volseg.cli import overlap
from volseg.cli.job import Job
from volseg.cli.main import main
from volseg.cli.overlap import Behind, available_bytes, bytes_on_disk, fits_beside, read_ahead
from volseg.cli.results import import_writers
from volseg.errors import InputError, WriteError
from volseg.geometry import Grid
from volseg.io import load, save_volume

PATIENCE = 20.0
"""Seconds after which something that should happen beside something else has not."""


def always(_: object) -> bool:
    return True


def test_the_next_item_is_read_while_the_caller_works() -> None:
    read: dict[int, threading.Event] = {number: threading.Event() for number in range(3)}

    def reading(number: int) -> int:
        read[number].set()
        return number * 10

    found = []
    for value in read_ahead([0, 1, 2], reading, always):
        found.append(value)
        if value < 20:
            assert read[value // 10 + 1].wait(PATIENCE)
    assert found == [0, 10, 20]


def test_no_more_than_one_waits() -> None:
    read = []
    stream = read_ahead(list(range(5)), lambda number: read.append(number) or number, always)  # type: ignore[func-returns-value]
    next(stream)
    time.sleep(0.05)
    assert read in ([0], [0, 1])
    stream.close()  # type: ignore[attr-defined]
    assert 2 not in read


def test_what_is_not_worth_it_is_read_in_its_turn() -> None:
    threads = {}
    stream = read_ahead([0, 1, 2], lambda number: threads.setdefault(number, threading.current_thread().name), lambda number: number == 2)
    list(stream)
    assert [name.startswith("volseg-read") for name in threads.values()] == [False, False, True]


def test_an_error_in_reading_comes_when_its_turn_has_come() -> None:
    def reading(number: int) -> int:
        if number == 1:
            raise KeyError(number)
        return number

    stream = read_ahead([0, 1, 2], reading, always)
    assert next(stream) == 0
    with pytest.raises(KeyError):
        next(stream)


def test_a_scan_is_let_go_before_the_one_after_the_next_is_read() -> None:
    class Scan:
        pass

    alive: list[weakref.ref[Scan]] = []
    most = 0

    def reading(_: int) -> Scan:
        nonlocal most
        scan = Scan()
        alive.append(weakref.ref(scan))
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))
        return scan

    for scan in read_ahead(list(range(6)), reading, always):
        del scan
    assert most <= 2


def test_tasks_are_done_behind_in_order_and_one_at_a_time() -> None:
    done: list[int] = []
    going = threading.Event()

    def first() -> None:
        assert going.wait(PATIENCE)
        done.append(1)

    with Behind(threaded=True) as writer:
        writer.do(first)
        assert not done
        going.set()
        writer.do(lambda: done.append(2))
        assert 1 in done
        writer.do(lambda: done.append(3))
    assert done == [1, 2, 3]


def raise_write_error() -> None:
    msg = "full"
    raise WriteError(msg)


def test_an_error_in_a_task_ends_the_run_at_the_next_or_at_the_end() -> None:
    done: list[int] = []
    with pytest.raises(WriteError), Behind(threaded=True) as writer:
        writer.do(raise_write_error)
        writer.do(lambda: done.append(2))
    with pytest.raises(WriteError), Behind(threaded=True) as writer:
        writer.do(raise_write_error)
    assert not done


def test_an_interrupt_waits_for_the_task_that_is_under_way() -> None:
    done: list[int] = []

    def slow() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(KeyboardInterrupt), Behind(threaded=True) as writer:
        writer.do(slow)
        raise KeyboardInterrupt
    assert done == [1]


def test_without_a_thread_a_task_is_done_where_it_is_given() -> None:
    with Behind(threaded=False) as writer, pytest.raises(WriteError):
        writer.do(raise_write_error)


def test_only_what_is_small_beside_free_memory_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(1000))
    (tmp_path / "a" / "b" / "two").write_bytes(bytes(500))
    assert bytes_on_disk(tmp_path / "a") == 1500
    assert bytes_on_disk(tmp_path / "gone") == 0
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(overlap, "MEMINFO", meminfo)
    assert available_bytes() is None
    assert not fits_beside(tmp_path / "a")
    meminfo.write_text("MemTotal:  900 kB\nMemAvailable:     100 kB\n")
    assert available_bytes() == 102_400
    # 1500 bytes may become 12000, and a quarter of 102400 is 25600.
    assert fits_beside(tmp_path / "a")
    meminfo.write_text("MemAvailable:     40 kB\n")
    assert not fits_beside(tmp_path / "a")
    meminfo.write_text("nothing of the kind\n")
    assert available_bytes() is None


class FakeRun:
    """Stands for the network and the results of each scan, and notes what begins and ends when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.lock = threading.Condition()
        self.made = 0
        self.fail_compute: set[str] = set()
        self.fail_write: dict[str, BaseException] = {}
        self.awaited: dict[str, str] = {}
        self.alive: list[weakref.ref[Any]] = []
        self.most = 0
        monkeypatch.setattr("volseg.cli.infer_inputs.Settings.segmenter", self.segmenter)
        monkeypatch.setattr("volseg.cli.infer_segment.write_results", self.write)
        monkeypatch.setattr("volseg.io.load", self.load)

    def note(self, event: str) -> None:
        with self.lock:
            self.events.append(event)
            self.lock.notify_all()
            wanted = self.awaited.get(event)
            if wanted and not self.lock.wait_for(lambda: wanted in self.events, PATIENCE):
                self.events.append(f"{wanted} never came beside {event}")

    def load(self, path: Path, **kwargs: object) -> Any:
        self.note(f"read {path.name}")
        volume = load(path, **kwargs)  # type: ignore[arg-type]
        self.alive.append(weakref.ref(volume))
        gc.collect()
        self.most = max(self.most, sum(one() is not None for one in self.alive))
        return volume

    def segmenter(self, **_: object) -> Any:
        self.made += 1
        return SimpleNamespace(segment=self.segment, should_convert_later=lambda: False)

    def segment(self, volume: Any, **_: object) -> Any:
        self.note(f"compute {volume.source.path.name}")
        if volume.source.path.name in self.fail_compute:
            msg = f"{volume.source.path}: cannot be computed; leave it"
            raise InputError(msg)
        labels = [{"name": "tumor", "volume_ml": 1.0}]
        return SimpleNamespace(
            engine={"engine": "fake", "precision": "fp32", "device_name": "none"},
            report=lambda: {"input": volume.source.path.name, "timings_s": {}, "warnings": ["doubt"], "labels": labels, "outputs": ["x"]},
        )

    def write(self, job: Any, *_: object) -> None:
        self.note(f"write {job.scan.name}")
        if job.scan.name in self.fail_write:
            raise self.fail_write[job.scan.name]
        self.note(f"written {job.scan.name}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    return FakeRun(monkeypatch)


def scans(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    return [save_volume(np.full((4, 5, 6), number, np.int16), Grid((4, 5, 6), np.eye(4)), folder / f"s{number:02}.nii") for number in range(count)]


def infer(capsys: pytest.CaptureFixture[str], given: list[Path], out: Path, *more: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["infer", *map(str, given), "-b", str(find_bundle("ct_tumor")), "-o", str(out), *more])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_twenty_scans_load_the_bundle_once_and_keep_their_order(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = scans(tmp_path / "in", 20)
    given.insert(7, tmp_path / "bad.nii")
    given[7].write_text("no image")
    fake.fail_compute.add("s11.nii")
    fake.fail_write["s13.nii"] = InputError("s13 cannot be written")
    code, out, _ = infer(capsys, given, tmp_path / "out", "--json", "-q")
    assert (code, fake.made) == (2, 1)
    results = json.loads(out)["results"]
    assert [("error" in result, Path(result["input"]).name) for result in results] == [(path.name in ("bad.nii", "s11.nii", "s13.nii"), path.name) for path in given]


def test_reading_computing_and_writing_overlap(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each waits for another that only a second thread can bring about."""
    fake.awaited = {
        "compute s00.nii": "read s01.nii",
        "write s00.nii": "compute s01.nii",
        "compute s01.nii": "read s02.nii",
        "write s01.nii": "compute s02.nii",
    }
    code, out, err = infer(capsys, scans(tmp_path / "in", 3), tmp_path / "out")
    assert code == 0
    assert not [event for event in fake.events if "never came" in event]
    assert [line.split(":")[0][-7:] for line in out.splitlines()] == ["s00.nii", "s01.nii", "s02.nii"]
    assert [line.split(": ")[2][-7:] for line in err.splitlines() if "doubt" in line] == ["s00.nii", "s01.nii", "s02.nii"]


def test_three_scans_at_most_are_in_memory(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert infer(capsys, scans(tmp_path / "in", 8), tmp_path / "out", "-q")[0] == 0
    assert fake.most <= 3


def test_large_scans_are_not_read_ahead(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volseg.cli.infer_run.fits_beside", lambda _: False)
    assert infer(capsys, scans(tmp_path / "in", 3), tmp_path / "out", "-q")[0] == 0
    order = [event for event in fake.events if not event.startswith("writ")]
    assert order == [f"{what} s0{number}.nii" for number in range(3) for what in ("read", "compute")]


def test_a_full_disk_ends_the_run(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fake.fail_write["s01.nii"] = WriteError("s01: writing failed")
    code, _, err = infer(capsys, scans(tmp_path / "in", 6), tmp_path / "out", "-q")
    assert code == 1
    assert err.splitlines()[-1] == "volseg: error: s01: writing failed"
    assert "write s03.nii" not in fake.events


def test_an_interrupt_leaves_whole_results_and_stops(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = fake.segment

    def interrupted(volume: Any, **_: object) -> Any:
        if volume.source.path.name == "s02.nii":
            raise KeyboardInterrupt
        return computed(volume)

    monkeypatch.setattr(fake, "segment", interrupted)
    code, _, err = infer(capsys, scans(tmp_path / "in", 5), tmp_path / "out", "-q")
    assert code == 130
    assert "stopped" in err
    assert {event for event in fake.events if event.startswith("writ")} == {f"{what} s0{number}.nii" for what in ("write", "written") for number in (0, 1)}


def test_one_scan_needs_no_thread(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names: list[str] = []
    written = fake.write

    def write(job: Any, *rest: object) -> None:
        names.append(threading.current_thread().name)
        written(job, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volseg.cli.infer_segment.write_results", write)
        assert infer(capsys, scans(tmp_path / "in", 1), tmp_path / "out", "-q")[0] == 0
    assert names == [threading.main_thread().name]


def test_what_writing_needs_is_imported_beside_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = Job(tmp_path / "a.nii", "a", tmp_path, ("nifti",))
    asked: list[str] = []
    monkeypatch.setattr("volseg.cli.results.import_module", asked.append)
    import_writers(replace(job, preview=False, report=False))
    assert not [name for name in asked if name.startswith(("matplotlib", "jinja2"))]
    import_writers(job)
    assert {"matplotlib.figure", "jinja2"} < set(asked)


def test_a_missing_library_is_left_for_the_writing_to_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    import_writers(Job(tmp_path / "a.nii", "a", tmp_path, ("nifti",)))


def test_a_memory_limit_turns_overlap_off(fake: FakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert infer(capsys, scans(tmp_path / "in", 3), tmp_path / "out", "-q", "--max-memory", "4G")[0] == 0
    assert fake.events == [f"{what} s0{number}.nii" for number in range(3) for what in ("read", "compute", "write", "written")]
