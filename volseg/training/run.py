"""Train a bundle on a dataset, from arguments to a folder with weights and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from volseg.bundle import Bundle, find_bundle, read_bundle
from volseg.dataset import split_fold
from volseg.errors import InputError, OutputError
from volseg.inference.quiet import quiet_libraries
from volseg.io.text import write_json
from volseg.provenance import sha256_of
from volseg.training.checkpoint import BEST, LAST, load_last
from volseg.training.config import RunConfig, prepare_config
from volseg.training.distributed import connect, in_turn, ranks, share_config
from volseg.training.export import export_findings, export_weights, findings_of_run
from volseg.training.options import Options
from volseg.training.partial import use_codes
from volseg.training.pretrained import Transfer, apply_pretrained, find_weights
from volseg.training.progress import EpochReport, Reporter, SilentReporter
from volseg.training.records import MetricsTable, earlier_parts, provenance, write_report
from volseg.training.result import RECORD, TrainingResult, finished_run
from volseg.training.schedule import Limits
from volseg.training.sources import Sources, open_dataset, prepare_sources
from volseg.training.tracking import Tracker, open_tracker
from volseg.training.use_cache import read_from_cache


def train(
    bundle: str | Path,
    data: str | Path,
    run_dir: str | Path,
    *,
    fold: int | None = 0,
    epochs: int | None = None,
    time_limit_s: float | None = None,
    patience: int | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    into: bool = False,
    average: bool = True,
    pretrained: str | Path | None = None,
    freeze: Sequence[str] = (),
    compiled: bool = False,
    mlflow: str | None = None,
    cache: str | Path | bool = True,
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Train a bundle by its own ``configs/train.*``. Started by ``torchrun``, every process calls this, and they train together (:mod:`volseg.training.distributed`).

    Parameters
    ----------
    bundle : str or Path
        Folder or name of a MONAI bundle.
    data : str or Path
        Dataset folder or JSON datalist (see :func:`volseg.dataset.read_datalist`), or ``"synthetic"``.
    run_dir : str or Path
        Output folder; made when it does not exist. The bundle is not changed unless ``into`` is set.
    fold : int or None
        Fold kept for validation; None trains on every case, and the last weights are the result.
    epochs : int, optional
        Epochs of the full schedule; the config's own when omitted.
    time_limit_s : float, optional
        Wall-clock seconds over all resumed parts; the learning-rate schedule is compressed to end with it, and validations take at most a tenth of it.
    patience : int, optional
        Stop after this many epochs without a better validation metric.
    resume : bool
        Continue from ``run_dir/last.pt``; a run that ended as asked is left as it is. On a CPU, without a time limit, the result is identical to an uninterrupted run.
    device, precision : str
        See :func:`volseg.inference.device.select_device` and :func:`~volseg.inference.device.select_precision`.
    seed : int
        Seed of weights, sampling and augmentation.
    settings : mapping, optional
        Config ids to override.
    into : bool
        Write the resulting weights, in half precision, to the bundle's ``models/model.pt``, and the validation's scores, a new version and a line of its changelog beside them.
    average : bool
        Validate and keep the running average of the weights (:class:`volseg.training.average.WeightAverage`) instead of those of single steps.
    pretrained : str or Path, optional
        Weights file or bundle to begin with (:func:`volseg.training.pretrained.load_pretrained`).
    freeze : sequence of str
        Shell patterns of parameters that are not trained.
    compiled : bool
        Let ``torch.compile`` translate the network; pays on GPUs, after some minutes.
    mlflow : str, optional
        Tracking URI that also gets parameters and metrics; needs the package mlflow.
    cache : str, Path or bool
        Folder of preprocessed cases (:mod:`volseg.training.preprocess`), True for the usual one; False leaves reading to the bundle's own dataset.
    reporter : Reporter, optional
        Receives the progress.

    Returns
    -------
    TrainingResult

    Raises
    ------
    BundleError, DatasetError, InputError, DeviceError, OutputError
        When the bundle, the data, an argument, the device or the output folder cannot be used.
    """
    from volseg.inference.device import select_device

    read, place = read_bundle(find_bundle(bundle)), ranks()
    reporter = reporter if reporter is not None and place.is_first else SilentReporter()
    weights = None if pretrained is None else find_weights(pretrained)
    tracker = open_tracker(mlflow if place.is_first else None, read.name)
    ids = dict(settings or {})
    options = Options(fold, epochs, time_limit_s, patience, resume, place.device(device), precision, seed, ids, average, weights, tuple(freeze), compiled, place, cache)
    result = _finished(read, data, Path(run_dir), options)
    if result is not None:
        reporter.message(f"{run_dir}: finished before")
    else:
        _check_run_dir(Path(run_dir), resume)
        connect(place, "cpu" if place.is_alone else str(select_device(options.device)))
        with in_turn(place):
            folder, sources = _open(read, data, Path(run_dir), options, reporter)
        with quiet_libraries(), tracker:
            result = _run(read, folder, sources, options, tracker, reporter)
    if into and place.is_first:
        _export(result, read, data, Path(run_dir), fold, reporter)
    return result


def _finished(bundle: Bundle, data: str | Path, run_dir: Path, options: Options) -> TrainingResult | None:
    """A resumed run that has nothing left to do."""
    if not options.resume or not (run_dir / RECORD).is_file():
        return None
    return finished_run(run_dir, bundle, split_fold(open_dataset(data, run_dir).cases, options.fold)[0], options)


def _export(result: TrainingResult, bundle: Bundle, data: str | Path, run_dir: Path, fold: int | None, reporter: Reporter) -> None:
    """Bring the bundle up to date with a run."""
    reporter.message(f"weights written to {export_weights(result.weights, bundle)} in half precision")
    training, validation = split_fold(open_dataset(data, run_dir).cases, fold)
    changed = export_findings(bundle, findings_of_run(result.run_dir, result.best_epoch, Path(data).name, fold, (len(training), len(validation))))
    reporter.message(f"bundle {bundle.name} brought up to date: {', '.join(str(path.relative_to(bundle.path)) for path in changed)}")


def _open(bundle: Bundle, data: str | Path, run_dir: Path, options: Options, reporter: Reporter) -> tuple[Path, Sources]:
    """The run's folder, made once the data can be used, and the cases."""
    place = options.place
    datalist = open_dataset(data, run_dir)
    reuse = options.resume or not place.is_first
    sources = prepare_sources(bundle, datalist, run_dir, fold=options.fold, reuse=reuse, checked=not place.is_first, reporter=reporter)
    folder = _make_run_dir(run_dir)
    split = "all cases train" if options.fold is None else f"fold {options.fold}"
    reporter.message(f"{bundle.name}: {len(sources.training)} cases to train, {len(sources.validation)} to validate ({split}), output in {folder}")
    if sources.codes:
        reporter.message(f"partial labels: {len(sources.codes.sets)} label values stand for sets of classes; what is not annotated counts neither in the loss nor in Dice")
    return folder, sources


def _run(bundle: Bundle, folder: Path, sources: Sources, options: Options, tracker: Tracker, reporter: Reporter) -> TrainingResult:
    from monai.utils import set_determinism

    from volseg.inference.device import describe_device, select_device, select_precision
    from volseg.training.average import bare
    from volseg.training.build import build_engines, build_ramp, inference_network, join_ranks
    from volseg.training.heap import freed_memory_kept
    from volseg.training.loop import LoopSettings, TrainingLoop
    from volseg.training.validation import Validator

    place = options.place
    device = select_device(options.device)
    precision = select_precision(options.precision, device)
    identity = options.identity(bundle, sources)
    resumed = load_last(folder / LAST, identity) if options.resume else None
    set_determinism(seed=options.seed)
    config = _prepare_config(bundle, folder, sources, options, str(device), precision, reporter)
    facts = {"device": describe_device(device), "precision": precision, **options.facts(bundle, sources)}
    reporter.message(f"setting up the training ({facts['device']}, {precision})")
    engines = build_engines(config, bundle, precision, device)
    transfer, frozen = apply_pretrained(bare(engines.trainer.network), options.pretrained, options.freeze, resumed=resumed is not None)
    _tell_transfer(transfer, frozen, reporter)
    join_ranks(engines.trainer, place, device)
    record = provenance({**facts, "pretrained": transfer and transfer.to_dict(), "frozen": list(frozen)}, sources.files)
    if resumed:
        record["earlier_parts"] = earlier_parts(folder / RECORD)
    if place.is_first:
        write_json(folder / "config.json", config.parser.get())
        write_json(folder / RECORD, record)
    table = MetricsTable(folder / "metrics.csv", resumed[0].epoch if resumed else 0)
    tracker.begin(facts)
    names = tuple(name for value, name in sorted(bundle.labels.items()) if value != 0)
    validator = None if engines.evaluator is None else Validator(engines.evaluator, config.val_interval, names)
    limits = Limits(int(engines.trainer.state.max_epochs), options.time_limit_s)
    inference_names = frozenset(inference_network(bundle).state_dict())
    ramp = build_ramp(config, engines.trainer, len(sources.training), place.count, reporter)
    chosen = LoopSettings(limits, folder, identity, inference_names, options.seed, options.patience, options.average, ramp, place)
    loop = TrainingLoop(engines.trainer, validator, engines.schedule, chosen, reporter=reporter, on_epoch=_both(table.add, tracker.epoch))
    if resumed:
        loop.restore(*resumed)
        reporter.message(f"resuming after epoch {resumed[0].epoch}")
    with freed_memory_kept() if device.type == "cpu" else nullcontext():
        end = loop.run()
    result = TrainingResult(folder, folder / BEST, end.epoch, end.elapsed_s, loop.stopped_by, end.best_metric, end.best_epoch)
    if place.is_first:
        _conclude(result, record | {"validation_s": end.validation_s})
        tracker.finish(folder)
    return result


def _conclude(result: TrainingResult, record: Mapping[str, Any]) -> None:
    """The records of a finished run."""
    outcome = {"epochs": result.epochs, "elapsed_s": result.elapsed_s, "stopped_by": result.stopped_by, "best_metric": result.best_metric, "best_epoch": result.best_epoch}
    write_json(result.run_dir / RECORD, {**record, **outcome, "weights_sha256": sha256_of(result.weights)})
    write_report(result.run_dir)


def _prepare_config(bundle: Bundle, folder: Path, sources: Sources, options: Options, device: str, precision: str, reporter: Reporter) -> RunConfig:
    """The bundle's config with everything of this run in it."""
    place = options.place
    config = prepare_config(
        bundle,
        training=[case.as_item() for case in sources.training],
        validation=[case.as_item() for case in place.share(sources.validation)],
        run_dir=folder,
        device=device,
        precision=precision,
        epochs=options.epochs,
        seed=options.seed,
        settings=options.settings,
        compiled=options.compiled,
        quiet=not place.is_first,
    )
    use_codes(config.parser, sources.codes, str(bundle.train_config))
    if options.cache is not False:
        with in_turn(place):
            read_from_cache(config.parser, bundle, sources, options, reporter)
    share_config(config.parser, place)
    return config


def _tell_transfer(transfer: Transfer | None, frozen: tuple[str, ...], reporter: Reporter) -> None:
    for line in transfer.describe() if transfer else ():
        reporter.message(line)
    if frozen:
        reporter.message(f"frozen: {len(frozen)} parameters ({frozen[0]} ...)")


def _both(*receivers: Callable[[EpochReport], None]) -> Callable[[EpochReport], None]:
    def tell(report: EpochReport) -> None:
        for receiver in receivers:
            receiver(report)

    return tell


def _check_run_dir(folder: Path, resume: bool) -> None:
    if not resume and (folder / LAST).exists():
        msg = f"{folder}: it already holds a training; add --resume to continue it, or choose another folder with -o"
        raise InputError(msg)
    if resume and not (folder / LAST).is_file():
        msg = f"{folder / LAST}: nothing to resume; leave out --resume to start a new training"
        raise InputError(msg)


def _make_run_dir(run_dir: Path) -> Path:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{run_dir}: the output folder cannot be made ({error.strerror}); choose another with -o"
        raise OutputError(msg) from error
    return run_dir.resolve()
