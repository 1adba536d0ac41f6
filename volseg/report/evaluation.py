"""The report of an evaluation: one HTML file with tables per label, every case in a plot, the worst cases in pictures, and what each metric means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from volseg.evaluation import METRICS, Case, Comparison, Evaluation
from volseg.evaluation.bootstrap import METHOD
from volseg.evaluation.metrics.catalogue import BY_KEY, EMPTY_CASES, SURFACES
from volseg.io.text import check_output, write_text
from volseg.report.case_pictures import Shown
from volseg.report.evaluation_tables import (
    CASE_COLUMNS,
    COMPARISON_COLUMNS,
    OVERVIEW_COLUMNS,
    STATISTIC_COLUMNS,
    case_rows,
    comparison_tables,
    overview_rows,
    shown,
    statistic_tables,
)
from volseg.report.page import render_page
from volseg.report.palette import label_colour
from volseg.report.plots import PlotRow, draw_distributions

PLOTTED = ("dice", "nsd", "hd95_mm", "assd_mm", "sensitivity", "precision", "volume_error_percent", "lesion_f1")
"""Metrics with a plot; the others follow from these or are in the tables."""

MAX_PLOTTED_LABELS = 30
"""Labels in the plots: those of lowest mean Dice where there are more; the tables have them all."""

MAX_CASES = 200
MAX_CASE_ROWS = 1500
"""Cases, and rows, of the table of cases: the worst first where there are more; the CSV has them all."""


@dataclass(frozen=True)
class SecondModel:
    """Another model on the same references: its name, its evaluation, and how the first compares with it."""

    name: str
    evaluation: Evaluation
    comparison: Comparison


@dataclass(frozen=True)
class WorstCase:
    """A case that is shown: its scores, and pictures of it with a word on what is beneath the outlines."""

    case: Case
    pictures: Sequence[Shown]
    ground: str


def write_evaluation_report(evaluation: Evaluation, path: Path, *, predictions: str, references: str, worst: Sequence[WorstCase] = (), second: SecondModel | None = None) -> Path:
    """Write a self-contained HTML page: no script, no network, no other file; images are inside it as data URIs.

    Names of cases and labels are in it, and pictures of the worst cases, but no paths: look at it before passing it on.

    Parameters
    ----------
    evaluation : Evaluation
        What is reported.
    path : Path
        The ``.html`` to write; written beside and renamed.
    predictions, references : str
        What to call them.
    worst : sequence of WorstCase
        Cases to show, the worst first.
    second : SecondModel, optional
        A model to compare with.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    OutputError, WriteError
        If the file cannot be written.
    """
    check_output(path)
    listed = min(MAX_CASES, max(1, MAX_CASE_ROWS // max(1, len(evaluation.summary))))
    content = {
        "title": predictions,
        "facts": _facts(evaluation, predictions, references, second),
        "notes": _notes(evaluation),
        "overview_columns": OVERVIEW_COLUMNS,
        "overview": overview_rows(evaluation),
        "plots": _plots(evaluation, second) if evaluation.summary and len(evaluation.cases) > 1 else [],
        "labels_unplotted": max(0, len(evaluation.summary) - MAX_PLOTTED_LABELS),
        "statistic_columns": STATISTIC_COLUMNS,
        "statistics": statistic_tables(evaluation),
        "second": None if second is None else _compared(second),
        "comparison_columns": COMPARISON_COLUMNS,
        "worst": [_worst(each) for each in worst],
        "case_columns": CASE_COLUMNS,
        "cases": case_rows(evaluation.cases if len(evaluation.cases) <= listed else evaluation.worst(listed)),
        "cases_unlisted": max(0, len(evaluation.cases) - listed),
        "definitions": [(metric.title, metric.definition) for metric in METRICS],
        "methods": _methods(evaluation, second),
    }
    return write_text(path, render_page("evaluation.html", content))


def _facts(evaluation: Evaluation, predictions: str, references: str, second: SecondModel | None) -> list[tuple[str, str]]:
    labels = ", ".join(label.name for label in evaluation.summary[:8]) + (f" and {len(evaluation.summary) - 8} more" if len(evaluation.summary) > 8 else "")
    compared = [("Compared with", second.name)] if second else []
    created = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return [("Predictions", predictions), *compared, ("References", references), ("Cases", str(len(evaluation.cases))), ("Labels", labels or "none"), ("Created", created)]


def _notes(evaluation: Evaluation) -> list[str]:
    notes = []
    for paths, problem in ((evaluation.missing, "references have no prediction"), (evaluation.unmatched, "predictions have no reference")):
        if paths:
            names = ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
            notes.append(f"{len(paths)} {problem} and are in no statistic: {names}.")
    failed = [f"{label.name}: missed in {label.n_missed}, spurious in {label.n_spurious}" for label in evaluation.summary if label.n_missed or label.n_spurious]
    if failed:
        notes.append(f"Some cases have no surface distance, which flatters the mean distances; {'; '.join(failed)}.")
    return notes


def _plots(evaluation: Evaluation, second: SecondModel | None) -> list[tuple[str, str]]:
    """Title and picture of each plotted metric."""
    models = [(None, _rows(evaluation), evaluation)] + ([(second.name, _rows(second.evaluation), second.evaluation)] if second else [])
    worst = sorted(evaluation.summary, key=lambda label: 2.0 if label.dice.mean is None else label.dice.mean)[:MAX_PLOTTED_LABELS]
    plots = []
    for metric in (BY_KEY[key] for key in PLOTTED):
        rows = []
        for label in sorted(worst, key=lambda label: label.label):
            for name, values, scored in models:
                found = [(case, value) for case, metrics in values.get(label.label, ()) if (value := metrics[metric.key]) is not None]
                summary = next((each for each in scored.summary if each.label == label.label), None)
                if summary is not None:
                    rows.append(PlotRow(name or label.name, label_colour(label.label), found, summary.metrics[metric.key], name is not None))
        plots.append((metric.title, draw_distributions(f"{metric.title} of every case", rows, None if metric.unit else _ratio_limits(rows))))
    return plots


def _ratio_limits(rows: Sequence[PlotRow]) -> tuple[float, float]:
    """From 0 to 1, or from 0.5 or 0.8 where no value lies below: good models differ in what would be a hair's breadth of the whole axis."""
    lowest = min((value for row in rows for _, value in row.values), default=0.0)
    return max((start for start in (0.0, 0.5, 0.8) if start <= lowest), default=0.0), 1.0


def _rows(evaluation: Evaluation) -> dict[int, list[tuple[str, dict[str, float | None]]]]:
    """Case and metrics of every score, by label."""
    rows: dict[int, list[tuple[str, dict[str, float | None]]]] = {}
    for case in evaluation.cases:
        for score in case.scores:
            rows.setdefault(score.label, []).append((case.name, score.metrics()))
    return rows


def _compared(second: SecondModel) -> dict[str, Any]:
    comparison = second.comparison
    left_out = [f"{len(names)} only of the {which} model" for names, which in ((comparison.only_first, "first"), (comparison.only_second, "second")) if names]
    return {
        "name": second.name,
        "tables": comparison_tables(comparison),
        "cases": len(comparison.cases),
        "left_out": " and ".join(left_out),
    }


def _worst(each: WorstCase) -> dict[str, Any]:
    keys = ("dice", "nsd", "hd95_mm", "lesion_f1")
    lines = []
    for score in each.case.scores:
        values = score.metrics()
        parts = [f"{BY_KEY[key].title} {shown(BY_KEY[key], values[key])}" for key in keys]
        parts += [f"{score.predicted_ml:.2f} ml against {score.reference_ml:.2f} ml", *([score.note] if score.note else [])]
        lines.append((label_colour(score.label), score.name, ", ".join(parts)))
    return {"name": each.case.name, "lines": lines, "pictures": each.pictures, "ground": each.ground}


def _methods(evaluation: Evaluation, second: SecondModel | None) -> list[str]:
    from volseg.evaluation.comparison import METHOD as COMPARING

    settings = evaluation.settings
    names = {label.label: label.name for label in evaluation.summary}
    others = "".join(f", {value:g} mm for {names[label]}" for label, value in sorted(settings.label_tolerances_mm.items()) if label in names)
    partly = f"{evaluation.partly_annotated} of the cases are annotated for some labels only, and scored for these."
    overlap = f"IoU of at least {settings.lesion_iou:g}" if settings.lesion_iou else "a common voxel"
    told = f"Tolerance of the NSD: {settings.tolerance_mm:g} mm{others}. A lesion is found with {overlap}."
    return [told, *([partly] if evaluation.partly_annotated else []), SURFACES, EMPTY_CASES, METHOD, *([COMPARING] if second else [])]
