"""Sliding windows in slab order: only the class scores that some window still has to add to are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.base import Executor
from volseg.inference.streaming.blending import Ring
from volseg.inference.windows import importance_map, padding, window_sizes, window_starts

Floats = npt.NDArray[np.float32]

Progress = Callable[[int, int], None]
"""Called with the windows done and the windows in all."""

PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""``torch.nn.functional.pad`` mode -> ``numpy.pad`` mode."""


@dataclass(frozen=True)
class SlidingWindow:
    """Arguments of MONAI's ``SlidingWindowInferer`` that change its result.

    Parameters
    ----------
    roi : tuple of 3 int
        Window size (voxels); 0 or less takes the whole axis.
    overlap : tuple of 3 float
        Share of a window that its neighbour covers again.
    mode : str
        ``"constant"`` or ``"gaussian"`` weights.
    sigma_scale : tuple of 3 float
        Width of the Gaussian as a share of the window.
    padding_mode : str
        How a volume smaller than the window is padded.
    cval : float
        Value of constant padding.
    """

    roi: tuple[int, int, int]
    overlap: tuple[float, float, float] = (0.25, 0.25, 0.25)
    mode: str = "constant"
    sigma_scale: tuple[float, float, float] = (0.125, 0.125, 0.125)
    padding_mode: str = "constant"
    cval: float = 0.0


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished scores: every window that reaches them has been added.

    Parameters
    ----------
    start : int
        First position along the slab axis.
    scores : ndarray, float32, (classes, n, rows, columns)
        Weighted mean of the windows; axis 1 is the slab axis, then the two others in their order. A view, emptied when the next slab is asked for.
    finite : bool
        Whether no score is NaN or infinite.
    """

    start: int
    scores: Floats
    finite: bool


@dataclass
class Tally:
    """What was done: windows in all, and how many of them were constant and took their scores from an equal one."""

    windows: int = 0
    repeated: int = 0


def slab_axis(size: Sequence[int], roi: Sequence[int]) -> int:
    """The axis to go along: the one for which a slab, one window thick, is the smallest."""
    windows = window_sizes(size, roi)
    shares = [min(1.0, window / length) for window, length in zip(windows, size, strict=True)]
    return int(np.argmin(shares))


def stream(
    image: Floats,
    executor: Executor,
    window: SlidingWindow,
    axis: int,
    *,
    progress: Progress | None = None,
    tally: Tally | None = None,
    threads: int = 1,
    spill: bool = False,
) -> Iterator[Slab]:
    """Run a network over a volume and yield its scores slab by slab.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        The network's input.
    executor : Executor
        Batches of windows in, scores out.
    window : SlidingWindow
        How windows are laid and blended.
    axis : int
        Axis of the volume (0 to 2) the slabs follow.
    progress : callable, optional
        Called after each batch.
    tally : Tally, optional
        Counts what was done.
    threads : int
        Classes blended at the same time.
    spill : bool
        Keep the scores in a temporary file instead of memory.

    Yields
    ------
    Slab
        In order, without gaps, all of the axis.

    Notes
    -----
    A window whose voxels all have one value (air outside the body) has the same scores as every other such window, so they are computed once: the result is exactly that of
    running them all.
    """
    size = image.shape[1:]
    roi = window_sizes(size, window.roi)
    pads = padding(size, roi)
    if any(before or after for before, after in pads):
        extra = {"constant_values": window.cval} if window.padding_mode == "constant" else {}
        image = np.pad(image, [(0, 0), *pads], mode=PAD_MODES[window.padding_mode], **extra)  # type: ignore[call-overload]
    keep = [slice(before, before + length) for (before, _), length in zip(pads, size, strict=True)]
    inside = (slice(None), slice(None), *(keep[other] for other in range(3) if other != axis))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        lanes = _Lanes(image, executor, window, roi, axis, progress, tally or Tally(), pool, spill=spill)
        try:
            for slab in lanes.run():
                first, last = max(slab.start, keep[axis].start), min(slab.start + slab.scores.shape[1], keep[axis].stop)
                if last > first:
                    yield Slab(first - keep[axis].start, slab.scores[:, first - slab.start : last - slab.start][inside], slab.finite)
        finally:
            lanes.close()


class _Lanes:
    """The loop over the windows of a padded volume: lane by lane along the slab axis, a lane being all windows that start at one position of it."""

    def __init__(
        self,
        image: Floats,
        executor: Executor,
        window: SlidingWindow,
        roi: tuple[int, ...],
        axis: int,
        progress: Progress | None,
        tally: Tally,
        pool: ThreadPoolExecutor,
        *,
        spill: bool,
    ) -> None:
        self.image, self.executor, self.roi, self.axis = image, executor, roi, axis
        self.starts = [window_starts(image.shape[n + 1], roi[n], window.overlap[n]) for n in range(3)]
        self.weights = importance_map(roi, window.mode, window.sigma_scale)
        self.pool, self.spill = pool, spill
        self.ring: Ring | None = None
        self.constant: tuple[tuple[float, ...], Floats] | None = None
        self.progress, self.tally = progress, tally
        tally.windows = len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])
        self.done = 0

    def run(self) -> Iterator[Slab]:
        firsts = self.starts[self.axis]
        for n, start in enumerate(firsts):
            self._add_lane(start)
            end = firsts[n + 1] if n + 1 < len(firsts) else start + self.roi[self.axis]
            assert self.ring is not None
            for position, scores, finite in self.ring.take(start, end):
                yield Slab(position, scores, finite)

    def close(self) -> None:
        """Give the scores' memory or file back."""
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def _add_lane(self, lane: int) -> None:
        others = [self.starts[n] if n != self.axis else [lane] for n in range(3)]
        batch: list[Sequence[int]] = []
        for place in product(*others):
            values = self._one_value(place)
            if values is None:
                batch.append(place)
                if len(batch) == self.executor.batch:
                    self._run_batch(batch)
                    batch = []
            elif self.constant is not None and self.constant[0] == values:
                self.tally.repeated += 1
                self._add(place, self.constant[1])
                self._tell(1)
            else:
                # One is kept, since scores of a window are many megabytes and air is nearly always the only constant there is.
                self.constant = values, self._run_batch([place])[0].copy()
        if batch:
            self._run_batch(batch)

    def _window(self, place: Sequence[int]) -> Floats:
        (x, y, z), (a, b, c) = place, self.roi
        return self.image[:, x : x + a, y : y + b, z : z + c]

    def _one_value(self, place: Sequence[int]) -> tuple[float, ...] | None:
        """The value of each channel where the window holds nothing else, or None."""
        voxels = self._window(place)
        corner = voxels[:, 0, 0, 0]
        # Most windows are told by a few voxels.
        sample = voxels[:, ::7, ::7, ::7]
        if (sample != corner[:, None, None, None]).any() or (voxels != corner[:, None, None, None]).any():
            return None
        return tuple(float(v) for v in corner)

    def _run_batch(self, places: Sequence[Sequence[int]]) -> Floats:
        scores = self.executor(np.stack([self._window(place) for place in places]))
        for place, window in zip(places, scores, strict=True):
            self._add(place, window)
        self._tell(len(places))
        return scores

    def _add(self, place: Sequence[int], window: Floats) -> None:
        if self.ring is None:
            self.ring = Ring(len(window), self.image.shape[1:], self.axis, self.weights, self.pool, spill=self.spill)
        self.ring.add(place, window)

    def _tell(self, windows: int) -> None:
        self.done += windows
        if self.progress is not None:
            self.progress(self.done, self.tally.windows)
