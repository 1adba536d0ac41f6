"""MLflow beside the run's own records, where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from volseg.errors import InputError
from volseg.training.progress import EpochReport

LONGEST_PARAMETER = 500
"""Characters of a parameter that MLflow keeps on every backend."""

FILES = ("model.pt", "metrics.csv", "config.json", "provenance.json", "training.html", "curves.png")
"""What a finished run hands over."""


class Tracker:
    """Tells nobody; what is used where no tracking was asked for."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to end."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The training starts."""

    def epoch(self, report: EpochReport) -> None:
        """One epoch is done."""

    def finish(self, run_dir: Path) -> None:
        """The files of the run are complete."""


class MlflowTracker(Tracker):
    """Parameters, metrics of every epoch and the files of the run, in MLflow; the experiment is named after the bundle.

    Parameters
    ----------
    mlflow : module
        The imported package.
    uri : str
        Where the tracking server or store is.
    experiment : str
        The bundle's name.

    Raises
    ------
    InputError
        When the server or store cannot be used.
    """

    def __init__(self, mlflow: Any, uri: str, experiment: str) -> None:
        self._mlflow, self._ended = mlflow, False
        try:
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment(experiment)
        except mlflow.exceptions.MlflowException as error:
            msg = f"--mlflow {uri}: cannot be used ({' '.join(str(error).split())[:300]}); e.g. http://SERVER:5000 or sqlite:///mlflow.db"
            raise InputError(msg) from error

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Start a run and log what it is of."""
        self._mlflow.start_run(run_name="all cases" if facts["fold"] is None else f"fold {facts['fold']}")
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
        self._mlflow.log_params({name: text[:LONGEST_PARAMETER] for name, text in texts.items()})

    def epoch(self, report: EpochReport) -> None:
        """Log an epoch."""
        own = {
            "train_loss": report.loss,
            "learning_rate": report.learning_rate,
            "steps_per_second": report.steps_per_second,
            "data_wait_share": report.data_wait_share,
            "elapsed_s": report.elapsed_s,
        }
        self._mlflow.log_metrics(own | report.metrics, step=report.epoch)

    def finish(self, run_dir: Path) -> None:
        """Hand over the files and end the run."""
        for name in FILES:
            if (run_dir / name).is_file():
                self._mlflow.log_artifact(str(run_dir / name))
        self._mlflow.end_run()
        self._ended = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A training that stopped early is marked so."""
        if not self._ended and self._mlflow.active_run() is not None:
            self._mlflow.end_run(status="KILLED" if kind is not None and issubclass(kind, KeyboardInterrupt) else "FAILED")


def open_tracker(uri: str | None, experiment: str) -> Tracker:
    """Tracking by MLflow at ``uri``, in an experiment of this name; none for None.

    Raises
    ------
    InputError
        When MLflow is not installed, or what it is to write to cannot be used.
    """
    if uri is None:
        return Tracker()
    try:
        mlflow = import_module("mlflow")
    except ImportError as error:
        msg = f"--mlflow {uri}: the package mlflow is not installed; `pip install mlflow`, or leave --mlflow out (TensorBoard events are always written)"
        raise InputError(msg) from error
    return MlflowTracker(mlflow, uri, experiment)
