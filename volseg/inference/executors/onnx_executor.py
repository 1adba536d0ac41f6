"""The network in ONNX Runtime: on CPUs, on NVIDIA GPUs by its CUDA provider, or by TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import DeviceError

NETWORK = "network.onnx"
"""Name of a converted network's file."""

INPUT, OUTPUT = "image", "scores"
"""Names of its input and output."""

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
"""ONNX Runtime's names of what computes."""

FAILURES_ONLY = 3
"""Log severity: errors, no warnings."""

Provider = tuple[str, dict[str, Any]]


class OnnxExecutor:
    """Runs an ONNX model on batches of windows.

    Parameters
    ----------
    model : Path
        The network as ONNX; its batch is free.
    engine : str
        ``onnxruntime`` or ``tensorrt``, for the report.
    providers : sequence of (str, dict)
        What computes, the first one wherever it can; see :func:`providers_for`.
    precision : str
        ``fp32`` or ``fp16``.
    batch : int
        Windows at once.
    threads : int
        Processors to use.

    Raises
    ------
    DeviceError
        When the first provider does not start here: ONNX Runtime itself would go on with the next one without a word.
    RuntimeError
        When the model does not load.
    """

    def __init__(self, model: Path, engine: str, providers: Sequence[Provider], precision: str, batch: int, threads: int) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = FAILURES_ONLY
        self.engine, self.precision, self.batch = engine, precision, batch
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise RuntimeError(str(error)) from error
        wanted = providers[0][0]
        if wanted not in self._session.get_providers():
            msg = f"--engine {engine}: {wanted} does not start here (its libraries are missing or do not fit the driver); use --engine torch"
            raise DeviceError(msg)

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        try:
            scores: npt.NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: windows})[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise RuntimeError(str(error)) from error
        return scores


def is_installed() -> bool:
    """Whether ONNX Runtime can be imported."""
    try:
        return util.find_spec("onnxruntime") is not None
    except ValueError:
        return False


def available_providers() -> list[str]:
    """What this ONNX Runtime was built with."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def providers_for(engine: str, device: str, window: Sequence[int], precision: str, batch: int) -> list[Provider]:
    """What computes, in order: TensorRT where it is asked for, CUDA on a GPU, and the CPU for what the others lack.

    Parameters
    ----------
    engine : str
        ``onnxruntime`` or ``tensorrt``.
    device : str
        ``cpu`` or ``cuda:N``.
    window : sequence of 4 int
        Channels and size of a window.
    precision : str
        ``fp32``, or ``fp16`` for TensorRT.
    batch : int
        Windows at once.
    """
    if device == "cpu":
        return [(CPU, {})]
    card = int(device.partition(":")[2] or 0)
    found: list[Provider] = [(CUDA, {"device_id": card}), (CPU, {})]
    return [(TENSORRT, tensorrt_options(card, window, precision, batch)), *found] if engine == "tensorrt" else found


def tensorrt_options(card: int, window: Sequence[int], precision: str, batch: int) -> dict[str, Any]:
    """Options of the TensorRT provider: one engine for batches of 1 to ``batch``.

    The engine it builds (minutes) is not kept on disk: it is bound to the card, the driver and TensorRT's build, and nothing in its file tells whether it is whole.
    """
    size = "x".join(str(n) for n in window)
    options: dict[str, Any] = {
        "device_id": card,
        "trt_fp16_enable": precision == "fp16",
        "trt_profile_min_shapes": f"{INPUT}:1x{size}",
        "trt_profile_opt_shapes": f"{INPUT}:{batch}x{size}",
        "trt_profile_max_shapes": f"{INPUT}:{batch}x{size}",
    }
    return options
