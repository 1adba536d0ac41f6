"""What to do when a device cannot go on, as a pure rule; and memory that a card reads and writes without a detour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

Step = Literal["halve", "fp32", "cpu", "raise"]

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine to execute",
)
"""How torch, CUDA, cuDNN (whose algorithms find no room for their workspace), cuBLAS and Metal say that memory ended; lower case."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ended: a type of its own on CUDA, a text elsewhere."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


def next_step(kind: str, precision: str, windows: int, error: RuntimeError) -> Step:
    """What follows a failed batch.

    Where memory ends, half the batch, and from one window on the CPU. Apple's GPUs lack some operators in half precision (transposed 3D convolutions among them) and some
    altogether: single precision is tried next, then the CPU. All other errors are the network's own.

    Parameters
    ----------
    kind : str
        Of device: ``cpu``, ``cuda``, ``mps``.
    precision : str
        What the batch was computed in.
    windows : int
        Of the batch.
    error : RuntimeError
        What torch raised.
    """
    if is_out_of_memory(error):
        if windows > 1:
            return "halve"
        return "raise" if kind == "cpu" else "cpu"
    if kind == "mps" and precision != "fp32":
        return "fp32"
    return "cpu" if kind == "mps" and isinstance(error, NotImplementedError) else "raise"


class HostBuffers:
    """Windows on their way to a device, scores on their way back.

    A card copies page-locked memory several times faster than other memory and while the host goes on. On a CPU, and where the system refuses to lock pages, tensors share or copy
    ordinary memory.

    Parameters
    ----------
    pinned : bool
        Whether the device is a card that gains by it.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers: dict[str, torch.Tensor] = {}

    def send(self, windows: Floats, device: torch.device, memory_format: torch.memory_format) -> torch.Tensor:
        """Windows on the device."""
        import torch

        host = torch.from_numpy(windows)
        locked = self._locked("windows", host.shape)
        if locked is None:
            return host.to(device).to(memory_format=memory_format)
        # The last copy from this buffer has ended: fetching its scores waited for it.
        return locked.copy_(host).to(device, non_blocking=True).to(memory_format=memory_format)

    def fetch(self, scores: torch.Tensor) -> Floats:
        """Scores in float32 on the host; overwritten by the next."""
        import torch

        locked = self._locked("scores", scores.shape)
        if locked is None:
            return np.asarray(scores.float().cpu().contiguous().numpy(), dtype=np.float32)
        locked.copy_(scores, non_blocking=True)
        if scores.device.type == "cuda":
            torch.cuda.current_stream(scores.device).synchronize()
        return np.asarray(locked.numpy(), dtype=np.float32)

    def close(self) -> None:
        """Give the memory back."""
        self._buffers.clear()

    def _locked(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        import torch

        if not self._pinned:
            return None
        if name not in self._buffers or self._buffers[name].shape != shape:
            try:
                self._buffers[name] = torch.empty(shape, dtype=torch.float32, pin_memory=True)
            except RuntimeError:
                self._pinned = False
                self._buffers.clear()
                return None
        return self._buffers[name]
