"""Drive a bundle's own MONAI trainer: checkpoints, schedule, validation, limits and reports hang on its events."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events

from volseg.inference.device import autocast
from volseg.training.checkpoint import BEST, LAST, Position, detached_state, inference_weights, save_last, save_torch
from volseg.training.progress import EpochReport, Reporter
from volseg.training.schedule import Limits

if TYPE_CHECKING:
    from monai.engines import Evaluator, Trainer

CHECKPOINT_INTERVAL_S = 30.0
"""``last.pt`` is written at the first epoch end after this many seconds, so that short epochs do not spend their time writing."""


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


class TrainingLoop:
    """One run of a trainer from a position to its limits.

    Parameters
    ----------
    trainer : monai.engines.Trainer
        As the bundle's config built it.
    evaluator : monai.engines.Evaluator or None
        Validation, if any.
    scheduler : torch LR scheduler or None
        Stepped once an epoch of the full schedule, faster when a time limit cuts the run short.
    limits : Limits
        When to stop.
    run_dir : Path
        Where checkpoints go.
    identity : mapping
        Stored in the checkpoint; a resumed run must match it.
    inference_names : frozenset of str
        Tensors of the network for inference; deep-supervision heads that are not among them are left out of ``model.pt``.
    seed : int
        Random state of epoch ``n`` follows from ``seed`` and ``n`` alone, which is what makes a resumed run equal to an uninterrupted one.
    val_interval, patience : int, int or None
        Epochs between validations; epochs without a better key metric before stopping (looked at after each validation).
    """

    def __init__(
        self,
        trainer: Trainer,
        evaluator: Evaluator | None,
        scheduler: Any,
        *,
        limits: Limits,
        run_dir: Path,
        identity: Mapping[str, Any],
        reporter: Reporter,
        on_epoch: Callable[[EpochReport], None],
        inference_names: frozenset[str] = frozenset(),
        seed: int = 0,
        val_interval: int = 1,
        patience: int | None = None,
    ) -> None:
        self._trainer, self._evaluator, self._scheduler = trainer, evaluator, scheduler
        self._limits, self._run_dir, self._identity = limits, run_dir, identity
        self._reporter, self._on_epoch = reporter, on_epoch
        self._inference_names = inference_names
        self._seed, self._val_interval, self._patience = seed, max(1, val_interval), patience
        self.position = Position()
        self.stopped_by = "epochs"

    def restore(self, position: Position, states: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.position = position
        self._trainer.network.load_state_dict(states["model"])
        self._trainer.optimizer.load_state_dict(states["optimizer"])
        if self._scheduler is not None:
            self.position = replace(position, schedule_steps=self._wind_schedule(position))
        if "scaler" in states:
            # MONAI's trainer makes a new gradient scaler when it starts to run.
            self._trainer.add_event_handler(Events.STARTED, lambda: self._trainer.scaler.load_state_dict(states["scaler"]))

    def _wind_schedule(self, position: Position) -> int:
        """Step the fresh scheduler to a position. Its saved state is not loaded: that would bring back the end of the earlier limits, past which the rate is 0."""
        for group, rate in zip(self._trainer.optimizer.param_groups, self._scheduler.base_lrs, strict=True):
            group["lr"] = rate
        steps = self._limits.schedule_step(position.epoch, position.elapsed_s)
        for _ in range(steps):
            self._scheduler.step()
        return steps

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
        if self.position.best_metric is None:
            save_torch(inference_weights(self._weights(), self._inference_names), self._run_dir / BEST)
        return self.position

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _start_epoch(self) -> None:
        epoch = self._trainer.state.epoch
        seed = (self._seed + 1_000_003 * epoch) % 2**31
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        transform = getattr(self._trainer.data_loader.dataset, "transform", None)
        if transform is not None and hasattr(transform, "set_random_state"):
            transform.set_random_state(seed)
        self._losses: list[float] = []
        self._epoch_began = time.perf_counter()

    def _finish_step(self) -> None:
        state = self._trainer.state
        output = state.output[0] if isinstance(state.output, list) else state.output
        self._losses.append(float(output["loss"]))
        if not np.isfinite(self._losses[-1]):
            msg = f"the loss became {self._losses[-1]} in epoch {state.epoch}; lower the learning rate (--set optimizer#lr=...) or train in --precision fp32"
            raise FloatingPointError(msg)
        self._reporter.step(state.epoch, len(self._losses), self._losses[-1])
        if self._limits.seconds and self._elapsed >= self._limits.seconds:
            self.stopped_by = "time limit"
            self._trainer.terminate_epoch()

    def _finish_epoch(self) -> None:
        state = self._trainer.state
        seconds = time.perf_counter() - self._epoch_began
        rate = float(self._trainer.optimizer.param_groups[0]["lr"])
        self._step_schedule(state.epoch)
        self.position = replace(self.position, epoch=state.epoch, iteration=state.iteration, elapsed_s=self._elapsed)
        is_last = self._limits.progress(state.epoch, self._elapsed) >= 1
        metrics, is_best = self._validate(is_last) if self._evaluator is not None else ({}, False)
        self.position = replace(self.position, elapsed_s=self._elapsed)
        progress = self._limits.progress(state.epoch, self._elapsed)
        report = EpochReport(
            epoch=state.epoch,
            epochs=self._limits.epochs,
            loss=float(np.mean(self._losses)),
            learning_rate=rate,
            seconds=seconds,
            steps_per_second=len(self._losses) / seconds,
            elapsed_s=self._elapsed,
            remaining_s=self._elapsed * (1 - progress) / max(progress, 1e-9),
            metrics=metrics,
            best_metric=self.position.best_metric,
            is_best=is_best,
        )
        self._on_epoch(report)
        self._reporter.epoch(report)
        if is_best or time.perf_counter() - self._saved_at >= CHECKPOINT_INTERVAL_S:
            self._save_last()
        if is_last and state.epoch < self._limits.epochs:
            self._stop("time limit")
        elif self._patience and metrics and self.position.best_metric is not None and state.epoch - self.position.best_epoch >= self._patience:
            self._stop("patience")

    def _step_schedule(self, epoch: int) -> None:
        if self._scheduler is None:
            return
        target = self._limits.schedule_step(epoch, self._elapsed)
        for _ in range(target - self.position.schedule_steps):
            self._scheduler.step()
        self.position = replace(self.position, schedule_steps=max(target, self.position.schedule_steps))

    def _validate(self, is_last: bool) -> tuple[dict[str, float], bool]:
        epoch = self._trainer.state.epoch
        evaluator = self._evaluator
        if evaluator is None or not (is_last or epoch % self._val_interval == 0):
            return {}, False
        evaluator.run(epoch)
        metrics = {name: float(value) for name, value in evaluator.state.metrics.items() if np.ndim(value) == 0}
        key = metrics.get(str(evaluator.state.key_metric_name))
        best = self.position.best_metric
        if key is None or not np.isfinite(key) or (best is not None and key <= best):
            return metrics, False
        self.position = replace(self.position, best_metric=key, best_epoch=epoch)
        save_torch(inference_weights(self._weights(), self._inference_names), self._run_dir / BEST)
        return metrics, True

    def _stop(self, reason: str) -> None:
        self.stopped_by = reason
        self._trainer.terminate()

    def _weights(self) -> dict[str, torch.Tensor]:
        network = getattr(self._trainer.network, "module", self._trainer.network)
        return detached_state(network.state_dict())

    def _save_last(self) -> None:
        states = {"model": self._weights(), "optimizer": self._trainer.optimizer.state_dict()}
        if self._trainer.scaler is not None:
            states["scaler"] = self._trainer.scaler.state_dict()
        save_last(self._run_dir / LAST, self.position, self._identity, states)
        self._saved_at = time.perf_counter()
