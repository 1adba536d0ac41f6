from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundle_factory import edit_config, tiny_bundle
from volseg.bundle import read_bundle
from volseg.errors import BundleError, DeviceError
from volseg.inference import Segmenter
from volseg.inference.device import cpu_computes_bf16, device_name
from volseg.inference.executors.choice import CONVERSION_S, CONVERSION_WINDOWS, GAIN, least_windows
from volseg.inference.executors.compiled import MANIFEST, cache_folder, entry_for, read_entry, staging_folder, write_entry
from volseg.inference.executors.conversion.facts import network_facts
from volseg.inference.executors.conversion.kept import find_converted
from volseg.inference.executors.conversion.openvino import convert
from volseg.inference.executors.openvino_executor import NETWORK, OpenVINOExecutor
from volseg.inference.executors.torch_executor import TorchExecutor, UnsupportedNetworkError
from volseg.inference.network import Network, NetworkSettings

CPU = torch.device("cpu")
ROI = (8, 10, 12)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 1, *ROI)).astype(np.float32)


# The cache


def conv() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 3, 3, padding=1).eval()


def test_converted_network_gives_the_same_scores(cache):
    facts = {"test": "same"}
    path = convert(facts, conv, 1, ROI)
    assert cache in path.parents
    assert find_converted(facts, NETWORK) == path
    given = windows(3)
    with torch.inference_mode():
        expected = conv()(torch.from_numpy(given)).numpy()
    executor = OpenVINOExecutor(path, 1, ROI, "fp32", 2, 2)
    found = np.concatenate([executor(given[:2]).copy(), executor(given[2:]).copy()])
    assert np.abs(found - expected).max() < 1e-4


def test_conversion_that_changes_the_scores_is_not_kept(cache, monkeypatch):
    # What conversion changes is rounding, which no difference at all allows for.
    monkeypatch.setattr("volseg.inference.executors.conversion.kept.TOLERANCE", -1.0)
    with pytest.raises(UnsupportedNetworkError, match="other scores"):
        convert({"test": "changed"}, conv, 1, ROI)
    assert list((cache / "networks").iterdir()) == []


def test_operators_that_openvino_does_not_know_are_refused(cache):
    class Random(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand(())

    with pytest.raises(UnsupportedNetworkError, match="cannot be converted"):
        convert({"test": "random"}, lambda: Random().eval(), 1, ROI)


def test_damaged_and_foreign_entries_are_not_used(cache):
    facts = {"test": "damage"}
    path = convert(facts, conv, 1, ROI)
    binary = path.with_suffix(".bin")
    good = binary.read_bytes()
    binary.write_bytes(good[:7] + bytes([good[7] ^ 1]) + good[8:])
    assert find_converted(facts, NETWORK) is None
    binary.write_bytes(good)
    assert find_converted(facts, NETWORK) == path
    manifest = path.parent / MANIFEST
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"facts": {"test": "another version"}}))
    assert find_converted(facts, NETWORK) is None
    manifest.write_text(text[:-20])
    assert find_converted(facts, NETWORK) is None
    # What is damaged is made again in its place.
    assert convert(facts, conv, 1, ROI) == path
    assert find_converted(facts, NETWORK) == path


def test_two_processes_at_once_leave_one_good_entry(cache):
    facts = {"test": "race"}
    entry = entry_for(facts)

    def write(number: int) -> None:
        staged = staging_folder()
        assert staged is not None
        (staged / NETWORK).write_text(str(number))
        write_entry(entry, facts, staged)

    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert read_entry(entry, facts) is not None
        assert list((cache / "networks").iterdir()) == [entry]
        shutil.rmtree(entry)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "file" / "cache"))
    path = convert({"test": "unwritable"}, conv, 1, ROI)
    try:
        assert path.is_file()
        assert cache_folder() not in path.parents
    finally:
        shutil.rmtree(path.parent)


def test_facts_follow_what_the_network_depends_on(tmp_path):
    bundle = tiny_bundle(tmp_path, weights=True)
    facts = [network_facts(read_bundle(bundle), "00", ROI)]
    edit_config(bundle, "inference", output_dir="./elsewhere")
    assert network_facts(read_bundle(bundle), "00", ROI) == facts[0]
    facts += [network_facts(read_bundle(bundle), "01", ROI), network_facts(read_bundle(bundle), "00", (8, 8, 8))]
    edit_config(bundle, "inference", network_def__filters=[4, 8, 8, 16])
    facts.append(network_facts(read_bundle(bundle), "00", ROI))
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "net.py").write_text("x = 1")
    facts.append(network_facts(read_bundle(bundle), "00", ROI))
    assert len({json.dumps(fact, sort_keys=True) for fact in facts}) == len(facts)


def test_another_version_or_machine_is_another_network(tmp_path, monkeypatch):
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    facts = [network_facts(bundle, "00", ROI), network_facts(bundle, "00", ROI, "onnxruntime", ("onnx",))]
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "riscv64")
        facts.append(network_facts(bundle, "00", ROI))
    monkeypatch.setattr("volseg.inference.executors.conversion.facts.software_versions", lambda packages: dict.fromkeys(packages, "99"))
    facts.append(network_facts(bundle, "00", ROI))
    assert len({entry_for(fact) for fact in facts}) == len(facts)


def test_nothing_is_sent_and_nothing_is_kept_to_be_sent(tmp_path):
    """OpenVINO's converter reports to its makers through a package of its own, which must not even be loaded; it would keep an identity in ~/intel."""
    code = """
import socket, sys
def refuse(*_):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
from volseg.inference.executors.conversion.openvino import convert
print(convert({"test": "telemetry"}, lambda: torch.nn.Conv3d(1, 2, 3, padding=1).eval(), 1, (8, 8, 8)))
assert not [name for name in sys.modules if name.partition(".")[0] == "openvino_telemetry"]
"""
    environment = {**os.environ, "HOME": str(tmp_path), "VOLSEG_CACHE": str(tmp_path / "cache")}
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


# Choosing


def network(tmp_path, engine: str = "auto", name: str = "tiny") -> Network:
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True, name=name))
    return Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings(engine, "cpu", "fp32"))


def test_few_windows_run_in_torch_and_the_next_run_finds_the_conversion(tmp_path, cache):
    first = network(tmp_path)
    assert isinstance(first.executor(3), TorchExecutor)
    assert first.should_convert_later()
    assert first.convert_later() is not None
    again = Network(first.bundle, first.weights, False, first.roi, first.settings)
    assert isinstance(again.executor(3), OpenVINOExecutor)
    assert again.from_cache
    assert not again.should_convert_later()


def paying_windows(window_s: float) -> int:
    """Windows from which converting pays for a network that torch takes so many seconds a window for."""
    return int((CONVERSION_S / window_s + CONVERSION_WINDOWS["fp32"]) / GAIN["fp32"]) + 1


def test_windows_of_several_scans_add_up(tmp_path, cache):
    several = network(tmp_path)
    several._window_s = 0.5
    assert isinstance(several.executor(paying_windows(0.5) - 1), TorchExecutor)
    assert isinstance(several.executor(1), OpenVINOExecutor)


def test_torch_is_timed_only_where_it_may_decide(tmp_path, cache):
    some = network(tmp_path)
    assert some.engine_for(least_windows("fp32") - 1) == "torch"
    assert some._window_s is None
    some.engine_for(least_windows("fp32"))
    assert some._window_s is not None
    assert some.engine_for(int(0.5 * paying_windows(some._window_s))) == "torch"
    assert some.engine_for(2 * paying_windows(some._window_s)) == "openvino"


def test_bf16_is_told_only_where_it_is_computed(tmp_path, cache):
    """OpenVINO takes fp32 where the CPU has no bf16; the report must not say otherwise."""
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    exact = Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings("openvino", "cpu", "fp32"))
    asked = Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings("openvino", "cpu", "bf16"))
    given = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32)
    found, expected = asked.executor(1)(given), exact.executor(1)(given)
    told = asked.describe("openvino")["precision"]
    assert told == ("bf16" if cpu_computes_bf16() else "fp32")
    assert np.abs(found - expected).max() <= (0.05 * np.abs(expected).max() if told == "bf16" else 0)


def test_no_cache_is_obeyed(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("VOLSEG_NO_CACHE", "1")
    some = network(tmp_path)
    assert isinstance(some.executor(1000), TorchExecutor)
    assert not some.should_convert_later()
    assert not cache.exists()


def test_missing_openvino(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("volseg.inference.executors.openvino_executor.is_installed", lambda: False)
    assert isinstance(network(tmp_path).executor(1000), TorchExecutor)
    with pytest.raises(DeviceError, match="pip install openvino"):
        network(tmp_path, "openvino", "other")


def test_network_that_cannot_be_converted_runs_in_torch(tmp_path, cache, monkeypatch):
    def fail(*_args, **_kwargs):
        raise UnsupportedNetworkError("an operator is not known")

    monkeypatch.setattr("volseg.inference.executors.conversion.openvino.convert", fail)
    some = network(tmp_path)
    some._window_s = 1.0
    assert isinstance(some.executor(1000), TorchExecutor)
    assert "an operator is not known" in some.notes[0]
    assert not some.should_convert_later()
    with pytest.raises(DeviceError, match="an operator is not known"):
        network(tmp_path, "openvino", "other").executor(1)


def test_network_in_the_cache_that_does_not_load_is_not_used(tmp_path, cache):
    """Whole by its manifest, but nothing that OpenVINO reads."""
    some = network(tmp_path)
    facts, staged = network_facts(some.bundle, some.weights_sha256, some.roi), staging_folder()
    (staged / NETWORK).write_text("no network")
    write_entry(entry_for(facts), facts, staged)
    again = Network(some.bundle, some.weights, False, some.roi, some.settings)
    assert isinstance(again.executor(1000), TorchExecutor)
    assert "OpenVINO is not used: it does not load here" in again.notes[0]


def test_weights_that_are_not_finite_are_named(tmp_path, cache):
    some = network(tmp_path)
    state = torch.load(some.weights, weights_only=True)
    name = next(iter(state))
    state[name].view(-1)[0] = float("inf")
    torch.save(state, some.weights)
    with pytest.raises(BundleError, match=f"model.pt.*not finite.*{name}"):
        some.executor(1)


def test_unknown_engine(tmp_path):
    with pytest.raises(DeviceError, match="unknown engine"):
        Segmenter(tiny_bundle(tmp_path, weights=True), engine="caffe")


def test_the_cpu_is_found_without_torch():
    code = "import sys\nfrom volseg.inference.device import device_name\nassert device_name('cpu') == 'cpu'\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert device_name("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
