"""From slabs of class scores to the probability of every class at every voxel of the scan, plane by plane: for those who ask for them; a label needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import BundleError
from volseg.inference.streaming.restore import Decision, activate
from volseg.io.resample import Axis, lerp

Floats = npt.NDArray[np.float32]

MOST = 255
"""A probability of 1 in uint8."""


class ProbabilityRestorer:
    """Takes slabs in order and fills planes of interpolated probabilities.

    Parameters
    ----------
    targets : mapping of int to ndarray, (planes, rows, columns)
        By channel of the scores, what is to be filled: float32 (0 to 1) or uint8 (0 to 255). The first axis is the slab axis, then the label map's two others in their order.
    axes : sequence of 3 Axis
        Where the label map's voxels lie on the network's grid.
    slab_axis : int
        Axis the slabs follow.
    decision : Decision
        Whose activation makes probabilities of scores: softmax or sigmoid.
    threads : int
        Classes interpolated at the same time.
    settle : callable, optional
        Called after every few planes, so that what was filled need not stay in memory.
    """

    def __init__(
        self,
        targets: Mapping[int, npt.NDArray[Any]],
        axes: Sequence[Axis],
        slab_axis: int,
        decision: Decision,
        threads: int = 1,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self.targets, self.decision, self.settle = targets, decision, settle
        self.along = axes[slab_axis]
        self.rows, self.columns = (axes[axis] for axis in range(3) if axis != slab_axis)
        self.pool = ThreadPoolExecutor(max(1, threads))
        self.next = 0
        # Planes of the network: all classes of the last one; interpolated in their plane, one or two for each class that is asked for.
        self.last: dict[int, Floats] = {}
        self.planes: dict[int, dict[int, Floats]] = {number: {} for number in targets}

    def add(self, start: int, scores: Floats) -> None:
        """Fill every plane the slabs so far reach.

        Parameters
        ----------
        start : int
            First network plane of the slab; slabs come in order, without gaps.
        scores : ndarray, float32, (classes, n, rows, columns)
            Not kept.

        Raises
        ------
        BundleError
            When the scores have fewer channels than were asked for.
        """
        if max(self.targets) >= len(scores):
            msg = f"probabilities of channel {max(self.targets)} are asked for, but the network gives {len(scores)} channels; correct channel_def in the bundle's metadata.json"
            raise BundleError(msg)
        end, first = start + scores.shape[1], self.next
        while self.next < len(self.along) and self.along.high[self.next] < end:
            self.next += 1
        for (low, high), outputs in groupby(range(first, self.next), lambda o: (int(self.along.low[o]), int(self.along.high[o]))):
            shares = {n: self.last[n] if n in self.last else self._activated(scores[:, n - start]) for n in {low, high}}
            wanted = list(outputs)
            list(self.pool.map(lambda number, shares=shares, low=low, high=high, wanted=wanted: self._fill(number, shares, low, high, wanted), self.targets))  # type: ignore[misc]
            self.last = shares
            if self.settle is not None:
                self.settle()
        # The plane between this slab and the next.
        self.last = {end - 1: self.last[end - 1] if end - 1 in self.last else self._activated(scores[:, -1])}

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()

    def _activated(self, scores: Floats) -> Floats:
        return activate(np.array(scores, dtype=np.float32, order="C"), self.decision)

    def _fill(self, number: int, shares: Mapping[int, Floats], low: int, high: int, outputs: Sequence[int]) -> None:
        """All planes of one class between two network planes."""
        known, target = self.planes[number], self.targets[number]
        known = {n: known[n] if n in known else lerp(lerp(shares[n][number], self.rows, 0), self.columns, 1) for n in {low, high}}
        self.planes[number] = known
        for o in outputs:
            weight = self.along.weight[o]
            store_shares(known[low] if weight == 0 else known[low] + weight * (known[high] - known[low]), target[o])


def store_shares(shares: Floats, target: npt.NDArray[Any]) -> None:
    """Write probabilities (0 to 1) into an array of the same shape: float32, or uint8 in steps of 1/255, rounded."""
    target[...] = np.rint(shares * np.float32(MOST)) if target.dtype == np.uint8 else shares
