"""The numbers of an evaluation's report, as text; nothing here is escaped, the template does that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from volseg.evaluation import METRICS, Case, Comparison, Difference, Distribution, Evaluation, LabelSummary, Metric
from volseg.evaluation.metrics.catalogue import BY_KEY
from volseg.report.case_tables import NOTHING, TableRow
from volseg.report.palette import label_colour

OVERALL = "All labels"
"""Name of what is taken over all labels."""

OVERALL_COLOUR = "#7F7F7F"

OVERVIEW = ("dice", "nsd", "hd95_mm", "assd_mm", "volume_error_percent", "lesion_f1")
OVERVIEW_COLUMNS = (*(BY_KEY[key].title for key in OVERVIEW), "Missed", "Spurious")
"""Means with their intervals, and the cases in which the label was missed or is spurious."""

STATISTIC_COLUMNS = ("Cases", "Undefined", "Mean", "95 % CI of the mean", "SD", "Median", "Quartiles", "Range")

CASE_METRICS = ("dice", "nsd", "hd95_mm", "assd_mm", "sensitivity", "precision")
CASE_COLUMNS = ("Label", *(BY_KEY[key].title for key in CASE_METRICS), "Volume (ml)", "Reference (ml)", "Lesions found", "False lesions", "Note")

COMPARISON_COLUMNS = ("Cases", "Mean, first", "Mean, second", "Difference", "95 % CI", "p", "Better, equal, worse")


@dataclass(frozen=True)
class LabelTable:
    """The table of one label: its colour and name, a line of counts, and one row for each metric (name, then cells)."""

    colour: str
    name: str
    counts: str
    rows: tuple[tuple[str, ...], ...]


def overview_rows(evaluation: Evaluation) -> list[TableRow]:
    """A row for each label, cells as in :data:`OVERVIEW_COLUMNS`; a last one for all of them where there are several."""
    rows = [
        TableRow(label_colour(label.label), label.name, (*_overview_cells(label.metrics), f"{label.n_missed} of {label.n_cases}", f"{label.n_spurious} of {label.n_cases}"))
        for label in evaluation.summary
    ]
    return [*rows, TableRow(OVERALL_COLOUR, OVERALL, (*_overview_cells(evaluation.overall), "", ""))] if len(rows) > 1 else rows


def statistic_tables(evaluation: Evaluation) -> list[LabelTable]:
    """A table for each label, rows as in :data:`STATISTIC_COLUMNS`; a last one for all of them where there are several."""
    tables = [LabelTable(label_colour(label.label), label.name, _counts(label), _statistic_rows(label.metrics)) for label in evaluation.summary]
    if len(tables) > 1:
        tables.append(LabelTable(OVERALL_COLOUR, OVERALL, "Each case counts once, with the mean over its labels.", _statistic_rows(evaluation.overall)))
    return tables


def comparison_tables(comparison: Comparison) -> list[LabelTable]:
    """A table for each label, rows as in :data:`COMPARISON_COLUMNS`; a last one for all of them where there are several."""
    tables = [LabelTable(label_colour(label), name, "", _difference_rows(differences)) for label, name, differences in comparison.labels]
    if comparison.overall:
        tables.append(LabelTable(OVERALL_COLOUR, OVERALL, "Each case counts once, with the mean over its labels.", _difference_rows(comparison.overall)))
    return tables


def case_rows(cases: Sequence[Case]) -> list[tuple[str, TableRow]]:
    """Case name (only in the case's first row) and a row for each label, cells as in :data:`CASE_COLUMNS` after the label."""
    rows = []
    for case in cases:
        for number, score in enumerate(case.scores):
            values, lesions = score.metrics(), score.agreement.detection
            cells = (
                *(shown(BY_KEY[key], values[key]) for key in CASE_METRICS),
                f"{score.predicted_ml:.2f}",
                f"{score.reference_ml:.2f}",
                f"{lesions.true_positive} of {lesions.true_positive + lesions.false_negative}",
                str(lesions.false_positive),
                score.note,
            )
            rows.append((case.name if number == 0 else "", TableRow(label_colour(score.label), score.name, cells)))
    return rows


def shown(metric: Metric, value: float | None) -> str:
    """A value, or a dash where it is undefined."""
    return NOTHING if value is None else metric.format(value)


def _overview_cells(metrics: Mapping[str, Distribution]) -> list[str]:
    return [_mean(BY_KEY[key], metrics[key]) for key in OVERVIEW]


def _mean(metric: Metric, spread: Distribution) -> str:
    interval = _interval(metric, spread.mean_low, spread.mean_high)
    return shown(metric, spread.mean) + (f"\n{interval}" if interval != NOTHING else "")


def _interval(metric: Metric, low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{metric.format(low)} to {metric.format(high)}"


def _counts(label: LabelSummary) -> str:
    lesions = label.lesions
    pooled = f"lesions of all cases together: {lesions.true_positive} of {lesions.true_positive + lesions.false_negative} found, {lesions.false_positive} false"
    return f"{label.n_cases} cases: missed in {label.n_missed}, spurious in {label.n_spurious}, in neither in {label.n_both_empty}; {pooled}."


def _statistic_rows(metrics: Mapping[str, Distribution]) -> tuple[tuple[str, ...], ...]:
    return tuple(_statistic_row(metric, metrics[metric.key]) for metric in METRICS)


def _statistic_row(metric: Metric, spread: Distribution) -> tuple[str, ...]:
    return (
        metric.title,
        str(spread.n),
        str(spread.n_undefined),
        shown(metric, spread.mean),
        _interval(metric, spread.mean_low, spread.mean_high),
        NOTHING if spread.sd is None else metric.format(spread.sd).lstrip("+"),
        shown(metric, spread.median),
        _interval(metric, spread.lower_quartile, spread.upper_quartile),
        _interval(metric, spread.minimum, spread.maximum),
    )


def _difference_rows(differences: Sequence[Difference]) -> tuple[tuple[str, ...], ...]:
    return tuple(_difference_row(each) for each in differences)


def _difference_row(each: Difference) -> tuple[str, ...]:
    metric = each.metric
    decimals = 2 if metric.unit else 4
    signed = [NOTHING if value is None else f"{value:+.{decimals}f}" for value in (each.difference, each.low, each.high)]
    means = [NOTHING if value is None else f"{value:.{decimals}f}" for value in (each.mean, each.other_mean)]
    name = f"Size of {metric.title.lower()}" if metric.better == "zero" else metric.title
    interval = NOTHING if each.low is None else f"{signed[1]} to {signed[2]}"
    p = NOTHING if each.p is None else "< 0.0001" if each.p < 1e-4 else f"{each.p:.4f}"
    return (name, str(each.n), *means, signed[0], interval, p, f"{each.wins}, {each.ties}, {each.losses}")
