"""The scores of a cross-validation: per fold, per class, over all cases, beside a trivial baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.evaluation import Distribution
from volseg.training.export import describe_refinements
from volseg.training.folds.baseline import RULE
from volseg.training.folds.choice import Choice

SCHEMA = "volseg.crossvalidation/1"
"""Name and version of the JSON layout of :meth:`CrossValidation.to_dict`."""

WEIGHTS = "A fold's weights are those of the end of its training: no validation on these cases chose them"
"""What a reader of the scores must know of the weights."""


@dataclass(frozen=True)
class CaseScores:
    """Dice of one held-out case by label value; None where neither prediction nor reference has the label.

    Attributes
    ----------
    fold : int
        The fold that kept it out.
    case : str
        Its name.
    dice : mapping
        Of the bundle's inference as it was.
    refined : mapping
        With the corrections that were chosen.
    baseline : mapping
        Of the trivial baseline (:data:`volseg.training.folds.baseline.RULE`).
    """

    fold: int
    case: str
    dice: Mapping[int, float | None]
    refined: Mapping[int, float | None]
    baseline: Mapping[int, float | None]


@dataclass(frozen=True)
class CrossValidation:
    """What the folds say together.

    Attributes
    ----------
    bundle, dataset : str
        Names.
    labels : mapping of int to str
        Background left out.
    cases : tuple of CaseScores
        In order of folds.
    choice : Choice
        Corrections of the label.
    """

    bundle: str
    dataset: str
    labels: Mapping[int, str]
    cases: tuple[CaseScores, ...]
    choice: Choice

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds."""
        return sorted({case.fold for case in self.cases})

    def distribution(self, label: int, what: str = "refined", fold: int | None = None) -> Distribution:
        """Dice of a label over cases: ``what`` is ``"dice"``, ``"refined"`` or ``"baseline"``."""
        return Distribution.of(getattr(case, what).get(label) for case in self.cases if label in getattr(case, what) and fold in (None, case.fold))

    def mean(self, what: str = "refined", fold: int | None = None) -> float | None:
        """Mean over labels of the mean over cases."""
        means = [self.distribution(label, what, fold).mean for label in self.labels]
        known = [mean for mean in means if mean is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; what is undefined is None."""
        return {
            "schema": SCHEMA,
            "bundle": self.bundle,
            "dataset": self.dataset,
            "folds": self.folds,
            "n_cases": len(self.cases),
            "weights": WEIGHTS,
            "mean_dice": self.mean(),
            "labels": [{"label": label, "name": name, **self._label_dict(label)} for label, name in sorted(self.labels.items())],
            "baseline": {"rule": RULE, "mean_dice": self.mean("baseline")},
            "postprocessing": {
                "chosen": [refinement.as_config() for refinement in self.choice.refinements],
                "mean_dice_without": self.mean("dice"),
                "mean_dice_with": self.mean("refined"),
                "note": "chosen on these same held-out cases, by nnU-Net's rule: the mean rises and no class falls",
                "tried": list(self.choice.tried),
            },
            "cases": [
                {"fold": case.fold, "case": case.case, "labels": {self.labels[label]: _triple(case, label) for label in case.refined if label in self.labels}}
                for case in self.cases
            ],
        }

    def metrics(self) -> dict[str, float | int]:
        """Numbers for the bundle's ``eval_metrics``."""
        found: dict[str, float | int | None] = {"cross_validation_mean_dice": self.mean(), "cross_validation_mean_dice_of_baseline": self.mean("baseline")}
        for label, name in sorted(self.labels.items()):
            dice = self.distribution(label)
            key = name.replace(" ", "_")
            found |= {f"cross_validation_dice_{key}": dice.mean, f"cross_validation_dice_{key}_sd": dice.sd}
        found |= {"cross_validation_folds": len(self.folds), "cross_validation_cases": len(self.cases)}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items() if value is not None}

    def rows(self) -> list[list[str]]:
        """A table: one row a label with Dice of each fold, of all cases (mean, SD, median), and of the baseline; with several labels their mean below."""
        rows = [[name, *(_number(self.distribution(label, fold=fold).mean) for fold in self.folds), *self._overall(label)] for label, name in sorted(self.labels.items())]
        if len(self.labels) > 1:
            rows.append(["mean", *(_number(self.mean(fold=fold)) for fold in self.folds), _number(self.mean()), "", "", _number(self.mean("baseline"))])
        return rows

    @property
    def headings(self) -> list[str]:
        """Of :meth:`rows`."""
        return ["label", *(f"fold {fold}" for fold in self.folds), "mean", "SD", "median", "baseline"]

    def to_markdown(self) -> str:
        """The table and what it means, for a model card."""
        table = [self.headings, ["---"] * len(self.headings), *self.rows()]
        lines = ["| " + " | ".join(row) + " |" for row in table]
        return "\n".join(
            [
                f"Dice on the scans' own grids; each of the {len(self.cases)} cases is scored by the one of {len(self.folds)} folds that did not train on it.",
                f"Mean, SD and median are over cases. {WEIGHTS}.",
                "",
                *lines,
                "",
                f"Baseline: {RULE}. Post-processing chosen on the same cases (nnU-Net's rule): {describe_refinements(self.choice.refinements)}; "
                f"mean Dice without it {_number(self.mean('dice'))}.",
            ]
        )

    def _overall(self, label: int) -> list[str]:
        dice = self.distribution(label)
        return [_number(dice.mean), _number(dice.sd), _number(dice.median), _number(self.distribution(label, "baseline").mean)]

    def _label_dict(self, label: int) -> dict[str, Any]:
        dice, baseline = self.distribution(label), self.distribution(label, "baseline")
        folds = {str(fold): self.distribution(label, fold=fold).mean for fold in self.folds}
        return {"n": dice.n, "mean_dice": dice.mean, "sd": dice.sd, "median": dice.median, "minimum": dice.minimum, "folds": folds, "baseline_mean_dice": baseline.mean}


def _triple(case: CaseScores, label: int) -> dict[str, float | None]:
    return {"dice": case.refined.get(label), "without_postprocessing": case.dice.get(label), "baseline": case.baseline.get(label)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
