"""Plots of evaluations as inline SVG: every case as a dot, with box, median, mean and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from volseg.evaluation import Distribution

WIDTH, LEFT, RIGHT, TOP, ROW, FOOT = 560.0, 150.0, 16.0, 6.0, 34.0, 24.0
"""Sizes in units of the view box: width, room for names, margin, height of a row, room for the axis."""

NAME_LENGTH = 24
"""Longer names are cut; the table has them whole."""

TICKS = 5
"""About so many steps on an axis."""

MAX_DOTS = 250
"""Dots of a row: every so many in order of value where there are more, the ends among them; box and mean are always of all."""

SPREAD = 13.0
"""Dots of a row are spread over this height, so that equal values do not hide each other."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, without their whole part, fill a range evenly in any number."""


@dataclass(frozen=True)
class PlotRow:
    """One row: a name, the colour ``#RRGGBB`` of its dots, the value of each case, and their statistics; ``hollow`` sets a second model apart."""

    name: str
    colour: str
    values: Sequence[tuple[str, float]]
    distribution: Distribution
    hollow: bool = False


def draw_distributions(title: str, rows: Sequence[PlotRow], limits: tuple[float, float] | None = None) -> str:
    """An ``<svg>`` with one row for each label.

    Parameters
    ----------
    title : str
        What a screen reader says.
    rows : sequence of PlotRow
        From the top. Every text is escaped; hovering over a dot shows its case and value.
    limits : tuple of float, optional
        Ends of the axis; those of the values, 0 among them, where omitted.
    """
    low, high = limits or _limits([value for row in rows for _, value in row.values])
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    height = TOP + ROW * len(rows) + FOOT
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">']
    parts += _axis(low, high, scale, TOP + ROW * len(rows))
    for number, row in enumerate(rows):
        parts += _row(row, TOP + ROW * (number + 0.5), low, scale)
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [round(number * step, 12) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min([0.0, *values]), max([0.0, *values])
    return (low, high) if high > low else (low, low + 1)


def _axis(low: float, high: float, scale: float, bottom: float) -> list[str]:
    parts = []
    for value in ticks(low, high):
        x = LEFT + (value - low) * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP:g}" x2="{x:.1f}" y2="{bottom:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15:g}">{value:g}</text>')
    return parts


def _row(row: PlotRow, middle: float, low: float, scale: float) -> list[str]:
    name = row.name if len(row.name) <= NAME_LENGTH else f"{row.name[: NAME_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    parts = [f'<text class="name" x="{LEFT - 10:g}" y="{middle:g}">{escape(name)}</text>']
    parts += _box(row, middle, low, scale)
    fill = "none" if row.hollow else row.colour
    for number, (case, value) in enumerate(_chosen(row.values)):
        y = middle + SPREAD * ((number * GOLDEN) % 1 - 0.5)
        x = LEFT + (value - low) * scale
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{fill}" stroke="{row.colour}"><title>{escape(case)}: {value:.4g}</title></circle>')
    return parts + _mean(row.distribution, middle, low, scale)


def _chosen(values: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    if len(values) <= MAX_DOTS:
        return values
    ranked = sorted(values, key=lambda pair: pair[1])
    return [ranked[round(place * (len(ranked) - 1) / (MAX_DOTS - 1))] for place in range(MAX_DOTS)]


def _box(row: PlotRow, middle: float, low: float, scale: float) -> list[str]:
    spread = row.distribution
    if spread.lower_quartile is None or spread.upper_quartile is None or spread.median is None:
        return [f'<text class="tick" x="{LEFT + 30:g}" y="{middle:g}">undefined</text>']
    left, right, median = (LEFT + (value - low) * scale for value in (spread.lower_quartile, spread.upper_quartile, spread.median))
    top, height = middle - ROW * 0.36, ROW * 0.72
    return [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{height:.1f}" fill="{row.colour}" fill-opacity="0.18" stroke="{row.colour}"/>',
        f'<line class="median" x1="{median:.1f}" y1="{top:.1f}" x2="{median:.1f}" y2="{top + height:.1f}"/>',
    ]


def _mean(spread: Distribution, middle: float, low: float, scale: float) -> list[str]:
    """A diamond at the mean and a line along its confidence interval."""
    if spread.mean is None:
        return []
    x = LEFT + (spread.mean - low) * scale
    parts = []
    if spread.mean_low is not None and spread.mean_high is not None:
        start, end = (LEFT + (value - low) * scale for value in (spread.mean_low, spread.mean_high))
        parts.append(f'<line class="interval" x1="{start:.1f}" y1="{middle:.1f}" x2="{end:.1f}" y2="{middle:.1f}"/>')
    return [*parts, f'<path class="mean" d="M{x - 4.5:.1f} {middle:.1f}L{x:.1f} {middle - 4.5:.1f}L{x + 4.5:.1f} {middle:.1f}L{x:.1f} {middle + 4.5:.1f}Z"/>']
