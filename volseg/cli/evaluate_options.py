"""What ``volseg evaluate`` was told, checked: tolerances, regions of DICOM objects, and the files it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import InputError, OutputError

if TYPE_CHECKING:
    from volseg.evaluation import Settings


@dataclass(frozen=True)
class Outputs:
    """The files to write: ``-o report.json`` brings ``report.csv`` (unless ``--csv`` names another) and ``report.html``."""

    json: Path | None
    csv: Path | None
    html: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that are written."""
        return tuple(path for path in (self.json, self.csv, self.html) if path is not None)


def choose_outputs(output: Path | None, csv_path: Path | None) -> Outputs:
    """Names of the files, none of them twice and each in a place that can be written to.

    Raises
    ------
    OutputError
        If two would have one name, or a place cannot be written to.
    """
    from volseg.io.text import check_output

    outputs = Outputs(output, csv_path, None)
    if output is not None:
        outputs = Outputs(output, csv_path or output.with_suffix(".csv"), output.with_suffix(".html"))
    for path in outputs.paths:
        check_output(path)
    places = [path.resolve() for path in outputs.paths]
    twice = [path for number, path in enumerate(outputs.paths) if places[number] in places[:number]]
    if twice:
        msg = f"{twice[0]}: named for two of the JSON, the CSV and the HTML report; name two files, e.g. -o report.json --csv cases.csv"
        raise OutputError(msg)
    return outputs


def refuse_overwriting(outputs: Outputs, read: Iterable[Path]) -> None:
    """No report may take the place of a label map.

    Raises
    ------
    OutputError
        If one would.
    """
    taken = {path.resolve() for path in read}
    for path in outputs.paths:
        if path.resolve() in taken:
            msg = f"{path}: the report would replace a label map that is compared; name another file"
            raise OutputError(msg)


def parse_rois(given: Sequence[str]) -> dict[str, int] | None:
    """Label values by ROI name, of ``NAME=VALUE`` options; None when there are none.

    Raises
    ------
    InputError
        If one is malformed or a name comes twice.
    """
    rois: dict[str, int] = {}
    for item in given:
        name, _, value = item.rpartition("=")
        if not name.strip() or not value.strip().isdecimal() or int(value) < 1 or name.strip() in rois:
            msg = f"--roi {item!r}: give each NAME=VALUE once, with a label value of at least 1, e.g. --roi GTV=1"
            raise InputError(msg)
        rois[name.strip()] = int(value)
    return rois or None


def parse_settings(tolerances: Sequence[str], lesion_iou: float | None, names: Mapping[int, str]) -> Settings:
    """Settings of the metrics, of ``MM`` and ``LABEL=MM`` options.

    Parameters
    ----------
    tolerances : sequence of str
        Each a number of mm for all labels, or ``LABEL=MM`` with a label's name or value.
    lesion_iou : float or None
        Least overlap of a found lesion; the default where None.
    names : mapping of int to str
        Names by label value.

    Raises
    ------
    InputError
        If one is malformed, comes twice, or names no label.
    """
    from volseg.evaluation.metrics.settings import DEFAULT_LESION_IOU, DEFAULT_TOLERANCE_MM, Settings

    general: float | None = None
    by_label: dict[int, float] = {}
    for item in tolerances:
        label, equals, text = item.rpartition("=")
        value = _millimetres(item, text)
        if not equals and general is None:
            general = value
        elif equals and (number := _label_of(item, label.strip(), names)) not in by_label:
            by_label[number] = value
        else:
            msg = f"--tolerance {item!r}: given twice; give one number for all labels and one for each label that needs another, e.g. --tolerance 2 --tolerance tumor=3"
            raise InputError(msg)
    return Settings(DEFAULT_TOLERANCE_MM if general is None else general, by_label, DEFAULT_LESION_IOU if lesion_iou is None else lesion_iou)


def _millimetres(item: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        msg = f"--tolerance {item!r}: neither MM nor LABEL=MM; write e.g. --tolerance 2 or --tolerance tumor=3"
        raise InputError(msg) from None


def _label_of(item: str, text: str, names: Mapping[int, str]) -> int:
    found = [label for label, name in names.items() if text in (name, str(label))]
    if found:
        return found[0]
    if text.isdecimal() and not names:
        return int(text)
    listed = f"the labels are {', '.join(f'{label} {name}' for label, name in names.items())}" if names else "none has a name: give its value, or names with --labels"
    msg = f"--tolerance {item!r}: no label is called {text!r}; {listed}"
    raise InputError(msg)
