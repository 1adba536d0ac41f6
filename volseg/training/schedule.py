"""When a training ends, and a learning-rate schedule that knows that end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """When a training ends: whichever comes first.

    Attributes
    ----------
    epochs : int
        Number of epochs of the full schedule.
    seconds : float or None
        Budget of wall-clock time over all resumed parts of the run.
    """

    epochs: int
    seconds: float | None = None

    def progress(self, epoch: float, elapsed_s: float, reserve_s: float = 0.0) -> float:
        """Share of the training that is done, 0 to 1: of the epochs or of the time, whichever is further.

        Parameters
        ----------
        epoch : float
            Epochs done; within an epoch a fraction.
        elapsed_s : float
            Seconds spent.
        reserve_s : float
            Seconds of the budget that are kept for what follows the last step (the last validation).
        """
        by_epoch = epoch / self.epochs
        by_time = elapsed_s / max(self.seconds - reserve_s, 1e-9) if self.seconds else 0.0
        return min(1.0, max(by_epoch, by_time))

    def is_over(self, elapsed_s: float, reserve_s: float = 0.0) -> bool:
        """Whether the time is used up; see :meth:`progress`."""
        return self.seconds is not None and elapsed_s >= self.seconds - reserve_s


def position_of(progress: float, length: int) -> int:
    """Step of a schedule of ``length`` steps at a share of the training (0 to 1)."""
    return min(length, int(progress * length + 1e-9))


class Schedule:
    """A torch learning-rate scheduler that is driven by the share of the training that is done.

    The scheduler was made for ``length`` steps of its own (epochs, or optimiser steps where the config steps it every iteration). It is stepped to the place that the share
    corresponds to, so a training cut short by the clock still goes through the whole curve: a warm-up takes its share of the time there is, and poly and cosine decays end with the
    small rates that an interrupted schedule would never reach. Without a time limit that is one step an epoch (or iteration), as plain MONAI does it.

    Parameters
    ----------
    scheduler : torch LR scheduler
        Fresh: no step made.
    length : int
        Steps of the full schedule.
    """

    def __init__(self, scheduler: Any, length: int) -> None:
        self._scheduler, self._length = scheduler, length
        self._fresh_rates = [group["lr"] for group in scheduler.optimizer.param_groups]
        self.steps = 0

    def advance(self, progress: float) -> None:
        """Step to a share of the training; never back."""
        target = position_of(progress, self._length)
        for _ in range(target - self.steps):
            self._scheduler.step()
        self.steps = max(self.steps, target)

    def rewind(self, progress: float) -> None:
        """Step a fresh scheduler to where a resumed training is.

        Its saved state is not loaded: that would bring back the end of the earlier limits, past which the rate is 0. The optimiser's state that was loaded holds the rate of the
        interruption, so the rates the schedule starts from are put back first.
        """
        for group, rate in zip(self._scheduler.optimizer.param_groups, self._fresh_rates, strict=True):
            group["lr"] = rate
        self.advance(progress)
