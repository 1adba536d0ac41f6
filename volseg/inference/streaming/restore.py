"""From slabs of class scores on the network's grid to a label map on the scan's, without ever holding scores at the scan's resolution.

MONAI interpolates the probability of every class at every voxel of the scan and takes the arg-max. Linear interpolation mixes the eight surrounding network voxels with weights
that are not negative and add up to one, so where all eight have the same best class, that class is also best anywhere between them: only the cells at a border between classes need
the probabilities. Those are interpolated for the voxels of such cells alone (:mod:`~volseg.inference.streaming.border`), or, where most of a plane is border, plane by plane and
class by class (:mod:`~volseg.inference.streaming.dense`); the answer is MONAI's but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from volseg.inference.streaming.border import Border, mixed_cells
from volseg.inference.streaming.decision import Decision, Floats, Labels, activate, decide, label_type
from volseg.inference.streaming.dense import DENSE_FROM, Dense
from volseg.inference.streaming.planes import GROUP, Plane, contiguous
from volseg.io.resample import Axis

__all__ = ["Decision", "Restorer", "activate", "decide"]

GATHERED = 1 << 15
"""Voxels interpolated at a time: a few arrays of that length stay in the cache."""

CHUNK = 1 << 16
"""Network voxels decided at a time, for the same reason."""


class Restorer:
    """Takes slabs in order and fills a label map.

    Parameters
    ----------
    target : ndarray of unsigned integers, (x, y, z)
        The label map to fill, oriented as the network's grid (a view of the final array).
    axes : sequence of 3 Axis
        Where the label map's voxels lie on the network's grid.
    slab_axis : int
        Axis the slabs follow.
    decision : Decision
        How scores become a label.
    threads : int
        Planes restored at the same time.
    """

    def __init__(self, target: Labels, axes: Sequence[Axis], slab_axis: int, decision: Decision, threads: int = 1) -> None:
        others = [axis for axis in range(3) if axis != slab_axis]
        # Rows of a plane are stretches of the label map's memory, whichever of its axes that is.
        self.swapped = abs(target.strides[others[0]]) < abs(target.strides[others[1]])
        order = [slab_axis, *(reversed(others) if self.swapped else others)]
        self.target = target.transpose(order)
        self.along, self.rows, self.columns = (axes[axis] for axis in order)
        self.decision = decision
        self.pool = ThreadPoolExecutor(max(1, threads))
        self.next = 0
        self.kept: Plane | None = None

    def add(self, start: int, scores: Floats) -> None:
        """Restore every plane of the label map that the slabs so far reach.

        Parameters
        ----------
        start : int
            First network plane of the slab; slabs come in order, without gaps.
        scores : ndarray, float32, (classes, n, rows, columns)
            Not kept.
        """
        if self.swapped:
            scores = scores.swapaxes(2, 3)
        for at in range(0, scores.shape[1], GROUP):
            self._add(start + at, contiguous(scores[:, at : at + GROUP], self.pool))

    def _add(self, start: int, scores: Floats) -> None:
        best = self._decide(scores)
        planes = {} if self.kept is None else {self.kept.number: self.kept}
        planes |= {start + n: Plane(start + n, scores[:, n], best[n]) for n in range(len(best))}
        end = start + len(best)
        first = self.next
        while self.next < len(self.along) and self.along.high[self.next] < end:
            self.next += 1
        pairs = groupby(range(first, self.next), lambda o: (int(self.along.low[o]), int(self.along.high[o])))
        tasks = [(planes[low], planes[high], list(outputs)) for (low, high), outputs in pairs]
        list(self.pool.map(self._restore_between, tasks))
        last = planes[end - 1]
        self.kept = Plane(last.number, last.scores.copy(), last.best)

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()

    def _decide(self, scores: Floats) -> Labels:
        """Best class of each voxel of a slab, (n, rows, columns)."""
        best: Labels = np.empty(scores.shape[1:], dtype=label_type(len(scores)))
        rows = max(1, CHUNK // max(1, best.shape[0] * best.shape[2]))

        def work(at: int) -> None:
            best[:, at : at + rows] = decide(scores[:, :, at : at + rows], self.decision)

        list(self.pool.map(work, range(0, best.shape[1], rows)))
        return best

    def _restore_between(self, task: tuple[Plane, Plane, list[int]]) -> None:
        below, above, outputs = task
        self._restore(below, above, outputs)
        # Pairs come in order, so that nothing further lies above this one.
        below.forget()

    def _restore(self, below: Plane, above: Plane, outputs: Sequence[int]) -> None:
        """All planes of the label map between two network planes."""
        label = below.best
        if not (self.rows.is_identity and self.columns.is_identity):
            label = np.take(np.take(label, self.rows.low, axis=0), self.columns.low, axis=1)
        weights = self.along.weight[outputs]
        if not weights.any():
            above = below
        cells = np.zeros((0, 0), dtype=bool) if self.decision.nearest else mixed_cells(below.best, above.best)
        if not cells.any() or (label is below.best and above is below):
            self.target[outputs] = label
            return
        inside = np.take(np.take(cells, self.rows.low, axis=0), self.columns.low, axis=1)
        y, x = np.nonzero(inside)
        if y.size >= DENSE_FROM * inside.size:
            dense = Dense(below, above, self.decision, self.rows, self.columns)
            for o, weight in zip(outputs, weights, strict=True):
                dense.label(float(weight), self.target[o])
            return
        border = Border(below, above, cells, self.decision)
        for o, weight in zip(outputs, weights, strict=True):
            plane = label.copy()
            for at in range(0, y.size, GATHERED):
                part = slice(at, at + GATHERED)
                plane[y[part], x[part]] = border.label(float(weight), self.rows, self.columns, y[part], x[part])
            self.target[o] = plane
