"""From a fingerprint and a budget to a plan: every number of the bundle, chosen by the rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import pi, prod
from statistics import median
from typing import Any

from volseg.planning.fingerprint import Fingerprint
from volseg.planning.rules.augmentation import Variation, plan_variation
from volseg.planning.rules.budget import CONTEXT, GB, LEAST_BATCH, REFERENCE_BYTES, REFERENCE_ELEMENTS, Budget, Cost, batch_size, cost_of
from volseg.planning.rules.intensity import Channel, inside_nonzero, is_named, plan_channels
from volseg.planning.rules.schedule import cache_rate, count_median_windows, plan_schedule
from volseg.planning.rules.spacing import LOW_RESOLUTION_SHARE, SMALLEST_PIECE_VOXELS, Target, Triple, coarsen, median_shape, scaled_shape, sees_enough, target_spacing
from volseg.planning.rules.topology import Size, Topology, filters_of, first_topology, fit_topology, shrink

LEAST_HEADS = 1

View = tuple[float, float]
"""Share of the median scan, and length (mm), that are enough for a patch."""


@dataclass(frozen=True)
class Plan:
    """Every number of a bundle.

    Attributes
    ----------
    fingerprint : Fingerprint
        What it was planned for.
    budget : Budget
        What it was planned to cost.
    channels : tuple of Channel
        Inputs and their normalisation.
    target : Target
        Spacing by the median rule (mm).
    spacing : tuple of 3 float
        Spacing of the bundle (mm), the target's or coarser.
    median_shape : tuple of 3 float
        Median scan at ``spacing`` (voxels).
    topology : Topology
        Patch, strides, kernels.
    filters : tuple of int
        Channels of each stage.
    heads : int
        Deep-supervision heads beside the output.
    batch_size : int
        Patches a step.
    variation : Variation
        Drawing and augmentation of patches.
    nonzero : bool
        Whether scans are cropped to and normalised inside what is not zero.
    batch_dice : bool
        Whether Dice is taken over the batch instead of each patch.
    iterations_per_epoch, max_epochs, val_interval : int
        The schedule.
    cache_rate : float
        Share of the cases that the bundle's own CacheDataset keeps in memory.
    cost : Cost
        Of a step.
    """

    fingerprint: Fingerprint
    budget: Budget
    channels: tuple[Channel, ...]
    target: Target
    spacing: Triple
    median_shape: Triple
    topology: Topology
    filters: tuple[int, ...]
    heads: int
    batch_size: int
    variation: Variation
    nonzero: bool
    batch_dice: bool
    iterations_per_epoch: int
    max_epochs: int
    val_interval: int
    cache_rate: float
    cost: Cost

    @property
    def classes(self) -> int:
        """Labels, background included."""
        return len(self.fingerprint.labels)

    @property
    def patch(self) -> Size:
        """Patch size (voxels)."""
        return self.topology.patch

    @property
    def coverage(self) -> float:
        """Voxels of a patch for each of the median scan."""
        return self.topology.voxels / prod(self.median_shape)

    @property
    def step_seconds(self) -> float:
        """Modelled time of a training step."""
        return self.cost.step_seconds(self.batch_size, self.budget.gflops)

    @property
    def windows(self) -> int:
        """Of the median scan, when it is segmented."""
        return count_median_windows(self.topology, self.median_shape)

    @property
    def memory_bytes(self) -> int:
        """Modelled memory of the training, data left out."""
        return self.cost.memory_bytes(self.batch_size, self.budget.device)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before training."""
        found = _grouped(self.fingerprint.warnings)
        if not is_named(self.fingerprint):
            found.append('the dataset does not say what its images are, so they are normalised case by case as MR is; add "modality": {"0": "CT"} where they are CT')
        if self.budget.rules.share is not None and self.coverage < self.budget.rules.share:
            found.append(
                f"a patch covers {self.coverage:.0%} of the median scan, less than {self.budget.rules.share:.0%}: "
                "the spacing was not made coarser because of the smallest structures; a larger budget sees more"
            )
        if self.needs_low_resolution:
            found.append(
                f"a patch covers {self.coverage:.0%} of the median scan, less than {LOW_RESOLUTION_SHARE:.0%}: "
                "plan the same data with --preset lowres too and keep what validates better"
            )
        if self.memory_bytes > self.budget.memory_bytes:
            found.append(f"even the smallest patch needs {self.memory_bytes / GB:.1f} GB, more than the {self.budget.memory_bytes / GB:.1f} GB given")
        return tuple(found)

    @property
    def needs_low_resolution(self) -> bool:
        """Whether nnU-Net would plan a low-resolution stage beside this one."""
        return self.budget.rules.share is None and self.coverage < LOW_RESOLUTION_SHARE

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for ``--json``."""
        topology, budget = self.topology, self.budget
        return {
            "dataset": self.fingerprint.dataset,
            "cases": len(self.fingerprint.cases),
            "device": budget.device,
            "preset": budget.preset,
            "memory_budget_bytes": budget.memory_bytes,
            "channels": [asdict(channel) for channel in self.channels],
            "labels": {str(value): name for value, name in self.fingerprint.labels.items()},
            "median_spacing_mm": list(self.target.median),
            "spacing_mm": list(self.spacing),
            "median_shape": list(self.median_shape),
            "patch_size": list(self.patch),
            "patch_share_of_median_scan": round(self.coverage, 4),
            "strides": [list(stride) for stride in topology.strides],
            "kernels": [list(kernel) for kernel in topology.kernels],
            "filters": list(self.filters),
            "deep_supervision_heads": self.heads,
            "batch_size": self.batch_size,
            "crop_size": list(self.variation.crop),
            "mirror_axes": list(self.variation.mirror),
            "augmentation_ramp": self.variation.ramp,
            "iterations_per_epoch": self.iterations_per_epoch,
            "max_epochs": self.max_epochs,
            "val_interval": self.val_interval,
            "forecast": {
                "step_seconds": round(self.step_seconds, 3),
                "memory_bytes": self.memory_bytes,
                "forward_gflop_per_patch": round(self.cost.flops / 1e9, 2),
                "windows_per_median_scan": self.windows,
                "parameters": self.cost.parameters,
            },
            "warnings": list(self.warnings),
        }


def make_plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Apply the rules.

    Parameters
    ----------
    fingerprint : Fingerprint
        The dataset.
    budget : Budget
        Device, memory, preset, speed.
    """
    channels = plan_channels(fingerprint)
    nonzero = inside_nonzero(fingerprint, channels)
    spacings = [case.spacing_mm for case in fingerprint.cases]
    cropped = [case.nonzero_shape for case in fingerprint.cases]
    # nnU-Net always crops to what is not zero; here the network sees the whole scan unless most of it is zero.
    shapes = cropped if nonzero else [case.shape for case in fingerprint.cases]
    target = target_spacing(spacings, cropped)
    whole = median_shape(spacings, shapes, target.spacing)
    sizes = (len(channels), len(fingerprint.labels))
    view = enough_view(fingerprint, budget)
    width = choose_width(target.spacing, whole, view, budget, sizes)
    spacing = target.spacing
    if budget.rules.share is not None:
        share, least = budget.rules.share, (budget.rules.context or 0.0) * largest_structure_mm(fingerprint)
        spacing = coarsen(spacing, whole, lambda s, m: sees_enough(_fitted(s, m, view, width, budget, sizes), s, m, share, least), smallest_piece_mm3(fingerprint))
    shape = scaled_shape(whole, target.spacing, spacing)
    topology = _fitted(spacing, shape, view, width, budget, sizes)
    filters = _filters(topology, width, budget)
    cost = cost_of(topology, filters, *sizes)
    batch = batch_size(cost, topology.voxels, prod(shape) * len(fingerprint.cases), budget)
    variation = plan_variation(
        topology.patch, spacing, shape, batch=batch, cases=fingerprint.training, device=budget.device, labels=list(fingerprint.labels.values()), divisor=topology.divisor
    )
    iterations, epochs, interval = plan_schedule(topology, shape, batch, cost, fingerprint.validation, budget)
    return Plan(
        fingerprint=fingerprint,
        budget=budget,
        channels=channels,
        target=target,
        spacing=spacing,
        median_shape=shape,
        topology=topology,
        filters=filters,
        heads=max(LEAST_HEADS, topology.stages - 3),
        batch_size=batch,
        variation=variation,
        nonzero=nonzero,
        batch_dice=topology.voxels < prod(shape),
        iterations_per_epoch=iterations,
        max_epochs=epochs,
        val_interval=interval,
        cache_rate=cache_rate(shape, variation.crop, len(fingerprint.cases), len(channels), budget),
        cost=cost,
    )


def choose_width(spacing: Triple, shape: Triple, view: View | None, budget: Budget, sizes: tuple[int, int]) -> int:
    """Channels of the first stage: the widest of the preset with which the patch that is wanted keeps the time of a step; else the narrowest."""
    widths, limit = budget.rules.widths, budget.rules.step_seconds
    patch = _wanted(spacing, shape, view)
    if limit is None:
        return widths[0]
    return next((width for width in widths if cost_of(patch, _filters(patch, width, budget), *sizes).step_seconds(LEAST_BATCH, budget.gflops) <= limit), widths[-1])


def smallest_piece_mm3(fingerprint: Fingerprint) -> float:
    """Largest voxel (mm^3) with which a typical piece of the smallest label keeps :data:`SMALLEST_PIECE_VOXELS` voxels."""
    pieces = [facts.component_ml[1] for facts in fingerprint.classes.values() if facts.cases]
    return min(pieces) * 1000 / SMALLEST_PIECE_VOXELS


def _grouped(warnings: Sequence[str]) -> list[str]:
    """Warnings that say the same of several cases, with other numbers, are one."""
    groups: dict[str, list[str]] = {}
    for text in warnings:
        groups.setdefault(re.sub(r"\d[\d.]*", "#", text.partition(": ")[2] or text), []).append(text)
    return [texts[0] + (f" (and {len(texts) - 1} more like it, in fingerprint.json)" if len(texts) > 1 else "") for texts in groups.values()]


def enough_view(fingerprint: Fingerprint, budget: Budget) -> View | None:
    """Share of the median scan, and length (mm), that are enough for a patch on a CPU; None on a GPU, where patches are as large as memory allows."""
    return (max(budget.rules.share or 0.0, LOW_RESOLUTION_SHARE), CONTEXT * largest_structure_mm(fingerprint)) if budget.device == "cpu" else None


def largest_structure_mm(fingerprint: Fingerprint) -> float:
    """Diameter of a ball (mm) of the volume that the largest piece of a label typically has, of the label where that is most."""
    largest = [median(case.labels[value].component_ml[0] for case in fingerprint.cases if value in case.labels) for value, facts in fingerprint.classes.items() if facts.cases]
    return 2 * float((max(largest) * 1000 * 3 / (4 * pi)) ** (1 / 3))


def _filters(topology: Topology, width: int, budget: Budget) -> tuple[int, ...]:
    return filters_of(topology.stages, width, width * budget.rules.most_filters)


def _fitted(spacing: Triple, shape: Triple, view: View | None, width: int, budget: Budget, sizes: tuple[int, int]) -> Topology:
    """The topology that keeps memory and time with the least batch."""
    wanted, fits = _wanted(spacing, shape, view), _fits(width, budget, sizes)
    return wanted if fits(wanted) else fit_topology(spacing, shape, fits)


def _wanted(spacing: Triple, shape: Triple, view: View | None) -> Topology:
    """The largest patch worth having, made smaller to the view that is enough where there is one."""
    largest = first_topology(spacing, shape)
    return largest if view is None else shrink(largest, shape, lambda smaller: sees_enough(smaller, spacing, shape, *view))


def _fits(width: int, budget: Budget, sizes: tuple[int, int]) -> Callable[[Topology], bool]:
    limit = budget.rules.step_seconds

    def fits(topology: Topology) -> bool:
        cost = cost_of(topology, _filters(topology, width, budget), *sizes)
        if budget.device == "cuda":
            return cost.elements <= REFERENCE_ELEMENTS * budget.memory_bytes / REFERENCE_BYTES
        fast = limit is None or cost.step_seconds(LEAST_BATCH, budget.gflops) <= limit
        return fast and cost.memory_bytes(LEAST_BATCH, budget.device) <= budget.memory_bytes

    return fits
