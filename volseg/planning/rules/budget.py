"""What a plan may cost: presets, and models of the memory and time of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from volseg.planning.rules.topology import Topology, feature_map_elements, forward_flops, parameter_count

Device = Literal["cpu", "cuda"]

GB = 10**9

DEFAULT_MEMORY_BYTES = 8 * GB
"""nnU-Net's default target of GPU memory; on a CPU, what an ordinary machine can spare."""

REFERENCE_ELEMENTS = 560_000_000
"""Feature-map elements of a patch with which a batch of two takes 8 GB of GPU memory in nnU-Net (UNet_reference_val_3d)."""

REFERENCE_BYTES = 8 * GB
REFERENCE_BATCH = 2

LEAST_BATCH = 2

MOST_OF_DATASET = 0.05
"""A batch holds at most this share of the set's voxels (nnU-Net's max_dataset_covered)."""

STEP_PASSES = 3
"""A step is a forward pass and a backward one of twice its operations (gradients of the inputs and of the weights)."""

GFLOPS_PER_CPU = 45.0
"""Effective speed of training a 3D U-Net with PyTorch, per processor: two AVX2 processors take 0.79 s for a step of 75 GFLOP (ct_tumor; tests/bench/train_step.py)."""

MOST_CPUS = 8
"""Convolutions of such small batches do not get faster beyond about so many processors."""

GFLOPS_CUDA = 20_000.0
"""Order of magnitude for a GPU of the A100's class with mixed precision; used for estimates of time only, no size depends on it."""

PROGRAMS_BYTES = 900_000_000
"""PyTorch, MONAI and ignite resident before the first step on a CPU."""

BYTES_PER_ELEMENT = 22
"""Of a feature map in training on a CPU (fp32): the convolution's output, the normalised one, gradients and work space (measured: 21.5 with patches of 40 x 56 x 40 voxels)."""

BYTES_PER_PARAMETER = 20
"""Weight, gradient, two moments of AdamW and a moving average, four bytes each."""

CACHE_SHARE = 0.5
"""Share of the memory budget that a bundle's own CacheDataset may take."""

VALIDATION_SHARE = 0.1
"""Share of the training time that validations may take."""


@dataclass(frozen=True)
class Preset:
    """What a plan aims at.

    Attributes
    ----------
    widths : tuple of int
        Channels of the first stage, the widest that keeps the time of a step first.
    most_filters : int
        Most channels of a stage, for each channel of the first: 10 is nnU-Net's 320 for 32.
    step_seconds : float or None
        Time a step may take; None leaves it open.
    share : float or None
        Share of the median scan a patch must cover, for which the spacing is coarsened; None keeps the spacing. On a CPU a patch that covers it, and a quarter, is not made larger.
    context : float or None
        How many times as long as the largest structure a patch must be along every axis, for which the spacing is coarsened too; None does not (nnU-Net).
    """

    widths: tuple[int, ...]
    most_filters: int
    step_seconds: float | None
    share: float | None
    context: float | None = None


CONTEXT = 1.5
"""volseg's own, for a CPU: a patch half as long again as the structure shows where it ends, on both sides. In the short trainings of a CPU a large tumour that is only ever seen in
parts is not learnt."""

PRESETS: Mapping[tuple[str, Device], Preset] = {
    ("default", "cuda"): Preset((32,), 10, None, None),
    ("fullres", "cuda"): Preset((32,), 10, None, None),
    ("lowres", "cuda"): Preset((32,), 10, None, 0.25),
    ("fast", "cuda"): Preset((16,), 10, None, 0.5),
    ("default", "cpu"): Preset((32, 24, 16), 10, 0.75, 0.25, CONTEXT),
    ("fullres", "cpu"): Preset((32, 24, 16), 10, 0.75, None),
    ("lowres", "cpu"): Preset((32, 24, 16), 10, 0.75, 0.25, CONTEXT),
    ("fast", "cpu"): Preset((8,), 10, 0.3, 0.5, CONTEXT),
}
"""By name and device. On a GPU the default is nnU-Net's 3d_fullres and lowres its 3d_lowres. On a CPU arithmetic is scarce, not memory: steps of about
0.75 s give 1600 of them in 20 minutes, where nnU-Net's plan for a GPU would give less than 100."""

PRESET_NAMES = ("default", "fast", "fullres", "lowres")


@dataclass(frozen=True)
class Budget:
    """What a bundle is planned for.

    Attributes
    ----------
    device : ``"cpu"`` or ``"cuda"``
        Where it will be trained.
    memory_bytes : int
        Memory a training may take (of the GPU, or RAM).
    preset : str
        One of :data:`PRESET_NAMES`.
    gflops : float
        Effective speed of training (GFLOP/s).
    """

    device: Device
    memory_bytes: int
    preset: str
    gflops: float

    @property
    def rules(self) -> Preset:
        """What the preset aims at on this device."""
        return PRESETS[self.preset, self.device]


def cpu_gflops(processors: int) -> float:
    """Effective training speed of so many processors (GFLOP/s), see :data:`GFLOPS_PER_CPU`."""
    return GFLOPS_PER_CPU * min(processors, MOST_CPUS)


@dataclass(frozen=True)
class Cost:
    """What a training step of a topology costs.

    Attributes
    ----------
    elements : int
        Feature-map elements of one patch.
    flops : int
        Operations of a forward pass of one patch.
    parameters : int
        Weights.
    """

    elements: int
    flops: int
    parameters: int

    def step_seconds(self, batch: int, gflops: float) -> float:
        """Time of a step with ``batch`` patches."""
        return STEP_PASSES * batch * self.flops / (gflops * 1e9)

    def memory_bytes(self, batch: int, device: Device) -> int:
        """Memory of a training with ``batch`` patches, the data left out."""
        if device == "cuda":
            return round(self.elements * batch / (REFERENCE_ELEMENTS * REFERENCE_BATCH) * REFERENCE_BYTES)
        return PROGRAMS_BYTES + self.elements * batch * BYTES_PER_ELEMENT + self.parameters * BYTES_PER_PARAMETER


def cost_of(topology: Topology, filters: tuple[int, ...], channels: int, classes: int) -> Cost:
    """Cost of a network; see :class:`Cost`."""
    return Cost(
        feature_map_elements(topology, filters, classes),
        forward_flops(topology, filters, channels, classes),
        parameter_count(topology, filters, channels, classes),
    )


def batch_size(cost: Cost, patch_voxels: int, dataset_voxels: float, budget: Budget) -> int:
    """Patches a batch: two on a CPU; on a GPU as many as memory allows, at most a twentieth of the set's voxels, at least two (nnU-Net).

    Parameters
    ----------
    cost : Cost
        Of the network with its patch.
    patch_voxels : int
        Of the patch.
    dataset_voxels : float
        Of all cases at the target spacing.
    budget : Budget
        Device and memory.
    """
    if budget.device == "cpu":
        return LEAST_BATCH
    reference = REFERENCE_ELEMENTS * budget.memory_bytes / REFERENCE_BYTES
    by_memory = round(reference / cost.elements * REFERENCE_BATCH)
    by_dataset = round(dataset_voxels * MOST_OF_DATASET / patch_voxels)
    return max(min(by_memory, by_dataset), LEAST_BATCH)
