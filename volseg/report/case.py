"""The case report: one HTML file with pictures, measurements, warnings and provenance of a segmentation, to be filed, printed or sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError
from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.io import Volume
from volseg.io.text import check_output, write_text
from volseg.report.case_pictures import draw_planes, draw_strips, make_scene
from volseg.report.case_tables import LABEL_COLUMNS, LESION_COLUMNS, label_rows, lesion_rows, notes, provenance
from volseg.report.page import render_page

DEFAULT_NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."
"""Shown where the bundle states no intended use."""


def write_case_report(
    volume: Volume,
    label: npt.NDArray[np.generic],
    path: Path,
    *,
    report: Mapping[str, Any],
    statistics: Sequence[LabelStatistics],
    label_names: Mapping[int, str],
    intended_use: str | None = None,
) -> Path:
    """Write a self-contained HTML page: no script, no network, no other file; images are inside it as data URIs.

    Privacy: patient name, id, birth date and study identifiers are not in it, nor are file paths. The scan's own name (of its file or folder), series description and Series
    Instance UID are, as are warnings, which may name files: look at them before passing a report on.

    Parameters
    ----------
    volume : Volume
        The scan.
    label : ndarray of bool or integers, axes (i, j, k) of ``volume.grid``
        The segmentation; 0 is background.
    path : Path
        The ``.html`` to write; written beside and renamed.
    report : mapping
        The JSON report (:meth:`volseg.inference.segmentation.Segmentation.report`). Every key is optional: what it does not hold is left out of the page.
    statistics : sequence of LabelStatistics
        Of this label on this scan (:func:`volseg.evaluation.label_statistics`).
    label_names : mapping of int to str
        Names by label value; a label without one is shown by its value.
    intended_use : str, optional
        The bundle's ``intended_use``, shown at the top; ``report["bundle"]["intended_use"]`` where omitted, else :data:`DEFAULT_NOTICE`.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    GeometryError
        If ``label`` does not have the scan's shape.
    OutputError, WriteError
        If the file cannot be written.
    """
    if label.shape != volume.grid.shape:
        msg = f"{volume.source.path}: the label of shape {label.shape} does not fit the scan of {volume.grid.shape} voxels; give one on the scan's grid"
        raise GeometryError(msg)
    check_output(path)
    return write_text(path, render_page("case.html", _content(volume, label, report, statistics, label_names) | {"notice": intended_use or _notice(report)}))


def _content(volume: Volume, label: npt.NDArray[np.generic], report: Mapping[str, Any], statistics: Sequence[LabelStatistics], names: Mapping[int, str]) -> dict[str, Any]:
    scene = make_scene(volume, label, names)
    lesions, unlisted = lesion_rows(statistics)
    strips = draw_strips(scene, statistics)
    return {
        "name": volume.source.name,
        "synthetic": bool(volume.source.details.get("synthetic")),
        "summary": _summary(volume, report),
        "notes": list(notes(report)),
        "planes": draw_planes(scene),
        "window": scene.window.name,
        "strips": strips,
        "without_strip": sum(entry.voxels > 0 for entry in statistics) - len(strips),
        "empty": not any(entry.voxels for entry in statistics),
        "label_columns": LABEL_COLUMNS,
        "labels": label_rows(statistics),
        "lesion_columns": LESION_COLUMNS,
        "lesions": lesions,
        "lesions_unlisted": unlisted,
        "provenance": provenance(report),
    }


def _summary(volume: Volume, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The line under the title: what was segmented, with what, when."""
    bundle = report.get("bundle", {})
    description = volume.source.details.get("series_description")
    scan = ", ".join(str(part) for part in (volume.source.modality, description) if part)
    made_with = " ".join(str(part) for part in (bundle.get("name"), bundle.get("version")) if part)
    created = str(report.get("created", "")).replace("T", " ").replace("+00:00", " UTC")
    return [(name, value) for name, value in (("Scan", scan), ("Grid", str(volume.grid)), ("Bundle", made_with), ("Created", created)) if value]


def _notice(report: Mapping[str, Any]) -> str:
    return str(report.get("bundle", {}).get("intended_use") or DEFAULT_NOTICE)
