"""``volseg infer``: segment scans."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.options import Console, json_option, verbosity_options
from volseg.cli.overlap import Behind, fits_beside, read_ahead
from volseg.cli.results import FORMATS, SEGMENTATION_KINDS, Job, check_source, chosen_formats, output_folder, refuse_foreign, write_results
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.inference import Segmentation, Segmenter
    from volseg.io import Volume
    from volseg.io.dicom.objects.seg.write import Kind

DEFAULT_BUNDLE = "ct_tumor"
DEFAULT_OUTPUT = Path("out")


@click.command()
@click.argument("scans", nargs=-1, required=True, metavar="SCAN...", type=click.Path(path_type=Path))
@click.option("-b", "--bundle", default=DEFAULT_BUNDLE, show_default=True, help="Folder of a MONAI bundle, or a name (see `volseg bundle list`).")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_OUTPUT, show_default=True, metavar="OUT_DIR", help="Folder for the results; made if needed.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(list(FORMATS)),
    default=["nifti"],
    show_default=True,
    help="Format of the segmentation (repeatable); dicom-sr brings dicom-seg with it.",
)
@click.option("--seg-type", type=click.Choice(SEGMENTATION_KINDS), default="binary", show_default=True, help="Type of a DICOM Segmentation; fractional holds probabilities.")
@click.option("--series", metavar="UID", help="SeriesInstanceUID to segment, where a DICOM folder holds several volumes.")
@click.option("--fix-geometry", is_flag=True, help="Resample a tilted, unevenly spaced or sheared scan to an orthogonal, even grid instead of refusing it.")
@click.option("--suv", is_flag=True, help="Turn PET values into SUV (body weight).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True, help="auto: fp16 on CUDA, bf16 on CPUs that compute it, else fp32."
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Other weights for the bundle's network, e.g. RUN_DIR/model.pt.")
@click.option("--overlap", type=float, metavar="F", help="Overlap of the sliding windows, 0 to below 1  [default: the bundle's own]")
@click.option("--preview/--no-preview", default=True, show_default=True, help="Write a picture of three planes beside each label.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write an HTML page and a CSV of statistics for each scan.")
@click.option("--overwrite", is_flag=True, help="Replace files in OUT_DIR that volseg did not write.")
@click.option("--dry-run", is_flag=True, help="Read the scans, print what would be done, and stop.")
@json_option
@verbosity_options
def infer(
    scans: tuple[Path, ...],
    bundle: str,
    output: Path,
    formats: tuple[str, ...],
    seg_type: Kind,
    series: str | None,
    fix_geometry: bool,
    suv: bool,
    device: str,
    precision: str,
    weights: Path | None,
    overlap: float | None,
    preview: bool,
    report: bool,
    overwrite: bool,
    dry_run: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Segment each SCAN: a NIfTI, NRRD or MHA file, a DICOM file, folder or zip, or a folder of scans.

    For scan.nii.gz, OUT_DIR gets scan_seg.nii.gz (the label on exactly the scan's grid), scan_seg.json (statistics of each label, input, weights, software, timings, warnings),
    scan_seg.csv (the statistics as a table), scan_seg.png (a picture) and scan_seg.html (a page with all of it). From DICOM also, where asked for, scan_seg.dcm (Segmentation),
    scan_rtstruct.dcm (RT Structure Set) and scan_sr.dcm (measurement report, TID 1500). One unusable scan does not stop the others; the exit status is then 2.

    \b
    Examples:
      volseg infer scan.nii.gz
      volseg infer DICOM_FOLDER -o results
      volseg infer DICOM_FOLDER -o results --format nifti --format dicom-seg --format rtstruct --format dicom-sr
      volseg infer scans/ -o results --format nrrd
      volseg infer scan.nii.gz -b bundles/ct_tumor --weights runs/ct_tumor/fold0/last.pt
      volseg infer scan.nii.gz --dry-run --json
    """
    from volseg.io import discover, output_stems

    console = Console(verbose, quiet, json_output)
    found = [scan for given in scans for scan in discover(given)]
    wanted = chosen_formats(formats)
    jobs = [Job(scan, stem, output, wanted, preview, report, seg_type) for scan, stem in zip(found, output_stems(found), strict=True)]
    from volseg.bundle import find_bundle

    folder = find_bundle(bundle)
    if not dry_run:
        refuse_foreign(jobs, overwrite=overwrite)
    settings = _Settings(folder, device, precision, weights, overlap, series, fix_geometry, suv, probabilities="dicom-seg" in wanted and seg_type == "fractional")
    if dry_run:
        return _run(jobs, settings, console, _foretell, overlapped=False)
    with output_folder(output):
        return _run(jobs, settings, console, _segment, overlapped=len(jobs) > 1)


@dataclass(frozen=True)
class _Settings:
    bundle: Path
    device: str
    precision: str
    weights: Path | None
    overlap: float | None
    series: str | None
    fix_geometry: bool
    suv: bool
    probabilities: bool

    def segmenter(self) -> Segmenter:
        from volseg.inference import Segmenter

        return Segmenter(self.bundle, device=self.device, precision=self.precision, weights=self.weights, overlap=self.overlap)


@dataclass(frozen=True)
class _Scan:
    job: Job
    volume: Volume
    segmenter: Segmenter
    read_s: float
    probabilities: bool = False


@dataclass(frozen=True)
class _Read:
    job: Job
    volume: Volume
    read_s: float


@dataclass(frozen=True)
class _Unusable:
    job: Job
    error: InputError


Finish = Callable[[], dict[str, Any]]
"""What is left to do for a scan once it is computed: writing and telling; gives the scan's part of the document."""


def _run(jobs: list[Job], settings: _Settings, console: Console, work: Callable[[_Scan, Console], Finish], *, overlapped: bool) -> int:
    """Do the work on every scan and print the document; an unusable scan does not stop the others.

    Overlapped, the next scan is read and the last one written meanwhile; messages and document keep the order of the scans, since one thread gives them all.
    """
    from volseg.inference.quiet import quiet_libraries

    results: list[dict[str, Any]] = []
    # Warning filters belong to the process: a library silenced in one thread must not speak because another thread restored them.
    with quiet_libraries(), Behind(threaded=overlapped) as writer:
        for scan in _each(jobs, settings, console, overlapped=overlapped):
            writer.do(partial(_finish, scan.job, _compute(scan, work, console), results, alone=len(jobs) == 1))
            del scan
    console.document({"results": results})
    return 2 if any("error" in result for result in results) else 0


def _compute(scan: _Scan | _Unusable, work: Callable[[_Scan, Console], Finish], console: Console) -> Finish:
    """What finishes a scan; for one that cannot be used it is raising its error."""
    error: InputError
    if isinstance(scan, _Unusable):
        error = scan.error
    else:
        try:
            return work(scan, console)
        except InputError as raised:
            error = raised

    def fail() -> dict[str, Any]:
        raise error

    return fail


def _finish(job: Job, finish: Finish, results: list[dict[str, Any]], *, alone: bool) -> None:
    try:
        results.append(finish())
    except InputError as error:
        results.append(_report_failure(_Unusable(job, error), alone=alone))


def _segment(scan: _Scan, console: Console) -> Finish:
    with _window_bar(console, scan.job) as progress:
        segmentation = scan.segmenter.segment(scan.volume, progress=progress, probabilities=scan.probabilities)
    return partial(_write, scan, segmentation, console)


def _foretell(scan: _Scan, console: Console) -> Finish:
    plan, outputs = scan.segmenter.plan(scan.volume), [str(path) for path in scan.job.outputs()]
    for warning in plan["warnings"]:
        console.warn(f"{scan.job.scan}: {warning}")
    patch = "x".join(map(str, plan["patch"]))
    console.say(f"{scan.job.scan}: {scan.volume.grid}")
    console.say(f"  network input {'x'.join(map(str, plan['network_shape']))} at {plan['network_spacing_mm']} mm, {plan['windows']} windows of {patch}")
    console.say(f"  {plan['device_name']}, {plan['precision']}; would write {', '.join(outputs)}")
    return lambda: {"input": str(scan.job.scan), "grid": str(scan.volume.grid), "outputs": outputs, **plan}


def _each(jobs: list[Job], settings: _Settings, console: Console, *, overlapped: bool) -> Iterator[_Scan | _Unusable]:
    """Read the scans one by one; the bundle is loaded once, after the first scan could be read, so that a wrong path is told at once."""
    segmenter: Segmenter | None = None
    for found in read_ahead(jobs, partial(_read, settings=settings), lambda job: overlapped and fits_beside(job.scan)):
        if isinstance(found, _Unusable):
            yield found
            continue
        console.detail(f"{found.job.scan}: {found.volume}")
        if segmenter is None:
            segmenter = settings.segmenter()
        yield _Scan(found.job, found.volume, segmenter, found.read_s, settings.probabilities)
        del found


def _read(job: Job, settings: _Settings) -> _Read | _Unusable:
    from time import perf_counter

    from volseg.io import load

    began = perf_counter()
    try:
        volume = load(job.scan, series=settings.series, fix_geometry=settings.fix_geometry, suv=settings.suv)
        check_source(job, volume.source.kind)
    except InputError as error:
        return _Unusable(job, error)
    return _Read(job, volume, perf_counter() - began)


def _report_failure(scan: _Unusable, *, alone: bool) -> dict[str, Any]:
    """With one scan the error ends the command; with several it is told and the others go on."""
    if alone:
        raise scan.error
    click.echo(f"volseg: error: {scan.error}", err=True)
    return {"input": str(scan.job.scan), "error": str(scan.error)}


def _write(scan: _Scan, segmentation: Segmentation, console: Console) -> dict[str, Any]:
    job, report = scan.job, segmentation.report()
    report["timings_s"] = {**report["timings_s"], "read": round(scan.read_s, 4)}
    write_results(job, segmentation, report)
    for warning in report["warnings"]:
        console.warn(f"{job.scan}: {warning}")
    volumes = ", ".join(f"{label['name']} {label['volume_ml']:.1f} ml" for label in report["labels"])
    console.say(f"{job.scan}: {volumes} -> {report['outputs'][0]}  ({sum(report['timings_s'].values()):.1f} s)")
    return report


@contextmanager
def _window_bar(console: Console, job: Job) -> Iterator[Any]:
    """Progress over the windows of one scan: a bar on a terminal, a line elsewhere."""
    if console.quiet:
        yield None
        return
    if not sys.stderr.isatty():
        click.echo(f"segmenting {job.scan}", err=True)
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    # Results of the scan before may be told meanwhile: above the bar where both are on the terminal, and never on stderr in stdout's place.
    with Progress(console=RichConsole(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(job.stem, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
