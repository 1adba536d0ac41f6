"""Plots of a dataset as inline SVG: a dot for each case, and a line for the range of values in each case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from volseg.report.plots import GOLDEN, ticks

WIDTH, LEFT, RIGHT, TOP, ROW, FOOT = 560.0, 120.0, 16.0, 6.0, 30.0, 24.0
"""Sizes in units of the view box: width, room for names, margin, height of a row, room for the axis."""

RANGES_HEIGHT = 150.0

SPREAD = 14.0
"""Dots of a row are spread over this height."""

NAME_LENGTH = 18

DECADES = 1.0
"""Values that span more than so many powers of ten are drawn on a logarithmic axis."""

RANGE_DECADES = 2.0
"""The same for ranges, which span more."""


@dataclass(frozen=True)
class Strip:
    """One row: its name, colour ``#RRGGBB``, and a value for each case."""

    name: str
    colour: str
    values: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool

    def place(self, value: float) -> float:
        """0 at the low end to 1 at the high end."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return ticks(self.low, self.high)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def draw_strips(title: str, rows: Sequence[Strip]) -> str:
    """An ``<svg>`` with a row of dots for each strip and a line at its median; hovering over a dot shows its case and value.

    Parameters
    ----------
    title : str
        What a screen reader says.
    rows : sequence of Strip
        From the top. Every text is escaped.
    """
    axis = _axis([value for row in rows for _, value in row.values])
    bottom = TOP + ROW * len(rows)
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH:g} {bottom + FOOT:g}" role="img" aria-label="{escape(title)}">']
    for value in axis.ticks():
        x = _x(axis, value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP:g}" x2="{x:.1f}" y2="{bottom:g}"/><text class="tick" x="{x:.1f}" y="{bottom + 14:g}">{value:g}</text>')
    for number, row in enumerate(rows):
        parts += _dots(row, axis, TOP + ROW * (number + 0.5))
    return "".join([*parts, "</svg>"])


def draw_ranges(title: str, cases: Sequence[tuple[str, float, float, float]]) -> str:
    """An ``<svg>`` with a vertical line for each case from a low to a high value and a dot in the middle, ordered by the middle.

    Parameters
    ----------
    title : str
        What a screen reader says.
    cases : sequence of (name, low, middle, high)
        Every name is escaped; hovering shows it with its values.
    """
    ordered = sorted(cases, key=lambda case: case[2])
    low, high = min(case[1] for case in ordered), max(case[3] for case in ordered)
    wide = low > 0 and math.log10(high / low) > RANGE_DECADES
    axis = _Axis(low, high, True) if wide else _Axis(*_widened(low, high), False)
    left, bottom = 64.0, TOP + RANGES_HEIGHT
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH:g} {bottom + TOP:g}" role="img" aria-label="{escape(title)}">']
    for value in axis.ticks():
        y = bottom - axis.place(value) * RANGES_HEIGHT
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{WIDTH - RIGHT:g}" y2="{y:.1f}"/><text class="name" x="{left - 8:g}" y="{y:.1f}">{value:g}</text>')
    step = (WIDTH - RIGHT - left) / len(ordered)
    for number, (name, low, middle, high) in enumerate(ordered):
        x = left + step * (number + 0.5)
        foot, centre, head = (bottom - axis.place(value) * RANGES_HEIGHT for value in (low, middle, high))
        said = f"<title>{escape(name)}: {low:.4g} to {high:.4g}, median {middle:.4g}</title>"
        parts.append(f'<line class="range" x1="{x:.1f}" y1="{foot:.1f}" x2="{x:.1f}" y2="{head:.1f}">{said}</line>')
        parts.append(f'<circle class="middle" cx="{x:.1f}" cy="{centre:.1f}" r="2">{said}</circle>')
    return "".join([*parts, "</svg>"])


def _axis(values: Sequence[float]) -> _Axis:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low > 0 and math.log10(high / low) > DECADES:
        return _Axis(low / 1.2, high * 1.2, True)
    return _Axis(*_widened(min(0.0, low), high), False)


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high + 0.05 * (high - low)) if high > low else (low, low + 1.0)


def _x(axis: _Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _dots(row: Strip, axis: _Axis, y: float) -> list[str]:
    name = row.name if len(row.name) <= NAME_LENGTH else f"{row.name[: NAME_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    parts = [f'<text class="name" x="{LEFT - 10:g}" y="{y:g}">{escape(name)}</text>']
    for number, (case, value) in enumerate(row.values):
        offset = SPREAD * ((number * GOLDEN) % 1 - 0.5)
        parts.append(
            f'<circle cx="{_x(axis, value):.1f}" cy="{y + offset:.1f}" r="2.6" fill="{row.colour}" stroke="{row.colour}"><title>{escape(case)}: {value:.4g}</title></circle>'
        )
    if row.values:
        x = _x(axis, median(value for _, value in row.values))
        parts.append(f'<line class="median" x1="{x:.1f}" y1="{y - SPREAD * 0.8:.1f}" x2="{x:.1f}" y2="{y + SPREAD * 0.8:.1f}"/>')
    return parts
