"""Writing what ``volseg infer`` leaves for one scan, so that all of it appears or none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from volseg.cli.job import DICOM_FORMATS, FORMATS, Job
from volseg.errors import InputError, OutputError

if TYPE_CHECKING:
    from volseg.evaluation.regions.statistics import LabelStatistics
    from volseg.inference import Segmentation


def import_writers(job: Job) -> None:
    """Import what :func:`write_results` will need, 1.5 s of it for a page and a picture; in a thread beside the network they cost nothing.

    An import that fails is left for the writing to tell.
    """
    names = ["scipy.ndimage", "scipy.spatial", "cc3d", "nibabel.nifti2"]
    names += ["matplotlib.figure", "matplotlib.backends.backend_agg"] if job.preview else []
    names += ["jinja2", "PIL.Image", "contourpy"] if job.report else []
    with suppress(ImportError):
        for name in names:
            import_module(name)


def write_results(job: Job, segmentation: Segmentation, report: dict[str, Any]) -> None:
    """Write every result of one scan to a hidden folder, then move them into place: all of them appear or none, and an earlier result stays until then.

    Parameters
    ----------
    job : Job
        What to write, and where.
    segmentation : Segmentation
        The label and its scan.
    report : dict
        The record; ``labels`` (statistics), ``outputs``, ``warnings`` and the time for writing are filled in.
    """
    from time import perf_counter

    from volseg.inference.quiet import quiet_libraries
    from volseg.io.text import write_json

    began = perf_counter()
    report["warnings"] = [*report["warnings"], *_left_over(job)]
    staging = job.folder / f".volseg-{uuid4().hex}"
    staged = replace(job, folder=staging)
    try:
        with quiet_libraries():
            missing = _write_side_by_side(job, staged, segmentation, report)
        report["timings_s"]["write"] = round(perf_counter() - began, 4)
        write_json(staged.json, report)
        for name in missing:
            # An object of an earlier run would look as if it belonged to this one.
            (job.folder / name).unlink(missing_ok=True)
        for path in staged.outputs():
            if path.name not in missing:
                path.replace(job.folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _left_over(job: Job) -> Iterator[str]:
    """Results of an earlier run that this one does not replace: they stay, but their record goes, and beside the new label they look as if they belonged to it."""
    try:
        earlier = json.loads(job.json.read_text(encoding="utf-8"))["outputs"]
        names = sorted({Path(path).name for path in earlier} - {path.name for path in job.outputs()})
    except (OSError, ValueError, KeyError, TypeError):
        return
    left = [name for name in names if (job.folder / name).exists()]
    if left:
        yield f"{', '.join(left)}: left from an earlier run, whose record is replaced; remove what should not lie beside this result"


def _write_side_by_side(job: Job, staged: Job, segmentation: Segmentation, report: dict[str, Any]) -> list[str]:
    """Measure and draw at once, then write the labels and the page; fill in the record. Gives the names of the labels that could not be written since nothing is segmented."""
    from volseg.evaluation.regions.statistics import label_statistics, write_statistics_csv
    from volseg.report import write_case_report, write_preview

    with ThreadPoolExecutor(2, thread_name_prefix="volseg-results") as pool:
        drawn = pool.submit(write_preview, segmentation.volume, segmentation.label, staged.place("_seg.png"), label_names=segmentation.labels) if job.preview else None
        statistics = label_statistics(segmentation.label, segmentation.volume, segmentation.labels)
        written = pool.submit(lambda: list(_write_labels(staged, segmentation, statistics)))
        report["labels"] = [entry.as_dict() for entry in statistics]
        report["warnings"] = [*report["warnings"], *written.result()]
        missing = [path.name for path in staged.labels() if not path.exists()]
        if job.probabilities:
            report["probabilities"] = {segmentation.labels[value]: str(job.place(ending)) for value, ending in job.probabilities}
        report["outputs"] = [str(path) for path in job.outputs() if path.name not in missing]
        if job.report:
            write_statistics_csv(statistics, staged.place("_seg.csv"))
            write_case_report(segmentation.volume, segmentation.label, staged.place("_seg.html"), report=report, statistics=statistics, label_names=segmentation.labels)
        if drawn is not None:
            drawn.result()
    return missing


def _write_labels(job: Job, segmentation: Segmentation, statistics: Sequence[LabelStatistics]) -> Iterator[str]:
    """Write the segmentation in every format; yields what the user should know."""
    from volseg.io.dicom.objects.seg import read_seg
    from volseg.io.dicom.objects.sr import write_sr

    empty = "nothing is segmented, so no {} was written (viewers cannot show an object without content)"
    for name, path in zip(job.formats, job.labels(), strict=True):
        if name == "dicom-seg" and segmentation.save_dicom_seg(path, job.kind) is None:
            yield empty.format("DICOM Segmentation")
        elif name == "rtstruct" and segmentation.save_rtstruct(path) is None:
            yield empty.format("RT Structure Set")
        elif name == "dicom-sr":
            seg = job.place(FORMATS["dicom-seg"])
            if seg.exists():
                held = {segment.value for segment in read_seg(seg).segments}
                measurements = [entry.measurements() for entry in statistics if entry.voxels and entry.value in held]
                lost = [entry.name for entry in statistics if entry.voxels and entry.value not in held]
                if lost:
                    yield f"{', '.join(lost)}: every voxel lies between the scan's own slices, so the DICOM objects do not hold it"
                write_sr(measurements, segmentation.volume, path, segments=segmentation.segments, algorithm=segmentation.algorithm, seg=seg)
            else:
                yield empty.format("measurement report")
        elif name not in DICOM_FORMATS:
            segmentation.save(path)
    # One by one: each is read from the disk, packed by all cores, and let go.
    for value, ending in job.probabilities:
        segmentation.save_probability(value, job.place(ending))


def refuse_foreign(jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Results of an earlier run are replaced; any other file of that name is not, unless asked.

    Raises
    ------
    InputError
        If a result would replace an input scan.
    OutputError
        If it would replace a file that volseg did not write, or stand where a folder is.
    """
    scans = {path.resolve() for job in jobs for path in (job.scan, *(path for _, path in job.channels))}
    for job in jobs:
        present = [path for path in job.outputs() if path.exists()]
        same = next((path for path in present if path.resolve() in scans), None)
        if same is not None:
            msg = f"{same}: the result would replace an input scan; choose another folder with -o"
            raise InputError(msg)
        folder = next((path for path in present if path.is_dir()), None)
        if folder is not None:
            msg = f"{folder}: is a folder where a result would go; move it away, or choose another folder with -o"
            raise OutputError(msg)
        if present and not overwrite and not _is_ours(job.json):
            msg = f"{present[0]}: it exists and was not written by volseg; choose another folder with -o, or add --overwrite"
            raise OutputError(msg)


def _is_ours(report: Path) -> bool:
    try:
        return "report_version" in json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make the folder before any work is done, and take it away again when nothing was written into it.

    Raises
    ------
    OutputError
        If it cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: the output folder cannot be made ({error.strerror}); choose another with -o"
        raise OutputError(msg) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{folder}: the output folder cannot be written to; choose another with -o"
        raise OutputError(msg)
    try:
        yield
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
