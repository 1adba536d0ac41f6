"""The running average of the weights, which is what is validated and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

POWER = 16.97
"""Exponent gamma of the average; 16.97 makes its relative width 5 % of the training so far (Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models",
CVPR 2024, arXiv:2312.02696, eq. 126: width = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)))."""


def share_of_newest(count: int) -> float:
    """Weight of the newest network in the average after ``count`` (at least 1) updates: ``1 - (1 - 1 / count) ** (POWER + 1)``.

    A fixed decay such as 0.999 averages over a thousand steps whether the training has five hundred or a million. Here network ``i`` of ``count`` has a weight in proportion to
    ``i ** POWER``: the average reaches over the same share of every training, so it is right for two minutes and for two days, and the first networks are forgotten.
    """
    return float(1 - (1 - 1 / count) ** (POWER + 1))


class WeightAverage:
    """Power-function exponential moving average of a network's weights.

    Buffers (statistics of batch norm) are those of the network itself.

    Parameters
    ----------
    network : torch.nn.Module
        As trained, without the wrapper of distributed training or of compilation.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._count = 0
        self._average: Any = AveragedModel(network, multi_avg_fn=self._blend)
        self._average.requires_grad_(False)

    @property
    def network(self) -> torch.nn.Module:
        """The network that holds the average; never trained."""
        module: torch.nn.Module = self._average.module
        return module

    def update(self, network: torch.nn.Module) -> None:
        """Take in the network after an optimiser step."""
        self._count += 1
        self._average.update_parameters(network)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return dict(self._average.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an average."""
        self._average.load_state_dict(state)
        self._count = int(self._average.n_averaged)

    @torch.no_grad()
    def _blend(self, averaged: Tensors, newest: Tensors, _: object) -> None:
        # torch passes its own count as a tensor on the device, and reading it there would make every step wait for the device.
        torch._foreach_lerp_(averaged, newest, share_of_newest(self._count))


def bare(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself, out of the wrappers of ``DistributedDataParallel`` and ``torch.compile``, whose state dicts have other names."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return bare(network.module)
    # Naming torch's class of compiled modules would import its compiler, which takes seconds.
    compiled = getattr(network, "_orig_mod", None)
    return bare(compiled) if isinstance(compiled, torch.nn.Module) else network
