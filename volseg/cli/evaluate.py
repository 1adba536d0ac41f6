"""``volseg evaluate``: how well segmentations agree with references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from volseg.cli.options import Column, Console, json_option, verbosity_options
from volseg.errors import InputError, OutputError

if TYPE_CHECKING:
    from volseg.evaluation import Distribution, Evaluation, Pairing

CASES_SHOWN = 50
"""So many cases are listed on the terminal; ``-v`` lists them all, the files always hold all."""

EMPTY = "-"
"""What a table shows for an undefined value."""

EXAMPLES = """\b
Examples:
  volseg evaluate scan_seg.nii.gz scan_label.nii.gz
  volseg evaluate out/ references/ -o report.json --csv cases.csv
  volseg evaluate out/ DATASET --allow-missing
  volseg evaluate out/ references/ --labels 1=tumor,2=node --json
  volseg evaluate scan_seg.dcm RTSTRUCT.dcm --roi GTV=1 --scans DICOM_FOLDER
"""


@click.command(epilog=EXAMPLES)
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON to this file.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Write one row per case and label to this file.")
@click.option("--labels", metavar="NAMES", help="Label names: 1=tumor,2=node, or a dataset.json, a bundle's metadata.json, a dataset or bundle folder.")
@click.option("--roi", "roi", multiple=True, metavar="NAME=VALUE", help="Segment or ROI to take of DICOM objects, and its label value (repeatable)  [default: all]")
@click.option("--scans", type=click.Path(path_type=Path, exists=True), metavar="FOLDER", help="Where to look first for the series of DICOM objects.")
@click.option("--allow-missing", is_flag=True, help="Report references without a prediction instead of stopping; they count in no mean.")
@json_option
@verbosity_options
def evaluate(
    predictions: Path,
    references: Path,
    output: Path | None,
    csv_path: Path | None,
    labels: str | None,
    roi: tuple[str, ...],
    scans: Path | None,
    allow_missing: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compare segmentations with references: Dice per label and case, with mean, median and spread.

    PREDICTIONS and REFERENCES are two label maps (NIfTI, NRRD, MHA, DICOM Segmentation, RT Structure Set) or two folders of them. A DICOM object is placed on its series, which is
    looked for in --scans, in its own folder and in the folder above. With --roi each object gives the regions it has of those names; one that has none of them is taken whole.
    Files of folders are paired by name: endings such as _seg, _label, _mask and _pred do not count, and CASE_CT_seg.nii.gz fits CASE.nii.gz. REFERENCES may also be a dataset
    folder with dataset.json, which gives the label names too.

    Both maps of a pair must lie on the same grid. Where a label is in neither map, Dice is undefined: the case is counted and shown (-), but is in no mean. Where it is in
    only one of them, Dice is 0.
    """
    from volseg.evaluation import evaluate_pairs, parse_label_names, write_csv
    from volseg.io.text import check_output, write_json

    console = Console(verbose, quiet, json_output)
    for path in (output, csv_path):
        if path is not None:
            check_output(path)
    given_names = parse_label_names(labels) if labels else {}
    pairing, found_names = find_pairs(predictions, references)
    _refuse_overwriting(pairing, output, csv_path)
    _report_unmatched(pairing, allow_missing, console)
    pairs = console.track(pairing.pairs, "Comparing", lambda pair: f"{pair.case} ({pair.prediction.name} with {pair.reference.name})")
    evaluation = evaluate_pairs(pairs, given_names or found_names, rois=parse_rois(roi), scans=scans, missing=pairing.unmatched_references, unmatched=pairing.unmatched_predictions)
    inputs = {"predictions": str(predictions), "references": str(references), "labels": labels, "rois": list(roi), "scans": None if scans is None else str(scans)}
    document = {**evaluation.to_dict(), "inputs": inputs}
    if output is not None:
        write_json(output, document)
    if csv_path is not None:
        write_csv(evaluation, csv_path)
    print_tables(evaluation, console)
    for path in (output, csv_path):
        if path is not None:
            console.say(f"wrote {path}")
    console.document(document)


def parse_rois(given: tuple[str, ...]) -> dict[str, int] | None:
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


def find_pairs(predictions: Path, references: Path) -> tuple[Pairing, dict[int, str]]:
    """Pairs of two files or two folders, and the label names that a dataset folder gives.

    Raises
    ------
    InputError
        If an input is missing, one is a file and the other a folder, or names do not fit.
    """
    from volseg.evaluation import Pair, Pairing, find_label_maps, find_references, pair_files
    from volseg.evaluation.pairing import image_stem, strip_ending

    for path in (predictions, references):
        if not path.exists():
            msg = f"{path}: no such file or folder; check the path"
            raise InputError(msg)
    if predictions.is_dir() != references.is_dir():
        folder, file = (predictions, references) if predictions.is_dir() else (references, predictions)
        msg = f"{folder}: is a folder while {file} is a file; give two label maps or two folders"
        raise InputError(msg)
    if not predictions.is_dir():
        return Pairing((Pair(strip_ending(image_stem(references)), predictions, references),)), {}
    found = find_references(references)
    return pair_files(find_label_maps(predictions), found.items), dict(found.label_names)


def print_tables(evaluation: Evaluation, console: Console) -> None:
    """Print the cases (at most ``CASES_SHOWN``, all with ``-v``) and the summary per label."""
    cases = evaluation.cases if console.verbose else evaluation.cases[:CASES_SHOWN]
    numbers = ("Dice", "precision", "sensitivity", "ml", "reference ml", "difference")
    columns = [Column("case"), Column("label"), *(Column(text, True) for text in numbers), Column("note")]
    rows = [
        [case.name, score.name]
        + [_ratio(value) for value in (score.overlap.dice, score.overlap.precision, score.overlap.sensitivity)]
        + [f"{score.predicted_ml:.2f}", f"{score.reference_ml:.2f}", f"{score.volume_difference_ml:+.2f}", score.note]
        for case in cases
        for score in case.scores
    ]
    console.table("Cases", columns, rows)
    if len(cases) < len(evaluation.cases):
        console.say(f"{len(evaluation.cases) - len(cases)} more cases; -v lists them all\n")
    statistics = ("n", "undefined", "missed", "spurious", "mean", "SD", "median", "min", "Q1", "Q3", "max")
    summary = [[label.name, *map(str, (label.dice.n, label.dice.n_undefined, label.n_missed, label.n_spurious)), *_statistics(label.dice)] for label in evaluation.summary]
    console.table("Dice per label", [Column("label"), *(Column(text, True) for text in statistics)], summary)
    if not evaluation.summary:
        console.say("No label in any prediction or reference: nothing to score.")


def _statistics(dice: Distribution) -> list[str]:
    return [_ratio(value) for value in (dice.mean, dice.sd, dice.median, dice.minimum, dice.lower_quartile, dice.upper_quartile, dice.maximum)]


def _ratio(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.4f}"


def _report_unmatched(pairing: Pairing, allow_missing: bool, console: Console) -> None:
    from volseg.evaluation.pairing import list_names

    if pairing.unmatched_predictions:
        console.warn(f"{len(pairing.unmatched_predictions)} predictions without a reference are left out: {list_names(pairing.unmatched_predictions)}")
    missing = pairing.unmatched_references
    if missing and not allow_missing:
        total = len(pairing.pairs) + len(missing)
        msg = f"{missing[0].parent}: {len(missing)} of {total} references have no prediction: {list_names(missing)}; add the predictions or leave them out with --allow-missing"
        raise InputError(msg)
    if missing:
        console.warn(f"{len(missing)} references have no prediction and are left out: {list_names(missing)}")


def _refuse_overwriting(pairing: Pairing, output: Path | None, csv_path: Path | None) -> None:
    """No report may take the place of a label map or of the other report."""
    read = {path.resolve() for pair in pairing.pairs for path in (pair.prediction, pair.reference)}
    for path in (output, csv_path):
        if path is not None and path.resolve() in read:
            msg = f"{path}: the report would replace a label map that is compared; name another file"
            raise OutputError(msg)
    if output is not None and csv_path is not None and output.resolve() == csv_path.resolve():
        msg = f"{output}: named for both the JSON and the CSV report; name two files"
        raise OutputError(msg)
