"""Which device and number format to compute with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from volseg.errors import DeviceError
from volseg.processors import usable_threads

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")

BF16_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
"""Linux CPU flags of instruction sets that compute bf16 products. Without one, PyTorch emulates bf16 (right, but slower than fp32), and OpenVINO computes fp32 in its place."""

INT8_CPU_FLAGS = {"amx_int8", "avx512_vnni", "avx_vnni"}
"""Linux CPU flags of instruction sets that add up 8-bit products in 32 bits; without one, int8 gains little."""


NVIDIA_SIGNS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Device files of GPU drivers on Linux: NVIDIA's, WSL's, AMD's. Without any of them torch finds no GPU."""


def may_have_cuda() -> bool:
    """Whether asking torch for a GPU could find one; tells the CPU-only case without importing torch, which takes seconds."""
    try:
        cpu_build = metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False
    if cpu_build or sys.platform == "darwin":
        return False
    return sys.platform != "linux" or any(Path(sign).exists() for sign in NVIDIA_SIGNS)


def device_name(name: str = "auto") -> str:
    """As :func:`select_device`, but the device's name (``"cpu"``, ``"cuda:0"``), and without importing torch where the answer is the CPU.

    Raises
    ------
    DeviceError
        When the name is unknown or the machine has no such device.
    """
    if name == "cpu" or (name == "auto" and not may_have_cuda()):
        return "cpu"
    return str(select_device(name))


def select_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda[:N]`` or ``mps`` into a device that exists.

    On a CPU, torch is kept to the processors it may use (:func:`volseg.processors.usable_threads`); by itself it follows the affinity but not a container's quota.

    Raises
    ------
    DeviceError
        When the name is unknown or the machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and torch.get_num_threads() > usable_threads():
        torch.set_num_threads(usable_threads())
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        msg = f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps"
        raise DeviceError(msg)
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            msg = f"device {name!r} is not there: torch {torch.__version__} sees {count} CUDA devices; use --device cpu, or install a CUDA build of torch and a driver"
            raise DeviceError(msg)
        return torch.device("cuda", int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        msg = "device 'mps' is not there; use --device cpu"
        raise DeviceError(msg)
    return torch.device(kind)


def cpu_flags() -> set[str]:
    """Instruction sets of this CPU by their Linux names; empty on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return set()
    flags = next((line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return set(flags.partition(":")[2].split())


def cpu_computes_bf16(flags: Collection[str] | None = None) -> bool:
    """Whether a CPU with these flags (None: this one) multiplies bf16 in hardware: AMX or AVX512-BF16; no on systems that do not tell."""
    return bool(BF16_CPU_FLAGS & set(cpu_flags() if flags is None else flags))


def select_precision(precision: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Choose the number format to train in: as :func:`precision_for`, but fp32 on Apple GPUs, whose half-precision operators training has not been tried with.

    Raises
    ------
    DeviceError
        When the device cannot compute the format asked for, or nothing can be trained in it.
    """
    if precision == "auto" and device.type == "mps":
        return "fp32"
    chosen = precision_for(precision, device.type)
    if chosen == "int8":
        msg = "int8 is for inference; use --precision auto"
        raise DeviceError(msg)
    return chosen


def precision_for(precision: str, kind: str, engine: str = "auto") -> Literal["fp32", "bf16", "fp16", "int8"]:
    """Choose the number format of the network for a kind of device (``cpu``, ``cuda``, ``mps``).

    It is the one asked for. ``auto`` is fp16 on GPUs (where a network cannot run in it, or its scores overflow, fp32 is computed instead), bf16 on a CPU that computes it, and fp32
    elsewhere; ONNX Runtime on a GPU takes fp32, since its file holds that.

    Raises
    ------
    DeviceError
        When the device cannot compute the format asked for.
    """
    if precision == "auto":
        if engine == "onnxruntime":
            return "fp32"
        if kind in ("cuda", "mps"):
            return "fp16"
        return "bf16" if kind == "cpu" and cpu_computes_bf16() else "fp32"
    if precision == "fp16" and kind == "cpu":
        msg = "fp16 is for GPUs; use --precision bf16 or fp32 on a CPU"
        raise DeviceError(msg)
    if precision == "int8" and kind != "cpu":
        msg = f"int8 runs in OpenVINO on the CPU, and the device is {kind}; use --device cpu, or --precision fp16"
        raise DeviceError(msg)
    if precision == "fp32":
        return "fp32"
    if precision == "bf16":
        return "bf16"
    if precision == "fp16":
        return "fp16"
    if precision == "int8":
        return "int8"
    msg = f"unknown precision {precision!r}; use one of {', '.join(PRECISIONS)}"
    raise DeviceError(msg)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which the network runs in ``precision`` (nothing to do for fp32)."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def describe_device(device: torch.device) -> str:
    """Name of the processor, e.g. ``"AMD EPYC (2 threads)"`` or the card's name."""
    import torch

    if device.type == "mps":
        return "Apple GPU (Metal)"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_cpu(torch.get_num_threads())


def describe_cpu(count: int) -> str:
    """Name of the CPU and the number of threads used, e.g. ``"AMD EPYC (2 threads)"``."""
    cpuinfo = Path("/proc/cpuinfo")
    name = "CPU"
    if cpuinfo.is_file():
        named = (line.split(":", 1)[1].strip() for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name"))
        name = next(named, name)
    return f"{name} ({count} threads)"


def release_memory(device: torch.device) -> None:
    """Give memory that torch keeps for reuse back to the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
