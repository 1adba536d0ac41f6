"""Run a plan on a scan: resample, normalise, slide, blend, decide and restore, with no more in memory than a slab of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import BundleError
from volseg.geometry import Grid, reorient
from volseg.inference.cropping import STEP, Box, crop, foreground_box, restored_part
from volseg.inference.executors import Executor
from volseg.inference.intensity import apply_intensity
from volseg.inference.plan import InferencePlan, IntensityStep
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.refine import refine
from volseg.inference.streaming import Axis, Restorer, match_monai, resample, stream
from volseg.inference.streaming.probabilities import ProbabilityRestorer
from volseg.inference.streaming.sliding import Progress, Tally, slab_axis
from volseg.inference.streaming.spacing import Spacing
from volseg.io import Volume
from volseg.io.alignment import voxels_on
from volseg.processors import usable_threads

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A scan as the network wants it.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        Resampled and normalised.
    grid : Grid
        Where its voxels lie.
    oriented : Grid
        The scan's own voxels, axes as the network wants them.
    spacing : Spacing
        From ``oriented``, or the box of it that was taken before the resampling, to ``grid``, or what the box in it was taken from.
    before, after : Box, optional
        Taken of ``oriented`` before, and of the resampled scan after the resampling.
    """

    image: Floats
    grid: Grid
    oriented: Grid
    spacing: Spacing
    before: Box | None = None
    after: Box | None = None


@dataclass
class StageTimes:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> float:
        """Add the time since a moment to a stage; returns now."""
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - since
        return now


def can_run(plan: InferencePlan, volume: Volume) -> bool:
    """Whether the engine can resample this scan; a sheared one needs a full affine and runs through MONAI."""
    return plan.spacing is None or match_monai(volume.grid, plan.spacing) is not None


def prepare(plan: InferencePlan, volume: Volume) -> NetworkInput:
    """Orient, resample and normalise a scan.

    Parameters
    ----------
    plan : InferencePlan
        What the bundle asks for.
    volume : Volume
        With as many channels as the network takes; further ones are brought to the first one's grid, one at a time unless the plan has steps before the resampling.

    Returns
    -------
    NetworkInput
    """
    oriented = volume.grid if plan.orientation is None else volume.grid.reoriented(plan.orientation)
    placed, before = oriented, None
    whole: Floats | None = None
    if plan.before:
        whole = np.empty((len(volume.channels), *oriented.shape), dtype=np.float32)
        for number, channel in enumerate(volume.channels):
            whole[number] = _oriented(channel, volume.grid, plan)
        whole, before = _apply(whole, plan.before)
        placed = placed if before is None else placed.crop(before.start, before.stop)
    spacing = Spacing(placed, (1.0, 1.0, 1.0)) if plan.spacing is None else match_monai(placed, plan.spacing)
    assert spacing is not None
    out = np.empty((len(volume.channels), *spacing.grid.shape), dtype=np.float32)
    for number, channel in enumerate(volume.channels):
        _resample(_oriented(channel, volume.grid, plan) if whole is None else whole[number], spacing, plan.interpolation, out[number])
    out, after = _apply(out, plan.after)
    grid = spacing.grid if after is None else spacing.grid.crop(after.start, after.stop)
    return NetworkInput(out, grid, oriented, spacing, before, after)


def _oriented(channel: Volume, grid: Grid, plan: InferencePlan) -> npt.NDArray[Any]:
    """Voxels of a channel on the first one's grid, all finite, axes as the network wants them."""
    array = voxels_on(channel, grid, usable_threads())
    return array if plan.orientation is None else reorient(array, grid, plan.orientation)[0]


def _resample(array: npt.NDArray[Any], spacing: Spacing, interpolation: str, out: Floats) -> None:
    if spacing.is_identity:
        out[...] = array
        return
    kind = Axis.nearest if interpolation == "nearest" else Axis.linear
    axes = [kind(n, m, step, shift) for n, m, step, shift in zip(array.shape, out.shape, spacing.steps, spacing.shifts, strict=True)]
    resample(array, axes, usable_threads(), out)


def run(
    plan: InferencePlan,
    volume: Volume,
    executor: Executor,
    *,
    classes: int,
    progress: Progress | None = None,
    on_prepared: Callable[[NetworkInput], None] | None = None,
    probabilities: ProbabilityStore | None = None,
    spill: bool = False,
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], NetworkInput, dict[str, float], Tally]:
    """Segment a scan.

    Parameters
    ----------
    plan : InferencePlan
        From :func:`~volseg.inference.plan.read_plan`.
    volume : Volume
        The scan.
    executor : Executor
        The network.
    classes : int
        Number of label values.
    progress : callable, optional
        Called with (windows done, windows in all).
    on_prepared : callable, optional
        Called with what the network will see, before it runs; its time is the stage ``forecast``.
    probabilities : ProbabilityStore, optional
        Filled, on the scan's grid, with what is interpolated before the decision. What a crop to the foreground left out stays 0.
    spill : bool
        Keep the scores in a temporary file, for when they do not fit in memory.

    Returns
    -------
    label : ndarray of unsigned integers, (i, j, k)
        On the scan's own grid.
    prepared : NetworkInput
        What the network saw.
    seconds : dict
        Per stage.
    tally : Tally
        Windows, and how many were repeats of a constant one.

    Raises
    ------
    BundleError
        When the scores are not finite.
    """
    times, tally, began = StageTimes(), Tally(), perf_counter()
    prepared = prepare(plan, volume)
    began = times.add("preprocess", began)
    if on_prepared is not None:
        on_prepared(prepared)
        began = times.add("forecast", began)
    label = np.zeros(volume.grid.shape, dtype=np.uint8 if classes <= 256 else np.uint16, order="F")
    target: Any = label if plan.orientation is None else reorient(label, volume.grid, plan.orientation)[0]
    axis = slab_axis(prepared.grid.shape, plan.window.roi)
    parts = _restored_parts(plan, prepared)
    restorer = Restorer(target[tuple(part for part, _ in parts)], [place for _, place in parts], axis, plan.decision, usable_threads())
    shares = None if probabilities is None else _probability_restorer(probabilities, plan, volume, parts, axis)
    try:
        for slab in stream(prepared.image, executor, plan.window, axis, progress=progress, tally=tally, threads=usable_threads(), spill=spill):
            if not slab.finite:
                msg = "the network's scores are not finite (NaN or infinite); the weights are damaged, or try --precision fp32"
                raise BundleError(msg)
            began = times.add("network", began)
            restorer.add(slab.start, slab.scores)
            began = times.add("restore", began)
            if shares is not None:
                shares.add(slab.start, slab.scores)
                began = times.add("probabilities", began)
    finally:
        restorer.close()
        if shares is not None:
            shares.close()
    if plan.refinements:
        began = perf_counter()
        refine(label, plan.refinements, volume.grid.spacing)
        times.add("restore", began)
    return label, prepared, times.seconds, tally


def _restored_parts(plan: InferencePlan, prepared: NetworkInput) -> list[tuple[slice, Axis]]:
    """For each axis of the oriented scan: which voxels are restored, and where they lie in the network's input."""
    kind = Axis.nearest if plan.decision.nearest else Axis.linear
    whole, spacing = prepared.oriented.shape, prepared.spacing
    before = prepared.before or Box((0, 0, 0), whole)
    after = prepared.after or Box((0, 0, 0), spacing.grid.shape)
    parts = []
    for n in range(3):
        taken = (before.start[n], before.stop[n])
        back = kind(spacing.grid.shape[n], taken[1] - taken[0], 1 / spacing.steps[n], -spacing.shifts[n] / spacing.steps[n])
        parts.append(restored_part(back, taken, whole[n], (after.start[n], after.stop[n])))
    return parts


def _probability_restorer(store: ProbabilityStore, plan: InferencePlan, volume: Volume, parts: Sequence[tuple[slice, Axis]], axis: int) -> ProbabilityRestorer:
    """What fills the caller's arrays plane by plane along an axis of the network's input."""
    region = tuple(part for part, _ in parts)
    along = axis if plan.orientation is None else volume.grid.reorientation(plan.orientation)[0][axis]
    # A threshold is set on one channel, which is label 1.
    channels = {0 if plan.decision.threshold is not None else label: array for label, array in store.arrays(along).items()}
    placed = {number: array if plan.orientation is None else reorient(array, volume.grid, plan.orientation)[0] for number, array in channels.items()}
    targets = {number: np.moveaxis(array[region], axis, 0) for number, array in placed.items()}
    return ProbabilityRestorer(targets, [place for _, place in parts], axis, plan.decision, usable_threads(), store.settle)


def _apply(image: Floats, steps: Iterable[IntensityStep]) -> tuple[Floats, Box | None]:
    """Run the steps in order; a crop among them is told, of which a plan has one at most."""
    box: Box | None = None
    for step in steps:
        if step.name == STEP:
            box = foreground_box(image, step.arguments)
            image = crop(image, box)
        elif step.channel is None:
            image = apply_intensity(image, step.name, step.arguments)
        else:
            part = slice(step.channel, step.channel + 1)
            image[part] = apply_intensity(image[part], step.name, step.arguments)
    return image, box
