"""What a finished training gives, and whether one is finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volseg.bundle import Bundle
from volseg.dataset import Case, name_cases
from volseg.provenance import sha256_of
from volseg.training.checkpoint import BEST, FINAL
from volseg.training.options import Options

RECORD = "provenance.json"
"""What a run was asked for, made from, and gave."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training gives.

    Attributes
    ----------
    run_dir : Path
        Folder with ``model.pt``, ``final.pt``, ``last.pt``, ``metrics.csv``, ``training.html``, ``curves.png``, ``config.json``, ``provenance.json`` and TensorBoard events.
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

    @property
    def final(self) -> Path:
        """``final.pt``: the weights of the training's end, which no validation chose; a score on the cases of that validation is fair to these alone."""
        return self.run_dir / FINAL


def finished_run(run_dir: Path, bundle: Bundle, training: Sequence[Case], options: Options) -> TrainingResult | None:
    """What a training in this folder gave, when the same was asked of it, on the same cases, and its weights are there; None when there is still something to do.

    Cases are compared by name: after one was added or taken away the folds are dealt anew, and a model of before would be scored on cases that it was trained on.

    Parameters
    ----------
    run_dir : Path
        The run's folder.
    bundle : Bundle
        What is to be trained.
    training : sequence of Case
        Cases to train on.
    options : Options
        How; device, precision and ``resume`` do not matter.
    """
    wanted = {"asked": options.asked, "recipe": options.recipe(bundle), "training_cases": name_cases(training)}
    try:
        record = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
        complete = all(record[key] == value for key, value in wanted.items()) and record["weights_sha256"] == sha256_of(run_dir / BEST) and (run_dir / FINAL).is_file()
        ended = (record["epochs"], record["elapsed_s"], record["stopped_by"], record["best_metric"], record["best_epoch"])
    except (OSError, ValueError, KeyError):
        return None
    return TrainingResult(run_dir.resolve(), run_dir.resolve() / BEST, *ended) if complete else None
