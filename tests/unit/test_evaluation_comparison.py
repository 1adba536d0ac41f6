"""Confidence intervals against scipy's, and two models compared case by case."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.unit.test_evaluation_scores import SHAPE, block, volume
from volseg.errors import InputError
from volseg.evaluation import CaseAgreement, Evaluation, compare_evaluations, compare_volumes, summarise
from volseg.evaluation.bootstrap import mean_interval
from volseg.io import Source, Volume


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).beta(8, 2, 40),
        np.random.default_rng(1).exponential(5, 15),
        np.array([0.0] * 3 + [1.0] * 17),
        np.random.default_rng(2).normal(0, 1, 300),
    ],
    ids=["dice", "skewed", "binary", "many"],
)
def test_the_interval_is_scipys_bca(values: np.ndarray) -> None:
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", random_state=7).confidence_interval
    low, high = mean_interval(values)
    width = theirs.high - theirs.low
    # Two independent draws: the ends of such an interval wander by a few per cent of its width.
    assert low == pytest.approx(theirs.low, abs=0.06 * width)
    assert high == pytest.approx(theirs.high, abs=0.06 * width)


def test_skew_moves_the_interval_to_the_side_of_the_tail() -> None:
    values = np.random.default_rng(3).exponential(1, 25)
    low, high = mean_interval(values)
    assert high - values.mean() > 1.1 * (values.mean() - low)


def test_the_interval_holds_the_true_mean_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(11)
    inside = 0
    for _ in range(200):
        low, high = mean_interval(random.beta(8, 2, 40))
        inside += low <= 0.8 <= high
    # Binomial with p = 0.95: fewer than 180 of 200 has a chance below 0.2 %.
    assert inside >= 180


def test_the_same_values_give_the_same_interval_and_few_give_none() -> None:
    values = np.random.default_rng(4).random(12)
    assert mean_interval(values) == mean_interval(values.copy())
    assert mean_interval(np.array([0.5])) is None
    assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5)
    assert all(math.isfinite(end) for end in mean_interval(np.array([0.0] * 99 + [1.0])))


def named(array: np.ndarray, name: str) -> Volume:
    original = volume(array)
    return Volume(array, original.grid, Source(Path(f"{name}.nii.gz"), "nifti", name))


def model(predictions: dict[str, np.ndarray], references: dict[str, np.ndarray]) -> Evaluation:
    cases: list[CaseAgreement] = [compare_volumes(named(predictions[case], f"p_{case}"), named(references[case], f"r_{case}"), case) for case in predictions]
    return summarise(cases, {1: "tumor"})


REFERENCES = {f"case{n}": block(2, 6) for n in range(6)}
CLOSE = {case: block(2, 7) for case in REFERENCES}
FAR = {case: block(2, 8 + n % 3) for n, case in enumerate(REFERENCES)}


def test_the_better_model_wins_every_case() -> None:
    comparison = compare_evaluations(model(CLOSE, REFERENCES), model(FAR, REFERENCES))
    ((label, name, differences),) = comparison.labels
    assert (label, name, comparison.cases, comparison.overall) == (1, "tumor", tuple(REFERENCES), ())
    by_key = {each.metric.key: each for each in differences}
    dice = by_key["dice"]
    # 4 common slices of 5 against 4 of 6, 7, 8: 8/9 against 8/10, 8/11, 8/12.
    expected = np.array([8 / 9 - 8 / (4 + size) for size in (6, 7, 8, 6, 7, 8)])
    assert (dice.n, dice.wins, dice.ties, dice.losses) == (6, 6, 0, 0)
    assert dice.difference == pytest.approx(expected.mean())
    assert dice.mean == pytest.approx(8 / 9)
    assert dice.low < dice.difference < dice.high
    # All of six signs alike: 2 / 2^6 whatever the ranks; the ties among the differences make scipy take the normal approximation.
    assert dice.p == pytest.approx(stats.wilcoxon(expected).pvalue)
    hd95 = by_key["hd95_mm"]
    assert (hd95.wins, hd95.losses) == (6, 0), "a smaller distance is a win"
    assert hd95.difference < 0
    volume_error = by_key["volume_error_percent"]
    assert (volume_error.mean, volume_error.wins) == (pytest.approx(25), 6)


def test_swapping_the_models_swaps_wins_and_signs() -> None:
    there, back = (compare_evaluations(*pair).labels[0][2] for pair in ((model(CLOSE, REFERENCES), model(FAR, REFERENCES)), (model(FAR, REFERENCES), model(CLOSE, REFERENCES))))
    for one, other in zip(there, back, strict=True):
        assert (one.wins, one.ties, one.losses, one.n) == (other.losses, other.ties, other.wins, other.n)
        assert one.difference == pytest.approx(-other.difference)
        assert one.p == pytest.approx(other.p)


def test_a_model_against_itself_has_no_difference() -> None:
    first = model(CLOSE, REFERENCES)
    for each in compare_evaluations(first, first).labels[0][2]:
        assert (each.difference, each.p, each.wins, each.ties, each.losses) == (0, 1, 0, 6, 0)


def test_a_missed_label_loses_against_every_distance_and_is_in_no_mean() -> None:
    missing = {**CLOSE, "case0": np.zeros(SHAPE, np.uint8)}
    comparison = compare_evaluations(model(missing, REFERENCES), model(FAR, REFERENCES))
    hd95 = next(each for each in comparison.labels[0][2] if each.metric.key == "hd95_mm")
    assert (hd95.n, hd95.n_ranked, hd95.wins, hd95.losses) == (5, 6, 5, 1)
    assert math.isfinite(hd95.mean)
    both = compare_evaluations(model(missing, REFERENCES), model({**FAR, "case0": np.zeros(SHAPE, np.uint8)}, REFERENCES))
    hd95 = next(each for each in both.labels[0][2] if each.metric.key == "hd95_mm")
    assert (hd95.n, hd95.n_ranked, hd95.ties, hd95.losses) == (5, 6, 1, 0)


def test_only_common_cases_are_compared_and_the_others_named() -> None:
    fewer = {case: array for case, array in FAR.items() if case != "case0"}
    more = {case: array for case, array in CLOSE.items() if case != "case5"}
    comparison = compare_evaluations(model(more, REFERENCES), model(fewer, REFERENCES))
    assert (comparison.cases, comparison.only_first, comparison.only_second) == (("case1", "case2", "case3", "case4"), ("case0",), ("case5",))
    with pytest.raises(InputError, match="no case in common"):
        compare_evaluations(model({"case0": CLOSE["case0"]}, REFERENCES), model({"case1": FAR["case1"]}, REFERENCES))


def test_several_labels_are_compared_overall_too() -> None:
    references = {case: block(2, 6) + block(8, 10, 2) for case in REFERENCES}
    first = {case: block(2, 6) + block(8, 11, 2) for case in REFERENCES}
    second = {case: block(2, 7) + block(8, 10, 2) for case in REFERENCES}
    comparison = compare_evaluations(model(first, references), model(second, references))
    dice = next(each for each in comparison.overall if each.metric.key == "dice")
    # Means over the labels: (1 + 4/5) / 2 against (8/9 + 1) / 2.
    assert dice.difference == pytest.approx((1 + 4 / 5) / 2 - (8 / 9 + 1) / 2)
    assert [label for label, _, _ in comparison.labels] == [1, 2]
