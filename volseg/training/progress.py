"""What a training tells whoever started it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch.

    Attributes
    ----------
    epoch, epochs : int
        Epochs completed and planned.
    loss : float
        Mean training loss of the epoch.
    learning_rate : float
        Rate the epoch was trained with.
    seconds : float
        Duration of the epoch without validation.
    steps_per_second : float
        Optimiser steps per second.
    elapsed_s : float
        Wall-clock seconds since the training first began, resumed parts included.
    remaining_s : float
        Estimated seconds to the end, by the epochs or the time limit, whichever comes first.
    metrics : dict of str to float
        Validation metrics by name; empty when the epoch was not validated.
    best_metric : float or None
        Best key metric so far.
    is_best : bool
        Whether this epoch set it.
    data_wait_share : float
        Share of ``seconds`` in which the network waited for patches.
    validation_s : float
        Seconds of the validation after the epoch; 0 when there was none.
    """

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    seconds: float
    steps_per_second: float
    elapsed_s: float
    remaining_s: float
    metrics: dict[str, float] = field(default_factory=dict)
    best_metric: float | None = None
    is_best: bool = False
    data_wait_share: float = 0.0
    validation_s: float = 0.0


class Reporter(Protocol):
    """Receives the progress of a training."""

    def message(self, text: str) -> None:
        """One line for the user."""

    def begin(self, epochs: int, steps_per_epoch: int, epoch: int) -> None:
        """Training starts after ``epoch`` completed epochs."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """One optimiser step of an epoch is done."""

    def epoch(self, report: EpochReport) -> None:
        """One epoch is done."""


class SilentReporter:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Ignore."""

    def begin(self, epochs: int, steps_per_epoch: int, epoch: int) -> None:
        """Ignore."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Ignore."""

    def epoch(self, report: EpochReport) -> None:
        """Ignore."""
