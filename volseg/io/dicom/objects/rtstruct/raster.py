"""Structure sets as label maps: contours are put on the slices of a scan by position, and a voxel belongs to an ROI when its centre lies inside."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.geometry import FloatArray
from volseg.io.dicom.geometry import normal_of, tolerance_mm
from volseg.io.dicom.objects.origin import label_from_slices, series_of, slice_affine
from volseg.io.dicom.objects.rtstruct.contours import fill
from volseg.io.dicom.objects.rtstruct.read import Contour, Roi, StructureSet, read_rtstruct
from volseg.io.dicom.series import Series
from volseg.io.volume import Volume

FLATNESS = 0.25
"""Part of the slice spacing that a contour may span across the slices: the rounding of decimal strings stays far below, a contour drawn on planes of another tilt does not."""


@dataclass(frozen=True, eq=False)
class Rasterised:
    """A structure set on the voxels of a scan.

    Parameters
    ----------
    label : ndarray of unsigned int, (i, j, k)
        On the scan's grid; 0 outside all ROIs.
    names : dict of int to str
        Names of the ROIs by label value; ROIs that share a value are joined by ``" + "``.
    notes : tuple of str
        What a user should know, one line each.
    """

    label: npt.NDArray[np.unsignedinteger]
    names: dict[int, str]
    notes: tuple[str, ...]


def rtstruct_on_volume(structure_set: StructureSet | str | os.PathLike[str], volume: Volume, wanted: Mapping[str, int] | None = None) -> npt.NDArray[np.unsignedinteger]:
    """Turn a structure set into a label map; each note of :func:`rasterise`, which see, is given as a ``UserWarning``."""
    result = rasterise(structure_set, volume, wanted)
    for note in result.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return result.label


def rasterise(structure_set: StructureSet | str | os.PathLike[str], volume: Volume, wanted: Mapping[str, int] | None = None) -> Rasterised:
    """Turn a structure set into a label map.

    Parameters
    ----------
    structure_set : StructureSet or path-like
        What :func:`~volseg.io.dicom.objects.rtstruct.read_rtstruct` gave, or its file.
    volume : Volume
        A DICOM scan; its grid may be corrected, cropped or reoriented (ROIs are drawn on the original slices, then brought onto the grid).
    wanted : mapping of str to int, optional
        Label value (at least 1) of each ROI to take, by name; names may share a value. Without it: the values a file of ours was written for; else 1 for the only ROI with closed
        contours; else 1, 2, ... for the ROIs with closed contours in the order of their ROI numbers.

    Returns
    -------
    Rasterised
        The voxels whose centres lie inside an odd number of an ROI's contours on their slice (so nested contours are holes, and ``CLOSEDPLANAR_XOR`` and keyholes come out
        right); a centre on a left or upper border is inside. ``POINT`` and ``OPEN`` contours are left out with a note, and so is the second of two identical contours. A contour
        between two slices, drawn on another series, counts for the nearest slice, with a note; of several planes nearest to one slice the closest counts. One more than half a
        slice step beyond the first or last slice is left out with a note.

    Raises
    ------
    InputError
        If the file cannot be read or used, the volume is not from DICOM, a wanted ROI is missing or its name ambiguous, or ROIs of different values overlap.
    GeometryError
        If the frame of reference is another one, contours are not parallel to the slices or, of another series, too far apart for these slices, or none encloses a voxel centre.
    """
    structure = structure_set if isinstance(structure_set, StructureSet) else read_rtstruct(structure_set)
    series = series_of(volume)
    values = _label_values(structure, wanted)
    rois = [roi for roi in structure.rois if roi.number in values]
    _check_frame(structure, rois, series)
    slices = _Slices(series)
    notes: list[str] = []
    stack = np.zeros((len(series.slices), series.rows, series.columns), dtype=np.min_scalar_type(max(values.values())))
    names: dict[int, str] = {}
    overlaps: Counter[tuple[int, int]] = Counter()
    for roi in rois:
        value = values[roi.number]
        drawn = _draw(structure, roi, slices, stack, value, overlaps, notes)
        if not drawn:
            notes.append(f"{structure.path}: ROI {roi} encloses no voxel centre of the scan")
        names[value] = f"{names[value]} + {roi.name}" if value in names else roi.name
    if not stack.any():
        msg = f"{structure.path}: encloses no voxel centre of the scan in {volume.source.path} (ROI {', '.join(map(str, rois[:3]))}); give the series it was drawn on"
        raise GeometryError(msg)
    _refuse_overlaps(structure, names, overlaps)
    return Rasterised(label_from_slices(stack, volume), names, tuple(notes))


def _label_values(structure: StructureSet, wanted: Mapping[str, int] | None) -> dict[int, int]:
    """Label value by ROI number."""
    usable = [roi for roi in structure.rois if any(c.is_closed for c in roi.contours)]
    if not usable:
        kinds = Counter(c.kind or "no type" for roi in structure.rois for c in roi.contours)
        seen = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none at all"
        msg = f"{structure.path}: has no closed contours ({seen}), so it encloses no voxels; give a structure set with CLOSED_PLANAR contours"
        raise InputError(msg)
    if wanted is not None:
        return _wanted_values(structure, usable, wanted)
    ours = {roi.number: roi.label for roi in usable if roi.label}
    if len(set(ours.values())) == len(usable):
        return ours
    return {roi.number: n for n, roi in enumerate(usable, 1)}


def _wanted_values(structure: StructureSet, usable: Sequence[Roi], wanted: Mapping[str, int]) -> dict[int, int]:
    values: dict[int, int] = {}
    for name, value in wanted.items():
        if value < 1:
            msg = f"{structure.path}: ROI {name!r} cannot become label {value}; label values start at 1 (0 is the background)"
            raise InputError(msg)
        found = [roi for roi in usable if roi.name == name]
        if len(found) != 1:
            problem = f"{len(found)} ROIs are called {name!r} (numbers {', '.join(str(r.number) for r in found)})" if found else f"no ROI with closed contours is called {name!r}"
            msg = f"{structure.path}: {problem}; it holds: {', '.join(map(str, usable))}"
            raise InputError(msg)
        values[found[0].number] = value
    if not values:
        msg = f"{structure.path}: no ROI was chosen; it holds: {', '.join(map(str, usable))}"
        raise InputError(msg)
    return values


def _check_frame(structure: StructureSet, rois: Iterable[Roi], series: Series) -> None:
    here = series.slices[0].text["frame"]
    for roi in rois:
        frame = roi.frame_of_reference_uid
        if frame == here and here:
            continue
        if not (frame and here) and series.uid in structure.series_uids:
            continue
        msg = (
            f"{structure.path}: ROI {roi} is drawn in the frame of reference {frame or '(none given)'}, the scan lies in {here or '(none given)'}, "
            "so their positions cannot be compared; give the series it was drawn on"
        )
        raise GeometryError(msg)


class _Slices:
    """Parallel slices of one orientation, at any distances and offsets; LPS+ mm."""

    def __init__(self, series: Series) -> None:
        slices = series.slices
        self.uid = series.uid
        self.size = (series.rows, series.columns)
        self.normal = normal_of(slices[0].orientation)
        self.to_pixel = np.linalg.inv(slice_affine(slices[0])[:3, :3])[:2]
        positions = np.array([s.position for s in slices], dtype=np.float64)
        self.order = np.argsort(positions @ self.normal, kind="stable")
        self.positions = positions[self.order]
        self.along = self.positions @ self.normal
        self.step = float(np.median(np.diff(self.along)))
        middles = (self.along[:-1] + self.along[1:]) / 2
        # The outermost slices reach as far outwards as they do inwards.
        self.bounds = np.concatenate([[2 * self.along[0] - middles[0]], middles, [2 * self.along[-1] - middles[-1]]])

    def nearest(self, along: FloatArray) -> npt.NDArray[np.intp]:
        """Place (in order along the normal) of the nearest slice; -1 before the first, the number of slices beyond the last."""
        return np.searchsorted(self.bounds, along, side="left") - 1

    def pixels(self, points: FloatArray, place: int) -> FloatArray:
        """(n, 2) column and row of LPS+ points on the slice at ``place``."""
        return np.asarray((points - self.positions[place]) @ self.to_pixel.T, dtype=np.float64)


def _draw(structure: StructureSet, roi: Roi, slices: _Slices, stack: npt.NDArray[np.unsignedinteger], value: int, overlaps: Counter[tuple[int, int]], notes: list[str]) -> int:
    """Fill one ROI into the stack of slices; returns how many pixels it has and counts those that another label has already."""
    contours = _usable_contours(structure, roi, notes)
    along = np.array([_along(structure, roi, c, slices) for c in contours])
    placed = _assign(structure, roi, along, slices, notes)
    count = 0
    for place, chosen in placed.items():
        inside, where = fill([slices.pixels(contours[n].points, place) for n in chosen], slices.size)
        target = stack[slices.order[place]][where]
        taken = target[inside]
        for other, pixels in zip(*np.unique(taken[(taken != 0) & (taken != value)], return_counts=True), strict=True):
            overlaps[int(other), value] += int(pixels)
        target[inside] = value
        count += int(inside.sum())
    return count


def _usable_contours(structure: StructureSet, roi: Roi, notes: list[str]) -> list[Contour]:
    closed = [c for c in roi.contours if c.is_closed]
    left_out = Counter(f"{c.kind or 'no type'} of {len(c.points)} point{'s' if len(c.points) != 1 else ''}" for c in roi.contours if not c.is_closed)
    if left_out:
        listed = ", ".join(f"{n} {what}" for what, n in left_out.most_common(3))
        notes.append(f"{structure.path}: ROI {roi}: left out {left_out.total()} contours that enclose no area ({listed})")
    # Exported twice, a contour would undo itself.
    distinct = {c.points.tobytes(): c for c in closed}
    if len(distinct) < len(closed):
        notes.append(f"{structure.path}: ROI {roi}: left out {len(closed) - len(distinct)} contours that repeat another point for point")
    return list(distinct.values())


def _along(structure: StructureSet, roi: Roi, contour: Contour, slices: _Slices) -> float:
    along = contour.points @ slices.normal
    span = float(np.ptp(along))
    if span > FLATNESS * slices.step:
        msg = (
            f"{structure.path}: a contour of ROI {roi} reaches across {span:.2f} mm of slices {slices.step:.2f} mm apart, so it is not drawn on their planes; "
            "give the series it was drawn on"
        )
        raise GeometryError(msg)
    return float(along.mean())


def _assign(structure: StructureSet, roi: Roi, along: FloatArray, slices: _Slices, notes: list[str]) -> dict[int, list[int]]:
    """Contours (by index) of each slice (by its place along the normal)."""
    here = f"{structure.path}: ROI {roi}"
    place = slices.nearest(along)
    within = (place >= 0) & (place < len(slices.along))
    if not within.all():
        notes.append(f"{here}: left out {int((~within).sum())} of {len(along)} contours, which lie beyond the first or last slice")
    offset = along - slices.along[np.clip(place, 0, len(slices.along) - 1)]
    tolerance = tolerance_mm(slices.step)
    placed: dict[int, list[int]] = {}
    for k in np.unique(place[within]):
        chosen = np.flatnonzero(place == k)
        best = offset[chosen][np.abs(offset[chosen]).argmin()]
        placed[int(k)] = [int(n) for n in chosen if abs(offset[n] - best) <= tolerance]
    used = np.array([n for chosen in placed.values() for n in chosen], dtype=np.intp)
    if len(used) < within.sum():
        notes.append(f"{here}: left out {int(within.sum()) - len(used)} contours on planes closer together than the slices; the nearest to each slice was taken")
    far = float(np.abs(offset[used]).max()) if len(used) else 0.0
    if far > tolerance:
        notes.append(f"{here}: contours lie up to {far:.3f} mm from the slices ({slices.step:.3f} mm apart); each was taken for the nearest slice")
    _check_steps(structure, roi, np.array(sorted(placed)), slices, notes)
    return placed


def _check_steps(structure: StructureSet, roi: Roi, places: npt.NDArray[np.int64], slices: _Slices, notes: list[str]) -> None:
    """Contours drawn on every second slice or fewer leave a label with gaps: right if they were meant for these slices, wrong if for thicker ones."""
    steps = np.diff(places)
    # Single lesions may lie far apart; a regular step is what a thicker series looks like.
    if roi.label or len(steps) < 2 or steps.min() < 2 or 2 * (steps == steps.min()).sum() < len(steps):
        return
    text = f"{structure.path}: ROI {roi}: contours are {steps.min() * slices.step:.3f} mm apart on slices {slices.step:.3f} mm apart"
    if slices.uid not in structure.series_uids:
        msg = f"{text}, so the label would have gaps; give the series it was drawn on"
        raise GeometryError(msg)
    notes.append(f"{text}; the slices between stay empty")


def _refuse_overlaps(structure: StructureSet, names: Mapping[int, str], overlaps: Mapping[tuple[int, int], int]) -> None:
    if not overlaps:
        return
    listed = "; ".join(f'"{names[a]}" and "{names[b]}" share {n} voxels' for (a, b), n in sorted(overlaps.items(), key=lambda item: -item[1])[:5])
    msg = f"{structure.path}: ROIs overlap, and a label map holds one value a voxel: {listed}; choose ROIs that do not overlap, by name"
    raise InputError(msg)
