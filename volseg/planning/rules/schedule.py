"""How long a training is, how often it validates, and how many cases it keeps in memory."""

from __future__ import annotations

from math import ceil, prod

from volseg.planning.rules.budget import CACHE_SHARE, VALIDATION_SHARE, Budget, Cost
from volseg.planning.rules.spacing import Triple
from volseg.planning.rules.topology import Size, Topology

EPOCH_SECONDS = 90.0
"""An epoch on a CPU takes about so long, so that progress is seen and a time limit is met closely."""

CUDA_ITERATIONS, CUDA_EPOCHS = 250, 1000
"""nnU-Net's iterations per epoch and epochs."""

CPU_STEPS = 20_000
"""Steps of the full schedule on a CPU (four hours at 0.75 s); --time-limit compresses it."""

MOST_VAL_INTERVAL = 50


def plan_schedule(topology: Topology, shape: Triple, batch: int, cost: Cost, validation: int, budget: Budget) -> tuple[int, int, int]:
    """Length of a training and how often it validates.

    Parameters
    ----------
    topology : Topology
        With the patch, which is the window of validations too.
    shape : tuple of 3 float
        Median scan (voxels).
    batch : int
        Patches a step.
    cost : Cost
        Of the network.
    validation : int
        Cases that validate.
    budget : Budget
        Device and speed.

    Returns
    -------
    iterations, epochs, interval : int
        Steps an epoch, epochs, and epochs between validations: as few as keep validations within :data:`~volseg.planning.rules.budget.VALIDATION_SHARE` of the time.
    """
    step = cost.step_seconds(batch, budget.gflops)
    if budget.device == "cuda":
        iterations, epochs = CUDA_ITERATIONS, CUDA_EPOCHS
    else:
        iterations = max(10, min(CUDA_ITERATIONS, round(EPOCH_SECONDS / step / 10) * 10))
        epochs = max(1, round(CPU_STEPS / iterations))
    seconds = validation * count_median_windows(topology, shape) * cost.step_seconds(1, budget.gflops) / 3
    interval = ceil(seconds / (VALIDATION_SHARE * iterations * step))
    return iterations, epochs, min(max(1, interval), MOST_VAL_INTERVAL, epochs)


def count_median_windows(topology: Topology, shape: Triple) -> int:
    """Windows of the median scan (voxels); they overlap by half, so one starts at every half edge."""
    return prod(max(1, ceil(2 * size / edge) - 1) for size, edge in zip(shape, topology.patch, strict=True))


def cache_rate(shape: Triple, crop: Size, cases: int, channels: int, budget: Budget) -> float:
    """Share of the cases that a bundle's own CacheDataset keeps in memory, in steps of a hundredth.

    Parameters
    ----------
    shape : tuple of 3 float
        Median scan (voxels); a case is padded to the crop at least.
    crop : tuple of 3 int
        Crop (voxels).
    cases, channels : int
        Of the dataset; image and label are float32.
    budget : Budget
        On a CPU half of its memory is for cases; on a GPU it is not of this memory, and all cases are kept.
    """
    if budget.device == "cuda":
        return 1.0
    voxels = prod(max(size, edge) for size, edge in zip(shape, crop, strict=True))
    share = CACHE_SHARE * budget.memory_bytes / (cases * voxels * 4 * (channels + 1))
    return min(1.0, int(share * 100) / 100)
