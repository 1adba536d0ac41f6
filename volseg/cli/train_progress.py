"""How ``volseg train`` shows its progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from volseg.cli.options import Console

if TYPE_CHECKING:
    from volseg.training.progress import EpochReport, Reporter


def clock(seconds: float) -> str:
    """A duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _epoch_line(report: EpochReport) -> str:
    metrics = "".join(f"  {name.removeprefix('val_')} {value:.4f}" for name, value in report.metrics.items())
    best = "" if report.best_metric is None else f" (best {report.best_metric:.4f})"
    return (
        f"epoch {report.epoch}/{report.epochs}  loss {report.loss:.4f}{metrics}{best if metrics else ''}  lr {report.learning_rate:.2e}  "
        f"{report.steps_per_second:.2f} steps/s  elapsed {clock(report.elapsed_s)}  left {clock(report.remaining_s)}"
    )


class PlainReporter:
    """One line an epoch, for logs and pipes.

    Parameters
    ----------
    console : Console
        Says whether to print at all.
    """

    def __init__(self, console: Console) -> None:
        self._quiet = console.quiet

    def message(self, text: str) -> None:
        """Print a line on stderr."""
        if not self._quiet:
            click.echo(text, err=True)

    def begin(self, epochs: int, steps_per_epoch: int, epoch: int) -> None:
        """Say how long the schedule is."""
        self.message(f"training: {epochs} epochs of {steps_per_epoch} steps, starting after epoch {epoch}")

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Steps are too many for a log."""

    def epoch(self, report: EpochReport) -> None:
        """Print the epoch."""
        self.message(_epoch_line(report))

    def close(self) -> None:
        """Nothing to close."""


class BarReporter:
    """A progress bar of the current epoch under the lines of finished ones, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        self._progress = Progress(*columns, console=RichConsole(stderr=True), transient=True)
        self._task = self._progress.add_task("preparing", total=None, loss="")
        self._steps = 1
        self._progress.start()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def begin(self, epochs: int, steps_per_epoch: int, epoch: int) -> None:
        """Set the bar's length."""
        self._steps = steps_per_epoch

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Advance the bar."""
        self._progress.update(self._task, description=f"epoch {epoch}", total=self._steps, completed=step, loss=f"loss {loss:.4f}")

    def epoch(self, report: EpochReport) -> None:
        """Print the epoch above the bar."""
        self.message(_epoch_line(report))

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def make_reporter(console: Console) -> PlainReporter | BarReporter:
    """A bar on a terminal, lines elsewhere."""
    return BarReporter() if sys.stderr.isatty() and not console.quiet else PlainReporter(console)


if TYPE_CHECKING:

    def _conforms(plain: PlainReporter, bar: BarReporter) -> tuple[Reporter, Reporter]:
        return plain, bar
