"""What ``volseg evaluate`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volseg.cli.options import Column, Console

if TYPE_CHECKING:
    from volseg.evaluation import Comparison, Distribution, Evaluation

CASES_SHOWN = 50
"""So many cases are listed on the terminal; ``-v`` lists them all, the files always hold all."""

EMPTY = "-"
"""What a table shows for an undefined value."""


def print_tables(evaluation: Evaluation, console: Console) -> None:
    """Print the cases (at most ``CASES_SHOWN``, all with ``-v``) and the summary per label."""
    _print_cases(evaluation, console)
    statistics = ("n", "undefined", "missed", "spurious", "mean", "SD", "median", "min", "Q1", "Q3", "max")
    summary = [[label.name, *map(str, (label.dice.n, label.dice.n_undefined, label.n_missed, label.n_spurious)), *_statistics(label.dice)] for label in evaluation.summary]
    console.table("Dice per label", [Column("label"), *(Column(text, True) for text in statistics)], summary)
    _print_metrics(evaluation, console)
    if evaluation.partly_annotated:
        console.say(f"{evaluation.partly_annotated} of {len(evaluation.cases)} cases are annotated for some labels only, and scored for these.")
    if not evaluation.summary:
        console.say("No label in any prediction or reference: nothing to score.")


def print_comparison(comparison: Comparison, first: str, second: str, console: Console) -> None:
    """Print the paired differences of two models."""
    columns = [Column("label"), Column("metric"), *(Column(text, True) for text in ("n", "first", "second", "difference", "95 % CI", "p", "better", "equal", "worse"))]
    rows = []
    for name, differences in [*((name, differences) for _, name, differences in comparison.labels), ("all", comparison.overall)]:
        for each in differences:
            decimals = 2 if each.metric.unit else 4
            plain = [EMPTY if value is None else f"{value:.{decimals}f}" for value in (each.mean, each.other_mean)]
            signed = [EMPTY if value is None else f"{value:+.{decimals}f}" for value in (each.difference, each.low, each.high)]
            interval = EMPTY if each.low is None else f"{signed[1]} to {signed[2]}"
            title = f"size of {each.metric.title.lower()}" if each.metric.better == "zero" else each.metric.title
            counts = map(str, (each.wins, each.ties, each.losses))
            rows.append([name, title, str(each.n), *plain, signed[0], interval, EMPTY if each.p is None else f"{each.p:.4f}", *counts])
    console.table(f"{first} (first) against {second} (second)", columns, rows)


def _print_cases(evaluation: Evaluation, console: Console) -> None:
    cases = evaluation.cases if console.verbose else evaluation.cases[:CASES_SHOWN]
    numbers = ("Dice", "NSD", "HD95 mm", "precision", "sensitivity", "ml", "reference ml", "difference", "lesions")
    columns = [Column("case"), Column("label"), *(Column(text, True) for text in numbers), Column("note")]
    rows = []
    for case in cases:
        for score in case.scores:
            overlap, surface, lesions = score.overlap, score.agreement.surface, score.agreement.detection
            ratios = [_ratio(value) for value in (overlap.dice, surface.nsd)]
            shares = [_ratio(value) for value in (overlap.precision, overlap.sensitivity)]
            volumes = [f"{score.predicted_ml:.2f}", f"{score.reference_ml:.2f}", f"{score.volume_difference_ml:+.2f}"]
            found = f"{lesions.true_positive} of {lesions.true_positive + lesions.false_negative}" + (f", {lesions.false_positive} false" if lesions.false_positive else "")
            hd95 = EMPTY if surface.hd95_mm is None else f"{surface.hd95_mm:.2f}"
            rows.append([case.name, score.name, *ratios, hd95, *shares, *volumes, found, score.note])
    console.table("Cases", columns, rows)
    if len(cases) < len(evaluation.cases):
        console.say(f"{len(evaluation.cases) - len(cases)} more cases; -v lists them all\n")


def _print_metrics(evaluation: Evaluation, console: Console) -> None:
    from volseg.evaluation import METRICS

    groups = [(label.name, label.metrics) for label in evaluation.summary]
    if len(groups) > 1:
        groups.append(("all", evaluation.overall))
    columns = [Column("label"), Column("metric"), *(Column(text, True) for text in ("n", "mean", "95 % CI of the mean", "SD", "median", "Q1", "Q3"))]
    rows = []
    for name, metrics in groups:
        for metric in METRICS:
            spread = metrics[metric.key]
            low, high = spread.mean_low, spread.mean_high
            interval = EMPTY if low is None or high is None else f"{metric.format(low)} to {metric.format(high)}"
            sd = EMPTY if spread.sd is None else metric.format(spread.sd).lstrip("+")
            rest = [metric.format(value) for value in (spread.median, spread.lower_quartile, spread.upper_quartile)]
            rows.append([name, metric.title, str(spread.n), metric.format(spread.mean), interval, sd, *rest])
    console.table("Metrics per label", columns, rows)


def _statistics(dice: Distribution) -> list[str]:
    return [_ratio(value) for value in (dice.mean, dice.sd, dice.median, dice.minimum, dice.lower_quartile, dice.upper_quartile, dice.maximum)]


def _ratio(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.4f}"
