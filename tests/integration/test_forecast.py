"""What ``volseg infer`` tells before it runs, and the limit it keeps."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.bundle_factory import copy_bundle, edit_config, threshold_bundle, write_scan
from volseg.cli import main
from volseg.geometry import Grid

OPTIONS = ("--device", "cpu", "--precision", "fp32", "--no-preview", "--no-report")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VOLSEG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return threshold_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "ball.nii.gz"
    write_scan(path, Grid((96, 48, 40), np.diag([2.0, 2.0, 2.0, 1.0])), centre=(48.0, 48.0, 40.0), radius=20.0)
    return path


def infer(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["infer", *map(str, arguments), *OPTIONS])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_dry_run_tells_windows_seconds_and_memory_of_each_scan_and_of_all(capsys, bundle, scan, tmp_path):
    other = tmp_path / "other.nii.gz"
    write_scan(other, Grid((48, 48, 40), np.diag([2.0, 2.0, 2.0, 1.0])), centre=(48.0, 48.0, 40.0), radius=20.0)
    code, out, err = infer(capsys, scan, other, "-b", bundle, "--engine", "torch", "--dry-run", "--json")
    assert code == 0, err
    document = json.loads(out)
    first, second = (result["forecast"] for result in document["results"])
    # Windows of 32 at half overlap start at 0 16 32 48 64, at 0 16, and at 0 8.
    assert (first["windows"], second["windows"]) == (5 * 2 * 2, 2 * 2 * 2)
    assert first["seconds"] > 0 and second["seconds"] > 0
    assert [result["measured_now"] for result in document["results"]] == [True, False]
    assert document["total"]["windows"] == 28
    assert document["total"]["seconds"] == pytest.approx(first["seconds"] + second["seconds"], abs=0.02)
    assert document["total"]["peak_memory_bytes"] == max(first["peak_memory_bytes"], second["peak_memory_bytes"])


def test_a_dry_run_says_that_it_measured_and_only_once(capsys, bundle, scan):
    arguments = (scan, "-b", bundle, "--engine", "torch", "--dry-run")
    _, first, _ = infer(capsys, *arguments)
    _, second, _ = infer(capsys, *arguments)
    assert "of memory at the peak; the network was measured for it just now" in first
    assert "of memory at the peak" in second and "measured" not in second


def test_where_seconds_are_not_known_the_dry_run_says_why(capsys, bundle, scan, tmp_path):
    code, out, err = infer(capsys, scan, "-b", bundle, "--engine", "monai", "--dry-run")
    assert code == 0, err
    assert "20 windows, seconds not known (the bundle's own pipeline in MONAI is not timed before it runs), " in out


@pytest.mark.parametrize("engine", ["torch", "monai"])
def test_the_record_holds_the_forecast_beside_what_happened(capsys, bundle, scan, tmp_path, engine):
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out", "--engine", engine)
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "ball_seg.json").read_text())
    told = record["forecast"]
    assert told["windows"] == record["engine"]["windows"]
    assert told["repeated_windows"] == (record["engine"].get("repeated_windows") or 0)
    assert (told["seconds"] is None) == (engine == "monai") == (told["seconds_unknown"] is not None)
    assert told["peak_memory_bytes"] > 50e6 and record["peak_memory_bytes"] > 50e6


@pytest.mark.parametrize("text", ["lots", "4X", "0", "-1G", "4"])
def test_nonsense_for_a_limit_is_refused(capsys, bundle, scan, tmp_path, text):
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out", f"--max-memory={text}")
    assert code == 2
    assert err.count("\n") == 1 and "--max-memory" in err and "4G" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["torch", "monai"])
def test_a_limit_that_cannot_be_kept_is_refused_with_numbers(capsys, bundle, scan, tmp_path, engine):
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out", "--engine", engine, "--max-memory", "20M")
    assert code == 2
    assert f"{scan}: --max-memory 20 MB is too little: the run needs at least " in err
    assert "give --max-memory " in err
    assert not (tmp_path / "out").exists()


PROCESS = """
import sys
from volseg.cli import main
from volseg.provenance import peak_memory_bytes
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(ended.code, peak_memory_bytes())
"""


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_process_stays_within_the_limit(tmp_path, engine):
    """A whole process, imports and writing included, given hardly more than what was foretold for it; OpenVINO's finds the network in the cache, and imports no torch."""
    import torch
    from monai.networks.nets import DynUNet

    bundle = copy_bundle(tmp_path, "wide")
    network = {"_target_": "DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
    network |= {"filters": [8, 16, 16], "norm_name": ["INSTANCE", {"affine": True}]}
    edit_config(bundle, "inference", network_def=network, spacing=[2.0, 2.0, 2.0], patch_size=[64, 64, 64], inferer__overlap=0.25)
    torch.save(DynUNet(**{key: value for key, value in network.items() if key != "_target_"}).state_dict(), bundle / "models" / "model.pt")
    scan = tmp_path / "ball.nii.gz"
    write_scan(scan, Grid((160, 160, 120), np.diag([1.0, 1.0, 1.5, 1.0])), centre=(80.0, 80.0, 90.0), radius=50.0)

    def run(*more: str) -> tuple[str, str]:
        command = [sys.executable, "-c", PROCESS, "infer", str(scan), "-b", str(bundle), "--engine", engine, "-q", "-o", str(tmp_path / "out"), *OPTIONS, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    if engine == "openvino":
        run("--dry-run")
    out, err = run("--dry-run", "--json")
    told = json.loads(out[: out.rindex("}") + 1])["results"][0]["forecast"]
    limit = int(told["peak_memory_bytes"] * 1.05)
    out, err = run("--max-memory", str(limit))
    code, peak = out.split()
    assert (code, err) == ("0", "")
    assert int(peak) <= limit
    assert told["peak_memory_bytes"] < 1.3 * int(peak)
