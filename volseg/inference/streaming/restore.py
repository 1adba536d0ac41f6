"""From slabs of class scores on the network's grid to a label map on the scan's, without ever holding scores at the scan's resolution.

MONAI interpolates the probability of every class at every voxel of the scan and takes the arg-max. Linear interpolation mixes the eight surrounding network voxels with weights
that are not negative and add up to one, so where all eight have the same best class, that class is also best anywhere between them: only the cells at a border between classes need
the probabilities. Those are interpolated for the voxels of such cells alone, all classes at once; the answer is MONAI's but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from volseg.inference.streaming.resample import Axis

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.unsignedinteger]
Indices = npt.NDArray[np.intp]

GATHERED = 1 << 15
"""Voxels interpolated at a time: a few arrays of that length stay in the cache."""

CHUNK = 1 << 16
"""Network voxels decided at a time, for the same reason."""

ROUNDING = 1e-5
"""Float32 shares of all classes add up to one within this."""


@dataclass(frozen=True)
class Decision:
    """How scores become a label.

    Parameters
    ----------
    activation : str
        ``"softmax"``, ``"sigmoid"`` or ``"none"``: what is interpolated.
    threshold : float or None
        Of a single channel: label 1 above it. None takes the class with the largest score.
    nearest : bool
        Scores of the nearest network voxel rather than interpolated ones.
    """

    activation: str = "softmax"
    threshold: float | None = None
    nearest: bool = False


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
        best = self._decide(scores)
        planes = {} if self.kept is None else {self.kept.number: self.kept}
        planes |= {start + n: Plane(start + n, scores[:, n], best[n]) for n in range(len(best))}
        end = start + len(best)
        first = self.next
        while self.next < len(self.along) and self.along.high[self.next] < end:
            self.next += 1
        pairs = groupby(range(first, self.next), lambda o: (int(self.along.low[o]), int(self.along.high[o])))
        tasks = [(planes[low], planes[high], list(outputs)) for (low, high), outputs in pairs]
        list(self.pool.map(lambda task: self._restore(*task), tasks))
        last = planes[end - 1]
        self.kept = Plane(last.number, last.scores.copy(), last.best)

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()

    def _decide(self, scores: Floats) -> Labels:
        """Best class of each voxel of a slab, (n, rows, columns)."""
        best: Labels = np.empty(scores.shape[1:], dtype=np.uint8 if len(scores) <= 256 else np.uint16)
        rows = max(1, CHUNK // max(1, best.shape[0] * best.shape[2]))

        def work(at: int) -> None:
            best[:, at : at + rows] = decide(scores[:, :, at : at + rows], self.decision)

        list(self.pool.map(work, range(0, best.shape[1], rows)))
        return best

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
        border = Border(below, above, cells, self.decision)
        y, x = np.nonzero(np.take(np.take(cells, self.rows.low, axis=0), self.columns.low, axis=1))
        for o, weight in zip(outputs, weights, strict=True):
            plane = label.copy()
            for at in range(0, y.size, GATHERED):
                part = slice(at, at + GATHERED)
                plane[y[part], x[part]] = border.label(float(weight), self.rows, self.columns, y[part], x[part])
            self.target[o] = plane


@dataclass(frozen=True, eq=False)
class Plane:
    """One network plane: its index along the slab axis, its scores (classes, rows, columns) and the best class of each voxel."""

    number: int
    scores: Floats
    best: Labels


class Border:
    """Activated scores of the network voxels at the corners of mixed cells, between two planes.

    Parameters
    ----------
    below, above : Plane
        The two planes; the same one twice where nothing lies between.
    cells : ndarray of bool, (rows, columns)
        From :func:`mixed_cells`.
    decision : Decision
        How scores become a label.
    """

    def __init__(self, below: Plane, above: Plane, cells: npt.NDArray[np.bool_], decision: Decision) -> None:
        self.decision = decision
        corners = cells.copy()
        corners[1:] |= cells[:-1]
        corners[:, 1:] |= corners[:, :-1].copy()
        y, x = np.nonzero(corners)
        self.place = np.zeros(cells.shape, dtype=np.intp)
        self.place[y, x] = np.arange(y.size)
        self.below = activate(_gather(below.scores, y, x), decision)
        self.change = None if above is below else activate(_gather(above.scores, y, x), decision) - self.below
        self.classes = self._candidates()

    def _candidates(self) -> list[int]:
        """Classes that can be best somewhere: the best of n shares is at least 1/n, and no interpolated share is above the largest it is made of."""
        count = len(self.below)
        if self.decision.activation != "softmax":
            return list(range(count))
        highest = self.below.max(axis=1)
        if self.change is not None:
            highest = np.maximum(highest, (self.below + self.change).max(axis=1))
        return [int(n) for n in np.flatnonzero(highest >= 1 / count - ROUNDING)]

    def label(self, weight: float, rows: Axis, columns: Axis, y: Indices, x: Indices) -> Labels:
        """Labels of voxels ``y``, ``x`` (indices on the label map) of a plane ``weight`` of the way up."""
        y0, y1, x0, x1 = rows.low[y], rows.high[y], columns.low[x], columns.high[x]
        corners = (self.place[y0, x0], self.place[y0, x1], self.place[y1, x0], self.place[y1, x1])
        wy, wx = rows.weight[y], columns.weight[x]
        if self.decision.threshold is not None:
            above: Labels = (_bilinear(self._shares(0, weight), corners, wy, wx) > self.decision.threshold).astype(np.uint8)
            return above
        if len(self.classes) == 2:
            # Which of two is larger is the sign of one difference: half the work.
            first, second = self.classes
            difference = self._shares(second, weight) - self._shares(first, weight)
            return np.where(_bilinear(difference, corners, wy, wx) > 0, np.uint16(second), np.uint16(first))
        best: Labels = np.full(y.size, self.classes[0], dtype=np.uint16)
        top = _bilinear(self._shares(self.classes[0], weight), corners, wy, wx)
        for number in self.classes[1:]:
            share = _bilinear(self._shares(number, weight), corners, wy, wx)
            np.copyto(best, np.uint16(number), where=share > top)
            np.maximum(top, share, out=top)
        return best

    def _shares(self, number: int, weight: float) -> Floats:
        shares: Floats = self.below[number]
        return shares if self.change is None or weight == 0 else shares + np.float32(weight) * self.change[number]


def _gather(scores: Floats, y: Indices, x: Indices) -> Floats:
    out = np.empty((len(scores), y.size), dtype=np.float32)
    for number, plane in enumerate(scores):
        out[number] = plane[y, x]
    return out


def _bilinear(values: Floats, corners: tuple[Indices, Indices, Indices, Indices], wy: Floats, wx: Floats) -> Floats:
    top, right, bottom, far = (np.take(values, corner) for corner in corners)
    right -= top
    right *= wx
    top += right
    far -= bottom
    far *= wx
    bottom += far
    bottom -= top
    bottom *= wy
    top += bottom
    return top


def mixed_cells(below: Labels, above: Labels) -> npt.NDArray[np.bool_]:
    """Whether the eight corners of a cell (a network voxel, its neighbours one row and one column on, in both planes) have different best classes."""
    mixed = np.zeros(below.shape, dtype=bool)
    for best in (below,) if above is below else (below, above):
        mixed[:-1] |= best[:-1] != best[1:]
        mixed[:, :-1] |= best[:, :-1] != best[:, 1:]
        mixed[:-1, :-1] |= best[:-1, :-1] != best[1:, 1:]
    if above is not below:
        mixed |= below != above
    return mixed


def decide(scores: Floats, decision: Decision) -> Labels:
    """Best class of each voxel of scores (classes, ...)."""
    if decision.threshold is not None:
        above: Labels = (activate(scores[:1], decision)[0] > decision.threshold).astype(np.uint8)
        return above
    top = scores[0].copy(order="K")
    best: Labels = np.zeros_like(top, dtype=np.uint8 if len(scores) <= 256 else np.uint16)
    better = np.empty_like(top, dtype=bool)
    # One pass for each class over a piece that stays in the cache; argmax over the first axis takes ten times as long.
    for number in range(1, len(scores)):
        np.greater(scores[number], top, out=better)
        np.copyto(best, best.dtype.type(number), where=better)
        np.maximum(top, scores[number], out=top)
    return best


def activate(scores: Floats, decision: Decision) -> Floats:
    """What is interpolated, of scores (classes, ...): a new array, but for no activation."""
    if decision.activation == "softmax":
        shares: Floats = np.subtract(scores, scores.max(axis=0))
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=0)
        return shares
    if decision.activation == "sigmoid":
        with np.errstate(over="ignore"):
            np.exp(-scores, out=(shares := np.empty_like(scores)))
        shares += 1
        return np.reciprocal(shares, out=shares)
    return scores
