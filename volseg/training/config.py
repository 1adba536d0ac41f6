"""A bundle's training config, prepared for one run: data, folders and limits filled in, what volseg does itself taken out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import BundleError, InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

    from volseg.bundle import Bundle

REPLACED_HANDLERS = frozenset({"CheckpointSaver", "CheckpointLoader", "StatsHandler", "LrScheduleHandler", "EarlyStopHandler"})
"""MONAI handlers whose work volseg's own loop does: checkpoints that resume, progress, a learning rate that knows the time limit, patience."""

TENSORBOARD_HANDLERS = frozenset({"TensorBoardStatsHandler", "TensorBoardImageHandler"})

FILLED_IN = {
    "bundle_root": "the BUNDLE argument",
    "ckpt_dir": "-o",
    "output_dir": "-o",
    "dataset_dir": "--data",
    "train#dataset#data": "--data",
    "validate#dataset#data": "--data",
    "fold": "--fold",
    "device": "--device",
    "seed": "--seed",
}
"""Ids that a run sets itself -> the option that says to what."""

TRAINER = "train#trainer"
EVALUATOR = "validate#evaluator"

RAMP = "augmentation_ramp"
"""Id of a number: passes over the training cases in which augmentation grows to its full probabilities (:mod:`volseg.training.augmentation.ramp`). Plain MONAI ignores it."""


@dataclass(frozen=True)
class RunConfig:
    """A parsed training config and the parts of it that volseg drives.

    Attributes
    ----------
    parser : ConfigParser
        Not yet instantiated.
    scheduler_id : str or None
        Config id of the learning-rate scheduler, when the config has one.
    has_validation : bool
        Whether there is an evaluator and data for it.
    val_interval : int
        Epochs between validations.
    schedule_by_step : bool
        Whether the scheduler was made to be stepped every iteration (``LrScheduleHandler`` with ``epoch_level: false``) rather than every epoch.
    ramp_passes : float
        Passes over the training cases until augmentation is full (:data:`RAMP`); 0 for none.
    """

    parser: ConfigParser
    scheduler_id: str | None
    has_validation: bool
    val_interval: int
    schedule_by_step: bool = False
    ramp_passes: float = 0.0


def prepare_config(
    bundle: Bundle,
    *,
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    run_dir: Path,
    device: str,
    precision: str,
    epochs: int | None,
    seed: int,
    settings: Mapping[str, Any],
    compiled: bool = False,
    quiet: bool = False,
) -> RunConfig:
    """Read a bundle's ``configs/train.*`` and fill in one run.

    Parameters
    ----------
    bundle : Bundle
        Where the config is.
    training, validation : sequence of mapping
        MONAI data items; an empty ``validation`` switches validation off.
    run_dir : Path
        Where TensorBoard events and checkpoints go.
    device, precision : str
        Torch device, and ``fp32``, ``bf16`` or ``fp16``.
    epochs : int or None
        Overrides ``train#trainer#max_epochs``.
    seed : int
        Seed of the run.
    settings : mapping
        Further config ids and their values (``--set id=value``).
    compiled : bool
        Let ``torch.compile`` translate the training network.
    quiet : bool
        Leave out the handlers that write TensorBoard events (all processes of a distributed training but the first).

    Raises
    ------
    BundleError
        When the bundle has no training config, or the config lacks an id that training needs.
    InputError
        When a setting names an id the config does not have.
    """
    from monai.bundle import ConfigParser

    if bundle.train_config is None:
        msg = f"{bundle.path}: it has no configs/train.json (or .yaml), so it cannot be trained; it can still be used by `volseg infer`"
        raise BundleError(msg)
    parser = ConfigParser()
    parser.read_config(str(bundle.train_config))
    for needed in (TRAINER, "train#dataset#data", "network"):
        if parser.get(needed) is None:
            msg = f"{bundle.train_config}: there is no `{needed}` in it; volseg and MONAI Label set this id to train the bundle"
            raise BundleError(msg)
    for name, value in settings.items():
        if name in FILLED_IN:
            msg = f"--set {name}: volseg fills this id in; use {FILLED_IN[name]} instead"
            raise InputError(msg)
        if parser.get(name) is None and name != RAMP:
            msg = f"--set {name}: {bundle.train_config} has no such id; its top-level ids are {', '.join(parser.get())}"
            raise InputError(msg)
        parser[name] = value
    scheduler_id, by_step = _take_scheduler(parser, bundle)
    _fill_in(parser, bundle, list(training), list(validation), run_dir, device, epochs, seed)
    _set_precision(parser, precision, device)
    if compiled:
        parser[f"{TRAINER}#compile"] = True
    for handlers in ("train#handlers", "validate#handlers"):
        _drop_handlers(parser, handlers, REPLACED_HANDLERS | (TENSORBOARD_HANDLERS if quiet else frozenset()))
    has_validation = bool(validation) and parser.get(EVALUATOR) is not None
    interval = parser.get_parsed_content("val_interval") if parser.get("val_interval") is not None else 1
    _drop_handlers(parser, "train#handlers", frozenset({"ValidationHandler"}))
    return RunConfig(parser, scheduler_id, has_validation, int(interval), by_step, _ramp_passes(parser, bundle))


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``id=value``; the value is JSON when it parses as JSON, else a string.

    Raises
    ------
    InputError
        When there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        msg = f"--set {text}: write it as id=value, e.g. --set optimizer#lr=0.0005"
        raise InputError(msg)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _fill_in(parser: ConfigParser, bundle: Bundle, training: list[Any], validation: list[Any], run_dir: Path, device: str, epochs: int | None, seed: int) -> None:
    values: dict[str, Any] = {
        "bundle_root": str(bundle.path),
        "ckpt_dir": str(run_dir),
        "output_dir": str(run_dir / "tensorboard"),
        "device": f"$torch.device('{device}')",
        "seed": seed,
        "train#dataset#data": training,
    }
    if parser.get("validate#dataset#data") is not None:
        values["validate#dataset#data"] = validation
    if epochs is not None:
        values["train#trainer#max_epochs"] = epochs
    for name, value in values.items():
        parser[name] = value
    imports = list(parser.get("imports") or [])
    parser["imports"] = imports if "$import torch" in imports else [*imports, "$import torch"]


def _set_precision(parser: ConfigParser, precision: str, device: str) -> None:
    """On CUDA MONAI's engines cast by themselves; elsewhere the loop wraps their inferers."""
    for engine in (TRAINER, EVALUATOR):
        if isinstance(parser.get(engine), dict):
            parser[f"{engine}#amp"] = device.startswith("cuda") and precision != "fp32"
            if precision == "bf16":
                parser[f"{engine}#amp_kwargs"] = {"dtype": "$torch.bfloat16"}


def _take_scheduler(parser: ConfigParser, bundle: Bundle) -> tuple[str | None, bool]:
    """Id of the learning-rate scheduler, and whether it is stepped every iteration."""
    for handler in parser.get("train#handlers") or []:
        if isinstance(handler, dict) and _class_name(handler) == "LrScheduleHandler":
            reference = handler.get("lr_scheduler")
            if isinstance(reference, str) and reference.startswith("@"):
                return reference[1:], handler.get("epoch_level", True) is False
            msg = f"{bundle.train_config}: LrScheduleHandler must name its scheduler by reference ('@lr_scheduler'), so that volseg can drive it; got {reference!r}"
            raise BundleError(msg)
    return None, False


def _ramp_passes(parser: ConfigParser, bundle: Bundle) -> float:
    value = parser.get(RAMP, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        msg = f"{bundle.train_config}: `{RAMP}` is {value!r}; give the passes over the training cases until augmentation is full, 0 for none"
        raise BundleError(msg)
    return float(value)


def _class_name(component: Mapping[str, Any]) -> str:
    return str(component.get("_target_", "")).rsplit(".", 1)[-1]


def _drop_handlers(parser: ConfigParser, name: str, targets: frozenset[str]) -> None:
    handlers = parser.get(name)
    if isinstance(handlers, list):
        parser[name] = [h for h in handlers if not (isinstance(h, dict) and _class_name(h) in targets)]
