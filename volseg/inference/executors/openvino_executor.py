"""The network in OpenVINO, on CPUs: converted once from PyTorch, kept on disk, compiled in a fraction of a second."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.compiled import entry_for, read_entry, staging_folder, write_entry

if TYPE_CHECKING:
    import torch

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}

NETWORK = "network.xml"


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
        ``fp32`` or ``bf16``.
    batch : int
        Windows at once; each number of windows up to it gets its own compiled model when it is first met.
    threads : int
        Processors to use.
    """

    def __init__(self, model: Path, channels: int, roi: Sequence[int], precision: str, batch: int, threads: int) -> None:
        import openvino

        self.batch = batch
        self._shape = [channels, *roi]
        self._core = openvino.Core()
        self._model = self._core.read_model(model)
        self._settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision], "INFERENCE_NUM_THREADS": threads}
        self._requests: dict[int, Any] = {}

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        request = self._request(len(windows))
        request.infer({0: windows}, share_inputs=True)
        scores: npt.NDArray[np.float32] = request.get_output_tensor(0).data
        return scores

    def _request(self, windows: int) -> Any:
        if windows not in self._requests:
            model = self._model.clone()
            model.reshape({model.input(0): [windows, *self._shape]})
            self._requests[windows] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[windows]


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return util.find_spec("openvino") is not None


def network_facts(weights_sha256: str, definition: Any) -> dict[str, Any]:
    """What a converted network depends on; JSON-ready."""
    versions = {name: metadata.version(name) for name in ("openvino", "torch", "monai")}
    return {"engine": "openvino", "weights_sha256": weights_sha256, "definition": definition, "versions": versions}


def find_converted(facts: Mapping[str, Any]) -> Path | None:
    """The converted network of these facts in the cache, or None."""
    files = read_entry(entry_for(facts), facts)
    return files[NETWORK] if files and NETWORK in files else None


def convert(facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int]) -> Path:
    """Convert a network and keep it in the cache.

    Parameters
    ----------
    facts : mapping
        From :func:`network_facts`.
    network : callable
        Gives the network in evaluation mode, on the CPU, with its weights.
    channels : int
        Channels of the image.
    roi : sequence of 3 int
        Window size, which the network is traced with where a smaller one does not do.

    Returns
    -------
    Path
        The ``.xml`` in the cache, or in a temporary folder where the cache cannot be written to.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        Of PyTorch's tracer or OpenVINO's converter, for networks they cannot convert.
    """
    import openvino

    model = _traced(network(), channels, roi)
    folder = staging_folder()
    staged = folder or Path(tempfile.mkdtemp(prefix="volseg-"))
    try:
        openvino.save_model(model, staged / NETWORK, compress_to_fp16=False)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    if folder is None:
        return staged / NETWORK
    entry = entry_for(facts)
    write_entry(entry, facts, staged)
    return entry / NETWORK


def _traced(network: torch.nn.Module, channels: int, roi: Sequence[int]) -> Any:
    import openvino
    import torch

    example = torch.zeros(1, channels, *roi)
    with torch.inference_mode():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, example, check_trace=False
        )
    return openvino.convert_model(traced, example_input=example)
