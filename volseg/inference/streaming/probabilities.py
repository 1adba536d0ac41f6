"""From slabs of class scores to the probability of every class at every voxel of the scan, plane by plane: for those who ask for them; a label needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from volseg.inference.streaming.resample import Axis, lerp
from volseg.inference.streaming.restore import Decision, activate

Floats = npt.NDArray[np.float32]

Sink = Callable[[int, Floats], None]
"""Called with a plane's number along the slab axis of the label map and its probabilities (classes, rows, columns), which it must not keep."""


class ProbabilityRestorer:
    """Takes slabs in order and hands out planes of interpolated probabilities in order.

    Parameters
    ----------
    sink : callable
        Takes each finished plane; its rows and columns are the two other axes of the label map in their order.
    axes : sequence of 3 Axis
        Where the label map's voxels lie on the network's grid.
    slab_axis : int
        Axis the slabs follow.
    decision : Decision
        Whose activation makes probabilities of scores: softmax or sigmoid.
    """

    def __init__(self, sink: Sink, axes: Sequence[Axis], slab_axis: int, decision: Decision) -> None:
        self.sink, self.decision = sink, decision
        self.along = axes[slab_axis]
        self.rows, self.columns = (axes[axis] for axis in range(3) if axis != slab_axis)
        self.next = 0
        self.kept: tuple[int, Floats] | None = None

    def add(self, start: int, scores: Floats) -> None:
        """Hand out every plane the slabs so far reach.

        Parameters
        ----------
        start : int
            First network plane of the slab; slabs come in order, without gaps.
        scores : ndarray, float32, (classes, n, rows, columns)
            Not kept.
        """
        end = start + scores.shape[1]
        planes: dict[int, Floats] = {} if self.kept is None else {self.kept[0]: self.kept[1]}
        while self.next < len(self.along) and self.along.high[self.next] < end:
            o = self.next
            low, high, weight = int(self.along.low[o]), int(self.along.high[o]), self.along.weight[o]
            planes = {n: planes[n] if n in planes else self._plane(scores[:, n - start]) for n in {low, high}}
            self.sink(o, planes[low] if weight == 0 else planes[low] + weight * (planes[high] - planes[low]))
            self.next += 1
        # The plane between this slab and the next.
        self.kept = (end - 1, planes[end - 1] if end - 1 in planes else self._plane(scores[:, -1]))

    def _plane(self, scores: Floats) -> Floats:
        shares = activate(np.array(scores, dtype=np.float32, order="C"), self.decision)
        return lerp(lerp(shares, self.rows, 1), self.columns, 2)
