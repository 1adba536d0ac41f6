"""The words and numbers of a case report, as text: its tables, and where everything came from. Nothing here is escaped; the template does that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.report.palette import label_colour

MAX_LABEL_LESIONS = 20
"""Lesions listed for one label in the report; the CSV and the JSON have more."""

MAX_ROWS = 120
"""Lesions listed in all, so that a report of a hundred speckled labels can still be printed."""

NOTHING, TIMES = "\N{EN DASH}", " \N{MULTIPLICATION SIGN} "

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class TableRow:
    """One row: the label's colour and name, then the cells."""

    colour: str
    name: str
    cells: tuple[str, ...]


LABEL_COLUMNS = ("Volume (ml)", "Longest axial diameter (mm)", "Lesions", "Mean ± SD", "Median", "5th to 95th percentile", "Centroid x, y, z (mm)")
LESION_COLUMNS = ("Lesion", "Volume (ml)", "Longest axial diameter (mm)", "Mean", "Centroid x, y, z (mm)", "Box x, y, z (mm)")


def label_rows(statistics: Sequence[LabelStatistics]) -> list[TableRow]:
    """A row for each label, cells as in :data:`LABEL_COLUMNS`; what an empty label does not have is a dash."""
    return [TableRow(label_colour(label.value), label.name, _label_cells(label)) for label in statistics]


def lesion_rows(statistics: Sequence[LabelStatistics]) -> tuple[list[TableRow], int]:
    """A row for each lesion, cells as in :data:`LESION_COLUMNS`, and how many lesions are left out."""
    rows: list[TableRow] = []
    for label in statistics:
        for lesion in label.lesions[:MAX_LABEL_LESIONS]:
            box = lesion.bounding_box
            size = TIMES.join(f"{high - low:.1f}" for low, high in zip(box.low_mm, box.high_mm, strict=True))
            mean = _intensity(lesion.mean_intensity, label.intensity_unit)
            cells = (str(lesion.number), _volume(lesion.volume_ml), f"{lesion.diameter.length_mm:.1f}", mean, _point(lesion.centroid_mm), size)
            rows.append(TableRow(label_colour(label.value), label.name, cells))
    return rows[:MAX_ROWS], sum(label.components for label in statistics) - min(len(rows), MAX_ROWS)


def provenance(report: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """What the result came from, in groups of name and value: the scan, the bundle, the run, the software. Entries the report does not have are left out; so are paths."""
    scans = [(f"Channel {scan['channel']}" if "channel" in scan else "Scan", _scan_rows(scan)) for scan in _scans(report)]
    groups = [*scans, ("Bundle", _bundle_rows(report.get("bundle", {}))), ("Run", _run_rows(report))]
    software = [(str(name), str(version)) for name, version in report.get("software", {}).items()]
    return [(title, rows) for title, rows in [*groups, ("Software", software)] if rows]


def _label_cells(label: LabelStatistics) -> tuple[str, ...]:
    diameter = NOTHING if label.longest_axial_diameter_mm is None else f"{label.longest_axial_diameter_mm:.1f}"
    centroid = NOTHING if label.centroid_mm is None else _point(label.centroid_mm)
    if label.intensity is None:
        return _volume(label.volume_ml), diameter, str(label.components), NOTHING, NOTHING, NOTHING, centroid
    unit, found = label.intensity_unit, label.intensity
    spread = f"{_number(found.mean, unit)} ± {_number(found.sd, unit)}{_suffix(unit)}"
    span = f"{_number(found.percentile_5, unit)} to {_number(found.percentile_95, unit)}{_suffix(unit)}"
    return _volume(label.volume_ml), diameter, str(label.components), spread, _intensity(found.median, unit), span, centroid


def _scans(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The inputs: one, or the channels of an image."""
    given = report.get("input", {})
    return list(given) if isinstance(given, list) else [given]


def _scan_rows(scan: Mapping[str, Any]) -> Rows:
    details = scan.get("details", {})
    rows = [
        ("Modality", scan.get("modality")),
        ("Series description", details.get("series_description")),
        ("Series Instance UID", scan.get("series_instance_uid")),
        ("File SHA-256", scan.get("sha256")),
        ("Format", scan.get("kind")),
        ("Voxels", _joined(scan.get("shape"), TIMES)),
        ("Voxel size (mm)", _joined(scan.get("spacing_mm"), TIMES)),
        ("Orientation", scan.get("orientation")),
        ("Manufacturer", details.get("manufacturer")),
        ("Units", details.get("units")),
        ("Geometry correction", _sentence(details.get("geometry_correction"))),
    ]
    return _present(rows)


def _bundle_rows(bundle: Mapping[str, Any]) -> Rows:
    weights = bundle.get("weights") or []
    names = ", ".join(PurePath(str(path)).name for path in ([weights] if isinstance(weights, str) else weights))
    rows = [("Name", bundle.get("name")), ("Version", bundle.get("version")), ("Weights", names)]
    return _present([*rows, ("Weights SHA-256", _sentence(bundle.get("weights_sha256")))])


def _run_rows(report: Mapping[str, Any]) -> Rows:
    engine, peak = report.get("engine", {}), report.get("peak_memory_bytes")
    timings = [(f"Time, {stage}", f"{seconds:.2f} s") for stage, seconds in report.get("timings_s", {}).items()]
    rows = [(_title(key), _sentence(value)) for key, value in engine.items()]
    return _present([*rows, *timings, ("Peak memory", f"{peak / 2**30:.2f} GiB" if peak else None)])


def _present(rows: Sequence[tuple[str, Any]]) -> Rows:
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _sentence(value: Any) -> str:
    """A value of the JSON report on one line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_title(str(key)).lower()} {_sentence(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_sentence(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _joined(values: Sequence[Any] | None, separator: str) -> str | None:
    return None if values is None else separator.join(_sentence(value) for value in values)


def _title(key: str) -> str:
    return key.replace("_mm", " (mm)").replace("_", " ").capitalize()


def _volume(volume_ml: float) -> str:
    """Three digits after the point below one millilitre, where a lesion of 0.05 ml would read 0.1."""
    return f"{volume_ml:.3f}" if 0 < volume_ml < 1 else f"{volume_ml:.1f}"


def _number(value: float, unit: str | None) -> str:
    """HU to a tenth, SUV to a hundredth, values without a unit to four digits."""
    return {"HU": f"{value:.1f}", "SUVbw": f"{value:.2f}"}.get(unit or "", f"{value:.4g}")


def _suffix(unit: str | None) -> str:
    return f" {unit}" if unit else ""


def _intensity(value: float | None, unit: str | None) -> str:
    return NOTHING if value is None else f"{_number(value, unit)}{_suffix(unit)}"


def _point(point: Sequence[float]) -> str:
    return ", ".join(f"{v:.1f}" for v in point)


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know before the numbers: the run's warnings, and that the geometry was changed where none of them says so (its parameters are under the provenance)."""
    warnings = [str(warning) for warning in report.get("warnings", ())]
    corrections = [correction for scan in _scans(report) if (correction := scan.get("details", {}).get("geometry_correction"))]
    if any(not any(str(finding) in warning for finding in correction.get("findings", ()) for warning in warnings) for correction in corrections):
        yield "The scan's geometry was corrected before segmentation; see the provenance below."
    yield from warnings
