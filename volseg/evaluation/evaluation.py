"""A whole evaluation: pairs of label maps in, scores per case and label and a summary per label out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg import __version__, io
from volseg.evaluation.pairing import Pair
from volseg.evaluation.reading import read_pair
from volseg.evaluation.scores import GRID_TOLERANCE_MM, CaseOverlap, LabelScore, compare_volumes
from volseg.evaluation.summary import LabelSummary, summarise_label

SCHEMA = "volseg.evaluation/1"
"""Name and version of the JSON layout of :meth:`Evaluation.to_dict`; the number rises when a key changes its meaning or goes away."""


@dataclass(frozen=True)
class Case:
    """Scores of one pair of label maps, one for each evaluated label."""

    name: str
    prediction: io.Source
    reference: io.Source
    grid: str
    scores: tuple[LabelScore, ...]

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
        One for each label, ascending.
    missing : tuple of Path
        References without a prediction; they are in no statistic.
    unmatched : tuple of Path
        Predictions without a reference; they are in no statistic.
    """

    cases: tuple[Case, ...]
    summary: tuple[LabelSummary, ...]
    missing: tuple[Path, ...] = ()
    unmatched: tuple[Path, ...] = ()

    @property
    def mean_dice(self) -> float | None:
        """Mean over labels of the mean Dice over cases; None where no label has one."""
        means = [label.dice.mean for label in self.summary if label.dice.mean is not None]
        return sum(means) / len(means) if means else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values (``SCHEMA``); what is undefined is None."""
        return {
            "schema": SCHEMA,
            "volseg": __version__,
            "grid_tolerance_mm": GRID_TOLERANCE_MM,
            "n_cases": len(self.cases),
            "mean_dice": self.mean_dice,
            "summary": [label.to_dict() for label in self.summary],
            "cases": [case.to_dict() for case in self.cases],
            "references_without_prediction": [str(path) for path in self.missing],
            "predictions_without_reference": [str(path) for path in self.unmatched],
        }


def evaluate_pairs(
    pairs: Iterable[Pair],
    label_names: Mapping[int, str] | None = None,
    *,
    rois: Mapping[str, int] | None = None,
    scans: Path | None = None,
    missing: Sequence[Path] = (),
    unmatched: Sequence[Path] = (),
) -> Evaluation:
    """Read and compare pairs of label maps, one pair in memory at a time.

    Evaluated are the labels of ``label_names`` and every other label found in any map; a label found in neither map of a case is two empty masks there.

    Parameters
    ----------
    pairs : iterable of Pair
        Cases; read as they are iterated, so a progress bar can wrap them.
    label_names : mapping of int to str, optional
        Names by label value; a label without one is named by its value.
    rois : mapping of str to int, optional
        Segments or ROIs to take of DICOM objects, by name, and the label value each gets; see :func:`~volseg.evaluation.reading.read_pair`.
    scans : Path, optional
        Where to look first for the series of DICOM objects.
    missing, unmatched : sequence of Path
        References and predictions that found no partner, to be reported.

    Raises
    ------
    GeometryError
        If the maps of a pair do not lie on one grid.
    InputError
        If a file cannot be read or is not a label map.
    """
    overlaps = [compare_volumes(*read_pair(pair, rois, scans), pair.case) for pair in pairs]
    return summarise(overlaps, label_names, missing=missing, unmatched=unmatched)


def summarise(overlaps: Sequence[CaseOverlap], label_names: Mapping[int, str] | None = None, *, missing: Sequence[Path] = (), unmatched: Sequence[Path] = ()) -> Evaluation:
    """Make an :class:`Evaluation` of overlaps that are already counted; see :func:`evaluate_pairs`."""
    given = label_names or {}
    labels = sorted({*given, *(label for case in overlaps for label in case.overlaps)} - {0})
    names = {label: given.get(label, str(label)) for label in labels}
    cases = tuple(Case(case.case, case.prediction, case.reference, str(case.grid), case.score(names)) for case in overlaps)
    summary = tuple(summarise_label([case.scores[position] for case in cases]) for position in range(len(labels)) if cases)
    return Evaluation(cases, summary, tuple(missing), tuple(unmatched))


def _identity(source: io.Source) -> dict[str, Any]:
    return {"path": str(source.path), "sha256": source.sha256}
