from __future__ import annotations

import csv

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volseg.cli.train import parse_duration
from volseg.errors import InputError
from volseg.training.config import parse_setting
from volseg.training.progress import EpochReport
from volseg.training.records import MetricsTable
from volseg.training.schedule import Limits, Schedule, position_of


def test_schedule_follows_epochs_without_a_clock():
    limits = Limits(epochs=10)
    assert [position_of(limits.progress(epoch, 1e9), 10) for epoch in range(11)] == list(range(11))


def test_schedule_reaches_its_end_when_time_is_up():
    limits = Limits(epochs=300, seconds=100)
    assert position_of(limits.progress(5, 50), 300) == 150
    assert position_of(limits.progress(9, 100), 300) == 300
    assert limits.progress(9, 250) == 1


@given(st.integers(1, 1000), st.floats(1, 1e5), st.integers(0, 1000), st.floats(0, 1e6))
def test_schedule_never_lags_behind_epochs_nor_overshoots(epochs, seconds, epoch, elapsed):
    step = position_of(Limits(epochs, seconds).progress(epoch, elapsed), epochs)
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


def warm_up_and_poly(length: int) -> tuple[torch.optim.Optimizer, Schedule]:
    """A tenth of the schedule from 0.1 to 1 times the rate, then a linear decay to 0."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=length // 10)
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=length - length // 10, power=1.0)
    return optimizer, Schedule(torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], [length // 10]), length)


@pytest.mark.parametrize(("progress", "rate"), [(0, 0.05), (0.05, 0.275), (0.1, 0.5), (0.55, 0.25), (1, 0)])
def test_rate_is_a_function_of_the_share_that_is_done(progress, rate):
    """However many steps lead there: a warm-up takes its share of the time there is."""
    optimizer, schedule = warm_up_and_poly(1000)
    for part in torch.linspace(0, progress, 7).tolist():
        schedule.advance(part)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-3)
    schedule.advance(progress / 2)
    assert schedule.steps == round(1000 * progress)


def test_a_resumed_schedule_has_the_rate_of_an_uninterrupted_one():
    whole, schedule = warm_up_and_poly(40)
    schedule.advance(0.3)
    resumed, fresh = warm_up_and_poly(40)
    resumed.load_state_dict(whole.state_dict())
    fresh.rewind(0.3)
    assert resumed.param_groups[0]["lr"] == pytest.approx(whole.param_groups[0]["lr"])
    for other in (schedule, fresh):
        other.advance(0.8)
    assert resumed.param_groups[0]["lr"] == pytest.approx(whole.param_groups[0]["lr"])


def test_time_kept_for_the_last_validation_ends_the_training_earlier():
    limits = Limits(epochs=1000, seconds=100)
    assert limits.progress(0.5, 45, reserve_s=10) == pytest.approx(0.5)
    assert limits.progress(0.5, 90, reserve_s=10) == 1
    assert Limits(epochs=10).progress(5, 1e9, reserve_s=10) == 0.5
