"""The interface of every executor: a batch of windows in, class scores out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Executor(Protocol):
    """Runs a network on windows of one size.

    Attributes
    ----------
    batch : int
        Windows it likes to get at once; fewer are allowed.
    """

    batch: int

    def __call__(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute scores.

        Parameters
        ----------
        windows : ndarray, float32, (n, channels, x, y, z)
            C order, 1 <= n <= batch.

        Returns
        -------
        ndarray, float32, (n, classes, x, y, z)
            May be overwritten by the next call.
        """
        ...
