"""Networks in ONNX Runtime: the same scores as PyTorch, and one line where something is missing."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.bundle_factory import tiny_bundle
from volseg.bundle import read_bundle
from volseg.errors import DeviceError
from volseg.inference.executors.conversion.kept import find_converted
from volseg.inference.executors.engines import OnnxRuntime, OpenVINO, TensorRT, converted_engine
from volseg.inference.executors.onnx_executor import CPU, CUDA, TENSORRT, OnnxExecutor, providers_for
from volseg.inference.executors.torch_executor import UnsupportedNetworkError
from volseg.inference.network import Network, NetworkSettings

ROI = (8, 10, 12)

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript")), reason="onnxruntime and onnxscript are not installed (pip install 'volseg[onnxruntime]')"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4, affine=True), torch.nn.LeakyReLU(0.01), torch.nn.Conv3d(4, 3, 1)).eval()


@needs_onnx
def test_same_scores_for_every_batch(cache):
    from volseg.inference.executors.conversion.onnx import convert

    facts = {"test": "same"}
    path = convert(facts, network, 1, ROI)
    assert find_converted(facts, path.name) == path
    given = np.random.default_rng(0).normal(size=(5, 1, *ROI)).astype(np.float32)
    with torch.inference_mode():
        expected = network()(torch.from_numpy(given)).numpy()
    executor = OnnxExecutor(path, "onnxruntime", [(CPU, {})], "fp32", 2, 1)
    for first, last in ((0, 1), (1, 3), (3, 5), (4, 5)):
        assert np.abs(executor(given[first:last]) - expected[first:last]).max() < 1e-5


@pytest.mark.parametrize("norm", [torch.nn.InstanceNorm3d(6), torch.nn.InstanceNorm3d(6, affine=True), torch.nn.GroupNorm(2, 6), torch.nn.GroupNorm(6, 6, affine=False)])
def test_exact_norms_are_the_same_norms(norm):
    """In float64, where neither rounds."""
    from volseg.inference.executors.conversion.exact_norm import ExactNorm, with_exact_norms

    torch.manual_seed(0)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    plain = torch.nn.Sequential(torch.nn.Conv3d(2, 6, 1), norm).double().eval()
    exact = with_exact_norms(plain)
    assert isinstance(exact[1], ExactNorm)
    assert plain[1] is norm
    given = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(exact(given), plain(given), atol=1e-12, rtol=0)


def test_norms_with_stored_statistics_are_left_alone():
    from volseg.inference.executors.conversion.exact_norm import with_exact_norms

    norm = torch.nn.InstanceNorm3d(2, track_running_stats=True)
    assert isinstance(with_exact_norms(torch.nn.Sequential(norm))[0], torch.nn.InstanceNorm3d)


@needs_onnx
def test_air_does_not_spoil_the_scores(cache):
    """Nine tenths of one value: a sum over the window in float32 loses what decides. The check that goes with every conversion looks at such windows; this one is larger."""
    from volseg.inference.executors.conversion.kept import check_windows
    from volseg.inference.executors.conversion.onnx import convert

    roi, norm = (64, 64, 64), torch.nn.Sequential(torch.nn.InstanceNorm3d(1)).eval()
    windows = check_windows(1, 1, roi) * 20
    exact = windows.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    found = OnnxExecutor(convert({"test": "air"}, lambda: norm, 1, roi), "onnxruntime", [(CPU, {})], "fp32", 1, 1)(windows)
    assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()


@needs_onnx
def test_networks_that_cannot_be_exported_are_refused(cache):
    from volseg.inference.executors.conversion.onnx import convert

    class ByValue(torch.nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    class Two(torch.nn.Module):
        def forward(self, x):
            return [x, x]

    with pytest.raises(UnsupportedNetworkError, match="cannot be converted to ONNX"):
        convert({"test": "by value"}, lambda: ByValue().eval(), 1, ROI)
    with pytest.raises(UnsupportedNetworkError, match="one tensor of scores"):
        convert({"test": "two"}, lambda: Two().eval(), 1, ROI)
    assert not (cache / "networks").exists() or list((cache / "networks").iterdir()) == []


@needs_onnx
def test_conversion_that_changes_the_scores_is_not_kept(cache, monkeypatch):
    from volseg.inference.executors.conversion.onnx import convert

    # What conversion changes is rounding, which no difference at all allows for.
    monkeypatch.setattr("volseg.inference.executors.conversion.kept.TOLERANCE", -1.0)
    with pytest.raises(UnsupportedNetworkError, match="converted to ONNX it gives other scores"):
        convert({"test": "changed"}, network, 1, ROI)
    assert list((cache / "networks").iterdir()) == []


@needs_onnx
def test_damaged_file_and_wrong_window_are_told_as_errors_that_volseg_knows(cache, tmp_path):
    from volseg.inference.executors.conversion.onnx import convert

    damaged = tmp_path / "network.onnx"
    damaged.write_bytes(b"no network")
    with pytest.raises(RuntimeError):
        OnnxExecutor(damaged, "onnxruntime", [(CPU, {})], "fp32", 1, 1)
    executor = OnnxExecutor(convert({"test": "window"}, network, 1, ROI), "onnxruntime", [(CPU, {})], "fp32", 1, 1)
    with pytest.raises(RuntimeError):
        executor(np.zeros((1, 1, 4, 4, 4), np.float32))


@needs_onnx
def test_provider_that_does_not_start_is_told(cache, monkeypatch):
    """Where CUDA's libraries are missing, ONNX Runtime goes on with the CPU; the user asked for something else."""
    import onnxruntime

    from volseg.inference.executors.conversion.onnx import convert

    path = convert({"test": "provider"}, network, 1, ROI)
    whole = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda model, options, **_: whole(model, options, providers=[CPU]))
    with pytest.raises(DeviceError, match=f"--engine tensorrt: {TENSORRT} does not start here"):
        OnnxExecutor(path, "tensorrt", providers_for("tensorrt", "cuda:0", (1, *ROI), "fp16", 2), "fp16", 2, 1)


# Choosing what computes


def test_providers():
    assert providers_for("onnxruntime", "cpu", (1, *ROI), "fp32", 1) == [(CPU, {})]
    assert providers_for("onnxruntime", "cuda:1", (1, *ROI), "fp32", 1) == [(CUDA, {"device_id": 1}), (CPU, {})]
    (first, options), *rest = providers_for("tensorrt", "cuda:0", (2, 8, 10, 12), "fp16", 4)
    assert first == TENSORRT
    assert [name for name, _ in rest] == [CUDA, CPU]
    assert options["trt_fp16_enable"] is True
    assert options["trt_profile_min_shapes"] == "image:1x2x8x10x12"
    assert options["trt_profile_max_shapes"] == "image:4x2x8x10x12"
    assert providers_for("tensorrt", "cuda:0", (1, *ROI), "fp32", 1)[0][1]["trt_fp16_enable"] is False


@pytest.mark.parametrize(
    ("engine", "device", "providers", "told"),
    [
        (OnnxRuntime(), "cpu", [CPU], ""),
        (OnnxRuntime(), "cuda:0", [CUDA, CPU], ""),
        (OnnxRuntime(), "cuda:0", [CPU], "without CUDAExecutionProvider (it has CPUExecutionProvider; pip install onnxruntime-gpu)"),
        (OnnxRuntime(), "mps", [CPU], "the device is mps"),
        (TensorRT(), "cpu", [CPU], "TensorRT runs on NVIDIA GPUs, and the device is cpu"),
        (TensorRT(), "cuda:0", [CUDA, CPU], "without TensorrtExecutionProvider"),
        (TensorRT(), "cuda:0", [TENSORRT, CUDA, CPU], ""),
        (OpenVINO(), "cuda:0", [], "OpenVINO on the CPU"),
    ],
)
def test_why_not(engine, device, providers, told, monkeypatch):
    monkeypatch.setattr("volseg.inference.executors.onnx_executor.is_installed", lambda: True)
    monkeypatch.setattr("volseg.inference.executors.engines.available_providers", lambda: providers)
    why = engine.why_not(device)
    assert told in why if told else why == ""


def test_missing_onnxruntime(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("volseg.inference.executors.onnx_executor.is_installed", lambda: False)
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    with pytest.raises(DeviceError, match=r"--engine onnxruntime: ONNX Runtime is not installed \(pip install 'volseg\[onnxruntime\]'\); use --engine torch"):
        Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings("onnxruntime", "cpu", "auto"))


def test_tensorrt_on_a_cpu_is_refused_in_one_line(tmp_path, cache):
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    with pytest.raises(DeviceError, match="--engine tensorrt: TensorRT runs on NVIDIA GPUs, and the device is cpu; use --engine torch") as raised:
        Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings("tensorrt", "cpu", "fp32"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "kind"), [("auto", OpenVINO), ("torch", OpenVINO), ("openvino", OpenVINO), ("onnxruntime", OnnxRuntime), ("tensorrt", TensorRT)])
def test_engine_by_name(name, kind):
    assert type(converted_engine(name)) is kind


@needs_onnx
def test_network_is_converted_once_and_found_again(tmp_path, cache):
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    settings = NetworkSettings("onnxruntime", "cpu", "auto")
    first = Network(bundle, bundle.weights, False, (16, 16, 16), settings)
    assert isinstance(first.executor(1), OnnxExecutor)
    assert first.precision == "fp32"
    assert not first.from_cache
    again = Network(bundle, bundle.weights, False, (16, 16, 16), settings)
    assert isinstance(again.executor(1), OnnxExecutor)
    assert again.from_cache
    assert again.describe("onnxruntime") == {**again.describe("onnxruntime"), "engine": "onnxruntime", "device": "cpu", "precision": "fp32", "cached_network": True}
    # The same network for OpenVINO is another entry.
    other = Network(bundle, bundle.weights, False, (16, 16, 16), NetworkSettings("openvino", "cpu", "fp32"))
    other.executor(1)
    assert not other.from_cache
