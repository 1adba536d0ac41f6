"""A folder, file or zip of DICOM in; the series in it, or one of them as a :class:`~volseg.io.volume.Volume`, out."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from volseg.errors import InputError, SeriesError
from volseg.geometry import Grid
from volseg.io.dicom.archive import Member, is_zip, list_members
from volseg.io.dicom.header import SliceHeader, read_header
from volseg.io.dicom.pixels import Progress, decode_slices
from volseg.io.dicom.series import Series, choose_series, group_series
from volseg.io.volume import Source, Volume

HEADER_THREADS = 8
"""Headers are small and wait for the disk or the network; more threads than this only contend for Python's lock."""


def find_series(path: str | os.PathLike[str]) -> list[Series]:
    """List what DICOM series are below a path; no pixels are read.

    Parameters
    ----------
    path : path-like
        A folder (searched recursively), a ``.zip``, or one DICOM file, which stands for all images of its series in the same folder.

    Returns
    -------
    list of Series
        Ordered by SeriesInstanceUID; ``problem`` says why one cannot be read. Files that are not DICOM are passed over.

    Raises
    ------
    InputError
        If there is no such path, or no DICOM in it.
    """
    return _find(Path(path))[0]


def read_series(path: str | os.PathLike[str], series: str | None = None, *, progress: Progress | None = None) -> Volume:
    """Read the one volume below a path, or the one named by ``series``.

    Parameters
    ----------
    path : path-like
        As for :func:`find_series`.
    series : str, optional
        SeriesInstanceUID, or :attr:`Series.key` where one UID holds several stacks.
    progress : callable, optional
        Called with (slices done, slices in all) while pixels are decoded.

    Returns
    -------
    Volume
        Axes i (column), j (row), k (slice, along the positive normal rows x columns); the grid's k step is (last - first position) / (n - 1), never SliceThickness. Values are
        rescaled (HU for CT, Bq/ml or what ``details["units"]`` says for PET) as :func:`~volseg.io.dicom.pixels.decode_slices` says.

    Raises
    ------
    SeriesError
        If no series can be read (each is listed with the reason), or several can and none was named.
    GeometryError
        If the only series has a gap, uneven spacing, duplicate positions, a tilt or mixed slices.
    InputError
        If there is no DICOM, or the only series is no scan, is truncated or cannot be decoded.
    """
    path = Path(path)
    candidates, notes = _find(path)
    chosen = _choose(path, candidates, series)
    assert chosen.grid is not None
    unusable = [c for c in candidates if c.is_scan and c.problem and c.uid != chosen.uid] if series is None else []
    notes += [f"another series in the same place cannot be read: {c.problem}" for c in unusable]
    with warnings.catch_warnings():
        # pydicom warns of every oddity of a header on stderr; what matters is checked and named here.
        warnings.simplefilter("ignore")
        array = decode_slices(chosen.slices, progress)
    return Volume(array, Grid(array.shape, chosen.grid.affine), _source(path, chosen), (*chosen.warnings, *notes))


def _find(path: Path) -> tuple[list[Series], list[str]]:
    one_file = path.is_file() and not is_zip(path)
    members = list_members(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if one_file:
            members = _siblings(members[0])
        headers, damaged = _read_headers(members)
    notes = [f"left out a file: {text}" for text in damaged]
    candidates = group_series(headers)
    if not candidates:
        seen = f"{len(members)} file{'s' if len(members) != 1 else ''} looked at" if members else "it is empty"
        msg = damaged[0] if len(damaged) == 1 else f"{path}: holds no DICOM images ({seen}); give a folder, file or zip of a CT or MR series"
        raise InputError(msg)
    if one_file:
        candidates = [c for c in candidates if any(s.member.path == path for s in c.slices)] or candidates
        if len(candidates[0].slices) > 1:
            notes.append(f"{path.name} is one slice; its whole series of {len(candidates[0].slices)} slices in the same folder was read")
    return candidates, notes


def _siblings(member: Member) -> list[Member]:
    """The file and, where it is a slice, the files beside it."""
    header = read_header(member)
    if header is None or header.error is not None:
        return [member]
    return [member, *(Member(p, None, p.stat().st_size) for p in sorted(member.path.parent.iterdir()) if p.is_file() and p != member.path)]


def _read_headers(members: list[Member]) -> tuple[list[SliceHeader], list[str]]:
    def attempt(member: Member) -> tuple[list[SliceHeader], list[str]]:
        try:
            header = read_header(member)
        except InputError as error:
            return [], [str(error)]
        return ([] if header is None else [header]), []

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        results = list(pool.map(attempt, members))
    return list(chain.from_iterable(r[0] for r in results)), list(chain.from_iterable(r[1] for r in results))


def _choose(path: Path, candidates: list[Series], series: str | None) -> Series:
    if series is not None and not any(series in (c.key, c.uid) for c in candidates):
        msg = f"{path}: holds no series {series}; it holds: {'; '.join(map(str, candidates))}"
        raise SeriesError(msg)
    if series is None and path.is_file() and not is_zip(path):
        # The user named a file of it, which is a choice among the stacks of its UID.
        candidates = [replace(c, mixed=None) for c in candidates]
    return choose_series(str(path), candidates, series)


def _source(path: Path, series: Series) -> Source:
    first = series.slices[0]
    where = path.resolve()
    name = where.stem if is_zip(path) else (where.name if where.is_dir() else where.parent.name)
    details: dict[str, Any] = {
        "series_description": series.description,
        "study_instance_uid": first.text["study"],
        "frame_of_reference_uid": first.text["frame"],
        "manufacturer": first.text["manufacturer"],
        "sop_class": first.sop_class,
        "transfer_syntax_uid": first.transfer_syntax,
        "units": first.text["units"],
        "slices": len(series.slices),
        "pixel_padding_value": None if first.padding is None else first.padding * first.slope + first.intercept,
        "sop_instance_uids": [s.sop_uid for s in series.slices],
    }
    if first.text["manufacturer"].startswith("volseg") and "synthetic" in series.description.lower():
        details["synthetic"] = True
    return Source(path=path, kind="dicom", name=name, series_instance_uid=series.uid or None, modality=series.modality or None, details=details, header=series)
