"""Evaluations as files: JSON with everything, CSV with one row for each case and label."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.errors import OutputError
from volseg.evaluation.evaluation import Evaluation
from volseg.evaluation.overlap import Overlap
from volseg.evaluation.scores import LabelScore
from volseg.io import written_beside


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write a JSON document; see :func:`write_text` for how and what is raised."""
    return write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def write_csv(evaluation: Evaluation, path: Path) -> Path:
    """Write one row for each case and label; an undefined metric is an empty field. See :func:`write_text` for what is raised."""
    return write_text(format_csv(evaluation), path)


def format_csv(evaluation: Evaluation) -> str:
    """CSV (RFC 4180 quoting, lines end in a newline) with a header and one row for each case and label; an undefined metric is an empty field."""
    columns = ["case", *LabelScore(0, "", Overlap(), 0.0).to_dict(), "prediction", "reference"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for case in evaluation.cases:
        paths = {"prediction": case.prediction.path, "reference": case.reference.path}
        writer.writerows({"case": case.name, **score.to_dict(), **paths} for score in case.scores)
    return text.getvalue()


def check_output(path: Path) -> None:
    """Refuse an output file that cannot be written, before the work is done rather than after.

    Raises
    ------
    OutputError
        If ``path`` is a folder, or its folder can neither be written to nor made.
    """
    if path.is_dir():
        msg = f"{path}: is a folder; name a file for the output"
        raise OutputError(msg)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = "no permission to write to" if folder.is_dir() else "not a folder:"
        msg = f"{path}: cannot be written, {problem} {folder}; choose another place"
        raise OutputError(msg)


def write_text(text: str, path: Path) -> Path:
    """Write text as UTF-8; see :func:`write_bytes` for how and what is raised."""
    return write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> Path:
    """Write beside ``path`` (its folder is made), then rename, so that a reader sees the old file or the whole new one.

    Raises
    ------
    OutputError
        If the place cannot be written to.
    WriteError
        If writing fails half way, e.g. on a full disk; nothing is left behind.
    """
    check_output(path)
    with written_beside(path) as beside:
        beside.write_bytes(content)
    return path
