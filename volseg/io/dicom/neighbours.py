"""Files that cannot be read, or do not say whose they are, and lie among the slices of a series: each may be its first or last slice, whose absence nothing else would show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.series import Series
from volseg.io.formats import PREAMBLE

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""What calls itself a slice; other names say nothing."""

VALID_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
"""PS3.5 9.1; a series whose UID is none, beside others whose UIDs are, is what damage made of one of them."""

Place = tuple[Path, str | None]
"""A folder, or a zip and a folder inside it."""


def refuse_incomplete(series: Sequence[Series], headers: Iterable[SliceHeader], damaged: Mapping[Member, str], strangers: Iterable[Member]) -> list[Series]:
    """Refuse each series that a damaged file may belong to.

    Parameters
    ----------
    series : sequence of Series
        All that was found; one whose own UID is no UID is left as it is.
    headers : iterable of SliceHeader
        All that was read.
    damaged : dict of Member to str
        Files that cannot be read, so that nobody knows their series, and why.
    strangers : iterable of Member
        Files that are no DICOM.

    Returns
    -------
    list of Series
        Those whose slices share a folder with such a file, and with no image of another series, have an ``error``: the file may be one of their slices. In a folder of several
        series it may belong to any of them, and is only warned of elsewhere.
    """
    unknown: dict[Place, list[tuple[Member, str]]] = {}
    for member, reason in damaged.items():
        # A sub-folder that may not be looked into is no slice.
        if member.inside is not None or not member.path.is_dir():
            unknown.setdefault(_place(member), []).append((member, reason))
    suspects: dict[Place, list[Member]] = {}
    for member in strangers:
        suspects.setdefault(_place(member), []).append(member)
    owners: dict[Place, set[str]] = {}
    for header in headers:
        if header.is_object:
            continue
        owners.setdefault(_place(header.member), set()).add(header.uid)
        if not VALID_UID.fullmatch(header.uid):
            reason = str(header.error or f"{header.member}: has no valid SeriesInstanceUID (0020,000E); copy it again from its source")
            unknown.setdefault(_place(header.member), []).append((header.member, reason))
    return [_judged(s, unknown, suspects, owners) for s in series] if unknown or suspects else list(series)


def _judged(series: Series, unknown: Mapping[Place, list[tuple[Member, str]]], suspects: Mapping[Place, list[Member]], owners: Mapping[Place, set[str]]) -> Series:
    if not series.is_scan or series.slices[0].frame is not None or not VALID_UID.fullmatch(series.uid) or (series.error is not None and not series.mendable):
        return series
    places = dict.fromkeys(_place(s.member) for s in series.slices)
    alone = [place for place in places if not any(VALID_UID.fullmatch(uid) for uid in owners[place] - {series.uid})]
    found = [entry for place in alone for entry in unknown.get(place, [])]
    if not found:
        suffixes = {_suffix(s.member) for s in series.slices}
        found = [(m, f"{m}: {reason}") for place in alone for m in suspects.get(place, []) if (reason := _broken(m, suffixes))]
    if not found:
        return series
    more = f" ({len(found)} files are like this)" if len(found) > 1 else ""
    msg = f"{found[0][1]}{more}; it lies among the {len(series.slices)} slices of series {series.uid} and may be one of them; if it is none, move it elsewhere"
    return replace(series, error=InputError(msg), mendable=False)


def _broken(member: Member, suffixes: set[str]) -> str | None:
    """Why a file that is no DICOM looks like what is left of a slice, None where it does not."""
    name = member.short
    # macOS leaves a file ._NAME beside each NAME on foreign disks.
    if name.startswith(".") or name.upper() == "DICOMDIR" or _suffix(member) not in suffixes:
        return None
    if member.size == 0:
        return "is empty (0 bytes); copy it again from its source"
    try:
        with member.open() as stream:
            # Of a copy that was broken off, a file system keeps the length and zeros.
            zeros = not stream.read(PREAMBLE).strip(b"\0")
    except InputError as error:
        return str(error).removeprefix(f"{member}: ")
    if zeros:
        return "holds no DICOM but zeros; copy it again from its source"
    return "is no DICOM though its name says so; copy it again from its source" if _suffix(member) in DICOM_SUFFIXES else None


def _suffix(member: Member) -> str:
    suffix = PurePosixPath(member.short).suffix.lower()
    # Names like 1.2.840.113619.2.55 have no suffix.
    return "" if suffix[1:].isdigit() else suffix


def _place(member: Member) -> Place:
    return (member.path.parent, None) if member.inside is None else (member.path, str(PurePosixPath(member.inside).parent))
