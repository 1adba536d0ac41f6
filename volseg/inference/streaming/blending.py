"""Weighted sums of overlapping windows in a ring one window thick: what is finished is handed out and its place taken again, nothing is moved."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import VolsegError
from volseg.inference.streaming.scratch import give_back, scratch_file

Floats = npt.NDArray[np.float32]

CHUNK = 1 << 16
"""Voxels (of 4 bytes) worked on at a time: window, weights and sums of a chunk stay in a core's second-level cache."""


SPILLED_CLASSES, SPILLED_PLANES = 4, 8
"""Classes added to, and planes handed out, before a spilled ring gives its pages back."""


class Ring:
    """Class scores of the part of a volume that windows still have to be added to.

    Position ``p`` along the slab axis is kept at ``p % window length``. Arrays keep the network's own axis order, since windows are added far more often than slabs are read.

    Parameters
    ----------
    classes : int
        Channels of the scores.
    size : sequence of 3 int
        Shape of the (padded) volume.
    axis : int
        The slab axis.
    weights : ndarray, float32, of the window's shape
        Importance of a window's voxels.
    pool : concurrent.futures.Executor
        Runs the arithmetic.
    spill : bool
        Keep the scores in a temporary file: slower, but its pages need not stay in memory.

    Raises
    ------
    VolsegError
        When there is no memory, or no room on the disk, for the scores.
    """

    def __init__(self, classes: int, size: Sequence[int], axis: int, weights: Floats, pool: Pool, *, spill: bool = False) -> None:
        self.axis, self.weights, self.pool = axis, weights, pool
        self.depth = weights.shape[axis]
        shape = [self.depth if n == axis else length for n, length in enumerate(size)]
        self.count = np.zeros(shape, dtype=np.float32)
        self.constant_weights = bool((weights == 1).all())
        self.file: mmap.mmap | None = None
        try:
            if spill:
                self.file = scratch_file(4 * classes * prod(shape))
                # Planes of the slab axis are stretches of the file, so that handing out a few touches few pages.
                others = [length for n, length in enumerate(shape) if n != axis]
                self.scores: Floats = np.moveaxis(np.frombuffer(self.file, dtype=np.float32).reshape(classes, self.depth, *others), 1, axis + 1)
            else:
                self.scores = np.zeros((classes, *shape), dtype=np.float32)
        except (MemoryError, OSError) as error:
            where = f"the temporary folder {tempfile.gettempdir()}" if spill else "memory"
            msg = f"no room in {where} for {4e-9 * classes * prod(shape):.2f} GB of scores ({error}); free some, or use a bundle of fewer classes or a smaller window"
            raise VolsegError(msg) from error

    def add(self, place: Sequence[int], window: Floats) -> None:
        """Add the scores of one window.

        Parameters
        ----------
        place : sequence of 3 int
            The window's first voxel in the volume.
        window : ndarray, float32, (classes, x, y, z)
            Not kept.
        """
        for ring, part in self._parts(place):
            self.count[ring] += self.weights[part]
            weights = None if self.constant_weights else self.weights[part]
            self._each(lambda n, ring=ring, part=part, weights=weights: _accumulate(window[n][part], self.scores[n][ring], weights))  # type: ignore[misc]

    def take(self, start: int, end: int) -> Iterator[tuple[int, Floats, bool]]:
        """Divide by the weights and hand out what is finished, then empty it.

        Parameters
        ----------
        start, end : int
            Positions along the slab axis, at most a window's length apart.

        Yields
        ------
        position : int
            Of the first plane.
        scores : ndarray, float32, (classes, n, rows, columns)
            A view.
        finite : bool
            Whether no score is NaN or infinite.
        """
        position = start
        while position < end:
            offset = position % self.depth
            length = min(end - position, self.depth - offset, self.depth if self.file is None else SPILLED_PLANES)
            place = self._along(slice(offset, offset + length))
            count = self.count[place]
            finite = all(self._each(lambda n, count=count, place=place: _divide(self.scores[n][place], count)))  # type: ignore[misc]
            yield position, np.moveaxis(self.scores[(slice(None), *place)], self.axis + 1, 1), finite
            self._each(lambda n, place=place: self.scores[n][place].fill(0))  # type: ignore[misc]
            count.fill(0)
            position += length

    def close(self) -> None:
        """Remove the temporary file."""
        self.scores = np.empty((0, 0, 0, 0), dtype=np.float32)
        self.file = None

    def _along(self, part: slice) -> tuple[slice, ...]:
        return tuple(part if n == self.axis else slice(None) for n in range(3))

    def _parts(self, place: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Where a window lies in the ring, and which part of the window that is: one or two pieces."""
        offset = place[self.axis] % self.depth
        whole = [slice(start, start + length) for start, length in zip(place, self.weights.shape, strict=True)]
        for first, last in ((0, self.depth - offset), (self.depth - offset, self.depth)):
            if last > first:
                at = (offset + first) % self.depth
                whole[self.axis] = slice(at, at + last - first)
                yield tuple(whole), self._along(slice(first, last))

    def _each(self, work: Callable[[int], Any]) -> list[Any]:
        """Do something for every class, several at the same time."""
        classes = range(len(self.scores))
        if self.file is None:
            return list(self.pool.map(work, classes))
        results: list[Any] = []
        for first in classes[::SPILLED_CLASSES]:
            results += self.pool.map(work, classes[first : first + SPILLED_CLASSES])
            give_back(self.file)
        return results


def _accumulate(score: Floats, total: Floats, weights: Floats | None) -> None:
    if weights is None:
        total += score
        return
    rows = max(1, CHUNK // max(1, score[0].size))
    product = np.empty((rows, *score.shape[1:]), dtype=np.float32)
    for at in range(0, len(score), rows):
        piece = total[at : at + rows]
        piece += np.multiply(score[at : at + rows], weights[at : at + rows], out=product[: len(piece)])


def _divide(total: Floats, count: Floats) -> bool:
    rows = max(1, CHUNK // max(1, total[0].size))
    finite = True
    for at in range(0, len(total), rows):
        piece = total[at : at + rows]
        piece /= count[at : at + rows]
        finite = finite and bool(np.isfinite(piece.sum()))
    return finite
