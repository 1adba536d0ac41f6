"""The network in OpenVINO, on CPUs: converted once from PyTorch, kept on disk, compiled in a fraction of a second."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle, follow
from volseg.bundle.read import read_config
from volseg.inference.executors.compiled import entry_for, read_entry
from volseg.inference.executors.converter import NETWORK, without_telemetry

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}


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
        with without_telemetry():
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

    def compile(self) -> None:
        """Compile for full batches now, rather than when the first one comes."""
        self._request(self.batch)

    def _request(self, windows: int) -> Any:
        if windows not in self._requests:
            model = self._model.clone()
            model.reshape({model.input(0): [windows, *self._shape]})
            self._requests[windows] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[windows]


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    try:
        return util.find_spec("openvino") is not None
    except ValueError:
        return False


def network_facts(bundle: Bundle, weights_sha256: str, roi: Sequence[int]) -> dict[str, Any]:
    """What a converted network depends on: weights, definition, the bundle's own code, window, versions, kind of machine; JSON-ready.

    Parameters
    ----------
    bundle : Bundle
        Whose network.
    weights_sha256 : str
        Of the weights file.
    roi : sequence of 3 int
        Window size it is traced with.
    """
    versions = {name: metadata.version(name) for name in ("openvino", "torch", "monai")}
    return {
        "engine": "openvino",
        "weights_sha256": weights_sha256,
        "definition": _definition(read_config(bundle.inference_config)),
        "code_sha256": _code_sha256(bundle.path),
        "roi": [int(n) for n in roi],
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def find_converted(facts: Mapping[str, Any]) -> Path | None:
    """The converted network of these facts in the cache, or None."""
    files = read_entry(entry_for(facts), facts)
    return files[NETWORK] if files and NETWORK in files else None


def _definition(config: Mapping[str, Any]) -> Any:
    """`network_def` with its references followed; the whole config where an expression in it may depend on anything."""
    definition = _resolved(config, "@network_def")
    return config if _has_expression(definition) else definition


def _resolved(config: Mapping[str, Any], value: Any) -> Any:
    value = follow(config, value)
    if isinstance(value, Mapping):
        return {key: _resolved(config, item) for key, item in value.items()}
    return [_resolved(config, item) for item in value] if isinstance(value, list) else value


def _has_expression(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_expression, value.values()))
    if isinstance(value, list):
        return any(map(_has_expression, value))
    return value is None if not isinstance(value, str) else value.startswith("$") or "@" in value


def _code_sha256(bundle: Path) -> str:
    """SHA-256 over the bundle's own Python files, which may define the network."""
    digest = hashlib.sha256()
    for path in sorted(bundle.rglob("*.py")):
        digest.update(str(path.relative_to(bundle)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
