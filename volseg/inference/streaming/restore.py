"""From slabs of class scores on the network's grid to a label map on the scan's, without ever holding scores at the scan's resolution.

MONAI interpolates the probability of every class at every voxel of the scan and takes the arg-max. Linear interpolation mixes the eight surrounding network voxels with weights
that are not negative and add up to one, so where all eight have the same best class, that class is also best anywhere between them: only the cells at a border between classes need
the probabilities. Those are interpolated for the voxels of such cells alone, all classes at once; the answer is MONAI's but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from volseg.inference.streaming.resample import Axis

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.unsignedinteger]

GATHERED = 1 << 15
"""Voxels whose probabilities are interpolated at a time: some megabytes at 25 classes, which stay in the cache."""


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
        order = [slab_axis, *(axis for axis in range(3) if axis != slab_axis)]
        self.target = target.transpose(order)
        self.along, self.rows, self.columns = (axes[axis] for axis in order)
        self.decision = decision
        self.pool = ThreadPoolExecutor(max(1, threads))
        self.next = 0
        self.kept: _Plane | None = None

    def add(self, start: int, scores: Floats) -> None:
        """Restore every plane of the label map that the slabs so far reach.

        Parameters
        ----------
        start : int
            First network plane of the slab; slabs come in order, without gaps.
        scores : ndarray, float32, (classes, n, rows, columns)
            Not kept.
        """
        planes = _Planes(start, scores, self.decision, self.kept)
        list(self.pool.map(planes.decide, range(start, start + scores.shape[1])))
        end = start + scores.shape[1]
        first = self.next
        while self.next < len(self.along) and self.along.high[self.next] < end:
            self.next += 1
        list(self.pool.map(lambda o: self._restore(o, planes), range(first, self.next)))
        self.kept = planes.plane(end - 1).copy()

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()

    def _restore(self, o: int, planes: _Planes) -> None:
        low, high, weight = int(self.along.low[o]), int(self.along.high[o]), float(self.along.weight[o])
        self.target[o] = restore_plane(planes, low, high, weight, self.rows, self.columns)


class _Plane:
    """One network plane: its scores, the best class of each voxel, and (once somebody asks) what is interpolated."""

    def __init__(self, number: int, scores: Floats, decision: Decision) -> None:
        self.number, self.scores, self.decision = number, scores, decision
        self.best = _decide(scores, decision)
        self.mixed = _cells(self.best)

    @cached_property
    def shares(self) -> Floats:
        """Activated scores (classes, rows, columns)."""
        return _activate(self.scores, self.decision)

    def copy(self) -> _Plane:
        """The same plane, independent of the slab's memory."""
        return _Plane(self.number, self.scores.copy(), self.decision)


class _Planes:
    """Planes by network index: those of the slab, and the last one of the slab before."""

    def __init__(self, start: int, scores: Floats, decision: Decision, kept: _Plane | None) -> None:
        self.start, self.scores, self.decision = start, scores, decision
        self.known = {} if kept is None else {kept.number: kept}

    def decide(self, number: int) -> None:
        """Make a plane of the slab ready."""
        self.known[number] = _Plane(number, self.scores[:, number - self.start], self.decision)

    def plane(self, number: int) -> _Plane:
        """The plane of a network index."""
        return self.known[number]


def restore_plane(planes: _Planes, low: int, high: int, weight: float, rows: Axis, columns: Axis) -> Labels:
    """Label of one plane of the scan between two network planes."""
    below = planes.plane(low)
    if rows.is_identity and columns.is_identity and weight == 0:
        return below.best
    label = below.best[rows.low][:, columns.low]
    if planes.decision.nearest:
        return label
    mixed = below.mixed
    if weight > 0:
        above = planes.plane(high)
        mixed = mixed | above.mixed | (below.best != above.best)
    y, x = np.nonzero(mixed[rows.low][:, columns.low])
    if y.size:
        shares = below.shares
        if weight > 0:
            shares = shares + np.float32(weight) * (above.shares - shares)
        # Classes last: the four corners of a voxel are then four short stretches of memory.
        table = np.ascontiguousarray(shares.transpose(1, 2, 0))
        for at in range(0, y.size, GATHERED):
            part = slice(at, at + GATHERED)
            label[y[part], x[part]] = _interpolate(table, rows, columns, y[part], x[part], planes.decision)
    return label


def _interpolate(table: Floats, rows: Axis, columns: Axis, y: npt.NDArray[np.intp], x: npt.NDArray[np.intp], decision: Decision) -> Labels:
    wx, wy = columns.weight[x][:, None], rows.weight[y][:, None]
    y0, y1, x0, x1 = rows.low[y], rows.high[y], columns.low[x], columns.high[x]
    top = table[y0, x0]
    top += wx * (table[y0, x1] - top)
    bottom = table[y1, x0]
    bottom += wx * (table[y1, x1] - bottom)
    top += wy * (bottom - top)
    if decision.threshold is not None:
        above: Labels = (top[:, 0] > decision.threshold).astype(np.uint8)
        return above
    best: Labels = top.argmax(axis=1).astype(np.uint16)
    return best


def _cells(best: Labels) -> npt.NDArray[np.bool_]:
    """Whether a network voxel and its neighbours one row and one column on have different best classes."""
    mixed = np.zeros(best.shape, dtype=bool)
    mixed[:-1] |= best[:-1] != best[1:]
    mixed[:, :-1] |= best[:, :-1] != best[:, 1:]
    mixed[:-1, :-1] |= best[:-1, :-1] != best[1:, 1:]
    return mixed


def _decide(scores: Floats, decision: Decision) -> Labels:
    """Best class of each voxel of a plane (classes, rows, columns)."""
    if decision.threshold is not None:
        above: Labels = (_activate(scores[:1], decision)[0] > decision.threshold).astype(np.uint8)
        return above
    best: Labels = np.zeros(scores.shape[1:], dtype=np.uint8 if len(scores) <= 256 else np.uint16)
    top = scores[0].copy()
    # One pass for each class over a plane that stays in the cache; argmax over the first axis takes ten times as long.
    for number in range(1, len(scores)):
        better = scores[number] > top
        np.copyto(best, best.dtype.type(number), where=better)
        np.maximum(top, scores[number], out=top)
    return best


def _activate(scores: Floats, decision: Decision) -> Floats:
    if decision.activation == "softmax":
        shares: Floats = np.exp(scores - scores.max(axis=0))
        shares /= shares.sum(axis=0)
        return shares
    if decision.activation == "sigmoid":
        with np.errstate(over="ignore"):
            return np.float32(1) / (np.float32(1) + np.exp(-scores))
    return scores
