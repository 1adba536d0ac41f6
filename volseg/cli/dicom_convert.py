"""``volseg dicom convert``: DICOM series to NIfTI, NRRD or MHA with a JSON beside each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.dicom_progress import counting
from volseg.cli.options import Console, json_option, verbosity_options
from volseg.errors import InputError, OutputError, SeriesError

if TYPE_CHECKING:
    from volseg.io.dicom.listing.convert import Conversion
    from volseg.io.dicom.listing.survey import SeriesFacts, Survey

SUFFIXES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}

NAMED = 10
"""So many files that were left out are named."""

RESULT_KEYS = ("shape", "spacing_mm", "orientation", "dtype", "slices", "distinction", "geometry_correction", "warnings")
"""What --json repeats of each series' own JSON."""

EXAMPLES = """\b
Examples:
  volseg dicom convert DICOM_FOLDER -o nifti
  volseg dicom convert study.zip -o nrrd --format nrrd --json
  volseg dicom convert DICOM_FOLDER -o one --series SERIES_UID
  volseg dicom convert DICOM_FOLDER -o straight --fix-geometry --suv
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the results; made if needed.")
@click.option("--series", "wanted", multiple=True, metavar="UID", help="Convert this series only (repeatable): a key that `volseg dicom info` lists, or a SeriesInstanceUID.")
@click.option("--all", "every_stack", is_flag=True, help="Convert also stacks that share a series and differ in orientation, matrix or spacing, each to its own file.")
@click.option("--format", "suffix", type=click.Choice(list(SUFFIXES)), default="nifti", show_default=True, help="Format of the images.")
@click.option("--fix-geometry", is_flag=True, help="Resample tilted or unevenly spaced series to an orthogonal, even grid instead of leaving them out; the JSON tells how.")
@click.option("--suv", is_flag=True, help="Turn PET values into SUV (body weight, g/ml); other series stay as they are.")
@click.option(
    "--keep-patient", is_flag=True, help="Write patient, physicians, places, dates, paths and SOP Instance UIDs into the JSON, and descriptions as they are into it and the names."
)
@click.option("--overwrite", is_flag=True, help="Replace files in DIR that are no earlier conversion of the same series.")
@json_option
@verbosity_options
def convert(
    folder: Path,
    output: Path,
    wanted: tuple[str, ...],
    every_stack: bool,
    suffix: str,
    fix_geometry: bool,
    suv: bool,
    keep_patient: bool,
    overwrite: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Convert the series in FOLDER: every one that is a volume, or those named with --series.

    FOLDER is a folder (searched recursively), a .zip, a DICOMDIR or one DICOM file. DIR gets, for each series, SERIESNUMBER_DESCRIPTION.nii.gz with the scanner's values
    (HU for CT) on the scanner's grid, and SERIESNUMBER_DESCRIPTION.json with BIDS keys (times in s), the grid, UIDs, warnings and corrections. Echoes, b-values and phases of one
    series become a file each.

    The JSON holds no patient, physician, place, date or path, and the patient's name, ID, birth date and accession number are taken out of descriptions, unless --keep-patient is
    given. It keeps the Study, Series and Frame of Reference UIDs, by which the hospital that made the scan can find it. Faces are not removed from images.

    A series that cannot be converted is told with the reason and does not stop the others. Exit status 2 when one named with --series or one that looked like a volume could not
    be converted, or when there was nothing to convert; else 0.
    """
    from volseg.cli.results import output_folder
    from volseg.io.dicom.files.archive import is_slice_file
    from volseg.io.dicom.listing.convert import check_targets, default_choice
    from volseg.io.dicom.listing.survey import survey

    console = Console(verbose, quiet, json_output)
    folder = folder.expanduser()
    with counting(console, "reading headers") as progress:
        seen = survey(folder, progress)
    # A file that is named is a choice among the stacks of its series.
    every_stack = every_stack or is_slice_file(folder)
    chosen = _named(folder, seen, wanted) if wanted else default_choice(seen.scans, fix_geometry=fix_geometry, every_stack=every_stack)
    jobs = _jobs(seen, chosen, output.expanduser(), SUFFIXES[suffix], keep_patient)
    taken = set(map(id, chosen))
    left_out = [] if wanted else [{"series": facts.series.key, "reason": _reason(facts)} for facts in seen.scans if id(facts) not in taken]
    if not jobs:
        reasons = "; ".join(str(entry["reason"]) for entry in left_out[:3]) or f"it holds {len(seen.objects)} series of objects and no images"
        msg = f"{folder}: none of its {len(seen.scans)} series can be converted: {reasons}"
        raise SeriesError(msg)
    check_targets(jobs, overwrite=overwrite)
    for note in seen.found.notes[:NAMED]:
        console.warn(note)
    if len(seen.found.notes) > NAMED:
        console.warn(f"... and {len(seen.found.notes) - NAMED} more files; `volseg dicom info --json` names them all")
    for entry in left_out:
        console.warn(f"left out series {entry['series']}: {entry['reason']}")
    if suv and not any(job.facts.series.modality == "PT" for job in jobs):
        console.warn(f"{folder}: --suv changes nothing, no PET series is converted")
    with output_folder(output.expanduser()):
        results = [_convert(job, folder, console, fix_geometry=fix_geometry, suv=suv, keep_patient=keep_patient) for job in console.track(jobs, "converting", _label)]
    console.document({"converted": [r for r in results if "error" not in r], "failed": [r for r in results if "error" in r], "left_out": left_out})
    return 2 if any("error" in result for result in results) else 0


def _named(folder: Path, seen: Survey, wanted: tuple[str, ...]) -> list[SeriesFacts]:
    """The series of these keys, or all stacks of these UIDs, each once, in the order of the survey.

    Raises
    ------
    SeriesError
        If one is not there.
    """
    for name in wanted:
        if not any(name in (facts.series.key, facts.series.uid) for facts in seen.scans):
            here = "; ".join(str(facts.series.key) for facts in seen.scans) or "no series of images"
            msg = f"{folder}: holds no series of images {name}; it holds: {here}"
            raise SeriesError(msg)
    return [facts for facts in seen.scans if facts.series.key in wanted or facts.series.uid in wanted]


def _reason(facts: SeriesFacts) -> str:
    several = facts.series.error is None
    return f"{facts.series.problem}{', or all of them with --all' if several else ''}"


def _jobs(seen: Survey, chosen: list[SeriesFacts], output: Path, suffix: str, keep_patient: bool) -> list[Conversion]:
    from volseg.io.dicom.listing.convert import Conversion, file_stems

    stems = dict(zip(map(id, seen.scans), file_stems(seen.scans, keep_patient=keep_patient), strict=True))
    return [Conversion(facts, output / f"{stems[id(facts)]}{suffix}", output / f"{stems[id(facts)]}.json") for facts in chosen]


def _label(job: Conversion) -> str:
    return f"{job.image.name} ({len(job.facts.series.slices)} slices)"


def _convert(job: Conversion, folder: Path, console: Console, *, fix_geometry: bool, suv: bool, keep_patient: bool) -> dict[str, Any]:
    from volseg.io.dicom.listing.convert import convert_series

    series = job.facts.series
    try:
        volume, document = convert_series(folder, job, fix_geometry=fix_geometry, suv=suv and series.modality == "PT", keep_patient=keep_patient)
    except OutputError:
        raise
    except InputError as error:
        click.echo(f"volseg: error: {error}", err=True)
        return {"series": series.key, "error": str(error)}
    for warning in volume.warnings:
        console.warn(f"{job.image.name}: {warning}")
    console.say(f"{job.image}: {volume.grid}, {volume.array.dtype}")
    return {"series": series.key, "image": str(job.image), "sidecar": str(job.sidecar), **{key: document["volseg"][key] for key in RESULT_KEYS}}
