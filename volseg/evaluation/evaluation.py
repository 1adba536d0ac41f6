"""A whole evaluation: scores per case and label, and their summary per label and over all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from volseg import __version__, io
from volseg.evaluation.bootstrap import METHOD
from volseg.evaluation.metrics.catalogue import EMPTY_CASES, METRICS, SURFACES
from volseg.evaluation.metrics.settings import Settings
from volseg.evaluation.scores import GRID_TOLERANCE_MM, CaseAgreement, LabelScore
from volseg.evaluation.summary import Distribution, LabelSummary, case_means, summarise_label, summarise_overall

SCHEMA = "volseg.evaluation/1"
"""Name and version of the JSON layout of :meth:`Evaluation.to_dict`; the number rises when a key changes its meaning or goes away."""


@dataclass(frozen=True)
class Case:
    """Scores of one pair of label maps, one for each evaluated label that the reference is annotated for."""

    name: str
    prediction: io.Source
    reference: io.Source
    grid: str
    scores: tuple[LabelScore, ...]
    is_partly_annotated: bool = False

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice over the labels that have one; None where none has."""
        return case_means(self.scores)["dice"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "case": self.name,
            "prediction": _identity(self.prediction),
            "reference": _identity(self.reference),
            "grid": self.grid,
            "labels": [score.to_dict() for score in self.scores],
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores of all cases.

    Parameters
    ----------
    cases : tuple of Case
        In the order given.
    summary : tuple of LabelSummary
        One for each label that any case was scored for, ascending.
    missing : tuple of Path
        References without a prediction; they are in no statistic.
    unmatched : tuple of Path
        Predictions without a reference; they are in no statistic.
    overall : mapping of str to Distribution
        Every metric over all labels: each case counts with the mean over its labels (:func:`~volseg.evaluation.summary.summarise_overall`).
    settings : Settings
        What the metrics were told.
    """

    cases: tuple[Case, ...]
    summary: tuple[LabelSummary, ...]
    missing: tuple[Path, ...] = ()
    unmatched: tuple[Path, ...] = ()
    overall: Mapping[str, Distribution] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    @property
    def mean_dice(self) -> float | None:
        """Mean over labels of the mean Dice over cases; None where no label has one."""
        means = [label.dice.mean for label in self.summary if label.dice.mean is not None]
        return sum(means) / len(means) if means else None

    @property
    def partly_annotated(self) -> int:
        """Cases whose reference is annotated for some labels only, and which are scored for these."""
        return sum(case.is_partly_annotated for case in self.cases)

    def worst(self, count: int) -> tuple[Case, ...]:
        """The cases of lowest mean Dice, the worst first; a case without any Dice is not among them."""
        scored = [(value, case) for case in self.cases if (value := case.mean_dice) is not None]
        return tuple(case for _, case in sorted(scored, key=lambda item: item[0])[:count])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values (``SCHEMA``); what is undefined is None."""
        return {
            "schema": SCHEMA,
            "volseg": __version__,
            "grid_tolerance_mm": GRID_TOLERANCE_MM,
            "settings": self.settings.to_dict(),
            "n_cases": len(self.cases),
            "n_partly_annotated": self.partly_annotated,
            "mean_dice": self.mean_dice,
            "summary": [label.to_dict() for label in self.summary],
            "overall": {key: asdict(distribution) for key, distribution in self.overall.items()},
            "cases": [case.to_dict() for case in self.cases],
            "references_without_prediction": [str(path) for path in self.missing],
            "predictions_without_reference": [str(path) for path in self.unmatched],
            "metrics": [metric.to_dict() for metric in METRICS],
            "methods": {"surfaces": SURFACES, "empty_cases": EMPTY_CASES, "intervals": METHOD},
        }


def summarise(
    agreements: Sequence[CaseAgreement],
    label_names: Mapping[int, str] | None = None,
    *,
    settings: Settings | None = None,
    missing: Sequence[Path] = (),
    unmatched: Sequence[Path] = (),
) -> Evaluation:
    """Make an :class:`Evaluation` of pairs that are already measured.

    Scored are the labels of ``label_names`` and every other label found in any map; a label found in neither map of a case is two empty masks there.

    Parameters
    ----------
    agreements : sequence of CaseAgreement
        One for each case.
    label_names : mapping of int to str, optional
        Names by label value; a label without one is named by its value.
    settings : Settings, optional
        What they were measured with.
    missing, unmatched : sequence of Path
        References and predictions that found no partner, to be reported.
    """
    given = label_names or {}
    labels = sorted({*given, *(label for case in agreements for label in case.agreements)} - {0})
    names = {label: given.get(label, str(label)) for label in labels}
    cases = tuple(Case(case.case, case.prediction, case.reference, str(case.grid), case.score(names), case.known is not None) for case in agreements)
    by_label = [[score for case in cases for score in case.scores if score.label == label] for label in labels]
    summary = tuple(summarise_label(scores) for scores in by_label if scores)
    overall = summarise_overall([case.scores for case in cases])
    return Evaluation(cases, summary, tuple(missing), tuple(unmatched), overall, settings or Settings())


def _identity(source: io.Source) -> dict[str, Any]:
    return {"path": str(source.path), "sha256": source.sha256}
