"""What a run leaves behind beside its weights: the table of epochs and where everything came from."""

from __future__ import annotations

import csv
import io
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from volseg.io.text import write_text
from volseg.provenance import software_versions
from volseg.training.progress import EpochReport

COLUMNS = ("epoch", "elapsed_s", "train_loss", "learning_rate", "seconds", "steps_per_second", "data_wait_share", "validation_s")


class MetricsTable:
    """``metrics.csv``: one row an epoch, always complete on disk.

    Parameters
    ----------
    path : Path
        The CSV file.
    keep_epochs : int
        Rows of an earlier part of the run are kept up to this epoch; later ones were lost with the interruption and are trained again.
    """

    def __init__(self, path: Path, keep_epochs: int = 0) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        if keep_epochs and path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                self._rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) <= keep_epochs]

    def add(self, report: EpochReport) -> None:
        """Append one epoch and write the file."""
        values = (report.epoch, report.elapsed_s, report.loss, report.learning_rate, report.seconds, report.steps_per_second, report.data_wait_share, report.validation_s)
        row = {name: _short(value) for name, value in zip(COLUMNS, values, strict=True)}
        self._rows.append(row | {name: _short(value) for name, value in report.metrics.items()})
        names = [*COLUMNS, *sorted({name for row in self._rows for name in row} - set(COLUMNS))]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())


def provenance(facts: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Where a run came from: command, software, machine, and the size and time of every file it read.

    Parameters
    ----------
    facts : mapping
        What the run knows of itself (bundle, fold, seed, device, ...).
    files : sequence of Path
        Images and labels; identified by size and modification time, since hashing a dataset can take longer than a short training.
    """
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": software_versions(),
        **facts,
        "files": [{"path": str(path), "bytes": path.stat().st_size, "modified": path.stat().st_mtime} for path in files if path.exists()],
    }


def earlier_parts(path: Path) -> list[dict[str, Any]]:
    """Records of the parts of a resumed run that came before: command, start, machine and software of each."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    before: list[dict[str, Any]] = record.pop("earlier_parts", [])
    record.pop("files", None)
    return [*before, record]


def write_report(run_dir: Path) -> None:
    """Draw ``curves.png`` and write ``training.html`` from the run's own records."""
    from volseg.report.training import write_training_report

    with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if rows:
        write_training_report(run_dir, rows, json.loads((run_dir / "provenance.json").read_text(encoding="utf-8")))


def _short(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
