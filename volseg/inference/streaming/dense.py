"""Labels of whole planes of the scan, where so much of a plane is border that picking the border out would cost more than interpolating everything."""

from __future__ import annotations

import numpy as np

from volseg.inference.streaming.border import Plane, candidates
from volseg.inference.streaming.decision import Decision, Floats, Labels, activate, label_type, take_better
from volseg.io.resample import Axis, lerp

DENSE_FROM = 0.3
"""Share of a plane's voxels in mixed cells from which all of them are interpolated: picked out, a voxel costs about three times as much."""

BLOCK = 1 << 15
"""Voxels interpolated at a time: a few arrays of that length stay in the cache."""

TOGETHER = 8
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
        self.below = activate(np.array(below.scores, order="C"), decision)
        self.change: Floats | None = None
        if above is not below:
            self.change = activate(np.array(above.scores, order="C"), decision)
            self.change -= self.below
        self.classes = candidates(self.below, self.change, decision)

    def label(self, weight: float, out: Labels) -> None:
        """Fill a plane of the label map that lies ``weight`` of the way up."""
        length = max(1, BLOCK // max(1, len(self.columns)))
        for at in range(0, len(self.rows), length):
            part = slice(at, min(at + length, len(self.rows)))
            self._fill(part, weight, out[part])

    def _fill(self, part: slice, weight: float, out: Labels) -> None:
        """Label some rows: columns are interpolated on the few network rows they lie between, then the rows."""
        first, last = int(self.rows.low[part.start]), int(self.rows.high[part.stop - 1])
        low, share_of_high = self.rows.low[part] - first, self.rows.weight[part, None]
        top = np.full((part.stop - part.start, len(self.columns)), -np.inf, dtype=np.float32)
        share, change = np.empty_like(top), np.empty_like(top)
        best = np.zeros(top.shape, dtype=label_type(len(self.below)))
        better, number_of = np.empty(top.shape, dtype=bool), np.empty_like(best)
        for at in range(0, len(self.classes), TOGETHER):
            numbers = self.classes[at : at + TOGETHER]
            wide = lerp(self._shares(numbers, slice(first, last + 1), weight), self.columns, 2)
            steps = wide[:, 1:] - wide[:, :-1]
            for n, number in enumerate(numbers):
                np.take(wide[n], low, axis=0, out=share, mode="clip")
                if last > first:
                    np.take(steps[n], low, axis=0, out=change, mode="clip")
                    change *= share_of_high
                    share += change
                take_better(share, number, top, best, better, number_of)
        out[:] = best if self.decision.threshold is None else top >= self.decision.threshold

    def _shares(self, numbers: list[int], rows: slice, weight: float) -> Floats:
        """Shares of some classes on some network rows, ``weight`` of the way up: (classes, rows, columns)."""
        shares: Floats = self.below[numbers, rows]
        if self.change is not None and weight != 0:
            shares += np.float32(weight) * self.change[numbers, rows]
        return shares
