"""Which slices of one SeriesInstanceUID belong to one stack: what does not belong is left out, and stacks at the same positions are told apart by the attributes that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from volseg.io.dicom.files.header import SECONDARY_CAPTURE, SliceHeader
from volseg.io.dicom.files.traits import TIMES, TRAITS, UNITS
from volseg.io.dicom.geometry import COSINE_TOLERANCE, DUPLICATE_MM, SPACING_TOLERANCE, normal_of, rotation_degrees, same_cosines, same_spacing, stack_slices

MAX_COMBINED = 3
"""Most attributes that tell stacks apart together, e.g. echo, phase and kind of image; more would fit anything."""

CONTRASTS = ("EchoTime", "DiffusionBValue")
"""What no volume has two of: images that differ in it are of another contrast, even where each lies at a position of its own (as when a transfer lost half of two echoes). dcm2niix
divides by them too."""

PROCESSED = frozenset(("MPR", "MIP", "MINIP", "MIN_IP", "CSA MPR", "CSA MIP", "PROJECTION IMAGE", "SCREEN SAVE"))
"""ImageType values from the third on of images that a workstation made and filed with the originals (PS3.3 C.8.16.1 and the vendors' own)."""


@dataclass(frozen=True)
class Part:
    """One stack, and what tells it from the others of its series (``""`` where it is alone), e.g. ``"EchoTime 2.46 ms"``."""

    slices: tuple[SliceHeader, ...]
    distinction: str = ""


def leave_out(slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Take out what lies in a series beside its slices, as long as slices remain.

    Parameters
    ----------
    slices : sequence of SliceHeader
        All images of one SeriesInstanceUID.

    Returns
    -------
    kept : list of SliceHeader
        Without localisers and, where there are original images, without derived ones that are pasted in: secondary captures, projections, reformats, and whatever else has another
        geometry. Derived images on the originals' slices stay, since lossy compression alone makes an image a derived one.
    warnings : tuple of str
        One line for each kind left out.
    """
    kept = [s for s in slices if not s.is_localiser]
    if not kept:
        return list(slices), ()
    warnings = []
    if localisers := len(slices) - len(kept):
        warnings.append(f"left out {localisers} localiser image{'s' if localisers > 1 else ''} of the series (ImageType LOCALIZER)")
    originals = [s for s in kept if not s.is_derived and s.error is None]
    planes = [group[0] for group in by_geometry(originals)]
    pasted = {id(s) for s in kept if s.is_derived and _is_pasted(s, planes)} if planes else set()
    if pasted:
        first = next(s for s in kept if id(s) in pasted)
        kind = "\\".join(first.image_type) if any(first.image_type) else first.sop_class
        warnings.append(f"left out {len(pasted)} derived image{'s' if len(pasted) > 1 else ''} among the originals of the series ({kind}, e.g. {first.member.short})")
    return [s for s in kept if id(s) not in pasted], tuple(warnings)


def _is_pasted(s: SliceHeader, originals: Sequence[SliceHeader]) -> bool:
    if s.sop_class.endswith(SECONDARY_CAPTURE) or not PROCESSED.isdisjoint(s.image_type[2:]):
        return True
    if s.error is not None:
        # A damaged slice must not vanish from a series that is marked as derived because it was compressed.
        return "SECONDARY" in s.image_type
    return all(differences(plane, s) for plane in originals)


def by_geometry(slices: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Group by study, frame of reference, matrix, spacing and orientation within tolerances, the largest group first."""
    alike: dict[object, list[SliceHeader]] = {}
    for s in slices:
        alike.setdefault((s.text["study"], s.text["frame"], s.rows, s.columns, s.spacing, s.orientation), []).append(s)
    groups: list[list[SliceHeader]] = []
    # One row a group: comparing pairs one by one would take minutes where thousands of frames all have their own orientation.
    planes = np.empty((len(alike), 8))
    names: list[object] = []
    for same in alike.values():
        s, n = same[0], len(groups)
        near = (np.abs(planes[:n, :6] - s.orientation) <= COSINE_TOLERANCE).all(axis=1) & (np.abs(planes[:n, 6:] - s.spacing) <= SPACING_TOLERANCE * planes[:n, 6:]).all(axis=1)
        # Anonymisers give several people one SeriesInstanceUID.
        name = (s.text["study"], s.text["frame"], s.rows, s.columns)
        match = next((int(i) for i in np.flatnonzero(near) if names[i] == name), None)
        if match is None:
            planes[n] = (*s.orientation, *s.spacing)
            names.append(name)
            groups.append(list(same))
        else:
            groups[match].extend(same)
    return sorted(groups, key=len, reverse=True)


def differences(a: SliceHeader, b: SliceHeader) -> list[str]:
    """Why two slices cannot lie in one volume, for a person; empty where they can."""
    checks: list[tuple[bool, Callable[[], str]]] = [
        (not same_cosines(a.orientation, b.orientation), lambda: f"orientations {rotation_degrees(a.orientation, b.orientation):.2f} degrees apart"),
        ((a.rows, a.columns) != (b.rows, b.columns), lambda: f"{a.columns}x{a.rows} and {b.columns}x{b.rows} pixels (Rows, Columns)"),
        (not same_spacing(a.spacing, b.spacing), lambda: f"PixelSpacing {a.spacing[0]:.6g}\\{a.spacing[1]:.6g} and {b.spacing[0]:.6g}\\{b.spacing[1]:.6g} mm"),
        (a.text["frame"] != b.text["frame"], lambda: "different frames of reference"),
        (a.text["study"] != b.text["study"], lambda: "different StudyInstanceUIDs (0020,000D)"),
    ]
    return [describe() for differs, describe in checks if differs]


def split_series(slices: Sequence[SliceHeader]) -> list[Part]:
    """Divide the slices of a series into stacks.

    Parameters
    ----------
    slices : sequence of SliceHeader
        Without errors.

    Returns
    -------
    list of Part
        By geometry first, the largest group first; then by :func:`split_stack`.
    """
    groups = by_geometry(slices)
    if len(groups) == 1:
        return split_stack(groups[0])
    parts = []
    for group in groups:
        plane = _plane_name(group[0], [g[0] for g in groups])
        parts += [Part(part.slices, ", ".join(filter(None, (plane, part.distinction)))) for part in split_stack(group)]
    return parts


def _plane_name(s: SliceHeader, all_planes: Sequence[SliceHeader]) -> str:
    """What of its geometry tells a group from the others."""
    names = []
    if not all(same_cosines(s.orientation, other.orientation) for other in all_planes):
        normal = normal_of(s.orientation)
        names.append(f"{('sagittal', 'coronal', 'axial')[int(np.abs(normal).argmax())]} (normal {', '.join(f'{v + 0.0:.3g}' for v in np.round(normal, 3))})")
    if any((s.rows, s.columns) != (other.rows, other.columns) for other in all_planes):
        names.append(f"{s.columns}x{s.rows} pixels")
    if not all(same_spacing(s.spacing, other.spacing) for other in all_planes):
        names.append(f"PixelSpacing {s.spacing[0]:.6g}\\{s.spacing[1]:.6g} mm")
    if any(s.text["frame"] != other.text["frame"] for other in all_planes):
        names.append(f"frame of reference {s.text['frame'] or '(none)'}")
    if any(s.text["study"] != other.text["study"] for other in all_planes):
        names.append(f"study {s.text['study'] or '(none)'}")
    return ", ".join(names)


def split_stack(slices: Sequence[SliceHeader]) -> list[Part]:
    """Divide parallel slices by the attributes that differ, if several lie at one position or they are of different contrast.

    Parameters
    ----------
    slices : sequence of SliceHeader
        Of one geometry.

    Returns
    -------
    list of Part
        One a value of the first attribute of :data:`~volseg.io.dicom.files.traits.TRAITS`, else of the smallest combination of them, that leaves no position twice and at least two
        slices in each part; of several that do, one that gives every part the same positions. Else by time, where whole stacks follow one another. A single part where there is
        nothing to divide, or nothing does: positions that stay double are then refused. Where no position repeats, slices are divided by :data:`CONTRASTS` only, and stacks that a
        multi-frame object names (StackID) where together they are no even grid.
    """
    if len(slices) < 2:
        return [Part(tuple(slices))]
    plane = _planes_of(slices)
    if plane.max() + 1 == len(slices):
        contrasts = [trait for trait in CONTRASTS if len({s.traits.get(trait, "") for s in slices}) > 1]
        return _parts(slices, contrasts, contrasts) if contrasts else _stacks_side_by_side(slices)
    codes = {trait: _codes([s.traits.get(trait, "") for s in slices]) for trait in TRAITS}
    varying = [trait for trait, code in codes.items() if code.max() > 0]
    for size in range(1, MAX_COMBINED + 1):
        fallback = None
        for chosen in combinations(varying, size):
            quality = _quality(plane, [codes[trait] for trait in chosen])
            if quality == 2:
                return _parts(slices, chosen, varying)
            fallback = fallback or (chosen if quality else None)
        if fallback:
            return _parts(slices, fallback, varying)
    return _by_time(slices, plane) or [Part(tuple(slices))]


def _planes_of(slices: Sequence[SliceHeader]) -> npt.NDArray[np.intp]:
    """Number of the plane that each slice lies in, from 0 along the normal."""
    along = np.array([s.position for s in slices]) @ normal_of(slices[0].orientation)
    order = np.argsort(along, kind="stable")
    planes = np.empty(len(slices), dtype=np.intp)
    planes[order] = np.concatenate(([0], np.cumsum(np.diff(along[order]) >= DUPLICATE_MM)))
    return planes


def _codes(values: Sequence[str]) -> npt.NDArray[np.intp]:
    numbers = {value: n for n, value in enumerate(dict.fromkeys(values))}
    return np.array([numbers[value] for value in values], dtype=np.intp)


def _quality(plane: npt.NDArray[np.intp], codes: Sequence[npt.NDArray[np.intp]]) -> int:
    """0: some part has a position twice, or a single slice; 1: none has; 2: and all parts have the same positions."""
    part = codes[0]
    for code in codes[1:]:
        part = part * (code.max() + 1) + code
    _, part, sizes = np.unique(part, return_inverse=True, return_counts=True)
    if sizes.min() < 2 or len(np.unique(part * (plane.max() + 1) + plane)) < len(plane):
        return 0
    return 2 if (sizes == plane.max() + 1).all() else 1


def _parts(slices: Sequence[SliceHeader], chosen: Sequence[str], varying: Sequence[str]) -> list[Part]:
    groups: dict[tuple[str, ...], list[SliceHeader]] = {}
    for s in slices:
        groups.setdefault(tuple(s.traits.get(trait, "") for trait in chosen), []).append(s)
    # A direction says little without its b-value.
    named = ["DiffusionBValue", *chosen] if "DiffusionGradientOrientation" in chosen and "DiffusionBValue" in varying and "DiffusionBValue" not in chosen else list(chosen)
    ordered = sorted(groups.values(), key=lambda group: [_rank(group[0].traits.get(trait, "")) for trait in named])
    return [Part(tuple(group), ", ".join(_say(trait, group[0].traits.get(trait, "")) for trait in named)) for group in ordered]


def _rank(value: str) -> tuple[tuple[float, ...], str]:
    try:
        return tuple(float(part) for part in value.split("\\")), ""
    except ValueError:
        return (), value


def _say(trait: str, value: str) -> str:
    return f"{trait} {value}{UNITS.get(trait, '')}" if value else f"no {trait}"


def _by_time(slices: Sequence[SliceHeader], plane: npt.NDArray[np.intp]) -> list[Part] | None:
    """The n-th image of every position, if all of them were taken before any of the next."""
    counts = np.bincount(plane)
    if counts.min() != counts.max() or len(counts) < 2:
        return None
    for trait in TIMES:
        times = [_clock(s.traits.get(trait, "")) for s in slices]
        order = sorted(range(len(slices)), key=times.__getitem__)
        runs = [order[n : n + len(counts)] for n in range(0, len(order), len(counts))]
        apart = all(times[a[-1]] < times[b[0]] for a, b in pairwise(runs))
        if apart and times[order[0]] != ("", "") and all(len(set(plane[run])) == len(counts) for run in runs):
            return [Part(tuple(slices[i] for i in run), f"{trait} {slices[run[0]].traits[trait]} to {slices[run[-1]].traits[trait]}") for run in runs]
    return None


def _clock(value: str) -> tuple[str, str]:
    # Seconds may have a fraction of any length (PS3.5 6.2, TM), so text as a whole does not sort.
    whole, _, fraction = value.partition(".")
    return whole, fraction


def _stacks_side_by_side(slices: Sequence[SliceHeader]) -> list[Part]:
    alone = [Part(tuple(slices))]
    if len({s.traits.get("StackID", "") for s in slices}) < 2 or not _findings(slices):
        return alone
    parts = _parts(slices, ("StackID",), ("StackID",))
    return parts if all(len(part.slices) > 1 and not _findings(part.slices) for part in parts) else alone


def _findings(slices: Sequence[SliceHeader]) -> tuple[str, ...]:
    return stack_slices(np.array([s.position for s in slices]), normal_of(slices[0].orientation)).findings
