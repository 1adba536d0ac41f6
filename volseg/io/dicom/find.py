"""What DICOM lies below a path: every header read once, in parallel, and sorted into series; what is no DICOM or damaged is counted and named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member, is_slice_file, list_members
from volseg.io.dicom.files.header import SliceHeader, read_headers
from volseg.io.dicom.neighbours import refuse_incomplete
from volseg.io.dicom.pixels.decode import Progress
from volseg.io.dicom.series import Series, group_series

HEADER_THREADS = 8
"""Headers are small and wait for the disk or the network; more threads than this only contend for Python's lock."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Parameters
    ----------
    series : tuple of Series
        Candidate volumes and objects, ordered by SeriesInstanceUID; at least one.
    headers : tuple of SliceHeader
        All that was read, copies that no series holds among them.
    files : int
        Files looked at.
    strangers : tuple of Member
        Those that are no DICOM objects (a DICOMDIR, which only lists others, is one of them).
    damaged : tuple of str
        One message, naming the file, for each that begins as DICOM and cannot be read.
    notes : tuple of str
        What a user of one of the series should know, one line each.
    """

    series: tuple[Series, ...]
    headers: tuple[SliceHeader, ...]
    files: int
    strangers: tuple[Member, ...] = ()
    damaged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(path: Path, progress: Progress | None = None) -> Found:
    """Read the headers of all DICOM objects below a path and group them; no pixels are read.

    Parameters
    ----------
    path : Path
        A folder (searched recursively), a ``.zip``, or one DICOM file, which stands for all images of its series in the same folder.
    progress : callable, optional
        Called with (files done, files in all).

    Raises
    ------
    InputError
        If there is no such path, or no DICOM in it.
    """
    members = list_members(path)
    one_file = is_slice_file(path)
    with warnings.catch_warnings():
        # pydicom warns of every oddity of a header on stderr; what matters is checked and named here.
        warnings.simplefilter("ignore")
        if one_file:
            members = _siblings(members[0])
        headers, strangers, damaged = _read_headers(members, progress)
    series = refuse_incomplete(group_series(headers), headers, damaged, strangers)
    if not series:
        seen = f"{len(members)} file{'s' if len(members) != 1 else ''} looked at" if members else "it is empty"
        msg = f"{path}: holds no DICOM images ({seen}); give a folder, file or zip of a CT or MR series"
        if damaged:
            msg = next(iter(damaged.values())) + (f" ({len(damaged)} of {seen} are damaged, none can be read)" if len(damaged) > 1 else "")
        raise InputError(msg)
    notes = [f"left out a file: {text}" for text in damaged.values()]
    if one_file:
        series = [c for c in series if any(s.member.path == path for s in c.slices)] or series
        if len(series[0].slices) > 1:
            notes.append(f"{path.name} is one slice; its whole series of {len(series[0].slices)} slices in the same folder was read")
    return Found(tuple(series), tuple(headers), len(members), tuple(strangers), tuple(damaged.values()), tuple(notes))


def _siblings(member: Member) -> list[Member]:
    """The file and, where it is a slice, the files beside it."""
    headers = read_headers(member)
    if not headers or headers[0].error is not None or headers[0].frame is not None:
        return [member]
    folder = member.path.parent
    try:
        return [member, *(Member(p, None, p.stat().st_size) for p in sorted(folder.iterdir()) if p.is_file() and p != member.path)]
    except OSError as error:
        msg = f"{folder}: the other slices of {member.short} cannot be looked for ({error.strerror or error}); check the folder's permissions"
        raise InputError(msg) from error


def _read_headers(members: list[Member], progress: Progress | None) -> tuple[list[SliceHeader], list[Member], dict[Member, str]]:
    """Headers, what is no DICOM, and what is damaged with the reason, each in the order of the members."""
    headers: list[SliceHeader] = []
    strangers: list[Member] = []
    damaged: dict[Member, str] = {}
    for done, (member, outcome) in enumerate(zip(members, _attempts(members), strict=True), 1):
        if isinstance(outcome, InputError):
            damaged[member] = str(outcome)
        elif outcome:
            headers.extend(outcome)
        else:
            strangers.append(member)
        if progress is not None:
            progress(done, len(members))
    return headers, strangers, damaged


def _attempts(members: list[Member]) -> Iterator[list[SliceHeader] | InputError]:
    # Imported by several threads at once, each by another of its modules, pydicom comes out half initialised.
    import pydicom  # noqa: F401

    def attempt(member: Member) -> list[SliceHeader] | InputError:
        try:
            return read_headers(member)
        except InputError as error:
            return error

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        yield from pool.map(attempt, members)
