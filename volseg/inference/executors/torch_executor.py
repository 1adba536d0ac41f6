"""The network in PyTorch, on CPU, CUDA or MPS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from volseg.inference.device import autocast

if TYPE_CHECKING:
    import torch


class TorchExecutor:
    """Runs a torch network on batches of windows.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on ``device``.
    device : torch.device
        Where it runs.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    batch : int
        Windows at once.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: Literal["fp32", "bf16", "fp16"], batch: int = 1) -> None:
        self.network, self.device, self.precision, self.batch = network, device, precision, batch

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        import torch

        with torch.inference_mode(), autocast(self.precision, self.device):
            scores: Any = self.network(torch.from_numpy(windows).to(self.device))
            return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
