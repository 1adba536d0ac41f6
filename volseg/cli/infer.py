"""``volseg infer``: segment scans."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.options import Console, json_option, verbosity_options
from volseg.cli.overlap import Behind, fits_beside, read_ahead
from volseg.cli.results import FORMATS, SEGMENTATION_KINDS, Job, check_source, chosen_formats, import_writers, output_folder, refuse_foreign, write_results
from volseg.errors import BundleError, InputError

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
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino", "monai"]),
    default="auto",
    show_default=True,
    help="What runs the network. auto: PyTorch on a GPU; on a CPU OpenVINO where its converted network is cached or 16 windows pay for converting it, else PyTorch. "
    "monai: the bundle's own pipeline.",
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Other weights for the bundle's network, e.g. RUN_DIR/model.pt.")
@click.option("--overlap", type=float, metavar="F", help="Overlap of the sliding windows, 0 to below 1  [default: the bundle's own]")
@click.option("--preview/--no-preview", default=True, show_default=True, help="Write a picture of three planes beside each label.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write an HTML page and a CSV of statistics for each scan.")
@click.option("--overwrite", is_flag=True, help="Replace files in OUT_DIR that volseg did not write.")
@click.option("--max-memory", metavar="SIZE", help="RAM the run may use, e.g. 4G or 3500M: smaller batches keep it, or the scan is refused with what it needs.")
@click.option("--dry-run", is_flag=True, help="Read the scans, print what would be done, how long it would take and in how much memory, and stop.")
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
    engine: str,
    weights: Path | None,
    overlap: float | None,
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
    scan_rtstruct.dcm (RT Structure Set) and scan_sr.dcm (measurement report, TID 1500). One unusable scan does not stop the others; the exit status is then 2.

    \b
    Examples:
      volseg infer scan.nii.gz
      volseg infer DICOM_FOLDER -o results
      volseg infer DICOM_FOLDER -o results --format nifti --format dicom-seg --format rtstruct --format dicom-sr
      volseg infer scans/ -o results --format nrrd
      volseg infer scan.nii.gz -b bundles/ct_tumor --weights runs/ct_tumor/fold0/last.pt
      volseg infer scan.nii.gz --dry-run --json
      volseg infer scans/ -o results --max-memory 4G
    """
    from volseg.io import discover, output_stems

    console = Console(verbose, quiet, json_output)
    found = [scan for given in scans for scan in discover(given)]
    wanted = chosen_formats(formats)
    jobs = [Job(scan, stem, output, wanted, preview, report, seg_type) for scan, stem in zip(found, output_stems(found), strict=True)]
    from volseg.bundle import find_bundle
    from volseg.inference.memory import parse_bytes

    folder = find_bundle(bundle)
    limit = None if max_memory is None else parse_bytes(max_memory)
    if not dry_run:
        refuse_foreign(jobs, overwrite=overwrite)
    settings = _Settings(
        folder, device, precision, engine, weights, overlap, series, fix_geometry, suv, probabilities="dicom-seg" in wanted and seg_type == "fractional", max_memory=limit
    )
    if dry_run:
        return _run(jobs, settings, console, _foretell, overlapped=False)
    with output_folder(output):
        return _run(jobs, settings, console, _segment, overlapped=len(jobs) > 1 and limit is None)


@dataclass(frozen=True)
class _Settings:
    bundle: Path
    device: str
    precision: str
    engine: str
    weights: Path | None
    overlap: float | None
    series: str | None
    fix_geometry: bool
    suv: bool
    probabilities: bool
    max_memory: int | None

    @cached_property
    def modality(self) -> str | None:
        """What the bundle was made for; a bundle that cannot be read is told of when it is loaded."""
        from volseg.bundle import read_bundle

        try:
            return read_bundle(self.bundle).modality
        except BundleError:
            return None

    def segmenter(self, *, preload: bool) -> Segmenter:
        """The bundle; with ``preload`` it goes on in a thread with what the network needs, beside the reading of the first scan."""
        from volseg.inference import Segmenter

        segmenter = Segmenter(self.bundle, device=self.device, precision=self.precision, engine=self.engine, weights=self.weights, overlap=self.overlap, max_memory=self.max_memory)
        if preload:
            segmenter.preload()
        return segmenter


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
    with quiet_libraries(), ThreadPoolExecutor(1) as pool, Behind(threaded=overlapped) as writer:
        opening = pool.submit(settings.segmenter, preload=work is _segment)
        for scan in _each(jobs, settings, opening, console, overlapped=overlapped):
            writer.do(partial(_finish, scan.job, _compute(scan, work, console), results, alone=len(jobs) == 1))
            del scan
    total = _total(results) if work is _foretell else {}
    if total and len(jobs) > 1:
        console.say(f"in all: {_told(total['total'])}")
    console.document({"results": results, **total})
    if work is _segment and opening.exception() is None:
        _convert(opening.result(), console)
    return 2 if any("error" in result for result in results) else 0


def _convert(segmenter: Segmenter, console: Console) -> None:
    """Once the results are there: make the next run start and run faster."""
    if segmenter.should_convert_later():
        console.detail("converting the network to OpenVINO for the next run (VOLSEG_NO_CACHE=1 leaves that out)")
        path = segmenter.convert_later()
        console.detail(f"kept in {path.parent}" if path else "the network stays with PyTorch: OpenVINO cannot take it")


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
    Thread(target=import_writers, args=(scan.job,), name="volseg-import").start()
    with _window_bar(console, scan.job) as progress:
        segmentation = scan.segmenter.segment(scan.volume, progress=progress, probabilities=scan.probabilities)
    engine = segmentation.engine
    console.detail(f"{scan.job.scan}: engine {engine['engine']}, {engine['precision']}, {engine['device_name']}" + (f" ({engine['reason']})" if "reason" in engine else ""))
    return partial(_write, scan, segmentation, console)


def _foretell(scan: _Scan, console: Console) -> Finish:
    plan, outputs = scan.segmenter.plan(scan.volume), [str(path) for path in scan.job.outputs()]
    for warning in plan["warnings"]:
        console.warn(f"{scan.job.scan}: {warning}")
    patch = "x".join(map(str, plan["patch"]))
    console.say(f"{scan.job.scan}: {scan.volume.grid}")
    console.say(f"  network input {'x'.join(map(str, plan['network_shape']))} at {plan['network_spacing_mm']} mm, {plan['windows']} windows of {patch}")
    console.say(f"  {plan['device_name']}, {plan['precision']}; would write {', '.join(outputs)}")
    note = "; the network was measured for it just now, which is kept for the next time" if plan["measured_now"] else ""
    console.say(f"  forecast: {_told(plan['forecast'])}{note}")
    return lambda: {"input": str(scan.job.scan), "grid": str(scan.volume.grid), "outputs": outputs, **plan}


def _total(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all scans: windows and seconds in sum (None where one has none), and the highest of the peaks."""
    told = [result["forecast"] for result in results if "forecast" in result]
    if not told:
        return {}
    seconds = [one["seconds"] for one in told]
    total = {
        "scans": len(told),
        "windows": sum(one["windows"] for one in told),
        "repeated_windows": sum(one["repeated_windows"] for one in told),
        "seconds": None if None in seconds else round(sum(seconds), 2),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in told),
    }
    return {"total": total}


def _told(forecast: dict[str, Any]) -> str:
    from volseg.inference.memory import format_bytes

    repeated = f" ({forecast['repeated_windows']} of them constant, which take no time)" if forecast["repeated_windows"] else ""
    seconds = "seconds not known for this engine" if forecast["seconds"] is None else f"{forecast['seconds']:.1f} s"
    return f"{forecast['windows']} windows{repeated}, {seconds}, {format_bytes(forecast['peak_memory_bytes'])} of memory at the peak"


def _each(jobs: list[Job], settings: _Settings, opening: Future[Segmenter], console: Console, *, overlapped: bool) -> Iterator[_Scan | _Unusable]:
    """Read the scans one by one; what is wrong with the bundle is told after the first scan could be read, so that a wrong path is told at once."""
    for found in read_ahead(jobs, partial(_read, settings=settings), lambda job: overlapped and fits_beside(job.scan)):
        if isinstance(found, _Unusable):
            yield found
            continue
        console.detail(f"{found.job.scan}: {found.volume}")
        yield _Scan(found.job, found.volume, opening.result(), found.read_s, settings.probabilities)
        del found


def _read(job: Job, settings: _Settings) -> _Read | _Unusable:
    from time import perf_counter

    from volseg.io import load

    began = perf_counter()
    try:
        volume = load(job.scan, series=settings.series, modality=settings.modality, fix_geometry=settings.fix_geometry, suv=settings.suv)
        check_source(job, volume.source.kind, volume.source.header if volume.source.kind == "dicom" else None)
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
