"""nnU-Net v2's own trainer, its schedule cut to a number of seconds; run by a Python that has nnunetv2, so it imports nothing of this project.

    python nnunet_trainer.py prepare
    python nnunet_trainer.py train --fold 0 --seconds 1200 --threads 2

The folders are nnU-Net's environment variables. ``train`` prints one JSON document as its last line. How long a step takes is measured before the clock starts, so that
every step of the schedule falls into the budget and the learning rate ends at 0. Then nnU-Net segments the fold's cases as it does after every training, mirrored along all axes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

DATASET, CONFIGURATION = 1, "3d_fullres"

EPOCHS = 20
"""Least epochs, where the budget allows: its schedule has a rate for each (stock: 1000 of 250 steps)."""

VALIDATION_STEP = 1 / 3
"""What a validation step takes of a training step: forward only."""

PROBED = 4
"""Steps that are timed; the first one more is not."""


def prepare() -> None:
    """Fingerprint, plan and preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([DATASET], num_processes=2, check_dataset_integrity=False)
    plan_experiments([DATASET])
    preprocess([DATASET], configurations=[CONFIGURATION], num_processes=[2])


def make(fold: int) -> Any:
    """The stock trainer on the CPU."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(str(DATASET), CONFIGURATION, fold, device=torch.device("cpu"))


def step_seconds(fold: int) -> float:
    """Median seconds of a training step, data included."""
    trainer = make(fold)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    taken = []
    for _ in range(PROBED + 1):
        began = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        taken.append(time.perf_counter() - began)
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()
    return sorted(taken[1:])[PROBED // 2]


def train(fold: int, seconds: float, threads: int) -> dict[str, Any]:
    """Train for so long and segment the fold."""
    import torch

    torch.set_num_threads(threads)
    each = step_seconds(fold)
    trainer = make(fold)
    # One validation step an epoch, where stock has 50: they tell about the training and do not guide it.
    trainer.num_val_iterations_per_epoch = 1
    steps = max(1, int(seconds / each))
    trainer.num_iterations_per_epoch = max(1, int(steps / min(EPOCHS, steps) - VALIDATION_STEP))
    # Whole epochs that fill the budget.
    trainer.num_epochs = max(1, int(steps / (trainer.num_iterations_per_epoch + VALIDATION_STEP)))
    began, cpu = time.perf_counter(), time.process_time()
    trainer.run_training()
    took, busy = time.perf_counter() - began, time.process_time() - cpu
    trainer.perform_actual_validation(False)
    done = trainer.num_epochs * trainer.num_iterations_per_epoch
    return {
        "steps": done,
        "seconds": took,
        "steps_per_second": done / took,
        "batch": trainer.configuration_manager.batch_size,
        "step_seconds_probed": each,
        "cpu_seconds_of_the_process": busy,
        "predictions": str(Path(trainer.output_folder) / "validation"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "train"))
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.what == "prepare":
        prepare()
    else:
        print(json.dumps(train(options.fold, options.seconds, options.threads)))


if __name__ == "__main__":
    main()
