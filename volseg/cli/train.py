"""``volseg train``: train a bundle on labelled scans."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.options import Column, Console, json_option, verbosity_options
from volseg.cli.train_progress import PlainReporter, clock, make_reporter
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.training import TrainingResult

SECONDS_PER_UNIT = {"d": 86400, "h": 3600, "m": 60, "s": 1}
INTERRUPTED = 130
"""Exit status of a command stopped by SIGINT (128 + 2), as shells give it."""


@click.command()
@click.argument("bundle")
@click.option("--data", metavar="DATASET", help="Folder with a dataset.json (Decathlon or nnU-Net v2), a JSON datalist, or 'synthetic' for the built-in set.")
@click.option(
    "-o",
    "--output",
    metavar="RUN_DIR",
    type=click.Path(path_type=Path),
    help="Where checkpoints and records go  [default: runs/BUNDLE/foldK; of all folds runs/BUNDLE, of none runs/BUNDLE/all_cases]",
)
@click.option("--fold", default="0", show_default=True, metavar="K|all|none", help="Fold kept for validation; all: every fold in turn, then the scores; none: train on all cases.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of the full schedule  [default: the bundle's own]")
@click.option("--time-limit", metavar="TIME", help="Wall-clock budget such as 90s, 20m or 1h30m (per fold, resumed parts included); the schedule ends with it.")
@click.option("--patience", type=click.IntRange(min=1), metavar="N", help="Stop when N epochs went by without a better validation metric.")
@click.option("--resume", is_flag=True, help="Continue the training in RUN_DIR.")
@click.option("--pretrained", metavar="WEIGHTS|BUNDLE", help="Begin with these weights as far as they fit; layers of another shape (heads for other classes) start anew.")
@click.option("--freeze", multiple=True, metavar="PATTERN", help="Do not train the parameters whose name fits, e.g. 'downsamples.*' (repeatable).")
@click.option("--ema/--no-ema", "average", default=True, show_default=True, help="Validate and keep a running average of the weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True, help="auto: fp16 on CUDA, bf16 on CPUs that compute it, else fp32."
)
@click.option("--compile", "compiled", is_flag=True, help="Translate the network with torch.compile: a slow start, then faster steps on GPUs.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, sampling and augmentation.")
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="Override an id of the bundle's train config, e.g. --set optimizer#lr=0.0005 (repeatable).")
@click.option("--cache", metavar="FOLDER", type=click.Path(path_type=Path), help="Where preprocessed cases are kept  [default: that of `volseg preprocess`]")
@click.option("--no-cache", is_flag=True, help="Read the scans through the bundle's own dataset instead of a cache of preprocessed cases.")
@click.option("--mlflow", metavar="URI", help="Also log to this MLflow server or store (needs the package mlflow); TensorBoard events are always written.")
@click.option(
    "--into-bundle",
    is_flag=True,
    help="Write weights (half precision), scores and a new version into the bundle: "
    "of one fold those of the epoch that was best on it, with --fold all those of a last training on all.",
)
@click.option("--fold-weights", is_flag=True, help="With --fold all --into-bundle: also write models/model_foldK.pt, for ensembles.")
@json_option
@verbosity_options
def train(
    bundle: str,
    data: str | None,
    output: Path | None,
    fold: str,
    time_limit: str | None,
    resume: bool,
    settings: tuple[str, ...],
    cache: Path | None,
    no_cache: bool,
    into_bundle: bool,
    fold_weights: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> int | None:
    """Train BUNDLE (a folder or a name) on labelled scans.

    Writes model.pt (best validated weights), final.pt (those of the end), last.pt (to resume from), metrics.csv, training.html, TensorBoard events, config.json and
    provenance.json to RUN_DIR. Ctrl-C or a kill loses nothing but the epochs since the last checkpoint (at most half a minute and one epoch): run the same command again with
    --resume.

    With --fold all every fold is trained in a folder of its own (finished ones are not trained again with --resume), every case is segmented by the fold that did not see it, and
    summary.json holds Dice per fold and class, a trivial baseline, and the post-processing that helps. Started by torchrun, all processes train together:
    torchrun --nproc_per_node 2 -m volseg train ...

    \b
    Examples:
      volseg train bundles/ct_tumor --data synthetic --epochs 2 -o runs/try
      volseg train bundles/ct_tumor --data DATASET --fold 0 --time-limit 2h
      volseg train bundles/ct_tumor --data DATASET --fold 0 --time-limit 2h --resume
      volseg train bundles/ct_tumor --data DATASET --fold all --time-limit 2h --into-bundle
      volseg train bundles/ct_tumor --data DATASET --fold none --time-limit 4h --into-bundle
      volseg train bundles/NEW --data DATASET --time-limit 1h --pretrained bundles/ct_tumor --freeze 'downsamples.*'
    """
    if data is None:
        msg = "no data given: use --data FOLDER (a folder with a Decathlon dataset.json, or a JSON datalist), or --data synthetic to try it on built-in synthetic scans"
        raise InputError(msg)
    if fold_weights and not (into_bundle and fold == "all"):
        msg = "--fold-weights writes the weights of every fold into the bundle; use it with --fold all --into-bundle"
        raise InputError(msg)
    seconds = None if time_limit is None else parse_duration(time_limit)
    from volseg.bundle import find_bundle
    from volseg.training.config import parse_setting
    from volseg.training.distributed import ranks

    first = ranks().is_first
    console = Console(verbose, quiet or not first, json_output and first)
    folder = find_bundle(bundle)
    if no_cache and cache is not None:
        msg = f"--no-cache together with --cache {cache}: leave one of them out"
        raise InputError(msg)
    common = {**options, "cache": False if no_cache else cache or True, "time_limit_s": seconds, "settings": dict(parse_setting(text) for text in settings)}
    run = Run(folder, data, common, console, resume)
    if fold == "all":
        top = output or Path("runs", folder.name)
        return run.guard(top, lambda: _all_folds(run, top, into_bundle, fold_weights))
    number = _parse_fold(fold)
    run_dir = output or Path("runs", folder.name, "all_cases" if number is None else f"fold{number}")

    def one() -> None:
        result = run.train(number, run_dir, into=into_bundle)
        console.document({"folds": [number], "runs": [_plain_result(result)]})

    return run.guard(run_dir, one)


@dataclass(frozen=True)
class Run:
    """One call of the command: what to train, on what, how, and who is told.

    Parameters
    ----------
    bundle : Path
        Its folder.
    data : str
        Dataset.
    common : mapping
        Arguments of :func:`volseg.training.train` that hold for every fold.
    console : Console
        Where words go.
    resume : bool
        Continue what is there.
    """

    bundle: Path
    data: str
    common: Mapping[str, Any]
    console: Console
    resume: bool

    def train(self, fold: int | None, run_dir: Path, *, into: bool = False, several: bool = False) -> TrainingResult:
        """Train one fold; with ``several``, only one that is there is continued."""
        from volseg.training import train
        from volseg.training.checkpoint import FINAL, LAST

        resume = self.resume and (not several or any((run_dir / name).is_file() for name in (LAST, FINAL)))
        reporter = make_reporter(self.console)
        try:
            result = train(self.bundle, self.data, run_dir, fold=fold, resume=resume, into=into, reporter=reporter, **self.common)
        finally:
            reporter.close()
        self.console.say(_summary(result))
        return result

    def guard(self, run_dir: Path, work: Callable[[], None]) -> int | None:
        """Run ``work``; a Ctrl-C or a SIGTERM ends it in order and says how to go on."""
        earlier = signal.signal(signal.SIGTERM, _interrupt)
        try:
            work()
        except KeyboardInterrupt:
            click.echo(f"volseg: stopped; {_how_to_continue(run_dir)}", err=True)
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, earlier)
        return None


def _all_folds(run: Run, output: Path, into_bundle: bool, fold_weights: bool) -> None:
    from volseg.dataset.folds import fold_numbers
    from volseg.training.folds import cross_validate
    from volseg.training.sources import open_dataset

    datalist = open_dataset(run.data, output)
    # Drawn once, here: every fold reads the same files.
    run = replace(run, data=str(datalist.path))
    results: list[TrainingResult] = []

    def train_fold(fold: int | None, run_dir: Path) -> TrainingResult:
        results.append(run.train(fold, run_dir, several=True))
        return results[-1]

    found = cross_validate(
        run.bundle,
        datalist,
        output,
        sorted(set(fold_numbers(datalist.cases))),
        train_fold,
        device=run.common["device"],
        precision=run.common["precision"],
        into=into_bundle,
        fold_weights=fold_weights,
        reporter=PlainReporter(run.console),
    )
    if found is None:
        return
    run.console.table("Cross-validation: Dice on the scans' grids", [Column(name, name != "label") for name in found.headings], found.rows())
    chosen = ", ".join(refinement.name for refinement in found.choice.refinements) or "none that helps"
    run.console.say(f"post-processing: {chosen}; everything is in {output / 'summary.json'}")
    run.console.document({"folds": found.folds, "runs": [_plain_result(result) for result in results], "cross_validation": found.to_dict()})


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


def _parse_fold(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdigit():
        msg = f"--fold {text!r}: give a number, 'all' (every fold in turn) or 'none' (train on every case)"
        raise InputError(msg)
    return int(text)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _how_to_continue(run_dir: Path) -> str:
    if not any(run_dir.glob("last.pt")) and not any(run_dir.glob("*/last.pt")):
        return "nothing was trained yet"
    return f"the last checkpoint is in {run_dir}: run the same command with --resume to continue"


def _summary(result: TrainingResult) -> str:
    best = "" if result.best_metric is None else f", best validation Dice {result.best_metric:.4f} in epoch {result.best_epoch}"
    return f"done: {result.epochs} epochs in {clock(result.elapsed_s)} (stopped by {result.stopped_by}){best}; weights: {result.weights}"


def _plain_result(result: TrainingResult) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}
