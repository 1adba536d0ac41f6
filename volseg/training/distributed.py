"""One training by several processes, as ``torchrun`` starts them: who writes, who trains on what, and what all must agree on.

Every process holds the whole network and takes its share of each epoch's patches; gradients are averaged by torch's ``DistributedDataParallel``, so the weights stay the same
everywhere. An epoch shows as many patches as it does with one process, in so many fewer steps of a batch so many times larger.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

PATIENCE = timedelta(days=1)
"""How long processes wait for one another: the first one may preprocess a large dataset while the others wait."""


@dataclass(frozen=True)
class Ranks:
    """One process among those of one training.

    Attributes
    ----------
    rank : int
        Number of this process; 0 writes the files and speaks.
    count : int
        Number of processes.
    local_rank : int
        Number of this process on its machine, which is the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is only this process."""
        return self.count == 1

    def device(self, asked: str) -> str:
        """Name of the device for this process: its own GPU where one of several processes asks for ``auto`` or ``cuda``."""
        if self.is_alone or asked not in ("auto", "cuda"):
            return asked
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else ("cpu" if asked == "auto" else asked)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item, for validation; all items where there are fewer than processes, since a process without any would leave the others waiting for its scores."""
        return list(items) if len(items) < self.count else list(items[self.rank :: self.count])


ALONE = Ranks()


def ranks() -> Ranks:
    """Where this process stands among those ``torchrun`` started (``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``); alone without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Ranks(int(os.environ.get("RANK", "0")), count, int(os.environ.get("LOCAL_RANK", "0"))) if count > 1 else ALONE


def connect(place: Ranks, device: str) -> None:
    """Connect the processes, once and until this one ends: NCCL between GPUs, gloo between CPUs; nothing to do for one process.

    The folds of a cross-validation share one connection: a second one would read what the first left in torchrun's store and wait for processes that are gone.
    """
    if place.is_alone:
        return
    import torch
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(torch.device(device))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)


@contextmanager
def in_turn(place: Ranks) -> Iterator[None]:
    """Run a block in the first process, then in the others, which find what the first one wrote."""
    if place.is_alone:
        yield
        return
    import torch.distributed as dist

    if not place.is_first:
        dist.barrier()
    yield
    if place.is_first:
        dist.barrier()


def agree(value: float, device: torch.device) -> float:
    """The first process's value, in all of them: clocks differ, and processes that stop at different steps wait for each other forever."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return float(shared.item())


class RankSampler:
    """The share of one process of the cases that another sampler draws.

    All processes draw the same cases, from the seed and the epoch alone, and each takes every ``count``-th.

    Parameters
    ----------
    sampler : torch.utils.data.Sampler
        Draws the cases of an epoch.
    rank, count : int
        See :class:`Ranks`.
    """

    def __init__(self, sampler: Any, rank: int, count: int) -> None:
        self._sampler, self._rank, self._count, self._seed = sampler, rank, count, 0

    def set_seed(self, seed: int) -> None:
        """Random state of the next epoch, the same in every process."""
        self._seed = seed

    def __len__(self) -> int:
        return len(self._sampler) // self._count

    def __iter__(self) -> Iterator[int]:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            drawn = list(self._sampler)
        return iter(drawn[self._rank : len(self) * self._count : self._count])


def share_config(config: Any, place: Ranks) -> None:
    """Change a parsed training config (a MONAI ``ConfigParser``) so that this process loads its share of an epoch.

    The data loader keeps its batch size; its sampler, or its ``shuffle``, is wrapped by :class:`RankSampler`.
    """
    loader = config.get("train#dataloader")
    if place.is_alone or not isinstance(loader, dict):
        return
    sampler = loader.get("sampler")
    if sampler is None:
        kind = "RandomSampler" if loader.get("shuffle") else "SequentialSampler"
        sampler = {"_target_": f"torch.utils.data.{kind}", "data_source": "@train#dataset"}
    loader = {key: value for key, value in loader.items() if key != "shuffle"}
    config["train#dataloader"] = {**loader, "sampler": {"_target_": "volseg.training.distributed.RankSampler", "sampler": sampler, "rank": place.rank, "count": place.count}}
