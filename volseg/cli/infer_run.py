"""The walk of ``volseg infer`` over its scans: the next is read and the last one written while one is computed; an unusable one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.infer_inputs import Settings, Unusable, read_scan
from volseg.cli.job import Job
from volseg.cli.options import Console
from volseg.cli.overlap import Behind, fits_beside, read_ahead
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.inference import Segmenter
    from volseg.inference.probability_store import ProbabilityStore
    from volseg.io import Volume


@dataclass(frozen=True)
class Scan:
    """A scan in memory beside what is to be done with it."""

    job: Job
    volume: Volume
    segmenter: Segmenter
    read_s: float
    probabilities: bool = False

    def store(self) -> ProbabilityStore | None:
        """Room for the probabilities where the results go, if they are asked for; it is taken when the first one comes."""
        return self.segmenter.probability_store(self.volume, self.job.folder) if self.probabilities else None


Finish = Callable[[], dict[str, Any]]
"""What is left to do for a scan once it is computed: writing and telling; gives the scan's part of the document."""

Work = Callable[[Scan, Console], Finish]
"""What is done with each scan."""


def process(jobs: list[Job], settings: Settings, console: Console, work: Work, *, overlapped: bool, preload: bool) -> tuple[list[dict[str, Any]], Segmenter | None]:
    """Do the work on every scan.

    Overlapped, the next scan is read and the last one written meanwhile; messages and document keep the order of the scans, since one thread gives them all.

    Parameters
    ----------
    jobs : list of Job
        One for each scan.
    settings : Settings
        How they are read and segmented.
    console : Console
        Where words go.
    work : callable
        What is done with a scan.
    overlapped : bool
        Whether reading and writing run beside the work.
    preload : bool
        Whether the network is loaded while the first scan is read.

    Returns
    -------
    results : list of dict
        The scans' parts of the document, in their order.
    segmenter : Segmenter or None
        None where the bundle could not be loaded, and no scan was there to tell it.

    Raises
    ------
    InputError
        What is wrong with the only scan; with several it is told, and kept in ``results``.
    """
    from volseg.inference.quiet import quiet_libraries

    results: list[dict[str, Any]] = []
    # Warning filters belong to the process: a library silenced in one thread must not speak because another thread restored them.
    with quiet_libraries(), ThreadPoolExecutor(1) as pool, Behind(threaded=overlapped) as writer:
        opening = pool.submit(settings.segmenter, preload=preload)
        for scan in _each(jobs, settings, opening, console, overlapped=overlapped):
            writer.do(partial(_finish, scan.job, _compute(scan, work, console), results, alone=len(jobs) == 1))
            del scan
    return results, opening.result() if opening.exception() is None else None


def exit_code(results: list[dict[str, Any]]) -> int:
    """2 where a scan could not be used, else 0."""
    return 2 if any("error" in result for result in results) else 0


def averaged(engine: Mapping[str, Any]) -> str:
    """What is averaged, in words to follow the engine's; empty where nothing is."""
    if "runs_per_window" not in engine:
        return ""
    parts = [f"{engine['ensemble']} networks"] * (engine["ensemble"] > 1) + [f"{engine['flips']} flips"] * (engine["flips"] > 1)
    return f", mean of {' in '.join(parts)}: each window is run {engine['runs_per_window']} times"


def _each(jobs: list[Job], settings: Settings, opening: Future[Segmenter], console: Console, *, overlapped: bool) -> Iterator[Scan | Unusable]:
    """Read the scans one by one; what is wrong with the bundle is told after the first scan could be read, so that a wrong path is told at once."""
    for found in read_ahead(jobs, partial(read_scan, settings=settings), lambda job: overlapped and fits_beside(job.scan)):
        if isinstance(found, Unusable):
            yield found
            continue
        console.detail(f"{found.job.scan}: {found.volume}")
        yield Scan(found.job, found.volume, opening.result(), found.read_s, settings.probabilities)
        del found


def _compute(scan: Scan | Unusable, work: Work, console: Console) -> Finish:
    """What finishes a scan; for one that cannot be used it is raising its error."""
    error: InputError
    if isinstance(scan, Unusable):
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
        results.append(_report_failure(Unusable(job, error), alone=alone))


def _report_failure(scan: Unusable, *, alone: bool) -> dict[str, Any]:
    """With one scan the error ends the command; with several it is told and the others go on."""
    if alone:
        raise scan.error
    click.echo(f"volseg: error: {scan.error}", err=True)
    return {"input": str(scan.job.scan), "error": str(scan.error)}
