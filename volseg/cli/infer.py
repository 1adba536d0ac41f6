"""``volseg infer``: segment scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from volseg.cli.infer_channels import channel_inputs
from volseg.cli.infer_forecast import foretell_scans
from volseg.cli.infer_inputs import Settings
from volseg.cli.infer_segment import segment_scans
from volseg.cli.job import FORMATS, SEGMENTATION_KINDS, Job, chosen_formats, probability_endings
from volseg.cli.options import Console, NamedPath, json_option, verbosity_options
from volseg.cli.results import output_folder, refuse_foreign

if TYPE_CHECKING:
    from volseg.io.dicom.objects.seg.write import Kind

DEFAULT_BUNDLE = "ct_tumor"
DEFAULT_OUTPUT = Path("out")


@click.command()
@click.argument("scans", nargs=-1, metavar="[SCAN]...", type=NamedPath(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=PATH",
    help="Scan of one channel, for a bundle that takes several; one for each, in place of SCAN, and one image a call. They may lie on different grids of one frame; the label gets "
    "that of the bundle's first channel, and its name.",
)
@click.option("-b", "--bundle", default=DEFAULT_BUNDLE, show_default=True, help="Folder of a MONAI bundle, or a name (see `volseg bundle list`).")
@click.option("-o", "--output", type=NamedPath(path_type=Path), default=DEFAULT_OUTPUT, show_default=True, metavar="OUT_DIR", help="Folder for the results; made if needed.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(list(FORMATS)),
    default=["nifti"],
    show_default=True,
    help="Format of the segmentation (repeatable; what is not named is not written). DICOM objects only "
    "of DICOM scans, where something was segmented; dicom-sr brings dicom-seg with it.",
)
@click.option("--seg-type", type=click.Choice(SEGMENTATION_KINDS), default="binary", show_default=True, help="Type of a DICOM Segmentation; fractional holds probabilities.")
@click.option("--series", metavar="UID", help="SeriesInstanceUID to segment, where a DICOM folder holds several volumes.")
@click.option("--fix-geometry", is_flag=True, help="Resample a tilted, unevenly spaced or sheared scan to an orthogonal, even grid instead of refusing it.")
@click.option("--suv", is_flag=True, help="Turn PET values into SUV (body weight); a bundle made for SUV has DICOM PETs turned without it.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="auto: fp16 on GPUs, bf16 on CPUs that compute it, else fp32. int8 (OpenVINO) is calibrated on the first scan it is asked for, "
    "kept for later ones, and refused where a label's Dice with fp32 is below 0.99.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino", "onnxruntime", "tensorrt", "monai"]),
    default="auto",
    show_default=True,
    help="What runs the network. auto: PyTorch on a GPU; on a CPU OpenVINO where its converted network is cached or the scan's windows pay for converting it, else PyTorch. "
    "monai: the bundle's own pipeline.",
)
@click.option(
    "--weights",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Other weights for the bundle's network, e.g. RUN_DIR/model.pt. Repeatable: an ensemble, whose scores (before the softmax) are averaged, as nnU-Net does with its folds.",
)
@click.option(
    "--tta",
    is_flag=True,
    help="Test-time augmentation: average the scores of each window's mirror images (8 flips; fewer where the bundle's mirror_axes says so), which takes as many times as long.",
)
@click.option("--overlap", type=float, metavar="F", help="Overlap of the sliding windows, 0 to below 1  [default: the bundle's own]")
@click.option("--probabilities", is_flag=True, help="Write the probability of each label too, as 8-bit NIfTI on the scan's grid (steps of 1/255): *_prob_LABEL.nii.gz.")
@click.option("--preview/--no-preview", default=True, show_default=True, help="Write a picture of three planes beside each label.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write an HTML page and a CSV of statistics for each scan.")
@click.option("--overwrite", is_flag=True, help="Replace files in OUT_DIR that volseg did not write.")
@click.option("--max-memory", metavar="SIZE", help="RAM the run may use, e.g. 4G or 3500M: smaller batches keep it, or the scan is refused with what it needs.")
@click.option("--dry-run", is_flag=True, help="Read the scans, print what would be done, how long it would take and in how much memory, and stop.")
@json_option
@verbosity_options
def infer(
    scans: tuple[Path, ...],
    inputs: tuple[str, ...],
    bundle: str,
    output: Path,
    formats: tuple[str, ...],
    seg_type: Kind,
    series: str | None,
    fix_geometry: bool,
    suv: bool,
    device: str,
    precision: str,
    engine: str,
    weights: tuple[Path, ...],
    tta: bool,
    overlap: float | None,
    probabilities: bool,
    preview: bool,
    report: bool,
    overwrite: bool,
    max_memory: str | None,
    dry_run: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Segment each SCAN: a NIfTI, NRRD or MHA file, a DICOM file, folder or zip, or a folder of scans.

    For scan.nii.gz, OUT_DIR gets scan_seg.nii.gz (the label on exactly the scan's grid), scan_seg.json (statistics of each label, input, weights, software, timings, warnings),
    scan_seg.csv (the statistics as a table), scan_seg.png (a picture) and scan_seg.html (a page with all of it). From DICOM also, where asked for, scan_seg.dcm (Segmentation),
    scan_rtstruct.dcm (RT Structure Set) and scan_sr.dcm (measurement report, TID 1500). With --probabilities also
    scan_prob_LABEL.nii.gz for each label. One unusable scan does not stop the others; the exit status is then 2. A path that is not there stops the call before any work.

    \b
    Examples:
      volseg infer scan.nii.gz
      volseg infer DICOM_FOLDER -o results
      volseg infer DICOM_FOLDER -o results --format nifti --format dicom-seg --format rtstruct --format dicom-sr
      volseg infer scans/ -o results --format nrrd
      volseg infer scan.nii.gz -b bundles/ct_tumor --weights runs/ct_tumor/fold0/final.pt
      volseg infer scan.nii.gz --weights fold0.pt --weights fold1.pt --tta --probabilities
      volseg infer scan.nii.gz --dry-run --json
      volseg infer scans/ -o results --max-memory 4G
      volseg infer --input CT=ct.nii.gz --input PET=pet.nii.gz -b bundles/petct_tumor
    """
    from volseg.bundle import find_bundle, read_bundle
    from volseg.inference.memory import parse_bytes
    from volseg.io import discover, output_stems

    console = Console(verbose, quiet, json_output)
    wanted, folder = chosen_formats(formats), find_bundle(bundle)
    channels = channel_inputs(inputs, scans, series, folder)
    found = [*channels.values()][:1] or [scan for given in scans for scan in discover(given)]
    endings = probability_endings(read_bundle(folder).labels) if probabilities else ()
    jobs = [Job(scan, stem, output, wanted, preview, report, seg_type, endings, tuple(channels.items())) for scan, stem in zip(found, output_stems(found), strict=True)]
    kept = probabilities or ("dicom-seg" in wanted and seg_type == "fractional")
    limit = None if max_memory is None else parse_bytes(max_memory)
    settings = Settings(folder, device, precision, engine, weights, tta, overlap, series, fix_geometry, suv, kept, limit)
    if dry_run:
        return foretell_scans(jobs, settings, console)
    refuse_foreign(jobs, overwrite=overwrite)
    with output_folder(output):
        return segment_scans(jobs, settings, console)
