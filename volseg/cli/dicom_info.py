"""``volseg dicom info``: what is in a DICOM folder, and which of it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.dicom_progress import counting
from volseg.cli.options import Column, Console, json_option, verbosity_options

if TYPE_CHECKING:
    from volseg.io.dicom.listing.layout import Layout
    from volseg.io.dicom.listing.survey import ObjectFacts, PatientFacts, SeriesFacts, Survey

NAMED = 10
"""So many damaged files are named on the terminal, and with ``-v`` so many that are no DICOM; JSON has all."""

EXAMPLES = """\b
Examples:
  volseg dicom info DICOM_FOLDER
  volseg dicom info study.zip --json
  volseg dicom info DICOM_FOLDER -v --show-patient
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--show-patient", is_flag=True, help="Show patient names and IDs, and study dates; without it patients are numbered and taken out of descriptions.")
@json_option
@verbosity_options
def info(folder: Path, show_patient: bool, json_output: bool, verbose: bool, quiet: bool) -> None:
    """List everything in FOLDER: patients, studies, series, and whether each can be used as a volume or why not.

    FOLDER is a folder (searched recursively), a .zip, a DICOMDIR or one DICOM file. Only headers are read. The key in the last column is what --series of
    the other commands takes; "part" means one of several stacks that share a SeriesInstanceUID and must be named by its key. Objects that are no scans (RTSTRUCT, SEG, SR, ...) are
    listed with the series they refer to. Paths are shown as they are, whatever they say.

    Exit status 0 when there is any DICOM, even if nothing in it can be used, 2 when there is none.
    """
    from volseg.io.dicom.listing.survey import survey

    console = Console(verbose, quiet, json_output)
    with counting(console, "reading headers") as progress:
        seen = survey(folder.expanduser(), progress)
    if console.json_output:
        console.document(_document(folder, seen, show_patient))
        return
    _say_all(console, seen, show_patient)


def _say_all(console: Console, seen: Survey, show_patient: bool) -> None:
    usable = sum(facts.series.problem is None for facts in seen.scans)
    console.say(
        f"{_count(len(seen.patients), 'patient')}, {_count(len(seen.studies), 'study', 'studies')}, {len(seen.scans)} series of images ({usable} usable as a volume), "
        f"{len(seen.objects)} of other objects, in {_count(seen.found.files, 'file')}\n"
    )
    if show_patient:
        console.table("Patients", [Column("patient", True), Column("ID"), Column("name"), Column("studies (date)")], [_patient_row(p, seen) for p in seen.patients])
    if seen.scans:
        rows = list(enumerate(seen.scans, 1))
        console.table("Series", [Column(h, h in NUMERIC) for h in SERIES_COLUMNS], [_series_row(n, facts, show_patient) for n, facts in rows])
        console.table("Geometry and encoding", [Column(h, h in NUMERIC) for h in GEOMETRY_COLUMNS], [_geometry_row(n, facts) for n, facts in rows])
    if seen.objects:
        console.table("Objects that are no scans", [Column(h, h in NUMERIC) for h in OBJECT_COLUMNS], [_object_row(facts, show_patient) for facts in seen.objects])
    _say_reasons(console, seen)
    _say_files(console, seen)


def _say_reasons(console: Console, seen: Survey) -> None:
    """Each reason once, with the rows it is for."""
    reasons: dict[str, list[str]] = {}
    for number, facts in enumerate(seen.scans, 1):
        if facts.series.problem:
            reasons.setdefault(f"{'cannot be used' if facts.series.error else 'only by key'}: {facts.series.problem}", []).append(str(number))
        for warning in facts.series.warnings:
            reasons.setdefault(f"note: {warning}", []).append(str(number))
    for reason, rows in reasons.items():
        console.say(f"# {', '.join(rows)} {reason}")


def _say_files(console: Console, seen: Survey) -> None:
    strangers, damaged = [str(member) for member in seen.found.strangers], seen.found.damaged
    if strangers:
        console.say(f"{_count(len(strangers), 'file')} that {'is' if len(strangers) == 1 else 'are'} no DICOM image or object")
        if console.verbose:
            _say_some(console, strangers)
    if damaged:
        console.say(f"{_count(len(damaged), 'file')} that cannot be read:")
        _say_some(console, damaged)


def _say_some(console: Console, lines: Sequence[str]) -> None:
    for line in lines[:NAMED]:
        console.say(f"  {line}")
    if len(lines) > NAMED:
        console.say(f"  ... and {len(lines) - NAMED} more; --json names them all")


NUMERIC = ("#", "patient", "no.", "slices", "objects", "copies", "missing", "tilt")
SERIES_COLUMNS = ("#", "patient", "no.", "modality", "description", "slices", "use", "series")
GEOMETRY_COLUMNS = ("#", "matrix", "pixel mm", "slice spacing mm", "missing", "tilt", "plane", "axes", "copies", "bits", "transfer syntax", "manufacturer")
OBJECT_COLUMNS = ("patient", "modality", "class", "description", "objects", "refers to series")


def _patient_row(facts: PatientFacts, seen: Survey) -> list[str]:
    studies = [f"{s.uid} ({s.date or 'no date'})" for s in seen.studies if s.patient == facts.number]
    return [str(facts.number), facts.identity.patient_id or "-", facts.identity.name or "-", ", ".join(studies)]


def _series_row(number: int, facts: SeriesFacts, show_patient: bool) -> list[str]:
    series = facts.series
    text = ", ".join(filter(None, (_description(facts, show_patient), series.distinction)))
    use = "yes" if series.problem is None else ("part" if series.error is None else "no")
    return [
        str(number),
        str(facts.patient),
        "-" if facts.number is None else str(facts.number),
        series.modality or "-",
        text or "-",
        str(len(series.slices)),
        use,
        series.key or "-",
    ]


def _geometry_row(number: int, facts: SeriesFacts) -> list[str]:
    series, layout = facts.series, facts.layout
    first = series.slices[0]
    between_rows, between_columns = first.spacing
    return [
        str(number),
        f"{series.columns}x{series.rows}" if series.rows else "-",
        f"{between_columns:.4g} x {between_rows:.4g}" if between_rows else "-",
        _spacings(layout),
        _some(layout.missing_slices if layout else 0, "{}"),
        _some(layout.tilt_degrees if layout else 0, "{:.2f} deg"),
        str(layout) if layout else "-",
        layout.orientation if layout else "-",
        _some(facts.copies, "{}"),
        _bits(facts),
        ", ".join(facts.transfer_syntaxes),
        " ".join(filter(None, (first.text["manufacturer"], facts.model))) or "-",
    ]


def _object_row(facts: ObjectFacts, show_patient: bool) -> list[str]:
    series = facts.series
    names = [f"{uid} (not here)" if uid in facts.absent else uid for uid in facts.refers_to]
    return [str(facts.patient), series.modality or "-", ", ".join(facts.classes), _description(facts, show_patient) or "-", str(len(series.slices)), ", ".join(names) or "-"]


def _description(facts: SeriesFacts | ObjectFacts, show_patient: bool) -> str:
    return facts.series.description if show_patient else facts.description


def _spacings(layout: Layout | None) -> str:
    if layout is None or not layout.slice_spacings_mm:
        return "-"
    common = sorted(layout.slice_spacings_mm, key=lambda pair: -pair[1])
    if len(common) == 1:
        return f"{common[0][0]:g}"
    return ", ".join(f"{mm:g} ({times}x)" for mm, times in common[:3]) + (", ..." if len(common) > 3 else "")


def _bits(facts: SeriesFacts) -> str:
    first = facts.series.slices[0]
    return f"{first.bits_stored} of {first.bits_allocated}, {'signed' if first.signed else 'unsigned'}" if first.bits_allocated else "-"


def _some(value: float, text: str) -> str:
    return text.format(value) if value else "-"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _document(folder: Path, seen: Survey, show_patient: bool) -> dict[str, Any]:
    found = seen.found
    return {
        "path": str(folder),
        "files": found.files,
        "not_dicom": {"count": len(found.strangers), "files": [str(member) for member in found.strangers]},
        "unreadable": {"count": len(found.damaged), "messages": list(found.damaged)},
        "patients": [
            {"patient": p.number, "studies": list(p.studies)} | ({"id": p.identity.patient_id, "issuer": p.identity.issuer, "name": p.identity.name} if show_patient else {})
            for p in seen.patients
        ],
        "studies": [{"uid": s.uid, "patient": s.patient, "description": s.description, "series": s.series} | ({"date": s.date} if show_patient else {}) for s in seen.studies],
        "series": [_series_document(facts, show_patient) for facts in seen.scans],
        "objects": [_object_document(facts, show_patient) for facts in seen.objects],
    }


def _series_document(facts: SeriesFacts, show_patient: bool) -> dict[str, Any]:
    series, layout = facts.series, facts.layout
    first = series.slices[0]
    between_rows, between_columns = first.spacing
    return {
        "key": series.key,
        "series_instance_uid": series.uid,
        "study_instance_uid": first.text["study"],
        "frame_of_reference_uid": first.text["frame"],
        "patient": facts.patient,
        "series_number": facts.number,
        "modality": series.modality,
        "description": _description(facts, show_patient),
        "distinction": series.distinction,
        "image_type": list(filter(None, first.image_type)),
        "sop_class": first.sop_class,
        "manufacturer": first.text["manufacturer"],
        "model": facts.model,
        "usable": series.problem is None,
        "volume": series.error is None,
        "problem": series.problem,
        "warnings": list(series.warnings),
        "columns": series.columns,
        "rows": series.rows,
        "slices": len(series.slices),
        "pixel_spacing_mm": {"columns": between_columns, "rows": between_rows} if between_rows else None,
        "slice_spacing_mm": round(series.grid.spacing[2], 6) if series.grid else None,
        "layout": None if layout is None else _layout_document(layout),
        "affine_ras": series.grid.affine.tolist() if series.grid else None,
        "copies": facts.copies,
        "bits_stored": first.bits_stored,
        "bits_allocated": first.bits_allocated,
        "signed": first.signed,
        "photometric_interpretation": first.photometric,
        "transfer_syntaxes": list(facts.transfer_syntaxes),
        "folders": sorted({str(s.member.path.parent) for s in series.slices}),
    }


def _layout_document(layout: Layout) -> dict[str, Any]:
    return {
        "plane": layout.plane,
        "oblique_degrees": layout.oblique_degrees,
        "orientation": layout.orientation,
        "slice_spacings_mm": [{"mm": mm, "times": times} for mm, times in layout.slice_spacings_mm],
        "missing_slices": layout.missing_slices,
        "shared_positions": layout.shared_positions,
        "tilt_degrees": layout.tilt_degrees,
    }


def _object_document(facts: ObjectFacts, show_patient: bool) -> dict[str, Any]:
    series = facts.series
    return {
        "series_instance_uid": series.uid,
        "study_instance_uid": series.slices[0].text["study"],
        "patient": facts.patient,
        "modality": series.modality,
        "description": _description(facts, show_patient),
        "classes": list(facts.classes),
        "objects": len(series.slices),
        "refers_to": [{"series_instance_uid": uid, "here": uid not in facts.absent} for uid in facts.refers_to],
        "files": list(series.files),
    }
