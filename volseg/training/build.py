"""From a parsed training config to the engines that run: MONAI's trainer and evaluator, and the learning-rate scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from volseg.bundle import Bundle
from volseg.errors import BundleError, InputError, root_cause
from volseg.inference.device import autocast
from volseg.training.augmentation import AugmentedBatch
from volseg.training.augmentation.ramp import AugmentationRamp, grows
from volseg.training.chain import RANDOM
from volseg.training.config import EVALUATOR, TRAINER, RunConfig
from volseg.training.distributed import Ranks
from volseg.training.progress import Reporter
from volseg.training.schedule import Schedule


@dataclass(frozen=True)
class Engines:
    """What a training is run by.

    Attributes
    ----------
    trainer : monai.engines.Trainer
        With its network, optimiser, loss and data loader.
    evaluator : monai.engines.Evaluator or None
        Validation, if any.
    schedule : Schedule or None
        Learning rate, if it changes.
    """

    trainer: Any
    evaluator: Any
    schedule: Schedule | None


class AutocastInferer:
    """Runs an inferer in bf16 or fp16 on devices for which MONAI's trainer has no autocast of its own (CPU).

    Parameters
    ----------
    inferer : callable
        MONAI inferer.
    precision : str
        ``"bf16"`` or ``"fp16"``.
    device : torch.device
        Where it runs.
    """

    def __init__(self, inferer: Callable[..., Any], precision: str, device: torch.device) -> None:
        self._inferer, self._precision, self._device = inferer, precision, device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the inferer under autocast."""
        with autocast(self._precision, self._device):
            return self._inferer(*args, **kwargs)


def build_engines(config: RunConfig, bundle: Bundle, precision: str, device: torch.device) -> Engines:
    """Instantiate trainer, evaluator and scheduler.

    Raises
    ------
    BundleError
        When the config cannot be built, which is the bundle's fault; in one line.
    """
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
    length = int(trainer.state.max_epochs) * (len(trainer.data_loader) if config.schedule_by_step else 1)
    return Engines(trainer, evaluator, None if scheduler is None else Schedule(scheduler, length))


def join_ranks(trainer: Any, place: Ranks, device: torch.device) -> None:
    """Average the gradients of all processes from now on.

    Raises
    ------
    InputError
        When there are fewer cases in an epoch than processes.
    """
    if len(trainer.data_loader) == 0:
        msg = f"an epoch shows fewer patches than the {place.count} processes that share them; start fewer (--nproc_per_node)"
        raise InputError(msg)
    if not place.is_alone:
        trainer.network = torch.nn.parallel.DistributedDataParallel(trainer.network, device_ids=[device] if device.type == "cuda" else None)


def build_ramp(config: RunConfig, trainer: Any, cases: int, processes: int, reporter: Reporter) -> AugmentationRamp | None:
    """The growth of augmentation a config asks for (:mod:`volseg.training.augmentation.ramp`), or None.

    Parameters
    ----------
    config : RunConfig
        After :func:`build_engines`.
    trainer : monai.engines.Trainer
        Of those engines.
    cases : int
        Training cases.
    processes : int
        Processes that share an epoch.
    reporter : Reporter
        Told of it, or why augmentation does not grow.
    """
    passes = config.ramp_passes
    if not passes:
        return None
    loader, transforms = trainer.data_loader, config.parser.get_parsed_content(RANDOM) if isinstance(config.parser.get(RANDOM), list) else []
    growing = [grows(transform) for transform in transforms]
    # What the loader's processes run was copied into them with the probabilities of one epoch.
    copied = growing[:1] if isinstance(trainer.prepare_batch, AugmentedBatch) else growing
    if not any(growing) or loader.batch_size is None or (loader.num_workers and any(copied)):
        why = f"nothing in `{RANDOM}` can grow" if not any(growing) else "its transforms run in processes of the data loader" if loader.batch_size else "batches vary in size"
        reporter.message(f"augmentation is full from the first step: {why}")
        return None
    per_epoch = len(loader) * loader.batch_size * processes / cases
    reporter.message(f"augmentation grows to its full probabilities over {passes:g} passes over the cases ({ceil(passes / per_epoch)} epochs)")
    return AugmentationRamp(transforms, passes, per_epoch)


def inference_network(bundle: Bundle) -> Any:
    """The network as the bundle's inference config builds it, on the CPU."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle.inference_config))
    parser["bundle_root"] = str(bundle.path)
    return parser.get_parsed_content("network_def")
