from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from volseg.errors import InputError
from volseg.training.progress import EpochReport
from volseg.training.tracking import Tracker, open_tracker


class MlflowError(Exception):
    """As the package raises them."""


class Recorder:
    """Stands in for the package mlflow and writes down what it is told."""

    exceptions = SimpleNamespace(MlflowException=MlflowError)

    def __init__(self):
        self.calls = []
        self.running = False

    def __getattr__(self, name):
        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            self.running = {"start_run": True, "end_run": False}.get(name, self.running)
            return SimpleNamespace() if self.running else None

        return record


@pytest.fixture
def mlflow(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", recorder)
    return recorder


def test_without_an_address_nobody_is_told():
    assert type(open_tracker(None, "tiny")) is Tracker


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="pip install mlflow"):
        open_tracker("file:/runs", "tiny")


def test_a_store_that_cannot_be_used_is_one_line(mlflow):
    def refuse(name):
        msg = "the file store\nis in maintenance mode"
        raise MlflowError(msg)

    mlflow.set_experiment = refuse
    with pytest.raises(InputError, match=r"--mlflow file:/runs: .*the file store is in maintenance mode.*sqlite"):
        open_tracker("file:/runs", "tiny")


def test_a_run_is_logged_from_beginning_to_end(mlflow, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    with open_tracker("file:/runs", "tiny") as tracker:
        tracker.begin({"bundle": "tiny", "fold": 1, "training_cases": ["a"] * 500})
        tracker.epoch(EpochReport(3, 9, 0.5, 0.1, 1.0, 2.0, 3.0, 4.0, {"val_mean_dice": 0.7}))
        tracker.finish(tmp_path)
    calls = {name: (args, kwargs) for name, args, kwargs in mlflow.calls}
    assert calls["set_tracking_uri"][0] == ("file:/runs",)
    assert calls["set_experiment"][0] == ("tiny",)
    assert max(map(len, calls["log_params"][0][0].values())) <= 500
    assert calls["log_metrics"][0][0]["val_mean_dice"] == 0.7
    assert calls["log_metrics"][1] == {"step": 3}
    assert calls["log_artifact"][0] == (str(tmp_path / "model.pt"),)
    assert calls["end_run"] == ((), {})


def test_an_interrupted_run_is_marked(mlflow):
    with pytest.raises(KeyboardInterrupt), open_tracker("file:/runs", "tiny") as tracker:
        tracker.begin({"bundle": "tiny", "fold": None})
        raise KeyboardInterrupt
    assert mlflow.calls[-1][0] == "end_run"
    assert mlflow.calls[-1][2] == {"status": "KILLED"}
