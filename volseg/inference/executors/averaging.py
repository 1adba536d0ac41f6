"""Executors made of executors: test-time flips and ensembles, averaged window by window, so that streaming stays as it is.

What is averaged are the scores before the softmax, as nnU-Net does for flips and folds (``predict_from_raw_data.py``) and MONAI's ``MeanEnsembled`` where it stands, as in its
tutorials, before the activation. Blending windows is a weighted mean too, so that it makes no difference whether windows or whole volumes are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.inference.executors.base import Executor

Floats = npt.NDArray[np.float32]

Run = TypeVar("Run")

AXES = (0, 1, 2)
"""Axes of the network's input that flips are made of: x, y, z."""


@dataclass(frozen=True)
class Averaging:
    """How often each window is run.

    Parameters
    ----------
    members : int
        Networks of an ensemble.
    flips : int
        Flips of each window, the unflipped one among them.
    """

    members: int = 1
    flips: int = 1

    @property
    def runs(self) -> int:
        """Runs of a network for each window."""
        return self.members * self.flips

    def facts(self) -> dict[str, Any]:
        """For the report; empty where nothing is averaged."""
        return {"ensemble": self.members, "flips": self.flips, "runs_per_window": self.runs, "average": "logits"} if self.runs > 1 else {}


def flips_of(axes: Sequence[int] = AXES) -> list[tuple[int, ...]]:
    """Every combination of flips along some axes, as axes of a batch of windows (n, channels, x, y, z); the unflipped one first.

    Raises
    ------
    InputError
        For axes other than 0, 1 and 2, or one given twice.
    """
    if not set(axes) <= set(AXES) or len(set(axes)) != len(axes):
        msg = f"axes to flip must be different ones of 0, 1 and 2, got {list(axes)}"
        raise InputError(msg)
    return [tuple(axis + 2 for axis in chosen) for n in range(len(axes) + 1) for chosen in combinations(sorted(axes), n)]


class Averaged:
    """What is the same for flips and ensembles: an executor that stands before others, whose batch is theirs.

    Parameters
    ----------
    executors : sequence of Executor
        At least one.

    Raises
    ------
    InputError
        Without a network.
    """

    def __init__(self, executors: Sequence[Executor]) -> None:
        if not executors:
            msg = "an ensemble needs at least one network"
            raise InputError(msg)
        self._executors = list(executors)

    @property
    def batch(self) -> int:
        """The smallest of the networks'; setting it sets each of theirs."""
        return min(executor.batch for executor in self._executors)

    @batch.setter
    def batch(self, windows: int) -> None:
        for executor in self._executors:
            executor.batch = windows

    @property
    def notes(self) -> list[str]:
        """What the user should know of the run, each once."""
        return list(dict.fromkeys(note for executor in self._executors for note in getattr(executor, "notes", ())))

    @property
    def memory_margin(self) -> float:
        """The largest of the networks': a run may take so many times the memory that two windows were seen to take."""
        return max(float(getattr(executor, "memory_margin", 1.0)) for executor in self._executors)


class Flipped(Averaged):
    """Runs a network on every combination of flips along some axes and averages the scores flipped back.

    Parameters
    ----------
    executor : Executor
        The network.
    axes : sequence of int
        Axes of the network's input (0, 1, 2 for x, y, z) to flip; three give eight runs, the unflipped one among them.

    Raises
    ------
    InputError
        For axes other than 0, 1 and 2.
    """

    def __init__(self, executor: Executor, axes: Sequence[int] = AXES) -> None:
        super().__init__([executor])
        self._flips = flips_of(axes)

    def __call__(self, windows: Floats) -> Floats:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        executor = self._executors[0]
        return mean(self._flips, lambda flip: np.flip(executor(np.ascontiguousarray(np.flip(windows, flip))), flip))


class Ensemble(Averaged):
    """Runs several networks of the same input and classes and averages their scores.

    Parameters
    ----------
    executors : sequence of Executor
        At least one.

    Raises
    ------
    InputError
        Without a network, or (when run) where the networks' scores differ in shape.
    """

    def __call__(self, windows: Floats) -> Floats:
        """Compute scores; see :class:`~volseg.inference.executors.base.Executor`."""
        return mean(self._executors, lambda executor: executor(windows))


def mean(runs: Sequence[Run], scores_of: Callable[[Run], Floats]) -> Floats:
    """Mean of the scores of several runs, which may write each their scores over those of the last."""
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
