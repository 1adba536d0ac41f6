"""Statistics as a table for a spreadsheet: CSV with one row for each label and each of its lesions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volseg.evaluation.regions.diameter import Diameter
from volseg.evaluation.regions.label_record import DECIMALS, LabelStatistics
from volseg.evaluation.regions.lesions import BoundingBox, Lesion
from volseg.io.text import write_text

INTENSITIES = ("mean", "sd", "minimum", "maximum", "median", "percentile_5", "percentile_25", "percentile_75", "percentile_95")

COLUMNS = (
    *("label", "name", "lesion", "components", "voxels", "volume_ml", "longest_axial_diameter_mm", "diameter_slice_index", "diameter_slice_axis"),
    *(f"diameter_{end}_{axis}_mm" for end in ("start", "end") for axis in "xyz"),
    *(f"centroid_{axis}_mm" for axis in "xyz"),
    *(f"{end}_{axis}" for end in ("first", "last") for axis in "ijk"),
    *(f"{end}_{axis}_mm" for end in ("low", "high") for axis in "xyz"),
    "intensity_unit",
    *INTENSITIES,
)
"""The columns. x, y and z are RAS+ mm; first and last are voxel indices, both inside; the intensities are in ``intensity_unit`` (HU, SUVbw or empty)."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins with one of these for a formula (OWASP, CSV Injection)."""


def write_statistics_csv(statistics: Sequence[LabelStatistics], path: Path) -> Path:
    """Write one row for each label and one for each listed lesion. See :func:`format_statistics_csv`, and :func:`volseg.io.text.write_bytes` for what is raised."""
    return write_text(path, format_statistics_csv(statistics))


def format_statistics_csv(statistics: Sequence[LabelStatistics]) -> str:
    """CSV (RFC 4180) with a header, one row for each label (``lesion`` empty) and, below it, one for each of its lesions.

    What was not measured is an empty field. A name a spreadsheet would run as a formula gets an apostrophe in front. The columns are :data:`COLUMNS`,
    the same for every scan, so that the tables of many scans can be put one below the other.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, restval="")
    writer.writeheader()
    for label in statistics:
        common = {"label": label.value, "name": _harmless(label.name), "intensity_unit": label.intensity_unit or ""}
        writer.writerow({**common, **_label_row(label)})
        writer.writerows({**common, **_lesion_row(lesion)} for lesion in label.lesions)
    return text.getvalue()


def _label_row(label: LabelStatistics) -> dict[str, Any]:
    row: dict[str, Any] = {"components": label.components, "voxels": label.voxels, "volume_ml": round(label.volume_ml, DECIMALS)}
    if label.bounding_box and label.centroid_mm and label.diameter:
        row |= _place(label.centroid_mm, label.bounding_box, label.diameter)
    if label.intensity:
        row |= {name: round(getattr(label.intensity, name), DECIMALS) for name in INTENSITIES}
    return row


def _lesion_row(lesion: Lesion) -> dict[str, Any]:
    row: dict[str, Any] = {"lesion": lesion.number, "voxels": lesion.voxels, "volume_ml": round(lesion.volume_ml, DECIMALS)}
    row |= _place(lesion.centroid_mm, lesion.bounding_box, lesion.diameter)
    return row if lesion.mean_intensity is None else {**row, "mean": round(lesion.mean_intensity, DECIMALS)}


def _place(centroid: tuple[float, ...], box: BoundingBox, diameter: Diameter) -> dict[str, Any]:
    return {
        "longest_axial_diameter_mm": round(diameter.length_mm, DECIMALS),
        "diameter_slice_index": diameter.slice_index,
        "diameter_slice_axis": "ijk"[diameter.slice_axis],
        **_spread("diameter_start_{}_mm", "xyz", diameter.start_mm),
        **_spread("diameter_end_{}_mm", "xyz", diameter.end_mm),
        **_spread("centroid_{}_mm", "xyz", centroid),
        **_spread("first_{}", "ijk", box.first),
        **_spread("last_{}", "ijk", box.last),
        **_spread("low_{}_mm", "xyz", box.low_mm),
        **_spread("high_{}_mm", "xyz", box.high_mm),
    }


def _spread(column: str, axes: str, values: Sequence[float]) -> dict[str, float]:
    return {column.format(axis): round(value, DECIMALS) for axis, value in zip(axes, values, strict=True)}


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
