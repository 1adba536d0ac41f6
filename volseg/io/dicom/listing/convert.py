"""DICOM series to image files with a JSON beside each: names that cannot collide, escape or tell who the patient is, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.errors import OutputError
from volseg.io.atomic import written_beside
from volseg.io.dicom.listing.sidecar import describe_conversion
from volseg.io.dicom.listing.survey import SeriesFacts
from volseg.io.dicom.pixels.decode import Progress
from volseg.io.dicom.read import read_found
from volseg.io.dicom.split import differences
from volseg.io.save import save_volume
from volseg.io.volume import Volume

LONGEST_TEXT = 64
"""Characters of a description kept in a file name: as many as SeriesDescription may have (VR LO, PS3.5 6.2), but files break that rule."""

LONGEST_PART = 40
"""Characters of a distinction kept: the whole name stays below the 143 bytes that the strictest common file system (eCryptfs) takes."""

HASH_DIGITS = 8
"""Digits of the series' hash behind names that would be the same: 2^32 of them, for the few series of one study."""


@dataclass(frozen=True)
class Conversion:
    """One series and where it goes.

    Parameters
    ----------
    facts : SeriesFacts
        The series, from :func:`~volseg.io.dicom.listing.survey.survey`.
    image, sidecar : Path
        The files to be written.
    """

    facts: SeriesFacts
    image: Path
    sidecar: Path


def file_stems(scans: Sequence[SeriesFacts], *, keep_patient: bool = False) -> list[str]:
    """A file name without suffix for each series: ``SERIESNUMBER_DESCRIPTION``, and what distinguishes a part.

    Parameters
    ----------
    scans : sequence of SeriesFacts
        All series of one place, converted or not, so that a name does not depend on the choice.
    keep_patient : bool
        Whether descriptions are taken as they are.

    Returns
    -------
    list of str
        ASCII letters, digits, ``_``, ``-``, and dots between digits only, at most 127 characters. Names that would be the same (case aside) get eight digits of the
        SHA-256 of the series' key behind them.
    """
    stems = [_stem(facts, keep_patient) for facts in scans]
    marked = [f"{stem}_{_digest(facts)}" for stem, facts in zip(stems, scans, strict=True)]
    count = Counter(stem.casefold() for stem in stems)
    names = [mark if count[stem.casefold()] > 1 else stem for stem, mark in zip(stems, marked, strict=True)]
    # A description can be made to end in another series' digest.
    return names if len({name.casefold() for name in names}) == len(names) else marked


def _stem(facts: SeriesFacts, keep_patient: bool) -> str:
    series = facts.series
    described = _plain(series.description if keep_patient else facts.description) or _plain(series.modality)
    number = "series" if facts.number is None else _plain(str(facts.number))
    part = series.distinction.replace(" ", "") or series.key.removeprefix(series.uid)
    return "_".join(filter(None, (number, described[:LONGEST_TEXT].rstrip("_-."), _plain(part)[:LONGEST_PART].rstrip("_-."))))


def _plain(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", ascii_text)
    return re.sub(r"(?<!\d)\.|\.(?!\d)", "_", safe).strip("_-")


def _digest(facts: SeriesFacts) -> str:
    return hashlib.sha256(facts.series.key.encode()).hexdigest()[:HASH_DIGITS]


def check_targets(jobs: Iterable[Conversion], *, overwrite: bool) -> None:
    """Refuse to replace what is not an earlier conversion of the same series, before any work is done.

    Raises
    ------
    OutputError
        If a file is there that volseg did not write from this series and ``overwrite`` is not given, or that is one of the images to be read.
    """
    for job in jobs:
        sources = {s.member.path.resolve() for s in job.facts.series.slices}
        present = [path for path in (job.image, job.sidecar) if path.exists() or path.is_symlink()]
        for path in present:
            if path.resolve() in sources:
                msg = f"{path}: the result would replace an image that is read; choose another folder with -o"
                raise OutputError(msg)
        if present and not overwrite and _converted_series(job.sidecar) != job.facts.series.key:
            msg = f"{present[0]}: it exists and is no earlier conversion of this series; choose another folder with -o, or add --overwrite"
            raise OutputError(msg)


def _converted_series(sidecar: Path) -> str | None:
    try:
        return str(json.loads(sidecar.read_text(encoding="utf-8"))["volseg"]["series"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def convert_series(
    path: Path, job: Conversion, *, fix_geometry: bool = False, suv: bool = False, keep_patient: bool = False, notes: tuple[str, ...] = (), progress: Progress | None = None
) -> tuple[Volume, dict[str, Any]]:
    """Read one series and write it as an image and its JSON.

    Parameters
    ----------
    path : Path
        Where the series was found, as the user gave it.
    job : Conversion
        What to read and where to write; the folder is made.
    fix_geometry, suv : bool
        As for :func:`~volseg.io.dicom.read.read_series`; ``suv`` is for PET series only.
    keep_patient : bool
        As for :func:`~volseg.io.dicom.listing.sidecar.describe_conversion`.
    notes : tuple of str
        Warnings of the place, e.g. of files that were left out.
    progress : callable, optional
        Called with (slices done, slices in all).

    Returns
    -------
    Volume
        What was read.
    dict
        What the JSON holds. It appears last: where it is, the image is complete.

    Raises
    ------
    InputError
        If the series is no volume, or its pixels cannot be decoded.
    OutputError, WriteError
        If the place cannot be written to, or writing failed half way.
    """
    volume = read_found(path, job.facts.series, fix_geometry=fix_geometry, suv=suv, notes=notes, progress=progress)
    document = describe_conversion(volume, keep_patient=keep_patient)
    content = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with written_beside(job.sidecar) as partial:
        partial.write_text(content, encoding="utf-8")
        save_volume(volume.array, volume.grid, job.image, description="volseg dicom convert")
    return volume, document


def default_choice(scans: Iterable[SeriesFacts], *, fix_geometry: bool = False, every_stack: bool = False) -> list[SeriesFacts]:
    """What is converted when nothing is named.

    Parameters
    ----------
    scans : iterable of SeriesFacts
        All series of a place.
    fix_geometry : bool
        Whether a tilted or uneven series counts as a volume.
    every_stack : bool
        Whether stacks are taken too that share a SeriesInstanceUID and differ in orientation, matrix or spacing. Parts of one UID that an attribute of the acquisition sets apart
        (echo, b-value, phase, ...) are always taken.
    """
    parts: dict[str, list[SeriesFacts]] = {}
    for facts in scans:
        parts.setdefault(facts.series.uid, []).append(facts)
    volumes = [facts for same in parts.values() if every_stack or _lie_alike(same) for facts in same]
    return [facts for facts in volumes if facts.series.error is None or (fix_geometry and facts.series.mendable)]


def _lie_alike(parts: Sequence[SeriesFacts]) -> bool:
    """Whether the parts of one UID have one orientation, matrix and spacing; where there is only one there is nothing to differ."""
    first = parts[0].series.slices[0]
    return not any(differences(first, facts.series.slices[0]) for facts in parts[1:])
