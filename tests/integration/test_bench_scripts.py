"""The benchmarks of inference run on toys and measure what they say they measure; their figures at full size are made by hand."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan, IntensityStep
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.restore import Decision
from volseg.io.volume import Source, Volume

BENCH = REPOSITORY / "tests" / "bench"


@pytest.fixture(name="bench", scope="module")
def bench_fixture():
    """The modules of the scripts, which lie beside them and not in a package."""
    from types import SimpleNamespace

    before = list(sys.path)
    sys.path[:0] = [str(BENCH / "peers"), str(BENCH)]
    try:
        import cases
        import floor
        import fusion_sts
        import infer_scale
        import measure
        import nnunet_peer
        import report
        import scale_report
    finally:
        sys.path[:] = before
    return SimpleNamespace(cases=cases, floor=floor, measure=measure, report=report, scale=infer_scale, scale_report=scale_report, nnunet=nnunet_peer, fusion=fusion_sts)


HUNGRY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; held = bytearray(b'x') * (64 << 20); time.sleep(1.5)"]) if sys.argv[1] == "parent" else None
held = bytearray(b"x") * (64 << 20)
until = time.process_time() + 0.5
while time.process_time() < until:
    pass
time.sleep(0.5)
child.wait()
"""


def test_a_process_tree_is_measured_whole(bench, tmp_path):
    """Two processes of 64 MiB each beside their interpreters, one of which computes for half a second."""
    usage = bench.measure.run_measured([sys.executable, "-c", HUNGRY, "parent"], log=tmp_path / "log")
    assert usage.processes == 2
    assert 128 << 20 <= usage.peak_rss <= 220 << 20
    assert 100 << 20 <= usage.peak_pss <= usage.peak_rss
    assert 0.5 <= usage.cpu_s <= 1.5
    assert usage.wall_s >= 1.5


def test_a_failing_peer_is_told_with_its_last_words(bench, tmp_path):
    with pytest.raises(bench.measure.CommandError, match=r"ended with 3:(.|\n)*no such network"):
        bench.measure.run_measured([sys.executable, "-c", "print('no such network'); raise SystemExit(3)"], log=tmp_path / "log")


def test_constant_windows_are_those_of_air_alone(bench):
    """64^3 voxels of the network's size: windows of 32, overlap 0.5, have 3 starts an axis; one bright voxel at the corner lies in one of them, one in the middle in eight."""
    size, network = bench.cases.Size((64, 64, 64), (2.0, 2.0, 2.0)), bench.cases.Network((8, 16), 32, 2.0)
    air = np.full(size.shape, -1000, np.int16)
    assert bench.cases.constant_share(air, size, network) == (27, 1.0)
    air[0, 0, 0] = 100
    assert bench.cases.constant_share(air, size, network) == (27, 26 / 27)
    air[0, 0, 0], air[31, 31, 31] = -1000, 100
    assert bench.cases.constant_share(air, size, network) == (27, 19 / 27)


def test_constant_windows_are_those_the_engine_repeats(bench):
    """The torso of the 512x512x100 case, coarser: the engine computes the first window of air and repeats it; counted on the scan's own voxels it was 38 of 196 instead of 56."""
    cases = bench.cases
    size, network = cases.Size((128, 128, 100), (3.90625, 3.90625, 3.0)), cases.Network((8, 16), 16, 8.0)
    image = cases.make_phantom(size)
    windows, constant = cases.constant_share(image, size, network)
    grid = Grid(size.shape, cases.affine_of(size))
    step = IntensityStep("ScaleIntensityRange", {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": True})
    window = SlidingWindow((network.roi,) * 3, (network.overlap,) * 3, "gaussian")
    plan = InferencePlan("RAS", (network.spacing,) * 3, "bilinear", (), (step,), window, Decision())
    volume = Volume(image, grid, Source(Path("phantom.nii.gz"), "nifti", "phantom"))
    _, _, _, tally = run(plan, volume, Copies(), classes=2)
    assert tally.windows == windows
    assert 0 < tally.repeated == round(windows * constant) - 1


class Copies:
    """A network that hands its input back, twice."""

    batch = 4

    def __call__(self, windows):
        return np.repeat(windows, 2, axis=1)


def test_the_phantom_is_a_torso_in_air(bench, tmp_path):
    size = bench.cases.Size((96, 96, 12), (4.0, 4.0, 5.0))
    image = bench.cases.write_phantom(tmp_path / "ct.nii.gz", size)
    read = nib.load(tmp_path / "ct.nii.gz")
    assert read.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(read.dataobj), image)
    assert nib.aff2axcodes(read.affine) == ("L", "P", "S")
    # The body is an ellipse of 158-182 mm by 107-123 mm half axes; its lungs, at -860 HU, fill two ellipses of at most 55 mm by 80 mm.
    share = (image > -500).mean()
    lungs, field = 2 * 55 * np.array([60, 80]), (96 * 4) ** 2
    assert np.pi * (158 * 107 - lungs[1]) / field < share < np.pi * (182 * 123 - lungs[0]) / field
    assert abs(np.median(image[:8, :8]) + 1000) < 5


def test_agreement_counts_voxels_and_the_worst_class(bench, tmp_path):
    first, second = np.zeros((4, 5, 5), np.uint8), np.zeros((4, 5, 5), np.uint8)
    first[0, 0], second[0, 0, :3] = 1, 1
    for name, labels in (("a", first), ("b", second)):
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = bench.cases.agreement(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", 3)
    assert found == {"equal": 0.98, "lowest_dice": 2 * 3 / 8, "classes_present": 2}
    nib.save(nib.Nifti1Image(second, np.diag([2, 1, 1, 1])), tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match="different grids"):
        bench.cases.agreement(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", 3)


def test_the_line_through_three_sizes(bench, tmp_path):
    found = bench.scale.fit([1_000_000, 2_000_000, 4_000_000], [5.0, 7.0, 11.0])
    assert found == pytest.approx({"start_s": 3.0, "s_a_million_voxels": 2.0, "r_squared": 1.0})
    bent = bench.scale.fit([1_000_000, 2_000_000, 3_000_000], [1.0, 4.0, 9.0])
    assert bent["r_squared"] == pytest.approx(32 / (98 / 3))
    rows = [{"voxels": x, "rounds": [{"wall_s": y, "cpu_s": y}]} for x, y in ((1e6, 5.0), (2e6, 7.0))]
    bench.scale_report.plot_time({"rows": rows, "wall_s": found, "cpu_s": found}, tmp_path / "time.png")
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")


def test_spread_shows_rounds_only_where_they_differ(bench):
    assert bench.report.spread(bench.report.summarise([2.0, 1.0, 9.0])) == "2.0 (1.0-9.0)"
    assert bench.report.spread(bench.report.summarise([2.0])) == "2.0"


def test_a_bundle_is_written_anew_where_one_is(bench, tmp_path):
    """The same folder may be used again, for more classes."""
    for classes in (2, 3):
        bundle = bench.cases.write_bundle(tmp_path, bench.cases.NETWORKS["quick"], classes, "bundle")
        assert json.loads((bundle / "configs" / "inference.json").read_text())["network_def"]["out_channels"] == classes


def test_flops_of_a_window(bench):
    """Three stages on 16^3, counted by hand: a multiplication and an addition for each weight and voxel of a convolution's output (of its input, where it is transposed)."""
    fine, middle, coarse = 16**3, 8**3, 4**3
    down = 27 * ((1 * 4 + 4 * 4) * fine + (4 * 8 + 8 * 8) * middle + (8 * 16 + 16 * 16) * coarse)
    up = 8 * (16 * 8 * coarse + 8 * 4 * middle) + 27 * ((16 * 8 + 8 * 8) * middle + (8 * 4 + 4 * 4) * fine)
    head = 4 * 3 * fine
    definition = bench.cases.definition_of(bench.cases.Network((4, 8, 16), 16, 2.0), 3)
    assert bench.floor.network_flops(definition, 16) == 2 * (down + up + head)


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, str(BENCH / name), *arguments], capture_output=True, text=True, check=False, env=environment)


def test_peers_on_a_toy(tmp_path):
    """volseg and plain MONAI, whole processes; where both compute in fp32 their labels agree up to near ties."""
    done = run_script("infer_peers.py", "--quick", "--classes", "3", "--peers", "volseg-auto,monai,nnunet", "--precision", "fp32", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results.json").read_text())
    assert "--nnunet-python" in result["skipped"]["nnunet"]
    (case,) = result["cases"]
    assert case["windows"] == 4
    assert case["peers"]["volseg-auto"]["agreement"]["equal"] >= 0.9999
    assert case["peers"]["volseg-auto"]["agreement"]["classes_present"] >= 2
    for peer in ("volseg-auto", "monai"):
        assert case["peers"][peer]["cpu_s"]["median"] > 0
        assert f"| {peer}" in done.stdout
    assert case["floor"]["flops"] > 0
    assert case["floor"]["bytes_written"] > 0


def test_scale_on_a_toy(tmp_path):
    """Every part that leaves a table or a picture; the calls, which only take long, are a part of their own."""
    done = run_script("infer_scale.py", "--quick", "--part", "time", "--part", "length", "--max-memory", "3G", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["slices"] for row in found["time"]["rows"]] == [20, 40, 60]
    # 64 voxels of 6 mm and 20, 40, 60 of 5 mm, at 8 mm: 48 by 48 by 13, 25, 38 voxels (MONAI's rule); windows of 32 start every 16.
    assert [row["windows"] for row in found["time"]["rows"]] == [2 * 2 * 1, 2 * 2 * 1, 2 * 2 * 2]
    for row in found["length"]["rows"]:
        assert row["kept"] and row["report"]["forecast"]["peak_memory_bytes"] <= 3e9
        assert row["report"]["engine"]["windows"] == row["windows"]
    assert (tmp_path / "table.md").read_text() in done.stdout
    assert "limit kept" in done.stdout and "R squared" in done.stdout
    for name in ("time.png", "memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_one_call_against_many_on_a_toy(tmp_path):
    done = run_script("infer_scale.py", "--quick", "--part", "calls", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    calls = json.loads((tmp_path / "results.json").read_text())["calls"]
    assert calls["scans"] == 2
    assert calls["one call"]["cpu_s"]["median"] < calls["a call each"]["cpu_s"]["median"]


def test_a_limit_that_was_not_kept_is_told(bench, tmp_path):
    """A run whose peak is above the limit is marked in the table, and its memory is drawn all the same."""
    low, high = ({"median": peak, "lowest": peak, "highest": peak} for peak in (1.0 * 2**30, 5.0 * 2**30))
    report = {"timings_s": {"read": 1.0, "restore": 2.0}, "forecast": None}
    common = {"slices": 10, "voxels": 10**6, "classes": 25, "windows": 4, "constant_windows": 0.5, "wall_s": low, "report": report}
    rows = [{**common, "peak_rss": low, "kept": True}, {**common, "peak_rss": high, "kept": False}]
    table = bench.scale_report.render_rows(rows).splitlines()
    assert table[0].endswith("| limit kept |")
    assert [line.split("|")[-2].strip() for line in table[2:]] == ["yes", "NO"]
    assert table[2].split("|")[4].strip() == "4 (2)"
    bench.scale_report.plot_memory({"length": {"rows": rows}}, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_names_are_refused():
    for script, option in (("infer_peers.py", "--peers"), ("infer_peers.py", "--sizes"), ("infer_scale.py", "--part"), ("infer_scale.py", "--max-memory")):
        done = run_script(script, option, "nothing")
        assert done.returncode == 2, done.stderr
        assert "nothing" in done.stderr


def test_time_to_accuracy_on_a_toy(tmp_path):
    """volseg's half: as many steps as its own table of epochs has, and the fold's cases segmented and scored."""
    from volseg.synthetic import write_dataset

    write_dataset(tmp_path / "data", 5, seed=3, shape=(32, 28, 16), spacing=(4, 4, 7))
    done = run_script("time_to_accuracy.py", str(tmp_path / "data"), "--peers", "volseg", "--budget", "5s", "--work", str(tmp_path / "work"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "work" / "run" / "metrics.csv").open() as file:
        epochs = len(list(csv.DictReader(file)))
    config = json.loads((tmp_path / "work" / "planned" / "configs" / "train.json").read_text())
    run = json.loads((tmp_path / "work" / "runs.json").read_text())["volseg"]
    assert run["batch"] == config["batch_size"]
    assert 0 < run["steps"] <= epochs * config["iterations_per_epoch"]
    scored = json.loads((tmp_path / "work" / "accuracy.json").read_text())
    assert len(scored["cases"]) == 1


def test_recipes_on_a_toy(tmp_path):
    """Each recipe trains what it says it does, and averaged and last weights are scored on the cases of the fold."""
    from volseg.planning import plan
    from volseg.synthetic import write_dataset

    write_dataset(tmp_path / "data", 5, seed=3, shape=(32, 28, 16), spacing=(4, 4, 7))
    plan(tmp_path / "data", tmp_path / "planned", device="cpu", preset="fast")
    done = run_script("recipe.py", str(tmp_path / "data"), "--bundle", str(tmp_path / "planned"), "--work", str(tmp_path / "work"), "--time-limit", "4s", "--fold", "1")
    assert done.returncode == 0, done.stderr
    recipes = ("AdamW", "SGD", "full augmentation")
    configs = {recipe: json.loads((tmp_path / "work" / recipe.replace(" ", "_") / "config.json").read_text()) for recipe in recipes}
    used = {recipe: config["optimizer"] for recipe, config in configs.items()}
    assert {recipe: config["_target_"].rpartition(".")[2] for recipe, config in used.items()} == {"AdamW": "AdamW", "SGD": "SGD", "full augmentation": "AdamW"}
    assert configs["full augmentation"]["augmentation_ramp"] == 0
    assert configs["AdamW"]["augmentation_ramp"] == configs["SGD"]["augmentation_ramp"] > 0
    assert (used["SGD"]["lr"], used["SGD"]["momentum"], used["SGD"]["nesterov"], used["SGD"]["weight_decay"]) == (0.01, 0.99, True, 3e-5)
    found = json.loads((tmp_path / "work" / "recipe.json").read_text())
    assert [(run["recipe"], run["weights"]) for run in found] == [(recipe, weights) for recipe in recipes for weights in ("averaged", "last step")]
    assert all(len(cases) == 1 for run in found for cases in run["dice"].values())
    assert "| AdamW, averaged - SGD, averaged | " in done.stdout


def test_tables_of_fusion(bench):
    """Means by hand: folds of two cases and one; what is compared are the same cases."""
    found = {"petct": {"a": (0, 0.8, 0.9), "b": (0, 0.6, 0.6), "c": (1, 0.5, 0.5)}, "pet": {"a": (0, 0.7, 0.7), "b": (0, 0.7, 0.7), "c": (1, 0.1, 0.2)}}
    floors = {name: {"ellipsoid": 0.5, "41 % of maximal SUV": 0.4} for name in "abc"}
    text = bench.fusion.tables(found, floors)
    assert "| petct | 0.700 | 0.500 | 0.633 | 0.153 | 0.600 |" in text
    assert "| petct, post-processed | 0.750 | 0.500 |" in text
    assert "| petct - pet | +0.133 | " in text
    assert "| 2 of 3 |" in text
    found["pet"]["b"] = (1, 0.7, 0.7)
    with pytest.raises(ValueError, match="same folds"):
        bench.fusion.tables(found, floors)


def test_nnunet_on_a_toy(tmp_path):
    """nnU-Net loads the folder made for it and gives a label on the scan's grid, its network as many weights as the bundle's."""
    python = os.environ.get("VOLSEG_NNUNET_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("no nnU-Net here; set VOLSEG_NNUNET_PYTHON to a Python that has nnunetv2")
    done = run_script(
        "infer_peers.py", "--quick", "--classes", "3", "--peers", "nnunet-sequential", "--nnunet-python", python, "-o", str(tmp_path), "--work", str(tmp_path / "work")
    )
    assert done.returncode == 0, done.stderr
    label = nib.load(tmp_path / "work" / "quick-quick-3" / "out-nnunet-sequential" / "label.nii.gz")
    scan = nib.load(tmp_path / "work" / "ct-quick_0000.nii.gz")
    assert label.shape == scan.shape
    assert np.allclose(label.affine, scan.affine, atol=1e-3)
