"""Labels of whole planes of the scan, where so much of a plane is border that picking the border out would cost more than interpolating everything."""

from __future__ import annotations

import numpy as np

from volseg.inference.streaming.border import candidates
from volseg.inference.streaming.decision import Decision, Floats, Labels, label_type, take_better
from volseg.inference.streaming.planes import Plane
from volseg.io.resample import Axis

DENSE_FROM = 0.25
"""Share of a plane's voxels in mixed cells from which all of them are interpolated: picked out, a voxel costs four to six times as much (25 classes, AVX2 CPU)."""

BLOCK = 1 << 15
"""Voxels interpolated at a time: a few arrays of that length stay in the cache."""

TOGETHER = 4
"""Classes whose columns are interpolated at a time, for the same reason."""


class Dense:
    """Activated scores of all voxels of two network planes.

    Parameters
    ----------
    below, above : Plane
        The two planes; the same one twice where nothing lies between.
    decision : Decision
        How scores become a label.
    rows, columns : Axis
        Where the label map's voxels lie in a plane.
    """

    def __init__(self, below: Plane, above: Plane, decision: Decision, rows: Axis, columns: Axis) -> None:
        self.decision, self.rows, self.columns = decision, rows, columns
        self.below, end = below.shares(decision), above.shares(decision)
        self.change = None if above is below else end - self.below
        self.classes = candidates(self.below, end, decision)
        length = max(1, BLOCK // max(1, len(columns)))
        self.parts = [slice(at, min(at + length, len(rows))) for at in range(0, len(rows), length)]
        self.space = _Space(min(TOGETHER, len(self.classes)), max(map(self._reach, self.parts)), self.below.shape[2], (length, len(columns)), label_type(len(self.below)))

    def label(self, weight: float, out: Labels) -> None:
        """Fill a plane of the label map that lies ``weight`` of the way up."""
        for part in self.parts:
            self._fill(part, weight, out[part])

    def _reach(self, part: slice) -> int:
        """Network rows that rows of the label map lie between."""
        return int(self.rows.high[part.stop - 1] - self.rows.low[part.start]) + 1

    def _fill(self, part: slice, weight: float, out: Labels) -> None:
        """Label some rows: columns are interpolated on the few network rows they lie between, then the rows."""
        first, reach, length = int(self.rows.low[part.start]), self._reach(part), part.stop - part.start
        low, space = self.rows.low[part] - first, self.space
        share, change, share_of_high, top = (array[:length] for array in (space.share, space.change, space.weight, space.top))
        best, better, number_of = (array[:length] for array in (space.best, space.better, space.number_of))
        share_of_high[:], top[:], best[:] = self.rows.weight[part, None], -np.inf, 0
        for at in range(0, len(self.classes), TOGETHER):
            numbers = self.classes[at : at + TOGETHER]
            wide, steps = self._widened(numbers, slice(first, first + reach), weight)
            for n, number in enumerate(numbers):
                np.take(wide[n], low, axis=0, out=share, mode="clip")
                if reach > 1:
                    np.take(steps[n], low, axis=0, out=change, mode="clip")
                    change *= share_of_high
                    share += change
                take_better(share, number, top, best, better, number_of)
        out[:] = best if self.decision.threshold is None else top >= self.decision.threshold

    def _widened(self, numbers: list[int], rows: slice, weight: float) -> tuple[Floats, Floats]:
        """Shares of some classes on some network rows, ``weight`` of the way up and at the label map's columns, and their differences from row to row."""
        count, reach, space = len(numbers), rows.stop - rows.start, self.space
        narrow = space.take(space.narrow, count, reach, self.below.shape[2])
        for n, number in enumerate(numbers):
            if self.change is None or weight == 0:
                narrow[n] = self.below[number, rows]
            else:
                np.multiply(self.change[number, rows], np.float32(weight), out=narrow[n])
                narrow[n] += self.below[number, rows]
        wide, high = (space.take(array, count, reach, len(self.columns)) for array in (space.wide, space.high))
        np.take(narrow, self.columns.low, axis=2, out=wide, mode="clip")
        np.take(narrow, self.columns.high, axis=2, out=high, mode="clip")
        high -= wide
        high *= self.columns.weight
        wide += high
        steps = space.take(space.high, count, reach - 1, len(self.columns))
        return wide, np.subtract(wide[:, 1:], wide[:, :-1], out=steps)


class _Space:
    """Arrays that are used again for each block: made anew, more time would go into their pages than into the arithmetic."""

    def __init__(self, classes: int, reach: int, narrow: int, block: tuple[int, int], labels: type[np.unsignedinteger]) -> None:
        self.narrow = np.empty(classes * reach * narrow, dtype=np.float32)
        self.wide, self.high = (np.empty(classes * reach * block[1], dtype=np.float32) for _ in range(2))
        self.share, self.change, self.weight, self.top = (np.empty(block, dtype=np.float32) for _ in range(4))
        self.best, self.number_of = (np.empty(block, dtype=labels) for _ in range(2))
        self.better = np.empty(block, dtype=bool)

    @staticmethod
    def take(array: Floats, classes: int, rows: int, columns: int) -> Floats:
        """The beginning of an array in the shape that is needed, one stretch of memory."""
        return array[: classes * rows * columns].reshape(classes, rows, columns)
