"""From a heap of headers to series: which slices belong together, and whether they make a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from volseg.errors import GeometryError, InputError, SeriesError, VolsegError
from volseg.geometry import Grid
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.geometry import lps_affine, normal_of, same_cosines, stack_slices
from volseg.io.dicom.split import Part, differences, leave_out, split_series

MAX_VOXELS = 2**32
"""Most voxels of one volume (8 GiB as int16): 4000 slices of 1024x1024 fit; more is a damaged header."""


@dataclass(frozen=True)
class Series:
    """One candidate volume: slices of one SeriesInstanceUID, orientation, matrix and pixel spacing.

    Parameters
    ----------
    key : str
        What ``--series`` takes: the SeriesInstanceUID, with ``#1``, ``#2``, ... behind it where one UID holds slices that cannot lie in one volume.
    uid : str
        SeriesInstanceUID.
    slices : tuple of SliceHeader
        In order along the positive slice normal where there is a grid.
    grid : Grid or None
        Where the voxels (column, row, slice) lie; None where they cannot be placed.
    error : VolsegError or None
        Why this cannot be a volume.
    mixed : VolsegError or None
        Why it is not chosen unless asked for by its key: its UID holds several stacks.
    mendable : bool
        ``error`` is a tilt, uneven spacing or small gap that ``fix_geometry`` can resample away; the slices are sorted.
    distinction : str
        What tells this part of its UID from the others, e.g. ``"EchoTime 2.46 ms"``; ``""`` where the UID is one stack.
    warnings : tuple of str
        What a user should know, one line each.
    """

    key: str
    uid: str
    slices: tuple[SliceHeader, ...]
    grid: Grid | None = field(default=None, repr=False)
    error: VolsegError | None = None
    mixed: VolsegError | None = None
    mendable: bool = False
    distinction: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        """Why it cannot be read (or not without its key), or None."""
        reason = self.error or self.mixed
        return None if reason is None else str(reason)

    @property
    def is_scan(self) -> bool:
        """Whether it holds images at all (not RTSTRUCT, SR, PDF, SEG, ...)."""
        return not self.slices[0].is_object

    @property
    def is_derived(self) -> bool:
        """Whether all its images were computed from others or captured from a screen."""
        return all(s.is_derived for s in self.slices)

    @property
    def modality(self) -> str:
        """Modality (0008,0060)."""
        return self.slices[0].text["modality"]

    @property
    def description(self) -> str:
        """SeriesDescription (0008,103E)."""
        return self.slices[0].text["description"]

    @property
    def rows(self) -> int:
        """Rows of a slice."""
        return self.slices[0].rows

    @property
    def columns(self) -> int:
        """Columns of a slice."""
        return self.slices[0].columns

    @property
    def files(self) -> tuple[str, ...]:
        """Where each slice is, in the order of ``slices``."""
        return tuple(str(s.member) for s in self.slices)

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.modality, f'"{self.description}"' if self.description else "")))
        size = f"{self.columns}x{self.rows}, {len(self.slices)} slice{'s' if len(self.slices) != 1 else ''}" if self.is_scan else self.slices[0].sop_class
        parts = (size, self.distinction, "derived" if self.is_scan and self.is_derived else "")
        return f"{self.key or '(no SeriesInstanceUID)'} {what}: {', '.join(filter(None, parts))}"


def group_series(headers: Iterable[SliceHeader]) -> list[Series]:
    """Sort headers into candidate volumes.

    Parameters
    ----------
    headers : iterable of SliceHeader
        Any objects, in any order.

    Returns
    -------
    list of Series
        Ordered by SeriesInstanceUID; every object is in exactly one of them, exact copies dropped.
    """
    by_uid: dict[tuple[str, bool], list[SliceHeader]] = {}
    for header in headers:
        by_uid.setdefault((header.uid, header.is_object), []).append(header)
    series = [series for (uid, _), slices in sorted(by_uid.items()) for series in _candidates(uid, slices)]
    return [_beside_objects(s, by_uid.get((s.uid, True), [])) if s.is_scan else s for s in series]


def _beside_objects(series: Series, objects: list[SliceHeader]) -> Series:
    """Warn of objects of nobody knows what class that call themselves part of a series of images: one may be a damaged slice."""
    unknown = [header for header in objects if "Storage" not in header.sop_class]
    if not unknown:
        return series
    text = f"left out {len(unknown)} object{'s' if len(unknown) > 1 else ''} of a private class in the series ({unknown[0].sop_class}, {unknown[0].member.short})"
    return replace(series, warnings=(*series.warnings, text))


def _candidates(uid: str, slices: list[SliceHeader]) -> list[Series]:
    slices, copies = _drop_copies(slices)
    kept, left = leave_out(slices)
    warnings = (*copies, *left)
    bad = [s for s in kept if s.error]
    if bad and bad[0].error:
        error = bad[0].error
        if len(kept) > 1 and not bad[0].is_object:
            error = type(error)(f"{error} ({len(bad)} of {len(kept)} images of its series are like this)")
        return [Series(uid, uid, (bad[0], *(s for s in kept if s is not bad[0])), error=error, warnings=warnings)]
    parts = split_series(kept)
    if kept[0].is_localiser:
        return [Series(uid, uid, tuple(kept), error=_localiser_error(kept, len(parts)))]
    if all(s.is_derived for s in kept):
        kind = "\\".join(kept[0].image_type) if any(kept[0].image_type) else kept[0].sop_class
        warnings = (*warnings, f"all images of the series are derived from others ({kind}), not as the scanner measured them")
    if len(parts) == 1:
        return [_build(Series(uid, uid, parts[0].slices, warnings=warnings))]
    series = [_build(Series(f"{uid}#{n}", uid, part.slices, distinction=part.distinction, warnings=warnings)) for n, part in enumerate(parts, 1)]
    mixed = _mixed_error(parts, series)
    return [replace(part, mixed=mixed) for part in series]


def _drop_copies(slices: list[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    # The larger of two copies first: the smaller may be cut short.
    kept: dict[object, SliceHeader] = {}
    for s in sorted(slices, key=lambda s: -s.member.size):
        # Some anonymisers give every slice one SOPInstanceUID; only those at the same place are copies.
        same: object = (s.sop_uid, s.frame, *s.traits.items(), s.position, s.orientation, s.rows, s.columns, s.slope, s.intercept) if s.sop_uid else (str(s.member), s.frame)
        kept.setdefault(same, s)
    dropped = len(slices) - len(kept)
    if not dropped:
        return slices, ()
    text = f"left out {dropped} file{'s' if dropped > 1 else ''} that repeat another's SOP Instance UID and position (the same image twice)"
    return sorted(kept.values(), key=lambda s: (str(s.member), s.frame or 0)), (text,)


def _localiser_error(slices: list[SliceHeader], orientations: int) -> VolsegError:
    msg = f"{slices[0].member}: is a localiser ({len(slices)} images in {orientations} orientation{'s' if orientations > 1 else ''}), not a volume; give the series it plans"
    return InputError(msg)


def _mixed_error(parts: list[Part], series: list[Series]) -> VolsegError:
    first = parts[0].slices[0]
    planes = [part.slices[0] for part in parts]
    found = list(dict.fromkeys(text for plane in planes[1:] for text in differences(first, plane)))
    turned = not all(same_cosines(first.orientation, plane.orientation) for plane in planes)
    kind = "mixed orientations" if turned else ("mixed slices" if found else "several stacks")
    usable = [s.key for s in series if s.error is None]
    remedy = f"choose one with --series {' or '.join(usable[:4])}" if usable else "none of them is a volume; split the series at its source"
    counts = " + ".join(str(len(p.slices)) for p in parts[:6]) + (" + ..." if len(parts) > 6 else "")
    told = found[:3] if found else [part.distinction for part in parts[:4]] + ["..."] * (len(parts) > 4)
    msg = f"{first.member}: {kind} in one series: {counts} slices with {'; '.join(told)}; {remedy}"
    return GeometryError(msg)


def _build(series: Series) -> Series:
    """Place the slices of one stack in space, or say why not."""
    slices = series.slices
    first = slices[0]
    if len(slices) < 2:
        msg = f"{first.member}: only {len(slices)} slice; a volume needs at least two; give the whole series"
        return replace(series, error=GeometryError(msg))
    if first.rows * first.columns * len(slices) > MAX_VOXELS:
        msg = f"{first.member}: {first.columns}x{first.rows}x{len(slices)} voxels are more than the limit of {MAX_VOXELS / 1e9:.1f} thousand million; the header may be damaged"
        return replace(series, error=InputError(msg))
    if mixture := _mixed_values(slices):
        return replace(series, error=InputError(mixture))
    stack = stack_slices(np.array([s.position for s in slices]), normal_of(first.orientation))
    slices = tuple(slices[i] for i in stack.order)
    first = slices[0]
    if stack.findings:
        tilt = f" (GantryDetectorTilt (0018,1120) says {first.text['tilt']})" if stack.findings[0].startswith("gantry tilt") and first.text["tilt"] else ""
        msg = f"{first.member}: {'; '.join(stack.findings)}{tilt}; {len(slices)} slices; {stack.obstacle or _remedy(stack.findings[0])}"
        return replace(series, slices=slices, error=GeometryError(msg), mendable=stack.obstacle is None)
    affine = lps_affine(first.orientation, first.spacing, np.array(first.position), stack.step)
    notes = list(series.warnings)
    if any(s.photometric == "MONOCHROME1" for s in slices):
        notes.append("PhotometricInterpretation is MONOCHROME1 (shown inverted on screens); the stored values are kept as they are")
    return replace(series, slices=slices, grid=Grid.from_lps((first.columns, first.rows, len(slices)), affine), warnings=tuple(notes))


def _mixed_values(slices: tuple[SliceHeader, ...]) -> str | None:
    """Why the values of the slices do not mean the same, or None."""
    kinds: tuple[tuple[str, Callable[[SliceHeader], str]], ...] = (
        ("RescaleSlope and RescaleIntercept (0028,1053 and 1052)", lambda s: "present" if s.rescaled else "absent"),
        ("PhotometricInterpretation (0028,0004)", lambda s: s.photometric),
        ("Modality (0008,0060)", lambda s: s.text["modality"] or "absent"),
        ("Units (0054,1001)", lambda s: s.text["units"] or "absent"),
    )
    for name, value_of in kinds:
        values = Counter(map(value_of, slices))
        if len(values) > 1:
            (usual, _), (rare, count) = values.most_common()[0], values.most_common()[-1]
            odd = next(s for s in slices if value_of(s) == rare)
            return f"{odd.member}: {name}: {rare} in {count} of {len(slices)} slices, {usual} in others, so their values cannot be compared; repair the headers"
    return None


def _remedy(finding: str) -> str:
    if finding.startswith("gantry tilt"):
        better = "ask for the untilted reconstruction"
    elif finding.startswith("gap"):
        better = "fetch the missing slices from the archive"
    else:
        better = "give an evenly spaced reconstruction"
    return f"{better}, or resample it to an orthogonal, even grid with --fix-geometry"


DICOM_MODALITIES = {"MRI": "MR", "PET": "PT"}
"""What people and bundles call a modality -> Modality (0008,0060)."""


def choose_series(where: str, candidates: list[Series], wanted: str | None, modality: str | None = None) -> Series:
    """Pick the one volume, or list the choices.

    Parameters
    ----------
    where : str
        What the user gave, for messages.
    candidates : list of Series
        From :func:`group_series`; at least one.
    wanted : str, optional
        A key or SeriesInstanceUID.
    modality : str, optional
        Preferred where several can be read, e.g. ``"CT"``.

    Raises
    ------
    SeriesError
        If none, or more than one, fits.
    VolsegError
        The only candidate's own error.
    """
    if wanted is not None:
        candidates = [c for c in candidates if c.key == wanted] or [c for c in candidates if c.uid == wanted]
        if len(candidates) == 1:
            candidates = [replace(candidates[0], mixed=None)]
    usable = [c for c in candidates if c.error is None and c.mixed is None]
    if len(usable) == 1:
        return usable[0]
    if wanted is None and modality is not None:
        usable = _of_modality(usable, DICOM_MODALITIES.get(modality.upper(), modality.upper()))
        if len(usable) == 1:
            return usable[0]
    originals = [c for c in usable if not c.is_derived]
    # A derived PET beside an original CT is another scan, not another view of it.
    if wanted is None and len(originals) == 1 and len({(c.modality, c.slices[0].text["study"]) for c in usable}) == 1:
        others = len(usable) - 1
        note = f"chosen because it is original; left out {others} derived series in the same place: {'; '.join(str(c) for c in usable if c.is_derived)}"
        return replace(originals[0], warnings=(*originals[0].warnings, note))
    if len(usable) > 1:
        msg = f"{where}: holds {len(usable)} series that can be read; choose one with --series UID: {'; '.join(map(str, usable))}"
        raise SeriesError(msg)
    reasons = {c.uid: c.mixed or c.error for c in candidates}
    scans = {c.uid for c in candidates if c.is_scan}
    only = scans if len(scans) == 1 else set(reasons)
    if len(only) == 1 and (error := reasons[next(iter(only))]):
        raise error
    listed = "; ".join(f"{c} - {_reason(c)}" for c in candidates)
    msg = f"{where}: none of its {len(candidates)} DICOM series can be read: {listed}"
    raise SeriesError(msg)


def _of_modality(usable: list[Series], modality: str) -> list[Series]:
    fitting = [c for c in usable if c.modality.upper() == modality]
    others = [str(c) for c in usable if c.modality.upper() != modality]
    if not fitting or not others:
        return usable
    note = f"chosen because it is {modality}; left out {len(others)} series of other modalities in the same place: {'; '.join(others)}"
    return [replace(c, warnings=(*c.warnings, note)) for c in fitting]


def _reason(series: Series) -> str:
    prefix = f"{series.slices[0].member}: "
    text = series.problem or ""
    return text.removeprefix(prefix)
