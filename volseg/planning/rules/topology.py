"""Shape of the U-Net: along which axes each stage pools and convolves, and what the network then costs.

The rules are nnU-Net v2's (experiment_planning/experiment_planners/network_topology.py and default_experiment_planner.py). Axes are treated alike, so the order
x, y, z does for its z, y, x; where two axes tie, the later one is taken, which may be another one than there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod

Size = tuple[int, int, int]

LEAST_EDGE = 4
"""Least edge of a feature map (voxels)."""

LEAST_SHRUNK_EDGE, LEAST_COARSE_EDGE = 16, 2
"""Of a patch that is made smaller for the sake of time, and of its coarsest feature map, since the network is kept; below, no time is to be saved."""

LEAST_STAGES = 3
"""MONAI's DynUNet has no fewer; patches of a few voxels get stages that do not pool."""

WITHIN = 2.0
"""An axis is pooled and convolved along while its spacing is less than this many times the finest."""

INITIAL_EDGE = 256
"""Edge of the cube whose volume the first guess of a patch has."""


@dataclass(frozen=True)
class Topology:
    """Stages of a U-Net.

    Attributes
    ----------
    patch : tuple of 3 int
        Patch size (voxels), divisible by everything it is pooled by.
    strides : tuple of Size
        Of each stage; the first is 1, 1, 1.
    kernels : tuple of Size
        Of each stage's convolutions, 1 or 3 along each axis.
    """

    patch: Size
    strides: tuple[Size, ...]
    kernels: tuple[Size, ...]

    @property
    def stages(self) -> int:
        """Resolutions, the bottleneck among them."""
        return len(self.strides)

    @property
    def divisor(self) -> Size:
        """What the patch is pooled by along each axis."""
        x, y, z = (prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z

    @property
    def voxels(self) -> int:
        """Of a patch."""
        return prod(self.patch)

    def stage_voxels(self) -> tuple[int, ...]:
        """Voxels of each stage's feature maps, the finest first."""
        size, found = self.patch, []
        for stride in self.strides:
            size = (size[0] // stride[0], size[1] // stride[1], size[2] // stride[2])
            found.append(prod(size))
        return tuple(found)


def make_topology(spacing: Sequence[float], shape: Sequence[float]) -> Topology:
    """Stages for a patch of about ``shape`` voxels.

    Axes that still have twice the least edge, and whose spacing is within a factor of two of the finest such axis, are halved together until none is left; a single axis is halved
    only while it has three times the least edge. A kernel is 1 along an axis until that axis is within a factor of two of the finest, then 3.

    Parameters
    ----------
    spacing : sequence of 3 float
        Voxel size (mm).
    shape : sequence of 3 float
        Wanted patch (voxels); it grows to the next multiple of what it is pooled by.
    """
    current, size = [float(value) for value in spacing], [float(value) for value in shape]
    kernel, pools = [1, 1, 1], [0, 0, 0]
    strides: list[Size] = [(1, 1, 1)]
    kernels: list[Size] = []
    while axes := _axes_to_pool(current, size):
        for axis in range(3):
            if current[axis] / min(current) < WITHIN:
                kernel[axis] = 3
        kernels.append((kernel[0], kernel[1], kernel[2]))
        strides.append((2 if 0 in axes else 1, 2 if 1 in axes else 1, 2 if 2 in axes else 1))
        for axis in axes:
            current[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
            pools[axis] += 1
    kernels.append((3, 3, 3))
    while len(strides) < LEAST_STAGES:
        strides.append((1, 1, 1))
        kernels.append((3, 3, 3))
    x, y, z = (ceil(value / 2**pool) * 2**pool for value, pool in zip(shape, pools, strict=True))
    return Topology((x, y, z), tuple(strides), tuple(kernels))


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    axes = [axis for axis in range(3) if size[axis] >= 2 * LEAST_EDGE]
    finest = min((spacing[axis] for axis in axes), default=0.0)
    axes = [axis for axis in axes if spacing[axis] / finest < WITHIN]
    return [] if len(axes) == 1 and size[axes[0]] < 3 * LEAST_EDGE else axes


def first_topology(spacing: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """The largest patch worth having: 256^3 voxels in a box that is a cube in mm, nowhere larger than the median scan."""
    inverse = [1 / value for value in spacing]
    scale = (INITIAL_EDGE**3 / prod(inverse)) ** (1 / 3)
    return make_topology(spacing, [min(round(value * scale), median) for value, median in zip(inverse, median_shape, strict=True)])


def fit_topology(spacing: Sequence[float], median_shape: Sequence[float], fits: Callable[[Topology], bool]) -> Topology:
    """Take voxels off the axis that is largest in proportion to the median scan, until the patch fits.

    Parameters
    ----------
    spacing : sequence of 3 float
        Voxel size (mm).
    median_shape : sequence of 3 float
        Median scan at that spacing (voxels).
    fits : callable
        Whether a topology keeps the budget; the smallest patch there is is taken although it does not.
    """
    found = first_topology(spacing, median_shape)
    seen = {found.patch}
    while not fits(found):
        # A shorter axis may be pooled less often, and another one then more often: its patch grows to the next multiple, and in the end nothing is gained.
        smaller = next((made for axis in _longest_first(found, median_shape) if (made := _smaller(spacing, found, axis)) is not None and made.patch not in seen), None)
        if smaller is None:
            return found
        seen.add(smaller.patch)
        found = smaller
    return found


def shrink(topology: Topology, median_shape: Sequence[float], enough: Callable[[Topology], bool]) -> Topology:
    """Take voxels off the axis that is largest in proportion to the median scan while the patch still sees enough; the network stays the same.

    In the minutes or hours of a CPU many small patches teach more than few large ones. Fold 1 of the hippocampus (208 cases, median scan 35 x 50 x 36 voxels), 12 minutes on one
    core of an AMD EPYC each, mean Dice of the 42 cases in the last validation: patches of 40 x 56 x 40 voxels 0.861, 32 x 48 x 32 0.877, 24 x 40 x 24 0.884, 24 x 32 x 24 0.883
    (16 to 128 channels; ``OMP_NUM_THREADS=1 volseg train BUNDLE --data DATASET --fold 1 --time-limit 12m --set patch_size=[24,32,24] --set crop_size=[24,32,24]`` and so on).

    Parameters
    ----------
    topology : Topology
        To begin with.
    median_shape : sequence of 3 float
        Median scan at the topology's spacing (voxels).
    enough : callable
        Whether a smaller patch sees enough.
    """
    while True:
        for axis in _longest_first(topology, median_shape):
            edges = list(topology.patch)
            edges[axis] -= topology.divisor[axis]
            smaller = replace(topology, patch=(edges[0], edges[1], edges[2]))
            if edges[axis] >= max(LEAST_SHRUNK_EDGE, LEAST_COARSE_EDGE * topology.divisor[axis]) and enough(smaller):
                topology = smaller
                break
        else:
            return topology


def _longest_first(topology: Topology, median_shape: Sequence[float]) -> list[int]:
    """Axes by how much of the median scan the patch takes; of equal ones the later comes first."""
    return sorted(range(3), key=lambda axis: (topology.patch[axis] / median_shape[axis], axis), reverse=True)


def _smaller(spacing: Sequence[float], topology: Topology, axis: int) -> Topology | None:
    """The next smaller patch along an axis; a smaller patch may be pooled less often, and then the steps are finer."""
    size = list(topology.patch)
    trial = list(size)
    trial[axis] -= topology.divisor[axis]
    if trial[axis] < LEAST_EDGE:
        return None
    size[axis] -= make_topology(spacing, trial).divisor[axis]
    return make_topology(spacing, size)


def filters_of(stages: int, base: int, most: int) -> tuple[int, ...]:
    """Channels of each stage: doubled from stage to stage up to ``most``."""
    return tuple(min(base * 2**stage, most) for stage in range(stages))


def feature_map_elements(topology: Topology, filters: Sequence[int], classes: int) -> int:
    """Numbers in all feature maps of one patch: two convolutions a stage on the way down and up, the transposed convolutions and the output.

    nnU-Net's measure of memory (``compute_conv_feature_map_size`` of its PlainConvUNet).
    """
    voxels = topology.stage_voxels()
    down = sum(2 * width * count for width, count in zip(filters, voxels, strict=True))
    up = sum(3 * width * count for width, count in zip(filters[:-1], voxels[:-1], strict=True))
    return down + up + classes * voxels[0]


def forward_flops(topology: Topology, filters: Sequence[int], channels: int, classes: int) -> int:
    """Floating-point operations of MONAI's DynUNet on one patch (a multiplication and an addition are two); convolutions only, as ``torch.utils.flop_counter`` counts."""
    voxels, taps = topology.stage_voxels(), [prod(kernel) for kernel in topology.kernels]
    inputs = (channels, *filters[:-1])
    total = sum(tap * (source * width + width * width) * count for tap, source, width, count in zip(taps, inputs, filters, voxels, strict=True))
    for level, (fine, coarse) in enumerate(pairwise(filters)):
        # A transposed convolution whose kernel is its stride gives each voxel one tap; the decoder's kernels are those of the stage below.
        total += voxels[level] * (coarse * fine + taps[level + 1] * (2 * fine * fine + fine * fine))
    return 2 * (total + filters[0] * classes * voxels[0])


def parameter_count(topology: Topology, filters: Sequence[int], channels: int, classes: int) -> int:
    """Weights of the convolutions of MONAI's DynUNet (biases and normalisation left out)."""
    taps = [prod(kernel) for kernel in topology.kernels]
    inputs = (channels, *filters[:-1])
    total = sum(tap * (source * width + width * width) for tap, source, width in zip(taps, inputs, filters, strict=True))
    for level, (fine, coarse) in enumerate(pairwise(filters)):
        total += coarse * fine * prod(topology.strides[level + 1]) + taps[level + 1] * 3 * fine * fine
    return total + filters[0] * classes
