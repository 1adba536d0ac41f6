"""``volseg evaluate``: how well segmentations agree with references."""

from __future__ import annotations

from pathlib import Path

import click

from volseg.cli.evaluate_options import choose_outputs, parse_rois
from volseg.cli.evaluate_run import Task, run
from volseg.cli.options import Console, json_option, verbosity_options

EXAMPLES = """\b
Examples:
  volseg evaluate scan_seg.nii.gz scan_label.nii.gz
  volseg evaluate out/ references/ -o report.json
  volseg evaluate out/ DATASET --allow-missing --images DATASET -o report.json
  volseg evaluate out/ references/ --compare other/ --tolerance 1
  volseg evaluate out/ references/ --labels 1=tumor,2=node --tolerance tumor=3 --json
  volseg evaluate scan_seg.dcm RTSTRUCT.dcm --roi GTV=1 --scans DICOM_FOLDER
"""


@click.command(epilog=EXAMPLES)
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON to this file, and beside it the cases as CSV and a report as HTML.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Write one row per case and label to this file.")
@click.option("--compare", type=click.Path(path_type=Path), metavar="OTHER", help="Predictions of another model on the same references, compared case by case.")
@click.option("--tolerance", multiple=True, metavar="MM", help="Tolerance of the normalised surface distance; LABEL=MM for one label (repeatable)  [default: 2]")
@click.option("--lesion-iou", type=float, metavar="IOU", help="Overlap from which a lesion is found; 0 asks for a common voxel  [default: 0.1]")
@click.option("--images", type=click.Path(path_type=Path, exists=True), metavar="FOLDER", help="Scans (or a dataset or JSON datalist) to draw the worst cases on.")
@click.option("--worst", type=click.IntRange(min=0), default=5, show_default=True, metavar="K", help="Cases of lowest Dice with pictures in the HTML report.")
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
    compare: Path | None,
    tolerance: tuple[str, ...],
    lesion_iou: float | None,
    images: Path | None,
    worst: int,
    labels: str | None,
    roi: tuple[str, ...],
    scans: Path | None,
    allow_missing: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compare segmentations with references: overlap, surface distances, volumes and lesions, per label and case, with confidence intervals.

    PREDICTIONS and REFERENCES are two label maps (NIfTI, NRRD, MHA, DICOM Segmentation, RT Structure Set) or two folders of them. A DICOM object is placed on its series, which is
    looked for in --scans, in its own folder and in the folder above. With --roi each object gives the regions it has of those names; one that has none of them is taken whole.
    Files of folders are paired by name: endings such as _seg, _label, _mask and _pred do not count, and CASE_CT_seg.nii.gz fits CASE.nii.gz. REFERENCES may also be a dataset
    folder with dataset.json, or a JSON datalist, which gives the label names too; where labels are named, a map that holds another one is refused. Voxels of its
    ignore_label (nnU-Net: the label called ignore) are not compared, and a case that the list says is annotated for some classes only is scored for these.

    Both maps of a pair must lie on the same grid. Where a label is in neither map, Dice is undefined: the case is counted and shown (-), but is in no mean. Where it is in
    only one of them, Dice is 0 and distances are undefined. The JSON and the HTML report define every metric.
    """
    console = Console(verbose, quiet, json_output)
    task = Task(predictions, references, compare, choose_outputs(output, csv_path), labels, tolerance, lesion_iou, parse_rois(roi), scans, images, worst, allow_missing)
    run(task, console)
