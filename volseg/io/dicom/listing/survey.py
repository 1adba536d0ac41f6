"""Everything below a path told as facts: patients, studies, series, objects that are no scans, and files that are no DICOM; headers only."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import TagError, integer_of, open_dataset, parse_errors, printable, text_of
from volseg.io.dicom.find import HEADER_THREADS, Found, find
from volseg.io.dicom.listing.identity import IDENTITY_KEYWORDS, Identity, identity_of
from volseg.io.dicom.listing.layout import Layout, measure_layout
from volseg.io.dicom.objects.references import REFERENCE_KEYWORDS, references_of
from volseg.io.dicom.pixels.decode import Progress
from volseg.io.dicom.series import Series

STUDY_KEYWORDS = (*IDENTITY_KEYWORDS, "StudyDate", "StudyDescription", "SeriesNumber", "ManufacturerModelName", *REFERENCE_KEYWORDS)
"""Read of one object of each series, and of every object that is no scan, on top of what a slice's header holds."""


@dataclass(frozen=True)
class PatientFacts:
    """One patient: a running number in place of who it is, the identity itself, and the studies' UIDs."""

    number: int
    identity: Identity
    studies: tuple[str, ...]


@dataclass(frozen=True)
class StudyFacts:
    """One study: its UID, its patient's number, description (the patient's name taken out), date as in the file (YYYYMMDD), and how many series and objects it has here."""

    uid: str
    patient: int
    description: str
    date: str
    series: int


@dataclass(frozen=True)
class SeriesFacts:
    """One candidate volume.

    Parameters
    ----------
    series : Series
        As it was found; ``problem`` says why it cannot be read as it is.
    patient : int
        Number of its patient.
    number : int or None
        SeriesNumber.
    description : str
        SeriesDescription without the patient's name or ID.
    model : str
        ManufacturerModelName.
    layout : Layout or None
        How its slices lie; None where they cannot be placed.
    transfer_syntaxes : tuple of str
        Names of the encodings of its images.
    copies : int
        Files left out of its UID because they repeat another's SOP Instance UID and place.
    """

    series: Series
    patient: int
    number: int | None
    description: str
    model: str
    layout: Layout | None
    transfer_syntaxes: tuple[str, ...]
    copies: int = 0


@dataclass(frozen=True)
class ObjectFacts:
    """A series of objects that are no scans.

    Parameters
    ----------
    series : Series
        As it was found.
    patient : int
        Number of its patient.
    description : str
        SeriesDescription without the patient's name or ID.
    classes : tuple of str
        Names of the SOP classes.
    refers_to : tuple of str
        SeriesInstanceUIDs of the series its objects name, in order.
    absent : tuple of str
        Those of them that are not here.
    """

    series: Series
    patient: int
    description: str
    classes: tuple[str, ...]
    refers_to: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What :func:`survey` tells; ``found`` holds the search itself (files, what is no DICOM, what is damaged)."""

    found: Found
    patients: tuple[PatientFacts, ...]
    studies: tuple[StudyFacts, ...]
    scans: tuple[SeriesFacts, ...]
    objects: tuple[ObjectFacts, ...]


@dataclass(frozen=True)
class _Extra:
    """What the survey reads of one object beyond its slice header."""

    identity: Identity
    study_description: str = ""
    study_date: str = ""
    number: int | None = None
    model: str = ""
    series: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()


def survey(path: Path, progress: Progress | None = None) -> Survey:
    """List everything below a path.

    Parameters
    ----------
    path : Path
        A folder, a ``.zip``, or one DICOM file, as for :func:`~volseg.io.dicom.find.find`.
    progress : callable, optional
        Called with (files done, files in all) while headers are read.

    Raises
    ------
    InputError
        If there is no such path, or no DICOM in it.
    """
    return survey_found(find(path, progress))


def survey_found(found: Found) -> Survey:
    """Tell a search's findings as facts; see :func:`survey`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extras = _read_extras(found.series)
    entries = [_Entry(series, extras[0]) for series, extras in zip(found.series, extras, strict=True)]
    patients: dict[tuple[str, ...], int] = {}
    for entry in entries:
        patients.setdefault(entry.patient_key, len(patients) + 1)
    copies, here = _count_copies(found), {h.sop_uid: s.uid for s in found.series for h in s.slices if h.sop_uid}
    scans = [_scan_facts(entry, patients[entry.patient_key], copies[entry.series.uid]) for entry in entries if entry.series.is_scan]
    objects = [_object_facts(entry, patients[entry.patient_key], every, here) for entry, every in zip(entries, extras, strict=True) if not entry.series.is_scan]
    scans.sort(key=lambda f: (f.patient, f.series.slices[0].text["study"], -1 if f.number is None else f.number, f.series.key))
    studies = _study_facts(entries, patients)
    identities = {patients[entry.patient_key]: entry.extra.identity for entry in entries}
    people = [PatientFacts(number, identities[number], tuple(s.uid for s in studies if s.patient == number)) for number in patients.values()]
    return Survey(found, tuple(people), tuple(studies), tuple(scans), tuple(objects))


@dataclass(frozen=True)
class _Entry:
    """One series with what its first object says."""

    series: Series
    extra: _Extra

    @property
    def study(self) -> str:
        return self.series.slices[0].text["study"]

    @property
    def patient_key(self) -> tuple[str, ...]:
        # Series that name no patient belong together only within their study.
        return self.extra.identity.key or ("", "", self.study)


def _read_extras(series: Sequence[Series]) -> list[list[_Extra]]:
    """For each series what its first image says, or what each of its objects says."""
    wanted = [[s.slices[0]] if s.is_scan else list(s.slices) for s in series]
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        read = pool.map(_read_extra, [header.member for headers in wanted for header in headers])
        return [[next(read) for _ in headers] for headers in wanted]


def _read_extra(member: Member) -> _Extra:
    """What one object says; nothing where it cannot be read any more, since its header has been read once and its own error is told."""
    nothing = _Extra(Identity("", "", ""))
    try:
        dataset = open_dataset(member, pixels=False, keywords=STUDY_KEYWORDS)
        return nothing if dataset is None else _interpret(dataset)
    except InputError:
        return nothing
    except parse_errors():
        return nothing


def _interpret(dataset: Any) -> _Extra:
    series, instances = references_of(dataset)
    number = _series_number(dataset)
    return _Extra(
        identity_of(dataset),
        text_of(dataset, "StudyDescription"),
        text_of(dataset, "StudyDate"),
        number,
        text_of(dataset, "ManufacturerModelName"),
        series,
        instances,
    )


def _series_number(dataset: Any) -> int | None:
    """None where it is absent or no number; nothing depends on it but a name."""
    try:
        return integer_of(dataset, "SeriesNumber", 0) if "SeriesNumber" in dataset else None
    except TagError:
        return None


def _count_copies(found: Found) -> Counter[str]:
    distinct: dict[str, set[object]] = {}
    images = Counter(h.uid for h in found.headers if h.sop_uid and not h.is_object)
    for h in found.headers:
        if h.sop_uid and not h.is_object:
            distinct.setdefault(h.uid, set()).add((h.sop_uid, h.frame, h.position, *h.traits.items()))
    return Counter({uid: count - len(distinct[uid]) for uid, count in images.items()})


def _scan_facts(entry: _Entry, patient: int, copies: int) -> SeriesFacts:
    series, extra = entry.series, entry.extra
    syntaxes = tuple(sorted({syntax_name(s.transfer_syntax) for s in series.slices}))
    return SeriesFacts(series, patient, extra.number, extra.identity.hidden_in(series.description), extra.model, measure_layout(series.slices), syntaxes, copies)


def _object_facts(entry: _Entry, patient: int, extras: Sequence[_Extra], here: Mapping[str, str]) -> ObjectFacts:
    own = {entry.series.uid}
    named = {uid for extra in extras for uid in (*extra.series, *(here[i] for i in extra.instances if i in here))} - own
    refers = tuple(sorted(named))
    classes = tuple(sorted({h.sop_class for h in entry.series.slices}))
    known = set(here.values())
    return ObjectFacts(entry.series, patient, entry.extra.identity.hidden_in(entry.series.description), classes, refers, tuple(uid for uid in refers if uid not in known))


def _study_facts(entries: Sequence[_Entry], patients: Mapping[tuple[str, ...], int]) -> list[StudyFacts]:
    grouped: dict[tuple[int, str], list[_Entry]] = {}
    for entry in entries:
        grouped.setdefault((patients[entry.patient_key], entry.study), []).append(entry)
    return [
        StudyFacts(uid, patient, same[0].extra.identity.hidden_in(same[0].extra.study_description), same[0].extra.study_date, len({e.series.uid for e in same}))
        for (patient, uid), same in sorted(grouped.items())
    ]


def syntax_name(uid: str) -> str:
    """Name of a transfer syntax (PS3.6 table A-1), or its UID where it has none."""
    from pydicom.uid import UID

    return printable(str(UID(uid).name)) or "unnamed"
