"""Statistics over cases: how a metric is distributed for one label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
        return cls(n, len(every) - n, float(defined.mean()), median, sd, minimum, lower, upper, maximum)


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
        Cases compared.
    n_missed : int
        Cases with the label in the reference but not in the prediction (Dice 0).
    n_spurious : int
        Cases with the label in the prediction but not in the reference (Dice 0).
    n_both_empty : int
        Cases with the label in neither (Dice undefined, left out of the mean).
    dice, iou, precision, sensitivity : Distribution
        Ratios from 0 to 1.
    volume_difference_ml : Distribution
        Predicted minus reference volume (ml).
    """

    label: int
    name: str
    n_cases: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    dice: Distribution
    iou: Distribution
    precision: Distribution
    sensitivity: Distribution
    volume_difference_ml: Distribution

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an undefined statistic is None."""
        return asdict(self)


def summarise_label(scores: Sequence[LabelScore]) -> LabelSummary:
    """Summarise the scores of one label, one from each case (at least one)."""
    notes = [score.note for score in scores]
    return LabelSummary(
        label=scores[0].label,
        name=scores[0].name,
        n_cases=len(scores),
        n_missed=notes.count("missed"),
        n_spurious=notes.count("spurious"),
        n_both_empty=notes.count("both empty"),
        dice=Distribution.of(score.overlap.dice for score in scores),
        iou=Distribution.of(score.overlap.iou for score in scores),
        precision=Distribution.of(score.overlap.precision for score in scores),
        sensitivity=Distribution.of(score.overlap.sensitivity for score in scores),
        volume_difference_ml=Distribution.of(score.volume_difference_ml for score in scores),
    )
