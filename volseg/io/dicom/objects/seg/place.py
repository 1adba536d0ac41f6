"""Frames of a DICOM Segmentation onto a scan's voxels: by position and exactly, or not at all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.io.dicom.geometry import lps_affine, normal_of
from volseg.io.dicom.objects.origin import label_from_slices, series_of, slice_affine
from volseg.io.dicom.objects.seg.read import SegFrame, SegObject, read_seg
from volseg.io.dicom.series import Series
from volseg.io.volume import Volume

COINCIDE = 0.1
"""Pixels (in the plane) and slice steps (across it). Writers that go through ITK's regular grids move frames by rounding and by what a reader tolerates in slice positions (1 %);
a tenth is far above both, and far below the half at which another voxel would be meant."""

ROUNDING = 0.01
"""Two probabilities that sum to 1 may exceed it by this part once each is rounded to a step (1/255 in most objects)."""


def seg_on_volume(seg: SegObject | str | os.PathLike[str], volume: Volume, wanted: Mapping[str, int] | None = None) -> npt.NDArray[Any]:
    """Make the label map of a scan from a DICOM Segmentation.

    Parameters
    ----------
    seg : SegObject or path-like
        As :func:`~volseg.io.dicom.objects.seg.read.read_seg` gives it, or its file.
    volume : Volume
        The scan, from a DICOM series.
    wanted : mapping of str to int, optional
        Label values by segment name (or by its number as text); segments not named are left out. Without it a segment has the label value volseg recorded, else its number.

    Returns
    -------
    ndarray of uint8 or uint16, (i, j, k)
        On ``volume.grid``, 0 for background. Fractions count from half of the maximum value; of two such segments whose fractions sum to one, the larger (the first on a tie).
        Where the volume's grid was corrected, cropped or reoriented, it is sampled as :func:`~volseg.io.dicom.objects.origin.label_from_slices` says.

    Raises
    ------
    GeometryError
        If the segmentation lies in another frame of reference, or its pixels are not those of the scan.
    InputError
        If the volume is not from DICOM, a wanted segment is not there, segments overlap, or the pixels are damaged.
    """
    seg = seg if isinstance(seg, SegObject) else read_seg(seg)
    series = series_of(volume)
    _check_frame_of_reference(seg, series)
    canvas = _Canvas(seg, series, _label_values(seg, wanted))
    for n, (frame, pixels) in enumerate(zip(seg.frames, seg.pixels(), strict=True), 1):
        canvas.paint(n, frame, pixels)
    canvas.check_overlaps()
    return label_from_slices(canvas.stack, volume)


def _check_frame_of_reference(seg: SegObject, series: Series) -> None:
    ours = series.slices[0].text["frame"]
    if seg.frame_of_reference == ours and ours:
        return
    # Without one on either side, only the named series ties the two together.
    if seg.series_uid == series.uid and not (seg.frame_of_reference and ours):
        return
    msg = (
        f"{seg.path}: lies in another frame of reference ({seg.frame_of_reference or 'none'}) than the scan ({ours or 'none'}); "
        f"give the series it was made for ({seg.series_uid or 'it names none'})"
    )
    raise GeometryError(msg)


def _label_values(seg: SegObject, wanted: Mapping[str, int] | None) -> dict[int, int]:
    """Label values by segment number."""
    if wanted is None:
        values = {s.number: s.number if s.value is None else s.value for s in seg.segments}
    else:
        values = {number: value for name, value in wanted.items() for number in _numbers(seg, name)}
    if not all(0 <= value <= np.iinfo(np.uint16).max for value in values.values()):
        msg = f"{seg.path}: label values must lie between 0 and {np.iinfo(np.uint16).max}, got {sorted(values.values())}; choose others"
        raise InputError(msg)
    return values


def _numbers(seg: SegObject, name: str) -> list[int]:
    numbers = [s.number for s in seg.segments if s.name == name] or [s.number for s in seg.segments if str(s.number) == name]
    if not numbers:
        msg = f"{seg.path}: has no segment {name!r}; choose from {', '.join(f'{s.name!r} ({s.number})' for s in seg.segments)}"
        raise InputError(msg)
    return numbers


class _Canvas:
    """The scan's slices, on which frames are painted one by one."""

    def __init__(self, seg: SegObject, series: Series, values: dict[int, int]) -> None:
        self.seg, self.series, self.values = seg, series, values
        dtype = np.uint8 if max(values.values(), default=0) <= np.iinfo(np.uint8).max else np.uint16
        self.stack = np.zeros((len(series.slices), series.rows, series.columns), dtype=dtype)
        self.strength = np.zeros(self.stack.shape, np.uint8) if seg.kind == "FRACTIONAL" else None
        self.overlaps: Counter[tuple[int, int]] = Counter()
        self.to_pixel = [np.linalg.inv(slice_affine(s)) for s in series.slices]
        self.normal = normal_of(series.slices[0].orientation)
        self.along = np.array([s.position for s in series.slices], dtype=np.float64) @ self.normal
        self.step = float(np.diff(np.sort(self.along)).min())

    def paint(self, n: int, frame: SegFrame, pixels: npt.NDArray[Any]) -> None:
        painted = self._painted(pixels, frame)
        if not painted.any():
            return
        k, turn, start = self._overlay(n, frame)
        painted, strength = turn(painted), None if self.strength is None else turn(pixels)
        rows, columns = (_within(s, size, limit) for s, size, limit in zip(start, painted.shape, self.stack.shape[1:], strict=True))
        crop = (slice(rows.start - start[0], rows.stop - start[0]), slice(columns.start - start[1], columns.stop - start[1]))
        outside = np.count_nonzero(painted) - np.count_nonzero(painted[crop])
        if outside:
            msg = f"{self.seg.path}: frame {n} has {outside} segmented pixels outside the scan's {self.series.columns}x{self.series.rows} pixels; give the series it was made for"
            raise GeometryError(msg)
        self._put((k, rows, columns), painted[crop], None if strength is None else strength[crop])

    def _painted(self, pixels: npt.NDArray[Any], frame: SegFrame) -> npt.NDArray[Any]:
        """Label value of each of a frame's pixels."""
        if frame.number is not None:
            inside = pixels != 0 if self.seg.kind == "BINARY" else pixels.astype(np.uint16) * 2 >= self.seg.maximum
            label: npt.NDArray[Any] = inside * self.stack.dtype.type(self.values.get(frame.number, 0))
            return label
        described = {0, *(s.number for s in self.seg.segments)}
        lookup = np.zeros(int(max(described | {int(pixels.max())})) + 1, self.stack.dtype)
        for number, value in self.values.items():
            lookup[number] = value
        strange = set(np.flatnonzero(np.bincount(pixels.ravel()))) - described
        if strange:
            msg = f"{self.seg.path}: has pixels of segment {min(strange)}, which Segment Sequence (0062,0002) does not describe; repair the file"
            raise InputError(msg)
        painted: npt.NDArray[Any] = lookup[pixels]
        return painted

    def _overlay(self, n: int, frame: SegFrame) -> tuple[int, Any, tuple[int, int]]:
        """Find the slice a frame lies on, how to turn its pixels to the slice's rows and columns, and at which row and column they start."""
        k = int(np.abs(self.along - np.array(frame.position) @ self.normal).argmin())
        to_slice = self.to_pixel[k] @ lps_affine(frame.orientation, frame.spacing, np.array(frame.position), normal_of(frame.orientation))
        corners = np.array([[c, r, 0, 1] for c in (0, self.seg.columns - 1) for r in (0, self.seg.rows - 1)], dtype=np.float64).T
        places = to_slice @ corners
        steps = np.rint(to_slice[:2, :2]).astype(int)
        first = np.rint(to_slice[:2, 3]).astype(int)
        expected = steps @ corners[:2] + first[:, None]
        off = float(np.abs(places[:2] - expected).max())
        if sorted(np.abs(steps).ravel()) != [0, 0, 1, 1] or steps[0, 0] * steps[0, 1] or steps[0, 0] * steps[1, 0] or off > 1:
            msg = (
                f"{self.seg.path}: frame {n} has other axes or pixel spacing ({frame.spacing[0]:g}\\{frame.spacing[1]:g} mm) than the scan's slices "
                f"({self.series.slices[k].spacing[0]:g}\\{self.series.slices[k].spacing[1]:g} mm); give the series it was made for, or resample it first"
            )
            raise GeometryError(msg)
        across = float(np.abs(places[2]).max())
        if off > COINCIDE or across > COINCIDE * self.step:
            msg = (
                f"{self.seg.path}: frame {n} lies {across:.3f} mm beside the nearest slice and {off:.3f} pixels off its pixels, more than {COINCIDE:g} of a step; "
                "give the series it was made for, or resample it first"
            )
            raise GeometryError(msg)
        swapped = steps[0, 0] == 0
        signs = (steps[1, 0] if swapped else steps[1, 1], steps[0, 1] if swapped else steps[0, 0])

        def turn(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
            turned: npt.NDArray[Any] = (image.T if swapped else image)[:: signs[0], :: signs[1]]
            return turned

        column, row = expected.min(axis=1).astype(int)
        return k, turn, (int(row), int(column))

    def _put(self, where: tuple[int, slice, slice], painted: npt.NDArray[Any], strength: npt.NDArray[Any] | None) -> None:
        there = self.stack[where]
        new = painted != 0
        shared = new & (there != 0) & (there != painted)
        if strength is not None and self.strength is not None:
            before = self.strength[where]
            shared &= before.astype(np.uint16) + strength > self.seg.maximum * (1 + ROUNDING)
            new &= strength > before
            before[new] = strength[new]
        if shared.any():
            self.overlaps.update(zip(there[shared].tolist(), painted[shared].tolist(), strict=True))
        there[new] = painted[new]

    def check_overlaps(self) -> None:
        """Refuse what one label map cannot hold."""
        if not self.overlaps:
            return
        names = {value: next(s.name for s in self.seg.segments if self.values.get(s.number) == value) for pair in self.overlaps for value in pair}
        listed = "; ".join(f"{names[a]!r} and {names[b]!r} share {count} voxels" for (a, b), count in self.overlaps.most_common(4))
        msg = f"{self.seg.path}: segments overlap, which a label map cannot hold: {listed}; choose segments that do not overlap"
        raise InputError(msg)


def _within(start: int, size: int, limit: int) -> slice:
    first = min(max(0, start), limit)
    return slice(first, max(first, min(start + size, limit)))
