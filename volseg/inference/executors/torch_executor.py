"""The network in PyTorch, on CPU, CUDA or MPS."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from volseg.inference.device import autocast, release_memory

if TYPE_CHECKING:
    import torch

MOST_WINDOWS = 8
"""Windows at once on a GPU: more of them hardly raise its throughput and always its memory."""

SHARE_OF_FREE = 0.6
"""Share of a card's free memory that a batch may take; convolutions ask for workspaces on top of what one window showed."""

VOLUME_WEIGHTS = 5
"""Dimensions of a 3D convolution's weights: (out, in, x, y, z)."""


class UnsupportedNetworkError(Exception):
    """The engine cannot run a network: its output is not one tensor of scores of the window's size, or it cannot be converted."""


class TorchExecutor:
    """Runs a torch network on batches of windows; where the memory of a device ends, with smaller batches and at last on the CPU.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode; it is moved to ``device``.
    device : torch.device
        Where it runs.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    batch : int, optional
        Windows at once; None is one on a CPU, and on CUDA as many as the free memory holds, measured on the first window.

    Attributes
    ----------
    notes : list of str
        What the user should know of the run, e.g. that the device ran out of memory.
    memory_margin : float
        A run may take so many times the memory two windows were seen to take: torch's threads leave what they freed in different places. Seen: whole
        runs peaked 18 to 64 MB over a forecast in which the network's calibration stood for 138 MB (DynUNet 8-16, windows of 64, two CPU cores).
    """

    memory_margin = 1.6

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: Literal["fp32", "bf16", "fp16"], batch: int | None = None) -> None:
        self.device, self.precision = device, precision
        self.batch = batch or 1
        self.notes: list[str] = []
        self._measure = batch is None and device.type == "cuda"
        self.network: Any = _laid_out(network, device, precision)

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`.

        Raises
        ------
        UnsupportedNetworkError
            When the network's output is not one tensor of scores of the window's size.
        """
        at, parts = 0, []
        while at < len(windows):
            part = windows[at : at + self.batch]
            scores = self._try(part)
            if scores is None:
                self._retreat(len(part))
                continue
            parts.append(scores)
            at += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Release the network and the device's memory."""
        self.network = None
        gc.collect()
        release_memory(self.device)

    def _try(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Scores of the windows, or None where they do not fit into the device's memory."""
        if self._measure:
            return self._measured(windows)
        try:
            return self._run(windows)
        except RuntimeError as error:
            if not is_out_of_memory(error) or (self.device.type == "cpu" and len(windows) == 1):
                raise
        return None

    def _run(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode(), autocast(self.precision, self.device):
            given = torch.from_numpy(windows).to(self.device)
            if _prefers_channels_last(self.device, self.precision):
                given = given.to(memory_format=torch.channels_last_3d)
            scores: Any = self.network(given)
        if not isinstance(scores, torch.Tensor) or scores.ndim != windows.ndim or scores.shape[2:] != windows.shape[2:]:
            found = f"of shape {tuple(scores.shape)}" if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
            msg = f"the network gives {found} for windows of shape {windows.shape}, not scores of the window's size"
            raise UnsupportedNetworkError(msg)
        return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)

    def _measured(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Run one window, see what memory it takes, and choose the batch by what is free."""
        import torch

        self._measure = False
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        scores = self._try(windows)
        if scores is not None:
            taken = max(1, torch.cuda.max_memory_allocated(self.device) - before) // len(windows)
            free, _ = torch.cuda.mem_get_info(self.device)
            self.batch = max(1, min(MOST_WINDOWS, int(SHARE_OF_FREE * free / taken)))
        return scores

    def _retreat(self, windows: int) -> None:
        """After an out-of-memory: half the batch, and from one window on to the CPU."""
        import torch

        release_memory(self.device)
        if windows > 1:
            self.batch = max(1, windows // 2)
            return
        self.notes.append(f"{self.device} ran out of memory with a single window; the rest ran on the CPU, slower: close what else uses it")
        failed = self.device
        self.device, self.precision = torch.device("cpu"), "fp32"
        self.network = _laid_out(self.network, self.device, self.precision)
        release_memory(failed)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ended: a type of its own on CUDA, a text elsewhere."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _prefers_channels_last(device: torch.device, precision: str) -> bool:
    """Reduced precision runs on matrix units that want channels last; fp32 on CPUs measures slower with it."""
    return device.type == "cuda" or (device.type == "cpu" and precision == "bf16")


def _laid_out(network: torch.nn.Module, device: torch.device, precision: str) -> torch.nn.Module:
    import torch

    network = network.to(device)
    if _prefers_channels_last(device, precision):
        for parameter in network.parameters():
            # `Module.to` would refuse a network that has planar weights too.
            if parameter.ndim == VOLUME_WEIGHTS:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
