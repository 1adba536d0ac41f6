"""Evaluations as files: CSV with one row for each case and label."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from volseg.evaluation.agreement import Agreement
from volseg.evaluation.evaluation import Evaluation
from volseg.evaluation.scores import LabelScore
from volseg.io.text import write_text


def write_csv(evaluation: Evaluation, path: Path) -> Path:
    """Write one row for each case and label; an undefined metric is an empty field. See :func:`volseg.io.text.write_bytes` for what is raised."""
    return write_text(path, format_csv(evaluation))


def format_csv(evaluation: Evaluation) -> str:
    """CSV (RFC 4180 quoting, lines end in a newline) with a header and one row for each case and label; an undefined metric is an empty field."""
    columns = ["case", *LabelScore(0, "", Agreement(), 0.0).to_dict(), "prediction", "reference"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for case in evaluation.cases:
        paths = {"prediction": case.prediction.path, "reference": case.reference.path}
        writer.writerows({"case": case.name, **score.to_dict(), **paths} for score in case.scores)
    return text.getvalue()
