"""The engines that run a converted network, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from volseg.inference.device import cpu_computes_bf16
from volseg.inference.executors import onnx_executor, openvino_executor
from volseg.inference.executors.onnx_executor import CUDA, TENSORRT, OnnxExecutor, available_providers, providers_for
from volseg.inference.executors.openvino_executor import OpenVINOExecutor

if TYPE_CHECKING:
    import torch

FAILURES = (ImportError, OSError, RuntimeError)
"""What an engine raises when it is broken, or its files are."""

ConvertedExecutor = OpenVINOExecutor | OnnxExecutor


class ConvertedEngine(Protocol):
    """An engine that runs a network converted from PyTorch.

    Attributes
    ----------
    name : str
        As ``--engine`` takes it.
    title : str
        As a text calls it.
    packages : tuple of str
        Packages whose versions a converted network depends on.
    file : str
        Name of a converted network's file.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    file: str

    def why_not(self, device: str) -> str:
        """Why it cannot run on a device (``cpu``, ``cuda:0``); empty when it can."""
        ...

    def convert(self, facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int], *, threads: int, keep: bool) -> Path:
        """Convert a network; the path of its file.

        Raises
        ------
        UnsupportedNetworkError
            When it cannot be converted, or gives other scores afterwards.
        """
        ...

    def open(self, model: Path, device: str, channels: int, roi: Sequence[int], precision: str, batch: int | None, threads: int) -> ConvertedExecutor:
        """Load a converted network, ready for its first batch.

        Raises
        ------
        ImportError, OSError, RuntimeError
            When it does not load.
        DeviceError
            When the device does not start.
        """
        ...


class OpenVINO:
    """OpenVINO on CPUs."""

    name, title, file = "openvino", "OpenVINO", openvino_executor.NETWORK
    packages: tuple[str, ...] = ("openvino",)

    def why_not(self, device: str) -> str:
        """See :class:`ConvertedEngine`."""
        if device != "cpu":
            return f"volseg runs OpenVINO on the CPU, and the device is {device}"
        return "" if openvino_executor.is_installed() else "OpenVINO is not installed (pip install openvino)"

    def convert(self, facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int], *, threads: int, keep: bool) -> Path:
        """See :class:`ConvertedEngine`."""
        from volseg.inference.executors.conversion.openvino import convert

        return convert(facts, network, channels, roi, keep=keep)

    def open(self, model: Path, device: str, channels: int, roi: Sequence[int], precision: str, batch: int | None, threads: int) -> OpenVINOExecutor:
        """See :class:`ConvertedEngine`."""
        computed = "fp32" if precision == "bf16" and not cpu_computes_bf16() else precision
        # Matrix units for bf16 are kept busy by two windows; without them one window has work enough for all cores.
        executor = OpenVINOExecutor(model, channels, roi, computed, batch or (2 if computed == "bf16" else 1), threads)
        executor.compile()
        return executor


class OnnxRuntime:
    """ONNX Runtime on CPUs and NVIDIA GPUs."""

    name, title, file, provider = "onnxruntime", "ONNX Runtime", onnx_executor.NETWORK, CUDA
    packages: tuple[str, ...] = ("onnxruntime", "onnxruntime-gpu", "onnxscript", "onnx")

    def why_not(self, device: str) -> str:
        """See :class:`ConvertedEngine`."""
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            return f"volseg runs {self.title} on CPUs and NVIDIA GPUs, and the device is {device}"
        if not onnx_executor.is_installed():
            return "ONNX Runtime is not installed (pip install 'volseg[onnxruntime]')"
        if kind == "cuda" and self.provider not in available_providers():
            return f"this ONNX Runtime was built without {self.provider} (it has {', '.join(available_providers())}; pip install onnxruntime-gpu)"
        return ""

    def convert(self, facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int], *, threads: int, keep: bool) -> Path:
        """See :class:`ConvertedEngine`."""
        from volseg.inference.executors.conversion.onnx import convert

        return convert(facts, network, channels, roi, threads=threads, keep=keep)

    def open(self, model: Path, device: str, channels: int, roi: Sequence[int], precision: str, batch: int | None, threads: int) -> OnnxExecutor:
        """See :class:`ConvertedEngine`."""
        windows = batch or 1
        return OnnxExecutor(model, self.name, providers_for(self.name, device, (channels, *roi), precision, windows), precision, windows, threads)


class TensorRT(OnnxRuntime):
    """TensorRT on NVIDIA GPUs, as ONNX Runtime's provider."""

    name, title, provider = "tensorrt", "TensorRT", TENSORRT

    def why_not(self, device: str) -> str:
        """See :class:`ConvertedEngine`."""
        if not device.startswith("cuda"):
            return f"TensorRT runs on NVIDIA GPUs, and the device is {device}"
        return super().why_not(device)


def converted_engine(name: str) -> ConvertedEngine:
    """The engine that ``--engine`` names; OpenVINO for ``auto`` and ``torch``, which may come to it or not."""
    engines: tuple[ConvertedEngine, ...] = (OnnxRuntime(), TensorRT())
    return next((engine for engine in engines if engine.name == name), OpenVINO())
