"""``volseg infer`` itself: each scan segmented and its results written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.infer_inputs import Settings
from volseg.cli.infer_run import Finish, Scan, averaged, exit_code, process
from volseg.cli.job import Job
from volseg.cli.options import Console
from volseg.cli.results import import_writers, write_results

if TYPE_CHECKING:
    from volseg.inference import Segmentation, Segmenter


def segment_scans(jobs: list[Job], settings: Settings, console: Console) -> int:
    """Segment every scan, write its results and print the document; returns the exit status."""
    # Two scans in memory beside the one that is computed would break a limit that was worked out for one.
    results, segmenter = process(jobs, settings, console, _segment, overlapped=len(jobs) > 1 and settings.max_memory is None, preload=True)
    console.document({"results": results})
    if segmenter is not None:
        _convert(segmenter, console)
    return exit_code(results)


def _segment(scan: Scan, console: Console) -> Finish:
    Thread(target=import_writers, args=(scan.job,), name="volseg-import").start()
    with _window_bar(console, scan.job) as progress:
        segmentation = scan.segmenter.segment(scan.volume, progress=progress, probabilities=scan.store() or False)
    engine = segmentation.engine
    told = f"{scan.job.scan}: engine {engine['engine']}, {engine['precision']}, {engine['device_name']}{averaged(engine)}"
    console.detail(told + (f" ({engine['reason']})" if "reason" in engine else ""))
    return partial(_write, scan, segmentation, console)


def _write(scan: Scan, segmentation: Segmentation, console: Console) -> dict[str, Any]:
    job, report = scan.job, segmentation.report()
    report["timings_s"] = {**report["timings_s"], "read": round(scan.read_s, 4)}
    write_results(job, segmentation, report)
    for warning in report["warnings"]:
        console.warn(f"{job.scan}: {warning}")
    volumes = ", ".join(f"{label['name']} {label['volume_ml']:.1f} ml" for label in report["labels"])
    console.say(f"{job.scan}: {volumes} -> {report['outputs'][0]}  ({sum(report['timings_s'].values()):.1f} s)")
    return report


def _convert(segmenter: Segmenter, console: Console) -> None:
    """Once the results are there: make the next run start and run faster."""
    if segmenter.should_convert_later():
        console.detail("converting the network to OpenVINO for the next run (VOLSEG_NO_CACHE=1 leaves that out)")
        path = segmenter.convert_later()
        console.detail(f"kept in {path.parent}" if path else "the network stays with PyTorch: OpenVINO cannot take it")


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
