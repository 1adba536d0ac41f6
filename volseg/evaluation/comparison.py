"""Two models on the same references: paired differences case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volseg.errors import InputError
from volseg.evaluation.bootstrap import mean_interval
from volseg.evaluation.evaluation import Case, Evaluation
from volseg.evaluation.metrics.catalogue import BY_KEY, Metric
from volseg.evaluation.scores import LabelScore
from volseg.evaluation.summary import case_means

COMPARED = ("dice", "iou", "nsd", "hd95_mm", "hd_mm", "assd_mm", "sensitivity", "precision", "volume_error_percent", "lesion_f1", "lesion_sensitivity", "lesion_precision")
"""Metrics of a comparison."""

METHOD = (
    "Differences are first model minus second, case by case, with BCa bootstrap confidence intervals; signed errors are compared by size. p: Wilcoxon signed-rank test, two-sided, "
    "zero differences left out; it asks whether one model is better in most cases and by more, and is not corrected for the number of metrics and labels compared. "
    "A missed or spurious label ranks below every distance there and in the count of wins, but is in no mean."
)
"""The method, in words."""


@dataclass(frozen=True)
class Difference:
    """One metric of two models.

    Parameters
    ----------
    metric : Metric
        Which.
    n : int
        Cases in which both models have a value; the means and the interval are over these.
    mean, other_mean : float or None
        Means of the first and the second model there, of the size of the error where the metric is signed.
    difference : float or None
        Mean of first minus second.
    low, high : float or None
        Its 95 % confidence interval; None below two cases.
    n_ranked : int
        Cases that are ranked: those above, and those in which one model missed the label and the other has a distance.
    wins, ties, losses : int
        Of the first model, among those.
    p : float or None
        Wilcoxon signed-rank test, two-sided; 1 where no case differs, None without cases.
    """

    metric: Metric
    n: int
    mean: float | None
    other_mean: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_ranked: int
    wins: int
    ties: int
    losses: int
    p: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "metric": self.metric.key}


@dataclass(frozen=True)
class Comparison:
    """Two models on the same references.

    Parameters
    ----------
    cases : tuple of str
        Cases both have.
    only_first, only_second : tuple of str
        Cases only one of them has; they are in no difference.
    labels : tuple of (int, str, tuple of Difference)
        Value and name of each label, and its differences.
    overall : tuple of Difference
        Of the means over labels of each case; empty where there is only one label.
    """

    cases: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    labels: tuple[tuple[int, str, tuple[Difference, ...]], ...]
    overall: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "n_cases": len(self.cases),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "labels": [{"label": label, "name": name, "differences": [each.to_dict() for each in differences]} for label, name, differences in self.labels],
            "overall": [each.to_dict() for each in self.overall],
            "method": METHOD,
        }


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two evaluations case by case; a case is known by its reference.

    Raises
    ------
    InputError
        If they have no case in common.
    """
    cases, others = ({_reference(case): case for case in evaluation.cases} for evaluation in (first, second))
    common = [path for path in cases if path in others]
    if not common:
        msg = "the two sets of predictions have no case in common; give predictions of the same references"
        raise InputError(msg)
    pairs = [(cases[path], others[path]) for path in common]
    names = {summary.label: summary.name for evaluation in (second, first) for summary in evaluation.summary}
    labels = tuple((label, names[label], _differences([(_ranked(one, label), _ranked(other, label)) for one, other in pairs])) for label in sorted(names))
    overall = _differences([(case_means(one.scores), case_means(other.scores)) for one, other in pairs]) if len(names) > 1 else ()
    only = [tuple(case.name for path, case in mine.items() if path not in theirs) for mine, theirs in ((cases, others), (others, cases))]
    return Comparison(tuple(cases[path].name for path in common), only[0], only[1], labels, overall)


def _reference(case: Case) -> Path:
    return case.reference.path.resolve()


def _ranked(case: Case, label: int) -> dict[str, float | None]:
    """The metrics of a label, with an infinite distance where it was missed or is spurious."""
    found: Sequence[LabelScore] = [score for score in case.scores if score.label == label]
    if not found:
        return dict.fromkeys(COMPARED)
    values = found[0].metrics()
    if found[0].note in ("missed", "spurious"):
        values |= {key: math.inf for key in COMPARED if BY_KEY[key].better == "lower" and values[key] is None}
    return values


def _differences(pairs: Sequence[tuple[dict[str, float | None], dict[str, float | None]]]) -> tuple[Difference, ...]:
    return tuple(_difference(BY_KEY[key], [(one[key], other[key]) for one, other in pairs]) for key in COMPARED)


def _difference(metric: Metric, pairs: Sequence[tuple[float | None, float | None]]) -> Difference:
    size = abs if metric.better == "zero" else float
    ranked = np.array([(size(one), size(other)) for one, other in pairs if one is not None and other is not None], dtype=np.float64).reshape(-1, 2)
    finite = ranked[np.isfinite(ranked).all(axis=1)]
    apart = finite[:, 0] - finite[:, 1]
    low, high = mean_interval(apart) or (None, None)
    mean, other_mean, difference = (float(values.mean()) if len(values) else None for values in (finite[:, 0], finite[:, 1], apart))
    gains = _gains(ranked, metric)
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return Difference(metric, len(finite), mean, other_mean, difference, low, high, len(gains), wins, len(gains) - wins - losses, losses, _signed_rank(gains))


def _gains(ranked: np.ndarray[Any, np.dtype[np.float64]], metric: Metric) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By how much the first model is better, case by case; both infinite is no difference."""
    sign = 1.0 if metric.better == "higher" else -1.0
    same = ranked[:, 0] == ranked[:, 1]
    return np.asarray(np.where(same, 0.0, sign * (ranked[:, 0] - np.where(same, 0.0, ranked[:, 1]))), dtype=np.float64)


def _signed_rank(gains: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    if len(gains) == 0:
        return None
    differing = gains[gains != 0]
    if len(differing) == 0:
        return 1.0
    from scipy.stats import wilcoxon

    # The test looks at ranks only: one step beyond the largest finite difference ranks as infinity would.
    finite = np.abs(differing[np.isfinite(differing)])
    largest = float(finite.max()) if len(finite) else 0.0
    return float(wilcoxon(np.clip(differing, -largest - 1, largest + 1)).pvalue)
