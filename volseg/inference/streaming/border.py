"""Labels of the voxels at a border between classes, where those are few: scores are interpolated for them alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from volseg.inference.streaming.decision import Decision, Floats, Labels, activate
from volseg.inference.streaming.planes import Plane
from volseg.io.resample import Axis

Indices = npt.NDArray[np.intp]

ROUNDING = 1e-5
"""Float32 shares of all classes add up to one within this."""


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
        end = self.below if above is below else activate(_gather(above.scores, y, x), decision)
        self.change = None if above is below else end - self.below
        self.classes = candidates(self.below, end, decision)

    def label(self, weight: float, rows: Axis, columns: Axis, y: Indices, x: Indices) -> Labels:
        """Labels of voxels ``y``, ``x`` (indices on the label map) of a plane ``weight`` of the way up."""
        y0, y1, x0, x1 = rows.low[y], rows.high[y], columns.low[x], columns.high[x]
        corners = (self.place[y0, x0], self.place[y0, x1], self.place[y1, x0], self.place[y1, x1])
        wy, wx = rows.weight[y], columns.weight[x]
        if self.decision.threshold is not None:
            above: Labels = (_bilinear(self._shares(0, weight), corners, wy, wx) >= self.decision.threshold).astype(np.uint8)
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


def candidates(below: Floats, above: Floats, decision: Decision) -> list[int]:
    """Classes that can be best somewhere between two planes: the best of n shares is at least 1/n, and no interpolated share is above the largest it is made of.

    Parameters
    ----------
    below, above : ndarray, float32, (classes, ...)
        Activated scores of the two planes.
    decision : Decision
        Whose activation they have.
    """
    count = len(below)
    if decision.threshold is not None:
        return [0]
    if decision.activation != "softmax":
        return list(range(count))
    places = tuple(range(1, below.ndim))
    highest = np.maximum(below.max(axis=places), above.max(axis=places))
    return [int(n) for n in np.flatnonzero(highest >= 1 / count - ROUNDING)]


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
