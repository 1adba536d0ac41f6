"""The report of a training: its curves as a picture, and one HTML page with them, the numbers and where everything came from."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.io.text import write_bytes, write_text
from volseg.report.page import render_page
from volseg.report.palette import label_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KNOWN = ("epoch", "elapsed_s", "train_loss", "learning_rate", "seconds", "steps_per_second", "data_wait_share", "validation_s")
"""Columns of ``metrics.csv`` that every training has; all others are validation metrics."""

SIZE_INCHES, DOTS_PER_INCH = (11.0, 6.6), 110

ROWS_SHOWN = 12
"""Validations listed in the page: the last ones, and always the best."""

PROVENANCE = (
    "command",
    "started",
    "bundle",
    "bundle_version",
    "fold",
    "seed",
    "device",
    "precision",
    "processes",
    "averaged_weights",
    "time_limit_s",
    "stopped_by",
    "weights_sha256",
)


def write_training_report(run_dir: Path, rows: Sequence[Mapping[str, str]], record: Mapping[str, Any]) -> Path:
    """Write ``curves.png`` and ``training.html`` (self-contained: no script, no network, no other file).

    Parameters
    ----------
    run_dir : Path
        The run's folder.
    rows : sequence of mapping
        Rows of ``metrics.csv``, one an epoch, at least one.
    record : mapping
        The run's ``provenance.json``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError, WriteError
        If a file cannot be written.
    """
    picture = draw_curves(rows)
    write_bytes(run_dir / "curves.png", picture)
    return write_text(run_dir / "training.html", _render(run_dir, rows, record, picture))


def metric_names(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Validation metrics, in the order of the table."""
    return [name for name in rows[0] if name not in KNOWN]


def series(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a column, without the epochs that have none."""
    known = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
    return [epoch for epoch, _ in known], [value for _, value in known]


def draw_curves(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Loss, validation metrics, learning rate and speed over the epochs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    (loss, scores), (rate, speed) = figure.subplots(2, 2, sharex=True)
    _line(loss, rows, "train_loss", "Training loss", label_colour(5))
    _draw_scores(scores, rows)
    _line(rate, rows, "learning_rate", "Learning rate", label_colour(3))
    _line(speed, rows, "steps_per_second", "Steps per second", label_colour(6))
    share = speed.twinx()
    _line(share, rows, "data_wait_share", "", label_colour(1))
    share.set_ylim(0, 1)
    share.set_ylabel("Share of time waiting for data", color=label_colour(1))
    share.grid(visible=False)
    for axes in (rate, speed):
        axes.set_xlabel("Epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _line(axes: Axes, rows: Sequence[Mapping[str, str]], name: str, title: str, colour: str) -> None:
    epochs, values = series(rows, name)
    axes.plot(epochs, values, color=colour, linewidth=1.4, marker="." if len(epochs) < 40 else None)
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, alpha=0.3)


def _draw_scores(axes: Axes, rows: Sequence[Mapping[str, str]]) -> None:
    names = metric_names(rows)
    axes.set_title("Validation", fontsize=11)
    axes.grid(visible=True, alpha=0.3)
    for number, name in enumerate(names):
        epochs, values = series(rows, name)
        axes.plot(epochs, values, color=label_colour(number + 1), linewidth=1.4, marker="o", markersize=3, label=name.removeprefix("val_").replace("_", " "))
    if names:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "no validation", ha="center", va="center", transform=axes.transAxes, color="grey")


def _render(run_dir: Path, rows: Sequence[Mapping[str, str]], record: Mapping[str, Any], picture: bytes) -> str:
    names = metric_names(rows)
    validated = [row for row in rows if any(row.get(name) for name in names)]
    best = record.get("best_epoch")
    shown = [row for row in validated if int(row["epoch"]) == best and row not in validated[-ROWS_SHOWN:]] + validated[-ROWS_SHOWN:]
    content = {
        "name": f"{record.get('bundle', run_dir.name)}, {'all cases' if record.get('fold') is None else 'fold ' + str(record['fold'])}",
        "summary": _summary(rows, record),
        "picture": base64.b64encode(picture).decode("ascii"),
        "names": [name.removeprefix("val_").replace("_", " ") for name in names],
        "validations": [{"epoch": row["epoch"], "best": int(row["epoch"]) == best, "cells": [_short(row.get(name, "")) for name in names]} for row in shown],
        "provenance": [(name.replace("_", " "), str(record[name])) for name in PROVENANCE if record.get(name) is not None],
        "cases": (record.get("training_cases", []), record.get("validation_cases", [])),
    }
    return render_page("training.html", content)


def _summary(rows: Sequence[Mapping[str, str]], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    elapsed = float(rows[-1]["elapsed_s"])
    trained = sum(float(row["seconds"]) for row in rows)
    waited = sum(float(row["seconds"]) * float(row.get("data_wait_share") or 0) for row in rows)
    facts = [("Epochs", rows[-1]["epoch"]), ("Time", f"{elapsed / 60:.1f} min"), ("Last loss", _short(rows[-1]["train_loss"]))]
    if record.get("best_metric") is not None:
        facts.append(("Best validation", f"{record['best_metric']:.4f} in epoch {record['best_epoch']}"))
    steps = sum(float(row["seconds"]) * float(row["steps_per_second"]) for row in rows)
    facts += [("Steps per second", f"{steps / max(trained, 1e-9):.2f}"), ("Waiting for data", f"{waited / max(trained, 1e-9):.0%}")]
    return facts + ([("Validating", f"{record['validation_s'] / max(elapsed, 1e-9):.0%} of the time")] if record.get("validation_s") else [])


def _short(value: str) -> str:
    return f"{float(value):.4f}" if value else ""
