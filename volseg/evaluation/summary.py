"""Statistics over cases: how a metric is distributed, for one label and over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from volseg.evaluation.bootstrap import mean_interval
from volseg.evaluation.metrics.catalogue import METRICS
from volseg.evaluation.metrics.detection import Detection
from volseg.evaluation.scores import LabelScore


@dataclass(frozen=True)
class Distribution:
    """A metric over the cases in which it is defined.

    Parameters
    ----------
    n : int
        Cases in which the metric is defined; all other values below are over these.
    n_undefined : int
        Cases in which it is not (see :mod:`volseg.evaluation.overlap`).
    mean, median : float or None
        None when ``n`` is 0.
    sd : float or None
        Sample standard deviation (divided by ``n - 1``); None when ``n`` is below 2.
    minimum, lower_quartile, upper_quartile, maximum : float or None
        Quartiles by linear interpolation (type 7 of Hyndman and Fan, 1996; numpy's default).
    mean_low, mean_high : float or None
        95 % confidence interval of the mean (:func:`~volseg.evaluation.bootstrap.mean_interval`); None when ``n`` is below 2.
    """

    n: int
    n_undefined: int
    mean: float | None = None
    median: float | None = None
    sd: float | None = None
    minimum: float | None = None
    lower_quartile: float | None = None
    upper_quartile: float | None = None
    maximum: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Distribution:
        """Describe values, None standing for undefined."""
        every = list(values)
        defined = np.array([value for value in every if value is not None], dtype=np.float64)
        n = len(defined)
        if n == 0:
            return cls(0, len(every))
        minimum, lower, median, upper, maximum = (float(value) for value in np.quantile(defined, [0, 0.25, 0.5, 0.75, 1]))
        sd = float(defined.std(ddof=1)) if n > 1 else None
        low, high = mean_interval(defined) or (None, None)
        return cls(n, len(every) - n, float(defined.mean()), median, sd, minimum, lower, upper, maximum, low, high)


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases.

    Parameters
    ----------
    label : int
        Label value.
    name : str
        Its name, or the value as text.
    n_cases : int
        Cases compared: those whose reference is annotated for it.
    n_missed : int
        Cases with the label in the reference but not in the prediction (Dice 0).
    n_spurious : int
        Cases with the label in the prediction but not in the reference (Dice 0).
    n_both_empty : int
        Cases with the label in neither (Dice undefined, left out of the mean).
    metrics : mapping of str to Distribution
        Every metric by its key (:data:`~volseg.evaluation.metrics.catalogue.METRICS`).
    lesions : Detection
        Lesions of all cases together; its F1 weights lesions alike, where the mean of ``lesion_f1`` weights cases alike.
    """

    label: int
    name: str
    n_cases: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    metrics: Mapping[str, Distribution]
    lesions: Detection

    @property
    def dice(self) -> Distribution:
        """Distribution of Dice."""
        return self.metrics["dice"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an undefined statistic is None."""
        lesions = self.lesions
        pooled = {"true_positive": lesions.true_positive, "false_positive": lesions.false_positive, "false_negative": lesions.false_negative, "f1": lesions.f1}
        return {
            "label": self.label,
            "name": self.name,
            "n_cases": self.n_cases,
            "n_missed": self.n_missed,
            "n_spurious": self.n_spurious,
            "n_both_empty": self.n_both_empty,
            **{key: asdict(distribution) for key, distribution in self.metrics.items()},
            "lesions_of_all_cases": {**pooled, "sensitivity": lesions.sensitivity, "precision": lesions.precision},
        }


def summarise_label(scores: Sequence[LabelScore]) -> LabelSummary:
    """Summarise the scores of one label, one from each case that has it (at least one)."""
    notes = [score.note for score in scores]
    values = [score.metrics() for score in scores]
    return LabelSummary(
        label=scores[0].label,
        name=scores[0].name,
        n_cases=len(scores),
        n_missed=notes.count("missed"),
        n_spurious=notes.count("spurious"),
        n_both_empty=notes.count("both empty"),
        metrics={metric.key: Distribution.of(case[metric.key] for case in values) for metric in METRICS},
        lesions=sum((score.agreement.detection for score in scores), Detection()),
    )


def summarise_overall(cases: Sequence[Sequence[LabelScore]]) -> dict[str, Distribution]:
    """Every metric over all labels: each case counts once, with the mean over its labels for which the metric is defined."""
    means = [case_means(scores) for scores in cases]
    return {metric.key: Distribution.of(case[metric.key] for case in means) for metric in METRICS}


def case_means(scores: Sequence[LabelScore]) -> dict[str, float | None]:
    """Every metric of one case: the mean over the labels for which it is defined, None where there is none."""
    values = [score.metrics() for score in scores]
    means: dict[str, float | None] = {}
    for metric in METRICS:
        defined = [value for label in values if (value := label[metric.key]) is not None]
        means[metric.key] = sum(defined) / len(defined) if defined else None
    return means
