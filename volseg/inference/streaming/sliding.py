"""Sliding windows in slab order: only the class scores that some window still has to add to are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.base import Executor
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
        Weighted mean of the windows; axis 1 is the slab axis, then the two others in their order. Overwritten by the next slab.
    """

    start: int
    scores: Floats


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


def stream(image: Floats, executor: Executor, window: SlidingWindow, axis: int, *, progress: Progress | None = None, tally: Tally | None = None) -> Iterator[Slab]:
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
    order = [axis, *(other for other in range(3) if other != axis)]
    image = image.transpose(0, *(other + 1 for other in order))
    lanes = _Lanes(image, executor, window, tuple(roi[other] for other in order), order, progress, tally or Tally())
    keep = [slice(pads[other][0], pads[other][0] + size[other]) for other in order]
    for slab in lanes.run():
        first, last = max(slab.start, keep[0].start), min(slab.start + slab.scores.shape[1], keep[0].stop)
        if last > first:
            part = slab.scores[:, first - slab.start : last - slab.start, keep[1], keep[2]]
            yield Slab(first - keep[0].start, part)


class _Lanes:
    """The loop over windows of a padded volume whose axis 1 is the slab axis."""

    def __init__(self, image: Floats, executor: Executor, window: SlidingWindow, roi: tuple[int, ...], order: Sequence[int], progress: Progress | None, tally: Tally) -> None:
        self.image, self.executor, self.roi, self.order = image, executor, roi, order
        size = image.shape[1:]
        self.starts = [window_starts(size[n], roi[n], window.overlap[order[n]]) for n in range(3)]
        self.weights = importance_map(roi, window.mode, [window.sigma_scale[n] for n in order])
        self.scores: Floats | None = None
        self.count = np.zeros((roi[0], *size[1:]), dtype=np.float32)
        self.constant: dict[tuple[float, ...], Floats] = {}
        self.progress, self.tally = progress, tally
        tally.windows = len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])
        self.done = 0
        # The network sees its own axis order; blending sees the slab axis first.
        self.back = tuple(int(n) for n in np.argsort(order))

    def run(self) -> Iterator[Slab]:
        firsts = self.starts[0]
        for n, start in enumerate(firsts):
            self._add_lane(start)
            end = firsts[n + 1] if n + 1 < len(firsts) else start + self.roi[0]
            ready = end - start
            assert self.scores is not None
            self.scores[:, :ready] /= self.count[:ready]
            yield Slab(start, self.scores[:, :ready])
            self._shift(ready)

    def _shift(self, by: int) -> None:
        """Drop what is finished and make room behind."""
        assert self.scores is not None
        left = self.roi[0] - by
        if left:
            self.scores[:, :left] = self.scores[:, by:]
            self.count[:left] = self.count[by:]
        self.scores[:, left:] = 0
        self.count[left:] = 0

    def _add_lane(self, start: int) -> None:
        batch: list[tuple[int, int]] = []
        for row, column in product(self.starts[1], self.starts[2]):
            values = self._one_value(start, row, column)
            if values is None:
                batch.append((row, column))
                if len(batch) == self.executor.batch:
                    self._run_batch(start, batch)
                    batch = []
            elif values in self.constant:
                self.tally.repeated += 1
                self._add(row, column, self.constant[values])
                self._tell(1)
            else:
                self.constant[values] = self._run_batch(start, [(row, column)])[0].copy()
        if batch:
            self._run_batch(start, batch)

    def _window(self, start: int, row: int, column: int) -> Floats:
        a, b, c = self.roi
        return self.image[:, start : start + a, row : row + b, column : column + c]

    def _one_value(self, start: int, row: int, column: int) -> tuple[float, ...] | None:
        """The value of each channel where the window holds nothing else, or None."""
        voxels = self._window(start, row, column)
        corner = voxels[:, 0, 0, 0]
        # Most windows are told by a few voxels.
        sample = voxels[:, ::7, ::7, ::7]
        if (sample != corner[:, None, None, None]).any() or (voxels != corner[:, None, None, None]).any():
            return None
        return tuple(float(v) for v in corner)

    def _run_batch(self, start: int, places: Sequence[tuple[int, int]]) -> Floats:
        inverse = (0, *(n + 1 for n in self.back))
        windows = np.stack([self._window(start, row, column).transpose(inverse) for row, column in places])
        scores = self.executor(np.ascontiguousarray(windows))
        scores = scores.transpose(0, 1, *(n + 2 for n in self.order))
        for (row, column), window in zip(places, scores, strict=True):
            self._add(row, column, window)
        self._tell(len(places))
        return scores

    def _add(self, row: int, column: int, window: Floats) -> None:
        if self.scores is None:
            self.scores = np.zeros((window.shape[0], self.roi[0], *self.image.shape[2:]), dtype=np.float32)
        place = (slice(None), slice(row, row + self.roi[1]), slice(column, column + self.roi[2]))
        for score, total in zip(window, self.scores, strict=True):
            total[place] += score * self.weights
        self.count[place] += self.weights

    def _tell(self, windows: int) -> None:
        self.done += windows
        if self.progress is not None:
            self.progress(self.done, self.tally.windows)
