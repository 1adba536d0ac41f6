"""The network in OpenVINO, on CPUs: converted once from PyTorch, kept on disk, compiled in a fraction of a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.normalisation import with_exact_means

NETWORK = "network.xml"
"""Name of a converted network's file."""

TELEMETRY = "openvino_telemetry"

PRECISION_NAMES = {"f32": "fp32", "bf16": "bf16"}
"""OpenVINO's names of number formats -> ours."""


class OpenVINOExecutor:
    """Runs an OpenVINO model on batches of windows.

    Parameters
    ----------
    model : Path
        The network as OpenVINO IR (``.xml`` with its ``.bin`` beside it).
    channels : int
        Channels of the image.
    roi : sequence of 3 int
        Window size.
    precision : str
        ``fp32`` or ``bf16``: of what the model does not hold as int8.
    batch : int
        Windows at once; each number of windows up to it gets its own compiled model when it is first met.
    threads : int
        Processors to use.

    Attributes
    ----------
    precision : str
        What is computed in, known once a batch was compiled: OpenVINO takes fp32 where the CPU does not compute bf16.
    """

    engine = "openvino"

    def __init__(self, model: Path, channels: int, roi: Sequence[int], precision: str, batch: int, threads: int) -> None:
        with without_telemetry():
            import openvino

        self.batch, self.precision = batch, precision
        self._shape = [channels, *roi]
        self._core = openvino.Core()
        self._model = self._core.read_model(model)
        hint = next(theirs for theirs, ours in PRECISION_NAMES.items() if ours == precision)
        self._settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        self._requests: dict[int, Any] = {}

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        request = self._request(len(windows))
        request.infer({0: windows}, share_inputs=True)
        scores: npt.NDArray[np.float32] = request.get_output_tensor(0).data
        return scores

    def compile(self) -> None:
        """Compile for full batches now, rather than when the first one comes."""
        self._request(self.batch)

    def _request(self, windows: int) -> Any:
        if windows not in self._requests:
            model = self._model.clone()
            model.reshape({model.input(0): [windows, *self._shape]})
            if self._settings["INFERENCE_PRECISION_HINT"] == "f32":
                # What bf16 rounds away is more than this mends.
                model = with_exact_means(model)
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self.precision = PRECISION_NAMES.get(compiled.get_property("INFERENCE_PRECISION_HINT").to_string(), self.precision)
            self._requests[windows] = compiled.create_infer_request()
        return self._requests[windows]


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    try:
        return util.find_spec("openvino") is not None
    except ValueError:
        return False


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO (or NNCF) inside this block: it then has no telemetry package to report with, and takes its own empty stand-in.

    volseg itself never calls the parts of OpenVINO that report (``openvino.convert_model``, ``ovc``); this keeps even their set-up away.
    """
    if TELEMETRY in sys.modules:
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
