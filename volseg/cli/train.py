"""``volseg train``: train a bundle on labelled scans."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.options import Console, json_option, verbosity_options
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.training import TrainingResult
    from volseg.training.progress import EpochReport, Reporter

SECONDS_PER_UNIT = {"d": 86400, "h": 3600, "m": 60, "s": 1}
INTERRUPTED = 130
"""Exit status of a command stopped by SIGINT (128 + 2), as shells give it."""


@click.command()
@click.argument("bundle")
@click.option("--data", metavar="DATASET", help="Folder with a Decathlon dataset.json, a JSON datalist, or 'synthetic' for the built-in set.")
@click.option("-o", "--output", metavar="RUN_DIR", type=click.Path(path_type=Path), help="Where checkpoints and records go  [default: runs/BUNDLE/foldK]")
@click.option("--fold", default="0", show_default=True, metavar="K|all|none", help="Fold kept for validation; all: every fold in turn; none: train on every case.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of the full schedule  [default: the bundle's own]")
@click.option("--time-limit", metavar="TIME", help="Wall-clock budget such as 90s, 20m or 1h30m (per fold, resumed parts included); the schedule ends with it.")
@click.option("--patience", type=click.IntRange(min=1), metavar="N", help="Stop when N epochs went by without a better validation metric.")
@click.option("--resume", is_flag=True, help="Continue the training in RUN_DIR.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True, help="auto: fp16 on CUDA, bf16 on CPUs that compute it, else fp32."
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights, sampling and augmentation.")
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="Override an id of the bundle's train config, e.g. --set optimizer#lr=0.0005 (repeatable).")
@click.option("--into-bundle", is_flag=True, help="Write the resulting weights (half precision) to the bundle's models/model.pt.")
@json_option
@verbosity_options
def train(
    bundle: str,
    data: str | None,
    output: Path | None,
    fold: str,
    epochs: int | None,
    time_limit: str | None,
    patience: int | None,
    resume: bool,
    device: str,
    precision: str,
    seed: int,
    settings: tuple[str, ...],
    into_bundle: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> int | None:
    """Train BUNDLE (a folder or a name) on labelled scans.

    Writes model.pt (best validated weights), last.pt (to resume from), metrics.csv, TensorBoard events, config.json and provenance.json to RUN_DIR. Ctrl-C or a kill loses nothing
    but the epochs since the last checkpoint (at most half a minute and one epoch): run the same command again with --resume.

    \b
    Examples:
      volseg train bundles/ct_tumor --data synthetic --epochs 2 -o runs/try
      volseg train bundles/ct_tumor --data DATASET --fold 0 --time-limit 2h
      volseg train bundles/ct_tumor --data DATASET --fold 0 --time-limit 2h --resume
      volseg train bundles/ct_tumor --data DATASET --fold none --time-limit 4h --into-bundle
    """
    console = Console(verbose, quiet, json_output)
    if data is None:
        msg = "no data given: use --data FOLDER (a folder with a Decathlon dataset.json, or a JSON datalist), or --data synthetic to try it on built-in synthetic scans"
        raise InputError(msg)
    seconds = None if time_limit is None else parse_duration(time_limit)
    from volseg.bundle import find_bundle
    from volseg.training import train as run_training
    from volseg.training.config import parse_setting

    parsed = dict(parse_setting(text) for text in settings)
    folder = find_bundle(bundle)
    folds = _parse_folds(fold, data)
    if into_bundle and len(folds) > 1:
        msg = "--into-bundle needs one set of weights; train with --fold none (every case), or name one fold"
        raise InputError(msg)
    results = []
    for number in folds:
        run_dir = _run_dir(output, folder.name, number, several=len(folds) > 1)
        reporter = _reporter(console)
        earlier = signal.signal(signal.SIGTERM, _interrupt)
        try:
            result = run_training(
                folder,
                data,
                run_dir,
                fold=number,
                epochs=epochs,
                time_limit_s=seconds,
                patience=patience,
                resume=resume and (len(folds) == 1 or (run_dir / "last.pt").is_file()),
                device=device,
                precision=precision,
                seed=seed,
                settings=parsed,
                into=into_bundle,
                reporter=reporter,
            )
        except KeyboardInterrupt:
            click.echo(f"volseg: stopped; {_how_to_continue(run_dir)}", err=True)
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, earlier)
            reporter.close()
        results.append(result)
        console.say(_summary(result))
    console.document({"folds": folds, "runs": [{key: _plain(value) for key, value in asdict(result).items()} for result in results]})
    return None


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``20m``, ``1h30m`` or a bare number of seconds.

    Raises
    ------
    InputError
        When it is none of these, or not positive.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text.lower())
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text.lower():
        seconds = sum(float(number) * SECONDS_PER_UNIT[unit] for number, unit in parts)
    else:
        seconds = 0.0
    if seconds <= 0:
        msg = f"--time-limit {text!r} is not a duration; write it as 90s, 20m, 2h or 1h30m"
        raise InputError(msg)
    return seconds


def _folds_of(data: str) -> list[int | None]:
    """Every fold of a dataset: those its datalist gives, else those the cases are dealt into."""
    from volseg.dataset import read_datalist
    from volseg.dataset.folds import NUM_FOLDS, fold_numbers
    from volseg.training.run import SYNTHETIC

    return [*range(NUM_FOLDS)] if data == SYNTHETIC else [*sorted(set(fold_numbers(read_datalist(data).cases)))]


def _parse_folds(text: str, data: str) -> list[int | None]:
    if text == "none":
        return [None]
    if text == "all":
        return _folds_of(data)
    if not text.isdigit():
        msg = f"--fold {text!r}: give a number, 'all' (every fold in turn) or 'none' (train on every case)"
        raise InputError(msg)
    return [int(text)]


def _run_dir(output: Path | None, name: str, fold: int | None, *, several: bool) -> Path:
    leaf = "all_cases" if fold is None else f"fold{fold}"
    if output is None:
        return Path("runs", name, leaf)
    return output / leaf if several else output


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _how_to_continue(run_dir: Path) -> str:
    if not (run_dir / "last.pt").is_file():
        return "nothing was trained yet"
    return f"the last checkpoint is in {run_dir}: run the same command with --resume to continue"


def _summary(result: TrainingResult) -> str:
    best = "" if result.best_metric is None else f", best validation Dice {result.best_metric:.4f} in epoch {result.best_epoch}"
    return f"done: {result.epochs} epochs in {_clock(result.elapsed_s)} (stopped by {result.stopped_by}){best}; weights: {result.weights}"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _epoch_line(report: EpochReport) -> str:
    metrics = "".join(f"  {name.removeprefix('val_')} {value:.4f}" for name, value in report.metrics.items())
    best = "" if report.best_metric is None else f" (best {report.best_metric:.4f})"
    return (
        f"epoch {report.epoch}/{report.epochs}  loss {report.loss:.4f}{metrics}{best if metrics else ''}  lr {report.learning_rate:.2e}  "
        f"{report.steps_per_second:.2f} steps/s  elapsed {_clock(report.elapsed_s)}  left {_clock(report.remaining_s)}"
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


def _reporter(console: Console) -> PlainReporter | BarReporter:
    return BarReporter() if sys.stderr.isatty() and not console.quiet else PlainReporter(console)


if TYPE_CHECKING:

    def _conforms(plain: PlainReporter, bar: BarReporter) -> tuple[Reporter, Reporter]:
        return plain, bar
