"""From a PyTorch network to OpenVINO's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.conversion.kept import check_scores, check_windows, keep_converted
from volseg.inference.executors.openvino_executor import NETWORK, OpenVINOExecutor, without_telemetry
from volseg.inference.executors.torch_executor import UnsupportedNetworkError
from volseg.processors import usable_threads

if TYPE_CHECKING:
    import torch


def convert(facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int], *, keep: bool = True) -> Path:
    """Convert a network and keep it in the cache.

    Parameters
    ----------
    facts : mapping
        From :func:`~volseg.inference.executors.conversion.facts.network_facts`.
    network : callable
        Gives the network in evaluation mode, on the CPU, with its weights.
    channels : int
        Channels of the image.
    roi : sequence of 3 int
        Window size, which the network is traced with: a network may choose its way by the size of its input.
    keep : bool
        Whether the cache gets it.

    Returns
    -------
    Path
        The ``.xml`` in the cache; in a temporary folder, which is the caller's to remove, where the cache is not to be or cannot be written to.

    Raises
    ------
    UnsupportedNetworkError
        When the network cannot be traced or converted, or gives other scores afterwards.
    """
    with without_telemetry():
        import openvino

    window = check_windows(1, channels, roi)
    loaded = network()
    try:
        model, expected, _alive = _traced(loaded, window)
    except Exception as error:  # OpenVINO's failures are plain Exceptions; PyTorch's tracer raises what the network's code does
        msg = f"it cannot be converted to OpenVINO ({' '.join(str(error).split())[:160]})"
        raise UnsupportedNetworkError(msg) from error

    def write(folder: Path) -> None:
        openvino.save_model(model, folder / NETWORK, compress_to_fp16=False)
        found = OpenVINOExecutor(folder / NETWORK, channels, roi, "fp32", 1, usable_threads())(window)
        check_scores(found, expected, "OpenVINO")

    return keep_converted(facts, write, keep=keep) / NETWORK


def _traced(network: torch.nn.Module, window: npt.NDArray[np.float32]) -> tuple[Any, npt.NDArray[np.float32], Any]:
    """The OpenVINO model, what PyTorch gives for a window (tracing runs the network once, which serves both), and the owner of the weights, which the model refers to."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    seen: list[Any] = []
    hook = network.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    example = torch.from_numpy(window)
    try:
        with torch.inference_mode():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                network, example, check_trace=False
            )
    finally:
        hook.remove()
    scores = seen[0]
    if not isinstance(scores, torch.Tensor) or scores.shape[2:] != example.shape[2:]:
        msg = "its output is not one tensor of scores of the window's size"
        raise TypeError(msg)
    front = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)
    return front.convert(front.load(decoder)), scores.numpy().copy(), decoder
