"""Executors made of executors: test-time flips and ensembles, averaged window by window, so that streaming stays as it is.

What is averaged are logits by default, as nnU-Net does (``predict_from_raw_data.py``: mirrored predictions and folds are averaged before the softmax).
Averaging probabilities is the other choice: the logarithm of the mean probability is handed on, whose softmax is that probability again. Where windows overlap they are
blended as logits in either case, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.inference.executors.base import Executor

Floats = npt.NDArray[np.float32]

SMALLEST_SHARE = 1e-12
"""Probabilities below this are taken as this: float32 has a logarithm for it, and no decision depends on less."""


class Flipped:
    """Runs a network on every combination of flips along some axes and averages the scores flipped back.

    Parameters
    ----------
    executor : Executor
        The network.
    axes : sequence of int
        Axes of the network's input (0, 1, 2 for x, y, z) to flip; three give eight runs, the unflipped one among them.
    average : str
        ``"logits"`` or ``"probabilities"`` (of a softmax).

    Raises
    ------
    InputError
        For axes other than 0, 1 and 2, or an unknown kind of average.
    """

    def __init__(self, executor: Executor, axes: Sequence[int] = (0, 1, 2), average: str = "logits") -> None:
        if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
            msg = f"axes to flip must be different ones of 0, 1 and 2, got {list(axes)}"
            raise InputError(msg)
        self._executor, self._average = executor, _average_of(average)
        self._flips = [tuple(axis + 2 for axis in chosen) for n in range(len(axes) + 1) for chosen in combinations(sorted(axes), n)]

    @property
    def batch(self) -> int:
        """The network's own."""
        return self._executor.batch

    @property
    def runs(self) -> int:
        """Times each window is run."""
        return len(self._flips)

    def __call__(self, windows: Floats) -> Floats:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""

        def one(flip: tuple[int, ...]) -> Floats:
            return np.flip(self._executor(np.ascontiguousarray(np.flip(windows, flip))), flip)

        return self._average(self._flips, one)


class Ensemble:
    """Runs several networks of the same input and classes and averages their scores.

    Parameters
    ----------
    executors : sequence of Executor
        At least one.
    average : str
        ``"logits"`` or ``"probabilities"`` (of a softmax).

    Raises
    ------
    InputError
        Without a network, for an unknown kind of average, or (when run) where the networks' scores differ in shape.
    """

    def __init__(self, executors: Sequence[Executor], average: str = "logits") -> None:
        if not executors:
            msg = "an ensemble needs at least one network"
            raise InputError(msg)
        self._executors, self._average = list(executors), _average_of(average)

    @property
    def batch(self) -> int:
        """The smallest of the networks'."""
        return min(executor.batch for executor in self._executors)

    @property
    def runs(self) -> int:
        """Times each window is run."""
        return len(self._executors)

    def __call__(self, windows: Floats) -> Floats:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        return self._average(self._executors, lambda executor: executor(windows))


def _average_of(name: str) -> Callable[[Sequence[object], Callable[..., Floats]], Floats]:
    if name not in ("logits", "probabilities"):
        msg = f"an average is of logits or probabilities, not of {name!r}"
        raise InputError(msg)
    return _mean_of_logits if name == "logits" else _mean_of_probabilities


def _mean_of_logits(runs: Sequence[object], scores_of: Callable[..., Floats]) -> Floats:
    return _mean(runs, scores_of)


def _mean_of_probabilities(runs: Sequence[object], scores_of: Callable[..., Floats]) -> Floats:
    def shares_of(run: object) -> Floats:
        scores = scores_of(run)
        shares: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    mean = _mean(runs, shares_of)
    np.maximum(mean, np.float32(SMALLEST_SHARE), out=mean)
    return np.log(mean, out=mean)


def _mean(runs: Sequence[object], scores_of: Callable[..., Floats]) -> Floats:
    # An executor may write its next scores over the last.
    total: Floats | None = None
    for run in runs:
        scores = scores_of(run)
        if total is None:
            total = np.array(scores, dtype=np.float32, order="C")
        elif scores.shape != total.shape:
            msg = f"the networks of an ensemble give scores of different shapes, {total.shape[1:]} and {scores.shape[1:]}; use weights of one network"
            raise InputError(msg)
        else:
            total += scores
    assert total is not None
    if len(runs) > 1:
        total /= np.float32(len(runs))
    return total
