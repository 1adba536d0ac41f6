"""Planes of class scores across the slab axis, taken out of the ring in which their voxels lie far apart."""

from __future__ import annotations

from concurrent.futures import Executor as Pool
from itertools import product
from threading import Lock

import numpy as np

from volseg.inference.streaming.decision import Decision, Floats, Labels, activate

GROUP = 8
"""Planes taken out at once: neighbours along the slab axis share a line of the processor's cache (16 floats), which is so read twice instead of 16 times."""

ROWS = 16
"""Rows of each plane copied at a time: their lines stay in the cache until all planes of the group have been copied."""


class Plane:
    """One network plane.

    Parameters
    ----------
    number : int
        Its index along the slab axis.
    scores : ndarray, float32, (classes, rows, columns)
        Not changed.
    best : ndarray of unsigned integers, (rows, columns)
        Best class of each voxel.
    """

    def __init__(self, number: int, scores: Floats, best: Labels) -> None:
        self.number, self.scores, self.best = number, scores, best
        self._shares: Floats | None = None
        self._lock = Lock()

    def shares(self, decision: Decision) -> Floats:
        """Activated scores (classes, rows, columns), kept for the next who asks until :meth:`forget`: a plane has a neighbour on either side."""
        with self._lock:
            if self._shares is None:
                self._shares = activate(self.scores, decision)
            return self._shares

    def forget(self) -> None:
        """Give the memory of the activated scores back."""
        with self._lock:
            self._shares = None


def contiguous(scores: Floats, pool: Pool) -> Floats:
    """Scores whose planes are stretches of memory: a copy, or the array itself where they are that already.

    Parameters
    ----------
    scores : ndarray, float32, (classes, n, rows, columns)
        A view in any order.
    pool : concurrent.futures.Executor
        Runs the copying.
    """
    classes, _, rows, _ = scores.shape
    if scores[0, 0].flags.c_contiguous:
        return scores
    out = np.empty(scores.shape, dtype=np.float32)

    def copy(piece: tuple[int, int]) -> None:
        number, at = piece
        out[number, :, at : at + ROWS] = scores[number, :, at : at + ROWS]

    list(pool.map(copy, product(range(classes), range(0, rows, ROWS))))
    return out
