"""The report of a dataset and of the plan made for it: one HTML page with what was measured, pictures of cases, and every choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.io import Volume
from volseg.io.text import check_output, write_text
from volseg.report.case_pictures import Shown, draw_planes, make_scene
from volseg.report.dataset_plots import Strip, draw_ranges, draw_strips
from volseg.report.page import render_page
from volseg.report.palette import label_colour

MAX_CASES = 200
"""Cases in the table; fingerprint.json has them all."""

AXES = ("x", "y", "z")

CHOICE_COLUMNS = ("What", "Value", "Why", "nnU-Net")
LABEL_COLUMNS = ("Label", "Cases", "Volume, least to greatest (ml)", "Median volume (ml)", "Pieces, median", "Median piece (ml)", "Share of voxels")


@dataclass(frozen=True)
class Example:
    """A case to show: its first channel, its labels on the same grid, and why it was chosen."""

    volume: Volume
    label: npt.NDArray[np.generic]
    reason: str


def write_dataset_report(
    path: Path,
    fingerprint: Mapping[str, Any],
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    choices: Sequence[Sequence[str]],
    warnings: Sequence[str],
    examples: Sequence[Example],
) -> Path:
    """Write a self-contained HTML page: no script, no network, no other file; images are inside it as data URIs.

    Names of cases and labels are in it, and pictures of the examples, but no paths: look at it before passing it on.

    Parameters
    ----------
    path : Path
        The ``.html`` to write; written beside and renamed.
    fingerprint : mapping
        As in a planned bundle's ``docs/fingerprint.json``.
    title : str
        What the page is about: the bundle's name.
    facts : sequence of (name, value)
        The line under the title.
    choices : sequence of (what, value, why, nnU-Net's value)
        The plan.
    warnings : sequence of str
        Shown at the top.
    examples : sequence of Example
        Cases to show.

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
    names = {int(value): str(name) for value, name in fingerprint["labels"].items()}
    cases = fingerprint["cases"]
    content = {
        "title": title,
        "facts": [*facts, ("Created", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))],
        "warnings": list(warnings),
        "choice_columns": CHOICE_COLUMNS,
        "choices": [list(choice) for choice in choices],
        "label_columns": LABEL_COLUMNS,
        "labels": [_label_row(int(value), entry, len(cases)) for value, entry in fingerprint["classes"].items()],
        "plots": _plots(fingerprint, names),
        "examples": [_example(example, names) for example in examples],
        "case_columns": ["Case", "Voxels", "Voxel size (mm)", "Stored as", *(f"{name} (ml)" for value, name in names.items() if value)],
        "cases": [_case_row(case, names) for case in cases[:MAX_CASES]],
        "cases_unlisted": max(0, len(cases) - MAX_CASES),
    }
    return write_text(path, render_page("dataset.html", content))


def _label_row(value: int, entry: Mapping[str, Any], cases: int) -> dict[str, Any]:
    low, middle, high = entry["volume_ml"]
    cells = (
        f"{entry['cases']} of {cases}",
        f"{low:.3g} to {high:.3g}",
        f"{middle:.3g}",
        f"{entry['components']:g}",
        f"{entry['component_ml'][1]:.3g}",
        f"{entry['voxel_share']:.2%}",
    )
    return {"colour": label_colour(value), "name": entry["name"], "cells": cells}


def _plots(fingerprint: Mapping[str, Any], names: Mapping[int, str]) -> list[tuple[str, str]]:
    cases = fingerprint["cases"]
    volumes = [
        Strip(name, label_colour(value), [(case["name"], case["labels"][str(value)]["volume_ml"]) for case in cases if str(value) in case["labels"]])
        for value, name in names.items()
        if value
    ]
    spacings = [Strip(axis, label_colour(5), [(case["name"], case["spacing_mm"][number]) for case in cases]) for number, axis in enumerate(AXES)]
    extents = [Strip(axis, label_colour(2), [(case["name"], case["shape"][number] * case["spacing_mm"][number]) for case in cases]) for number, axis in enumerate(AXES)]
    plots = [
        ("Volume of each label in each case (ml)", draw_strips("Volume of each label", volumes)),
        ("Voxel size along each axis (mm)", draw_strips("Voxel size", spacings)),
        ("Field of view along each axis (mm)", draw_strips("Field of view", extents)),
    ]
    for number, name in enumerate(fingerprint["channels"]):
        ranges = [(case["name"], case["intensities"][number]) for case in cases if case["intensities"] and case["intensities"][number]]
        triples = [(case, found["percentile_00_5"], found["median"], found["percentile_99_5"]) for case, found in ranges]
        if triples:
            plots.append((f"{name or 'Image'} inside the labels: 0.5 % to 99.5 % and median of each case", draw_ranges(f"Values of {name or 'the image'}", triples)))
    return plots


def _example(example: Example, names: Mapping[int, str]) -> dict[str, Any]:
    planes: list[Shown] = draw_planes(make_scene(example.volume, example.label, names))
    return {"name": example.volume.source.name, "reason": example.reason, "planes": planes}


def _case_row(case: Mapping[str, Any], names: Mapping[int, str]) -> list[str]:
    volumes = [case["labels"].get(str(value)) for value in names if value]
    shape, spacing = ("\N{MULTIPLICATION SIGN}".join(f"{number:.4g}" for number in case[key]) for key in ("shape", "spacing_mm"))
    return [case["name"], shape, spacing, case["orientation"], *(f"{found['volume_ml']:.3g}" if found else "\N{EN DASH}" for found in volumes)]
