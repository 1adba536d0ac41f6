from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from volseg.training.validation import Validator


class FakeEvaluator:
    """Gives scores that were set, as MONAI's evaluator keeps them."""

    def __init__(self, metrics, details=None):
        self.network = None
        self.state = SimpleNamespace(metrics=metrics, metric_details={"val_mean_dice": details} if details is not None else {}, key_metric_name="val_mean_dice")

    def run(self, epoch):
        self.ran = epoch


def due(validator, epoch, **facts):
    return validator.is_due(epoch, **{"is_last": False, "spent_s": 0.0, "elapsed_s": 100.0, "limited": False, **facts})


def test_every_interval_and_the_last_epoch():
    validator = Validator(FakeEvaluator({}), 5)
    assert [epoch for epoch in range(1, 13) if due(validator, epoch, is_last=epoch == 12)] == [5, 10, 12]


@pytest.mark.parametrize(("spent", "last", "expected"), [(0, 0, True), (4, 6, True), (4.1, 6, False), (10.1, 0, False)])
def test_with_a_time_limit_validations_take_a_tenth_of_the_time(spent, last, expected):
    validator = Validator(FakeEvaluator({}), 1)
    validator.last_seconds = last
    assert due(validator, 3, spent_s=spent, limited=True) is expected
    assert due(validator, 3, spent_s=spent, limited=False)
    assert due(validator, 3, spent_s=spent, limited=True, is_last=True)


def test_scores_of_classes_leave_undefined_ones_out():
    details = torch.tensor([[0.5, float("nan")], [0.7, 0.2]])
    evaluator = FakeEvaluator({"val_mean_dice": 0.4, "confusion": np.zeros(3)}, details)
    network = torch.nn.Identity()
    scores = Validator(evaluator, 1, ["liver", "tumor"]).run(7, network)
    assert scores.metrics == {"val_mean_dice": 0.4, "val_mean_dice_liver": pytest.approx(0.6), "val_mean_dice_tumor": pytest.approx(0.2)}
    assert scores.key == 0.4
    assert evaluator.network is network
    assert evaluator.ran == 7


def test_one_class_needs_no_column_of_its_own_and_an_undefined_metric_is_none():
    scores = Validator(FakeEvaluator({"val_mean_dice": float("nan")}, torch.ones(3, 1)), 1, ["tumor"]).run(1, torch.nn.Identity())
    assert list(scores.metrics) == ["val_mean_dice"]
    assert scores.key is None
