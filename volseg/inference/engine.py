"""Run a plan on a scan: resample, normalise, slide, blend, decide and restore, with no more in memory than a slab of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import BundleError
from volseg.geometry import Grid, reorient
from volseg.inference.cropping import STEP, Box, crop, foreground_box, restored_part
from volseg.inference.device import usable_threads
from volseg.inference.executors import Executor
from volseg.inference.intensity import apply_intensity
from volseg.inference.plan import InferencePlan, IntensityStep
from volseg.inference.streaming import Axis, Restorer, match_monai, resample, stream
from volseg.inference.streaming.probabilities import ProbabilityRestorer, Sink
from volseg.inference.streaming.resample import Spacing
from volseg.inference.streaming.sliding import Progress, Tally, slab_axis
from volseg.io import Volume

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
        One channel.

    Returns
    -------
    NetworkInput
    """
    array, oriented = (volume.array, volume.grid) if plan.orientation is None else reorient(volume.array, volume.grid, plan.orientation)
    placed, before = oriented, None
    if plan.before or not _is_finite(array):
        image, before = _apply(_finite(np.array(array, dtype=np.float32))[None], plan.before)
        array = image[0]
        placed = placed if before is None else placed.crop(before.start, before.stop)
    spacing = Spacing(placed, (1.0, 1.0, 1.0)) if plan.spacing is None else match_monai(placed, plan.spacing)
    assert spacing is not None
    kind = Axis.nearest if plan.interpolation == "nearest" else Axis.linear
    axes = [kind(n, m, step, shift) for n, m, step, shift in zip(placed.shape, spacing.grid.shape, spacing.steps, spacing.shifts, strict=True)]
    out = np.array(array, dtype=np.float32, order="C")[None] if spacing.is_identity else resample(array, axes, usable_threads())[None]
    out, after = _apply(out, plan.after)
    grid = spacing.grid if after is None else spacing.grid.crop(after.start, after.stop)
    return NetworkInput(out, grid, oriented, spacing, before, after)


def run(
    plan: InferencePlan,
    volume: Volume,
    executor: Executor,
    *,
    classes: int,
    progress: Progress | None = None,
    on_prepared: Callable[[NetworkInput], None] | None = None,
    probabilities: Mapping[int, npt.NDArray[Any]] | None = None,
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
    probabilities : mapping of int to ndarray, optional
        By channel of the scores, arrays (i, j, k) of zeros on the scan's grid that are filled with what is interpolated before the decision: 0 to 1, or 0 to 255
        in uint8. They may be files mapped into memory (:func:`~volseg.inference.probability_files.probability_files`). What a crop to the foreground left out stays 0.
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
    shares = ProbabilityRestorer(_fill(probabilities, plan, volume, parts, axis), [place for _, place in parts], axis, plan.decision) if probabilities else None
    try:
        for slab in stream(prepared.image, executor, plan.window, axis, progress=progress, tally=tally, threads=usable_threads(), spill=spill):
            if not slab.finite:
                msg = "the network's scores are not finite (NaN or infinite); the weights are damaged, or try --precision fp32"
                raise BundleError(msg)
            began = times.add("network", began)
            restorer.add(slab.start, slab.scores)
            if shares is not None:
                shares.add(slab.start, slab.scores)
            began = times.add("restore", began)
    finally:
        restorer.close()
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


def _fill(wanted: Mapping[int, npt.NDArray[Any]], plan: InferencePlan, volume: Volume, parts: Sequence[tuple[slice, Axis]], axis: int) -> Sink:
    """What writes planes of probabilities to their places in the caller's arrays."""
    region = tuple(part for part, _ in parts)
    placed = {number: array if plan.orientation is None else reorient(array, volume.grid, plan.orientation)[0] for number, array in wanted.items()}
    targets = {number: np.moveaxis(array[region], axis, 0) for number, array in placed.items()}

    def sink(o: int, planes: Floats) -> None:
        for number, target in targets.items():
            target[o] = np.rint(planes[number] * 255) if target.dtype == np.uint8 else planes[number]

    return sink


def _apply(image: Floats, steps: Iterable[IntensityStep]) -> tuple[Floats, Box | None]:
    """Run the steps in order; a crop among them is told, of which a plan has one at most."""
    box: Box | None = None
    for step in steps:
        if step.name == STEP:
            box = foreground_box(image, step.arguments)
            image = crop(image, box)
        else:
            image = apply_intensity(image, step.name, step.arguments)
    return image, box


def _is_finite(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def _finite(array: Floats) -> Floats:
    """NaN and infinite voxels become the lowest finite value, as everywhere in volseg."""
    inside = np.isfinite(array)
    if not inside.all():
        array[~inside] = array[inside].min()
    return array
