"""Train a bundle on a dataset, from arguments to a folder with weights and records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.bundle import Bundle, find_bundle, load_state, read_bundle, read_state_dict
from volseg.dataset import Case, check_cases, convert_dicom, read_datalist, split_fold
from volseg.errors import BundleError, DatasetError, InputError, OutputError, root_cause
from volseg.inference.quiet import quiet_libraries
from volseg.io.text import write_json
from volseg.provenance import sha256_of
from volseg.training.checkpoint import BEST, LAST, load_last
from volseg.training.config import EVALUATOR, TRAINER, RunConfig, prepare_config
from volseg.training.progress import Reporter, SilentReporter
from volseg.training.records import MetricsTable, earlier_parts, provenance
from volseg.training.schedule import Limits

SYNTHETIC = "synthetic"
"""Name of the built-in dataset."""

SYNTHETIC_CASES = 10

CONVERTED = "converted"
"""Folder of a run that holds DICOM cases as NIfTI."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training gives.

    Attributes
    ----------
    run_dir : Path
        Folder with ``model.pt``, ``last.pt``, ``metrics.csv``, ``config.json``, ``provenance.json`` and TensorBoard events.
    weights : Path
        ``model.pt``: the best validated weights, or the last ones where nothing was validated.
    epochs : int
        Epochs completed.
    elapsed_s : float
        Wall-clock seconds over all parts of the run.
    stopped_by : str
        ``"epochs"``, ``"time limit"`` or ``"patience"``.
    best_metric : float or None
        Best key validation metric.
    best_epoch : int
        Epoch of the best metric.
    """

    run_dir: Path
    weights: Path
    epochs: int
    elapsed_s: float
    stopped_by: str
    best_metric: float | None
    best_epoch: int


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
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Train a bundle by its own ``configs/train.*``.

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
        Wall-clock seconds over all resumed parts; the learning-rate schedule is compressed to end with it.
    patience : int, optional
        Stop after this many epochs without a better validation metric.
    resume : bool
        Continue from ``run_dir/last.pt``. On a CPU, without a time limit, the result is identical to an uninterrupted run.
    device, precision : str
        See :func:`volseg.inference.device.select_device` and :func:`~volseg.inference.device.select_precision`.
    seed : int
        Seed of weights, sampling and augmentation.
    settings : mapping, optional
        Config ids to override.
    into : bool
        Write the resulting weights, in half precision, to the bundle's ``models/model.pt``.
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
    read = read_bundle(find_bundle(bundle))
    reporter = reporter or SilentReporter()
    _check_run_dir(Path(run_dir), resume)
    datalist = read_datalist(_synthetic_dataset(_make_run_dir(run_dir)) if str(data) == SYNTHETIC else data)
    training, validation = split_fold(datalist.cases, fold)
    _check_channels(read, datalist.cases, datalist.path)
    reporter.message(f"checking {len(training) + len(validation)} cases")
    check_cases([*training, *validation], read.labels)
    folder = _make_run_dir(run_dir)
    converted = convert_dicom([*training, *validation], folder / CONVERTED, reuse=resume, progress=reporter.message)
    training, validation = converted[: len(training)], converted[len(training) :]
    reporter.message(f"{read.name}: {len(training)} cases to train, {len(validation)} to validate ({'all cases train' if fold is None else f'fold {fold}'}), output in {folder}")
    plan = _Plan(read, training, validation, folder, fold, epochs, time_limit_s, patience, resume, device, precision, seed, dict(settings or {}))
    with quiet_libraries():
        result = _run(plan, reporter)
    if into:
        _export(result.weights, read)
        reporter.message(f"weights written to {read.path / 'models' / 'model.pt'} in half precision")
    return result


@dataclass(frozen=True)
class _Plan:
    bundle: Bundle
    training: list[Case]
    validation: list[Case]
    run_dir: Path
    fold: int | None
    epochs: int | None
    time_limit_s: float | None
    patience: int | None
    resume: bool
    device: str
    precision: str
    seed: int
    settings: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the first part."""
        return {
            "bundle": self.bundle.name,
            "fold": self.fold,
            "seed": self.seed,
            "train config": sha256_of(self.bundle.train_config) if self.bundle.train_config else None,
            "training cases": [case.name for case in self.training],
            "settings": {name: repr(value) for name, value in self.settings.items()},
        }


def _run(plan: _Plan, reporter: Reporter) -> TrainingResult:
    from monai.utils import set_determinism

    from volseg.inference.device import describe_device, select_device, select_precision
    from volseg.training.loop import TrainingLoop

    device = select_device(plan.device)
    precision = select_precision(plan.precision, device)
    resumed = load_last(plan.run_dir / LAST, plan.identity) if plan.resume else None
    set_determinism(seed=plan.seed)
    config = prepare_config(
        plan.bundle,
        training=[case.as_item() for case in plan.training],
        validation=[case.as_item() for case in plan.validation],
        run_dir=plan.run_dir,
        device=str(device),
        precision=precision,
        epochs=plan.epochs,
        seed=plan.seed,
        settings=plan.settings,
    )
    write_json(plan.run_dir / "config.json", config.parser.get())
    facts = {
        "bundle": plan.bundle.name,
        "bundle_version": plan.bundle.version,
        "train_config_sha256": sha256_of(plan.bundle.train_config) if plan.bundle.train_config else None,
        "fold": plan.fold,
        "seed": plan.seed,
        "device": describe_device(device),
        "precision": precision,
        "time_limit_s": plan.time_limit_s,
        "training_cases": [case.name for case in plan.training],
        "validation_cases": [case.name for case in plan.validation],
    }
    files = [file for case in (*plan.training, *plan.validation) for file in (*case.images, case.label)]
    record = provenance(facts, files)
    if resumed:
        record["earlier_parts"] = earlier_parts(plan.run_dir / "provenance.json")
    write_json(plan.run_dir / "provenance.json", record)
    reporter.message(f"reading and resampling {len(plan.training) + len(plan.validation)} cases ({describe_device(device)}, {precision})")
    trainer, evaluator, scheduler = _build(config, plan.bundle, precision, device)
    limits = Limits(int(trainer.state.max_epochs), plan.time_limit_s)
    table = MetricsTable(plan.run_dir / "metrics.csv", resumed[0].epoch if resumed else 0)
    loop = TrainingLoop(
        trainer,
        evaluator,
        scheduler,
        limits=limits,
        run_dir=plan.run_dir,
        identity=plan.identity,
        reporter=reporter,
        inference_names=frozenset(_inference_network(plan.bundle).state_dict()),
        on_epoch=table.add,
        seed=plan.seed,
        val_interval=config.val_interval,
        patience=plan.patience,
    )
    if resumed:
        loop.restore(*resumed)
        reporter.message(f"resuming after epoch {resumed[0].epoch}")
    end = loop.run()
    result = TrainingResult(plan.run_dir, plan.run_dir / BEST, end.epoch, end.elapsed_s, loop.stopped_by, end.best_metric, end.best_epoch)
    outcome = {"epochs": result.epochs, "elapsed_s": result.elapsed_s, "stopped_by": result.stopped_by, "best_metric": result.best_metric, "best_epoch": result.best_epoch}
    write_json(plan.run_dir / "provenance.json", record | outcome | {"weights_sha256": sha256_of(result.weights)})
    return result


def _build(config: RunConfig, bundle: Bundle, precision: str, device: Any) -> tuple[Any, Any, Any]:
    """Instantiate trainer, evaluator and scheduler; a config that cannot be built is the bundle's fault and is reported in one line."""
    import torch

    from volseg.training.loop import AutocastInferer

    parser = config.parser
    try:
        if parser.get("initialize") is not None:
            parser.get_parsed_content("initialize")
        trainer = parser.get_parsed_content(TRAINER)
        evaluator = parser.get_parsed_content(EVALUATOR) if config.has_validation else None
        scheduler = parser.get_parsed_content(config.scheduler_id) if config.scheduler_id else None
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        msg = f"{bundle.train_config}: the training could not be set up: {root_cause(error)}"
        raise BundleError(msg) from error
    if device.type == "cpu" and all(parameter.ndim != 4 for parameter in trainer.network.parameters()):
        # A step of ct_tumor's network takes 0.79 s with channels-last memory and 0.84 s without (2-core AVX2, fp32; tests/bench/train_step.py).
        trainer.network.to(memory_format=torch.channels_last_3d)
    if device.type != "cuda" and precision != "fp32":
        for engine in (trainer, evaluator):
            if engine is not None:
                engine.inferer = AutocastInferer(engine.inferer, precision, device)
    return trainer, evaluator, scheduler


def _check_run_dir(folder: Path, resume: bool) -> None:
    if not resume and (folder / LAST).exists():
        msg = f"{folder}: it already holds a training; add --resume to continue it, or choose another folder with -o"
        raise InputError(msg)
    if resume and not (folder / LAST).is_file():
        msg = f"{folder / LAST}: nothing to resume; leave out --resume to start a new training"
        raise InputError(msg)


def _make_run_dir(run_dir: str | Path) -> Path:
    folder = Path(run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: the output folder cannot be made ({error.strerror}); choose another with -o"
        raise OutputError(msg) from error
    return folder.resolve()


def _synthetic_dataset(folder: Path) -> Path:
    from volseg.synthetic import write_dataset

    target = folder / "synthetic_data"
    if not (target / "dataset.json").is_file():
        write_dataset(target, SYNTHETIC_CASES, seed=0)
    return target


def _check_channels(bundle: Bundle, cases: tuple[Case, ...], path: Path) -> None:
    for case in cases:
        if len(case.images) != bundle.input_channels:
            msg = f"{path}: case {case.name} has {len(case.images)} images, but bundle {bundle.name} takes {bundle.input_channels} ({', '.join(bundle.channel_names)})"
            raise DatasetError(msg)


def _inference_network(bundle: Bundle) -> Any:
    """The network as the bundle's inference config builds it, on the CPU."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle.inference_config))
    parser["bundle_root"] = str(bundle.path)
    return parser.get_parsed_content("network_def")


def _export(weights: Path, bundle: Bundle) -> None:
    from volseg.training.checkpoint import detached_state, save_torch

    state = read_state_dict(weights)
    load_state(state, _inference_network(bundle), weights)
    target = bundle.path / "models" / "model.pt"
    target.parent.mkdir(exist_ok=True)
    save_torch(detached_state(state, half=True), target)
