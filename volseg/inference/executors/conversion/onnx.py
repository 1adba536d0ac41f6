"""From a PyTorch network to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.inference.executors.conversion.kept import check_scores, check_windows, keep_converted
from volseg.inference.executors.onnx_executor import CPU, INPUT, NETWORK, OUTPUT, OnnxExecutor
from volseg.inference.executors.torch_executor import UnsupportedNetworkError

if TYPE_CHECKING:
    import torch

OPSET = 18
"""ONNX operator set: the one PyTorch's exporter writes without converting between versions."""


def convert(facts: Mapping[str, Any], network: Callable[[], torch.nn.Module], channels: int, roi: Sequence[int], *, threads: int = 1, keep: bool = True) -> Path:
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
        Window size, which the network is exported for; the batch stays free.
    threads : int
        Processors to check it with.
    keep : bool
        Whether the cache gets it.

    Returns
    -------
    Path
        The ``.onnx`` in the cache; in a temporary folder, which is the caller's to remove, where the cache is not to be or cannot be written to.

    Raises
    ------
    UnsupportedNetworkError
        When the network cannot be exported, or gives other scores afterwards.
    """
    import torch

    # A batch of one would be taken for a network that takes no other.
    windows = torch.from_numpy(check_windows(2, channels, roi))
    loaded = network()
    with torch.inference_mode():
        scores = loaded(windows)
    if not isinstance(scores, torch.Tensor) or scores.shape[2:] != windows.shape[2:]:
        msg = "it cannot be converted to ONNX (its output is not one tensor of scores of the window's size)"
        raise UnsupportedNetworkError(msg)

    def write(folder: Path) -> None:
        _export(loaded, windows, folder / NETWORK)
        found = OnnxExecutor(folder / NETWORK, "onnxruntime", [(CPU, {})], "fp32", len(windows), threads)(windows.numpy())
        check_scores(found, scores.numpy(), "ONNX")

    return keep_converted(facts, write, keep=keep) / NETWORK


def _export(network: torch.nn.Module, windows: torch.Tensor, path: Path) -> None:
    import torch

    from volseg.inference.executors.conversion.exact_norm import with_exact_norms

    batch = torch.export.Dim("batch", min=1)
    try:
        torch.onnx.export(
            with_exact_norms(network),
            (windows,),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
        )
    except Exception as error:  # the exporter raises what the network's code does, and types of its own
        msg = f"it cannot be converted to ONNX ({' '.join(str(error).split())[:160]})"
        raise UnsupportedNetworkError(msg) from error
