"""Drive a bundle's own MONAI trainer: checkpoints, schedule, validation, limits and reports hang on its events."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events

from volseg.training.augmentation.ramp import AugmentationRamp
from volseg.training.average import WeightAverage, bare
from volseg.training.checkpoint import BEST, FINAL, LAST, Position, detached_state, inference_weights, save_last, save_torch
from volseg.training.distributed import ALONE, Ranks, agree
from volseg.training.progress import EpochReport, Reporter
from volseg.training.schedule import Limits, Schedule
from volseg.training.validation import TIME_SHARE, Validator

if TYPE_CHECKING:
    from monai.engines import Trainer

CHECKPOINT_INTERVAL_S = 30.0
"""``last.pt`` is written at the first epoch end after this many seconds, so that short epochs do not spend their time writing."""

CLIP_NORM = 12.0
"""Largest norm of all gradients together; larger ones are scaled down to it (nnU-Net v2, nnUNetTrainer: 12)."""


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs.

    Attributes
    ----------
    limits : Limits
        When to stop.
    run_dir : Path
        Where checkpoints go.
    identity : mapping
        Stored in the checkpoint; a resumed run must match it.
    inference_names : frozenset of str
        Tensors of the network for inference; deep-supervision heads that are not among them are left out of ``model.pt`` and ``final.pt``.
    seed : int
        Random state of epoch ``n`` follows from ``seed`` and ``n`` (and the rank) alone, which is what makes a resumed run equal to an uninterrupted one.
    patience : int or None
        Epochs without a better key metric before stopping (looked at after each validation).
    average : bool
        Validate and keep the running average of the weights (:class:`WeightAverage`) rather than the weights of the last step.
    ramp : AugmentationRamp or None
        Augmentation that grows from epoch to epoch.
    place : Ranks
        This process; only the first writes.
    """

    limits: Limits
    run_dir: Path
    identity: Mapping[str, Any]
    inference_names: frozenset[str] = frozenset()
    seed: int = 0
    patience: int | None = None
    average: bool = True
    ramp: AugmentationRamp | None = None
    place: Ranks = ALONE


class TrainingLoop:
    """One run of a trainer from a position to its limits.

    Parameters
    ----------
    trainer : monai.engines.Trainer
        As the bundle's config built it. Its optimiser's gradients are clipped to :data:`CLIP_NORM`.
    validator : Validator or None
        Validation, if any.
    schedule : Schedule or None
        Learning rate.
    settings : LoopSettings
        How it runs.
    reporter : Reporter
        Is told of steps and epochs.
    on_epoch : callable
        Called with the report of every finished epoch, in the first process only.
    """

    def __init__(
        self, trainer: Trainer, validator: Validator | None, schedule: Schedule | None, settings: LoopSettings, *, reporter: Reporter, on_epoch: Callable[[EpochReport], None]
    ) -> None:
        self._trainer, self._validator, self._schedule = trainer, validator, schedule
        self._settings, self._limits = settings, settings.limits
        self._reporter, self._on_epoch = reporter, on_epoch
        self._network = bare(trainer.network)
        self._average = WeightAverage(self._network) if settings.average else None
        # The optimiser's own hook sees the gradients after a gradient scaler has brought them back to scale.
        trainer.optimizer.register_step_pre_hook(self._clip)
        self.position = Position()
        self.stopped_by = "epochs"

    def restore(self, position: Position, states: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.position = position
        self._network.load_state_dict(states["model"])
        self._trainer.optimizer.load_state_dict(states["optimizer"])
        if self._validator is not None:
            self._validator.last_seconds = position.last_validation_s
        if self._average is not None:
            self._average.load_state_dict(states["average"])
        if self._schedule is not None:
            self._schedule.rewind(self._limits.progress(position.epoch, position.elapsed_s))
            self.position = replace(position, schedule_steps=self._schedule.steps)
        if "scaler" in states:
            # MONAI's trainer makes a new gradient scaler when it starts to run; none in fp32, for which a resumed run may ask.
            self._trainer.add_event_handler(Events.STARTED, lambda: self._trainer.scaler and self._trainer.scaler.load_state_dict(states["scaler"]))

    def run(self) -> Position:
        """Train to the end of the limits; returns where it ended."""
        trainer, start = self._trainer, self.position
        steps = len(trainer.data_loader)
        trainer.state.epoch_length = steps
        trainer.state.epoch = start.epoch
        trainer.state.iteration = start.epoch * steps
        trainer.state.max_epochs = self._limits.epochs
        self._began = time.perf_counter() - start.elapsed_s
        self._saved_at = time.perf_counter()
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start_waiting)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._finish_waiting)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._finish_step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        self._reporter.begin(self._limits.epochs, steps, start.epoch)
        if start.epoch == 0:
            self._save_last()
        if start.epoch < self._limits.epochs and self._limits.progress(start.epoch, start.elapsed_s) < 1:
            trainer.run()
        elif start.epoch < self._limits.epochs:
            self.stopped_by = "time limit"
        self._save_last()
        self._save_weights(FINAL)
        if self.position.best_metric is None:
            self._save_weights(BEST)
        return self.position

    def _elapsed(self) -> float:
        """Seconds since the training first began; with a time limit the same in every process."""
        elapsed = time.perf_counter() - self._began
        return agree(elapsed, self._trainer.state.device) if self._limits.seconds else elapsed

    def _clip(self, *_: object) -> None:
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)

    @property
    def _reserve_s(self) -> float:
        """Seconds kept of a time limit for the last validation: as long as the one before took, but no more than validations may take, which is kept until one has been timed."""
        if self._validator is None or not self._limits.seconds:
            return 0.0
        most = TIME_SHARE * self._limits.seconds
        return most if self._validator.last_seconds is None else min(self._validator.last_seconds, most)

    def _start_epoch(self) -> None:
        epoch, place = self._trainer.state.epoch, self._settings.place
        common = (self._settings.seed + 1_000_003 * epoch) % 2**31
        seed = (common + 7_919 * place.rank) % 2**31
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = self._trainer.data_loader
        sampler = getattr(loader, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_seed"):
            sampler.set_seed(common)
        transform = getattr(loader.dataset, "transform", None)
        if transform is not None and hasattr(transform, "set_random_state"):
            transform.set_random_state(seed)
        if self._settings.ramp is not None:
            self._settings.ramp.start_epoch(epoch)
        self._losses: list[float] = []
        self._waited_s = 0.0
        self._rate = float(self._trainer.optimizer.param_groups[0]["lr"])
        self._epoch_began = time.perf_counter()

    def _advance(self, progress: float) -> None:
        if self._schedule is not None:
            self._schedule.advance(progress)

    def _start_waiting(self) -> None:
        self._wait_began = time.perf_counter()

    def _finish_waiting(self) -> None:
        self._waited_s += time.perf_counter() - self._wait_began

    def _finish_step(self) -> None:
        state = self._trainer.state
        output = state.output[0] if isinstance(state.output, list) else state.output
        self._losses.append(float(output["loss"]))
        if not np.isfinite(self._losses[-1]):
            msg = f"the loss became {self._losses[-1]} in epoch {state.epoch}; lower the learning rate (--set optimizer#lr=...) or train in --precision fp32"
            raise FloatingPointError(msg)
        if self._average is not None:
            self._average.update(self._network)
        self._reporter.step(state.epoch, len(self._losses), self._losses[-1])
        elapsed = self._elapsed()
        self._advance(self._limits.progress(state.epoch - 1 + len(self._losses) / state.epoch_length, elapsed, self._reserve_s))
        if self._limits.is_over(elapsed, self._reserve_s) and (state.epoch < self._limits.epochs or len(self._losses) < state.epoch_length):
            self.stopped_by = "time limit"
            self._trainer.terminate_epoch()

    def _finish_epoch(self) -> None:
        epoch, iteration = self._trainer.state.epoch, self._trainer.state.iteration
        seconds = time.perf_counter() - self._epoch_began
        elapsed = self._elapsed()
        progress = self._limits.progress(epoch, elapsed, self._reserve_s)
        is_last = progress >= 1
        self._advance(progress)
        self.position = replace(self.position, epoch=epoch, iteration=iteration, elapsed_s=elapsed, schedule_steps=self._schedule.steps if self._schedule else 0)
        self.position = replace(self.position, cut=epoch >= self._limits.epochs and len(self._losses) < self._trainer.state.epoch_length)
        spent_s = self.position.validation_s
        metrics, is_best = self._validate(is_last, elapsed)
        self.position = replace(self.position, elapsed_s=self._elapsed())
        progress = self._limits.progress(epoch, self.position.elapsed_s)
        report = EpochReport(
            epoch=epoch,
            epochs=self._limits.epochs,
            loss=float(np.mean(self._losses)),
            learning_rate=self._rate,
            seconds=seconds,
            steps_per_second=len(self._losses) / seconds,
            elapsed_s=self.position.elapsed_s,
            remaining_s=0.0 if is_last else self.position.elapsed_s * (1 - progress) / max(progress, 1e-9),
            metrics=dict(metrics),
            best_metric=self.position.best_metric,
            is_best=is_best,
            data_wait_share=self._waited_s / seconds,
            validation_s=self.position.validation_s - spent_s,
        )
        if self._settings.place.is_first:
            self._on_epoch(report)
        self._reporter.epoch(report)
        if is_best or time.perf_counter() - self._saved_at >= CHECKPOINT_INTERVAL_S:
            self._save_last()
        # A validation may itself have used up the time; then there is nothing left to train or to validate.
        if (is_last or (metrics and progress >= 1)) and epoch < self._limits.epochs:
            self._stop("time limit")
        elif self._settings.patience and metrics and self.position.best_metric is not None and epoch - self.position.best_epoch >= self._settings.patience:
            self._stop("patience")

    def _validate(self, is_last: bool, elapsed: float) -> tuple[Mapping[str, float], bool]:
        epoch, spent_s, validator = self._trainer.state.epoch, self.position.validation_s, self._validator
        if validator is None or not validator.is_due(epoch, is_last=is_last, spent_s=spent_s, elapsed_s=elapsed, limited=bool(self._limits.seconds)):
            return {}, False
        scores = validator.run(epoch, self._network if self._average is None else self._average.network)
        took = agree(scores.seconds, self._trainer.state.device)
        validator.last_seconds = took
        self.position = replace(self.position, validation_s=spent_s + took, last_validation_s=took)
        best = self.position.best_metric
        if scores.key is None or (best is not None and scores.key <= best):
            return scores.metrics, False
        self.position = replace(self.position, best_metric=scores.key, best_epoch=epoch)
        self._save_weights(BEST)
        return scores.metrics, True

    def _stop(self, reason: str) -> None:
        self.stopped_by = reason
        self._trainer.terminate()

    def _save_weights(self, name: str) -> None:
        if self._settings.place.is_first:
            network = self._network if self._average is None else self._average.network
            save_torch(inference_weights(detached_state(network.state_dict()), self._settings.inference_names), self._settings.run_dir / name)

    def _save_last(self) -> None:
        self._saved_at = time.perf_counter()
        if not self._settings.place.is_first:
            return
        states: dict[str, Any] = {"model": detached_state(self._network.state_dict()), "optimizer": self._trainer.optimizer.state_dict()}
        if self._average is not None:
            states["average"] = detached_state(self._average.state_dict())
        if self._trainer.scaler is not None:
            states["scaler"] = self._trainer.scaler.state_dict()
        save_last(self._settings.run_dir / LAST, self.position, self._settings.identity, states)
