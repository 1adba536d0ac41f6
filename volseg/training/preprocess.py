"""Preprocess the cases of a dataset once, in several processes, into a cache from which every training reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volseg.bundle import Bundle
from volseg.dataset import Case
from volseg.dataset.cache import CachedCase, entry_name, read_entry, remove_leftovers, source_of
from volseg.errors import DatasetError
from volseg.inference.executors.compiled import cache_folder
from volseg.io.text import write_json
from volseg.processors import usable_threads
from volseg.provenance import peak_memory_bytes, software_versions
from volseg.training.case_maker import CaseMaker, Job
from volseg.training.case_processes import Progress, Teller, make_elsewhere
from volseg.training.chain import PACKAGES_THAT_MATTER, Chain

WORTH_S = 30.0
"""Other processes are started when the cases left would take this one longer: each first imports PyTorch and MONAI, for about 10 s."""

TRIED = 3
"""So many cases are made in this process before that is judged; the first of them also imports what the transforms need."""

MEMORY_SHARE = 0.8
"""Share of the free memory that processes may take together."""


@dataclass(frozen=True)
class Preprocessed:
    """Cases of a cache, and what it took to have them.

    Attributes
    ----------
    folder : Path
        Where their entries lie.
    cases : tuple of CachedCase
        In the order asked for.
    made, reused : int
        How many were made now, and how many were there.
    seconds : float
        Wall-clock time.
    """

    folder: Path
    cases: tuple[CachedCase, ...]
    made: int
    reused: int
    seconds: float

    @property
    def size_on_disk(self) -> int:
        """Bytes of the cases."""
        return sum(case.size_on_disk for case in self.cases)


def default_cache() -> Path:
    """``preprocessed`` in volseg's cache folder (``$VOLSEG_CACHE``, else ``$XDG_CACHE_HOME/volseg``, else ``~/.cache/volseg``)."""
    return cache_folder() / "preprocessed"


def preprocess(
    cases: Sequence[Case],
    chain: Chain,
    bundle: Bundle,
    *,
    cache: Path | None = None,
    sources: Sequence[Case] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Preprocessed:
    """Have every case in the cache; those that are there already are left as they are, so an interrupted run goes on where it was.

    Parameters
    ----------
    cases : sequence of Case
        What the transforms read.
    chain : Chain
        The transforms.
    bundle : Bundle
        Its name is that of the folder; its channels say what lies outside the field of view of an image that is on another grid than the first.
    cache : Path, optional
        Folder of all caches; :func:`default_cache` when omitted.
    sources : sequence of Case, optional
        What the cases were converted from, where they were: the identity of an entry is that of the files the user has.
    workers : int, optional
        Processes. When omitted, cases are made in this process, unless after :data:`TRIED` of them those left would take it longer than :data:`WORTH_S`: then by as many
        processes as there are processors (and memory for the largest case in each).
    progress : callable, optional
        Told of every case that is finished.

    Returns
    -------
    Preprocessed

    Raises
    ------
    DatasetError
        When cases could not be made; the first is named, the others are counted, and those that could be made are kept.
    BundleError
        When the transforms cannot be built.
    OutputError, WriteError
        When the cache cannot be written to.
    """
    began = time.perf_counter()
    folder = folder_of(chain, bundle, cache)
    jobs = [_job(case, source, folder, bundle.channel_names) for case, source in zip(cases, sources or cases, strict=True)]
    wanted = {job.entry: job for job in jobs}
    missing = [job for job in wanted.values() if read_entry(job.entry) is None]
    if missing:
        remove_leftovers(folder)
        write_json(folder / "chain.json", {"steps": list(chain.steps), "packages": software_versions(PACKAGES_THAT_MATTER)})
        # The largest first: it shows how much memory a process needs, and none is left with it at the end.
        missing.sort(key=lambda job: -_bytes(job.case))
        _make(missing, chain, workers, Teller(progress, len(wanted) - len(missing), len(wanted)))
    made = {entry: read_entry(entry) for entry in wanted}
    found = tuple(case for job in jobs if (case := made[job.entry]) is not None)
    if len(found) < len(jobs):
        msg = f"{folder}: cases vanished while others were made; another program cleans this folder: choose another with -o"
        raise DatasetError(msg)
    return Preprocessed(folder, found, len(missing), len(wanted) - len(missing), time.perf_counter() - began)


def folder_of(chain: Chain, bundle: Bundle, cache: Path | None = None) -> Path:
    """Folder of the entries of one chain, within the folder of all caches."""
    return (default_cache() if cache is None else cache).absolute() / f"{bundle.name}-{chain.digest}"


def missing_cases(cases: Sequence[Case], chain: Chain, bundle: Bundle, cache: Path | None = None) -> list[Case]:
    """Cases that are not in the cache yet."""
    folder = folder_of(chain, bundle, cache)
    return [case for case in cases if read_entry(_job(case, case, folder, bundle.channel_names).entry) is None]


def _job(case: Case, source: Case, folder: Path, channels: tuple[str, ...]) -> Job:
    facts = source_of(source) | ({"channels": list(channels)} if len(source.images) > 1 else {})
    return Job(case, folder / entry_name(source, facts), facts, channels)


def _bytes(case: Case) -> int:
    return sum(path.stat().st_size if path.is_file() else sum(member.stat().st_size for member in path.rglob("*")) for path in case.images)


def _make(jobs: Sequence[Job], chain: Chain, workers: int | None, teller: Teller) -> None:
    left = list(jobs)
    if workers is None or workers < 2:
        left = _make_here(left, chain, float("inf") if workers else WORTH_S, teller)
    if left:
        count = workers or _affordable(len(left))
        if count < 2:
            _make_here(left, chain, float("inf"), teller)
        else:
            make_elsewhere(left, chain, min(count, len(left)), teller)
    teller.raise_problems()


def _make_here(jobs: Sequence[Job], chain: Chain, worth_s: float, teller: Teller) -> list[Job]:
    """Make cases in this process, as long as the rest would not take longer than ``worth_s``; returns those that are left."""
    from volseg.inference.quiet import quiet_libraries

    with quiet_libraries():
        maker = CaseMaker(chain)
        began = time.perf_counter()
        for number, job in enumerate(jobs):
            if number >= TRIED and (time.perf_counter() - began) / number * (len(jobs) - number) > worth_s:
                return list(jobs[number:])
            problem = None
            try:
                maker.make(job)
            except DatasetError as error:
                problem = error
            teller.finish(job, problem)
    return []


def _affordable(jobs: int) -> int:
    """Processes that the processors and the free memory allow, each as large as this one has become."""
    count = min(usable_threads(), jobs)
    peak, free = peak_memory_bytes(), _free_bytes()
    return count if not peak or not free else max(1, min(count, int(MEMORY_SHARE * free / peak)))


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
