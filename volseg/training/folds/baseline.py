"""What anyone could say without looking at a scan: at each relative position, the label that most training cases have there.

A model that is not clearly better than this has learnt where things lie in the image, which crops and protocols give away, and not how they look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid, reorient

CELLS = 48
"""Relative positions told apart along each axis (RAS+)."""

RULE = f"the label most training cases of the fold have at the same relative position ({CELLS} cells along each axis, RAS)"


def vote(labels: Iterable[tuple[npt.NDArray[np.generic], Grid]], classes: int) -> npt.NDArray[np.uint8]:
    """Most frequent label at each relative position; the lower value where two are as frequent.

    Parameters
    ----------
    labels : iterable of (ndarray of integers (i, j, k), Grid)
        Label maps; values from ``classes`` on (ignored voxels) give no vote.
    classes : int
        Number of label values.

    Returns
    -------
    ndarray of uint8, (CELLS, CELLS, CELLS)
        Axes towards right, front and head.
    """
    counts = np.zeros((classes, CELLS, CELLS, CELLS), dtype=np.uint16)
    for array, grid in labels:
        turned, _ = reorient(array, grid, "RAS")
        sampled = _sample(turned, (CELLS,) * 3)
        for value in range(classes):
            counts[value] += sampled == value
    votes: npt.NDArray[np.uint8] = counts.argmax(axis=0).astype(np.uint8)
    return votes


def place(votes: npt.NDArray[np.uint8], grid: Grid) -> npt.NDArray[Any]:
    """The vote as a label map (i, j, k) on a scan's grid, nearest relative position."""
    order, flips = grid.reorientation("RAS")
    turned = _sample(votes, tuple(grid.shape[axis] for axis in order))
    for axis in range(3):
        if axis in flips:
            turned = np.flip(turned, axis)
    return turned.transpose([list(order).index(axis) for axis in range(3)])


def _sample(array: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """Nearest voxel at the centres of ``shape`` cells over the whole array."""
    for axis, (found, wanted) in enumerate(zip(array.shape, shape, strict=True)):
        array = np.take(array, np.minimum(((np.arange(wanted) + 0.5) / wanted * found).astype(int), found - 1), axis=axis)
    return array
