"""``volseg bench`` on a network whose arithmetic is known: one 1x1x1 convolution."""

from __future__ import annotations

import json
import shutil
import tempfile

import numpy as np
import pytest

from tests.bundle_factory import threshold_bundle, write_scan
from volseg.cli import main
from volseg.cli.main import volseg
from volseg.geometry import Grid
from volseg.inference.benchmark import STAGES, Measured, Round, available_engines, floor_seconds
from volseg.inference.executors.choice import ENGINES
from volseg.inference.floor import flops_per_window, machine_flops

PATCH = 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return threshold_bundle(tmp_path_factory.mktemp("bundles"), patch=PATCH)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    grid = Grid((48, 48, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    path = tmp_path_factory.mktemp("scans") / "ball.nii.gz"
    write_scan(path, grid, centre=(48.0, 48.0, 40.0), radius=20.0)
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_json_holds_stages_whole_processes_and_the_floor(capsys, bundle, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = run(capsys, bundle, scan, "--engine", "torch", "--rounds", "2", "--precision", "fp32", "--device", "cpu", "--json")
    assert code == 0, err
    document = json.loads(out)
    (engine,) = document["engines"]
    assert (engine["engine"], engine["rounds"], engine["details"]["precision"]) == ("torch", 2, "fp32")
    assert list(engine["stages_s"]) == list(STAGES)
    for numbers in (*engine["stages_s"].values(), engine["process_s"], engine["cpu_s"], engine["peak_memory_bytes"]):
        assert 0 <= numbers["min"] <= numbers["median"] <= numbers["max"]
    # With two rounds each median is the mean of both, so the stages' medians add up to the whole process.
    assert sum(s["median"] for s in engine["stages_s"].values()) == pytest.approx(engine["process_s"]["median"], abs=0.01)
    assert engine["peak_memory_bytes"]["median"] > 50e6
    # Windows of 32 over 48x48x40 voxels of 2 mm at half overlap: 0 and 16; 0 and 16; 0 and 8.
    assert engine["details"]["windows"] == 8
    floor = document["floor"]
    assert floor["flops_per_window"] == 2 * 2 * PATCH**3
    assert engine["floor_s"] == pytest.approx((8 - (engine["details"].get("repeated_windows") or 0)) * 2 * 2 * PATCH**3 / floor["flops_per_second"]["fp32"])
    assert document["machine"]["processor"] and document["machine"]["versions"]["numpy"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_scan_a_synthetic_one_is_drawn_and_an_engine_that_cannot_run_is_told(capsys, bundle):
    code, out, err = run(capsys, bundle, "--size", 24, 24, 24, "--engine", "torch", "--engine", "no-such-engine", "--rounds", "1")
    assert code == 0
    assert "on synthetic CT 24x24x24, 1 round" in out
    assert "whole process" in out and "peak memory, MB" in out and "GFLOP a window" in out
    assert "volseg: warning: engine no-such-engine was not measured: " in err


def test_a_dicom_series_is_timed_and_the_stages_of_the_table_add_up(capsys, bundle, tmp_path):
    from volseg.synthetic import make_ct, write_series

    write_series(make_ct(1, shape=(40, 36, 12), spacing=(4, 4, 6)), tmp_path / "series")
    code, out, err = run(capsys, bundle, tmp_path / "series", "--engine", "torch", "--rounds", "1", "--precision", "fp32", "--device", "cpu")
    assert code == 0, err
    assert f"threshold on {tmp_path / 'series'}, 1 round" in out
    rows = {line[:27].strip(): line[27:].split()[0] for line in out.splitlines() if line[27:].strip()}
    stages = ["start and exit", "read", "load the network", "resample", "forecast", "network", "restore", "write"]
    # Each number is rounded to a hundredth.
    assert sum(float(rows[name]) for name in stages) == pytest.approx(float(rows["whole process"]), abs=0.05)
    # 40 x 36 x 12 voxels of 4 x 4 x 6 mm at 2 mm are 79 x 71 x 34: windows of 32 start every 16, and 34 holds two of them.
    assert rows["windows (repeats)"] == str(4 * 4 * 2)
    assert float(rows["foretold s, read to write"]) > 0 and float(rows["foretold memory, MB"]) > 50


def test_of_a_folder_with_several_scans_one_has_to_be_named(capsys, bundle, scan, tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        shutil.copy(scan, tmp_path / name)
    code, _, err = run(capsys, bundle, tmp_path)
    assert code == 2
    assert f"{tmp_path}: holds 2 scans, of which one is to be timed; give e.g. {tmp_path / 'a.nii.gz'}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_bundle"], "no_such_bundle"),
        (["{bundle}", "no_such_scan.nii.gz"], "no_such_scan.nii.gz: there is no such file or folder; give a scan, or leave it out"),
        (["{bundle}", "{scan}", "--engine", "no-such-engine", "--rounds", "1"], "no-such-engine"),
        (["{bundle}", "--size", "8", "8", "0"], "--size"),
        (["{bundle}", "--rounds", "0"], "--rounds"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, bundle, scan, arguments, words):
    code, _, err = run(capsys, *(text.format(bundle=bundle, scan=scan) for text in arguments))
    assert code == 2
    assert words in err.splitlines()[-1]


def test_it_is_listed_with_examples(capsys):
    assert "bench" in volseg.list_commands(None)
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "volseg bench ct_tumor scan.nii.gz --rounds 5" in out


def test_openvino_is_compared_on_cpus_only():
    assert "openvino" in available_engines("cpu")
    assert available_engines("cpu")[-2:] == ["torch", "monai"]
    assert "openvino" not in available_engines("cuda:0")
    assert set(available_engines("cpu")) <= set(ENGINES)


def test_operations_of_the_network_are_counted(bundle):
    assert flops_per_window(bundle, 1, [8, 9, 10]) == 2 * 2 * 8 * 9 * 10


def test_the_machine_computes_a_plausible_number_of_operations():
    # A core does at least one fused operation on eight floats each nanosecond at the least, and no machine passes an exaflop.
    assert 1e9 < machine_flops("fp32") < 1e18


def test_the_floor_is_windows_times_operations_over_speed():
    facts = {"precision": "fp32", "windows": 10, "repeated_windows": 4}
    one = Measured("torch", (Round({"network": 2.0}, 3.0, 4.0, 5, facts, None),))
    assert floor_seconds(one, {"flops_per_window": 100, "flops_per_second": {"fp32": 50.0}}) == 12.0
    assert floor_seconds(one, {"flops_per_window": 100, "flops_per_second": {}}) is None


def test_the_spread_is_median_least_and_greatest():
    rounds = tuple(Round({"network": s}, s + 1, s, 7, {}, None) for s in (3.0, 1.0, 2.0))
    assert Measured("torch", rounds).spread("network") == (2.0, 1.0, 3.0)
    assert Measured("torch", rounds).spread("process_s") == (3.0, 2.0, 4.0)
