"""The network in PyTorch, on CPU, CUDA or MPS."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from volseg.inference.device import autocast, release_memory
from volseg.inference.executors.torch_graph import Recorder, Replayed, record_cuda_graph
from volseg.inference.executors.torch_memory import Floats, HostBuffers, is_out_of_memory, next_step

if TYPE_CHECKING:
    import torch

MOST_WINDOWS = 8
"""Windows at once on a GPU: more of them hardly raise its throughput and always its memory."""

SHARE_OF_FREE = 0.4
"""Share of a card's free memory that a batch may take: a recording has a pool of its own beside that of plain runs, and convolutions ask for workspaces on top of what one
window showed."""

VOLUME_WEIGHTS = 5
"""Dimensions of a 3D convolution's weights: (out, in, x, y, z)."""


class UnsupportedNetworkError(Exception):
    """The engine cannot run a network: its output is not one tensor of scores of the window's size, or it cannot be converted."""


class TorchExecutor:
    """Runs a torch network on batches of windows; where a device cannot go on, with smaller batches, in fp32, and at last on the CPU.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode; it is moved to ``device``.
    device : torch.device
        Where it runs.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``. Where scores of fp16 overflow, fp32 is computed from there on.
    batch : int, optional
        Windows at once; None is one on a CPU, and on CUDA as many as the free memory holds, measured on the first window.
    record : callable, optional
        How launches are recorded for replay; None is CUDA graphs on CUDA, and nothing elsewhere.

    Attributes
    ----------
    device, precision
        What is computed on and in; they change where the device could not go on.
    notes : list of str
        What the user should know of the run, e.g. that the device ran out of memory.
    memory_margin : float
        A run may take so many times the memory two windows were seen to take: torch's threads leave what they freed in different places. Seen: whole
        runs peaked 18 to 64 MB over a forecast in which the network's calibration stood for 138 MB (DynUNet 8-16, windows of 64, two CPU cores).
    """

    engine = "torch"
    memory_margin = 1.6

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: str, batch: int | None = None, record: Recorder | None = None) -> None:
        self.device, self.precision = device, precision
        self.batch = batch or 1
        self.notes: list[str] = []
        on_card = device.type == "cuda"
        self._measure = batch is None and on_card
        self._buffers = HostBuffers(pinned=on_card)
        self.network: Any = _laid_out(network, device, precision)
        self._forward = Replayed(self._scores, record or (record_cuda_graph if on_card else None))

    def __call__(self, windows: Floats) -> Floats:
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
            if scores is not None:
                # The next part may be fetched into the same memory.
                parts.append(scores if len(part) == len(windows) else scores.copy())
                at += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Release the network and the device's memory."""
        self._forward.close()
        self._buffers.close()
        self.network = None
        gc.collect()
        release_memory(self.device)

    def _try(self, windows: Floats) -> Floats | None:
        """Scores of the windows, or None after a step down that makes another attempt worth while."""
        try:
            scores = self._measured(windows) if self._measure else self._run(windows)
        except RuntimeError as error:
            step, memory = next_step(self.device.type, self.precision, len(windows), error), is_out_of_memory(error)
            if step == "raise":
                raise
            reason = "ran out of memory with a single window" if memory else f"cannot run this network in {self.precision} ({' '.join(str(error).split())[:120]})"
        else:
            if scores is not None:
                return scores
            step, reason = "fp32", "overflows in fp16"
        # Not where the error is handled: its traceback holds the tensors that are to be freed.
        if step == "halve":
            self._forward.close()
            release_memory(self.device)
            self.batch = max(1, len(windows) // 2)
        else:
            self._step_down(step == "cpu", reason)
        return None

    def _step_down(self, to_cpu: bool, reason: str) -> None:
        """Go on in fp32, on the device or on the CPU."""
        import torch

        cure = "the rest ran on the CPU, slower: close what else uses it" if to_cpu else "the rest ran in fp32, slower: --precision fp32 takes it at once"
        self.notes.append(f"{self.device} {reason}; {cure}")
        failed = self.device
        self._forward.close()
        self._buffers.close()
        if to_cpu:
            self.device, self._buffers = torch.device("cpu"), HostBuffers(pinned=False)
        self.precision = "fp32"
        self.network = _laid_out(self.network, self.device, self.precision)
        gc.collect()
        release_memory(failed)

    def _run(self, windows: Floats) -> Floats | None:
        """Scores, or None where they overflow in fp16."""
        import torch

        layout = torch.channels_last_3d if _prefers_channels_last(self.device, self.precision) else torch.contiguous_format
        with torch.inference_mode(), _algorithms_tried(self.device):
            scores = self._forward(self._buffers.send(windows, self.device, layout))
            if self.precision == "fp16" and not bool(scores.isfinite().all()):
                return None
            return self._buffers.fetch(scores)

    def _scores(self, given: torch.Tensor) -> torch.Tensor:
        import torch

        with autocast(self.precision, self.device):
            scores: Any = self.network(given)
        if not isinstance(scores, torch.Tensor) or scores.ndim != given.ndim or scores.shape[2:] != given.shape[2:]:
            found = f"of shape {tuple(scores.shape)}" if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
            msg = f"the network gives {found} for windows of shape {tuple(given.shape)}, not scores of the window's size"
            raise UnsupportedNetworkError(msg)
        return scores.float()

    def _measured(self, windows: Floats) -> Floats | None:
        """Run the first windows twice, see what memory the second run takes (the first one tries algorithms), and choose the batch by what is free."""
        import torch

        self._measure = False
        if self._run(windows) is None:
            return None
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        scores = self._run(windows)
        if scores is not None:
            taken = max(1, torch.cuda.max_memory_allocated(self.device) - before) // len(windows)
            free, _ = torch.cuda.mem_get_info(self.device)
            self.batch = batch_for(free, taken)
        return scores


def batch_for(free: int, taken: int) -> int:
    """Windows at once on a card.

    Parameters
    ----------
    free : int
        Bytes of its memory that nothing uses.
    taken : int
        Bytes one window was seen to take.
    """
    return max(1, min(MOST_WINDOWS, int(SHARE_OF_FREE * free / max(1, taken))))


@contextmanager
def _algorithms_tried(device: torch.device) -> Iterator[None]:
    """On CUDA cuDNN times its algorithms on the first batch of a shape, of which there are few here, and keeps the fastest."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _prefers_channels_last(device: torch.device, precision: str) -> bool:
    """Reduced precision runs on matrix units that want channels last; fp32 on CPUs measures slower with it."""
    return device.type == "cuda" or (device.type == "cpu" and precision == "bf16")


def _laid_out(network: torch.nn.Module, device: torch.device, precision: str) -> torch.nn.Module:
    import torch

    network = network.to(device)
    layout = torch.channels_last_3d if _prefers_channels_last(device, precision) else torch.contiguous_format
    for parameter in network.parameters():
        # `Module.to` would refuse a network that has planar weights too.
        if parameter.ndim == VOLUME_WEIGHTS:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network
