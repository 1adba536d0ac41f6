from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.cli.train import parse_duration
from volseg.errors import InputError
from volseg.training.config import parse_setting
from volseg.training.progress import EpochReport
from volseg.training.records import MetricsTable
from volseg.training.schedule import Limits


def test_schedule_follows_epochs_without_a_clock():
    limits = Limits(epochs=10)
    assert [limits.schedule_step(epoch, 1e9) for epoch in range(11)] == list(range(11))


def test_schedule_reaches_its_end_when_time_is_up():
    limits = Limits(epochs=300, seconds=100)
    assert limits.schedule_step(5, 50) == 150
    assert limits.schedule_step(9, 100) == 300
    assert limits.progress(9, 250) == 1


@given(st.integers(1, 1000), st.floats(1, 1e5), st.integers(0, 1000), st.floats(0, 1e6))
def test_schedule_never_lags_behind_epochs_nor_overshoots(epochs, seconds, epoch, elapsed):
    step = Limits(epochs, seconds).schedule_step(epoch, elapsed)
    assert min(epoch, epochs) <= step <= epochs


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2h", 7200), ("45", 45), ("0.5h", 1800), ("1d", 86400)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2x", "5m3", "-1s", "0", "1h later"])
def test_unusable_durations(text):
    with pytest.raises(InputError, match="duration"):
        parse_duration(text)


def test_settings_are_json_or_text():
    assert parse_setting("optimizer#lr=0.5") == ("optimizer#lr", 0.5)
    assert parse_setting("patch_size=[32,32,16]") == ("patch_size", [32, 32, 16])
    assert parse_setting("a=b=c") == ("a", "b=c")
    with pytest.raises(InputError, match="id=value"):
        parse_setting("optimizer")


def report(epoch: int, **metrics: float) -> EpochReport:
    return EpochReport(epoch, 9, 1.0 / epoch, 0.1, 1.0, 2.0, 3.0 * epoch, 4.0, metrics)


def test_metrics_table_drops_epochs_that_are_trained_again(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for epoch in (1, 2, 3):
        table.add(report(epoch, val_mean_dice=epoch / 10))
    again = MetricsTable(path, keep_epochs=2)
    again.add(report(3))
    rows = list(csv.DictReader(path.open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [row["val_mean_dice"] for row in rows] == ["0.1", "0.2", ""]
