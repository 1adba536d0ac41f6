"""A learning-rate schedule that knows the real end of the training."""

from __future__ import annotations

from dataclasses import dataclass


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

    def progress(self, epoch: int, elapsed_s: float) -> float:
        """Share of the training that is done, 0 to 1: of the epochs or of the time, whichever is further."""
        by_epoch = epoch / self.epochs
        by_time = elapsed_s / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_epoch, by_time))

    def schedule_step(self, epoch: int, elapsed_s: float) -> int:
        """Epoch of the full schedule that this moment corresponds to.

        A scheduler that was made for ``epochs`` is stepped to here, so a training cut short by the clock still ends with the small steps of the schedule's end,
        which poly and cosine decays would otherwise never reach.
        """
        return min(self.epochs, int(self.progress(epoch, elapsed_s) * self.epochs + 1e-9))
