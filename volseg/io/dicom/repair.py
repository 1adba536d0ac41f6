"""Tilted and unevenly spaced slices resampled to an orthogonal, even grid: each voxel is looked up in world space, never by index.

A slice keeps its plane. Sideways (gantry tilt, a slice beside the line of the others) it slides within that plane by its own Image Position (Patient), with linear interpolation
between its pixels. Along the normal each new slice is interpolated linearly between the two true slices around it, by their positions. Nothing is extrapolated: the new slices run
from the first true slice to the last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError
from volseg.geometry import FloatArray, Grid
from volseg.io.dicom.geometry import lps_affine, normal_of, stack_slices, tilt_degrees, tolerance_mm
from volseg.io.dicom.series import MAX_VOXELS, Series

MAX_FINER = 2
"""The new grid has at most this many times the slice intervals of the series (as dcm2niix has it): one thin step among thick ones must not multiply the volume."""

WHOLE_PIXEL = 1e-3
"""A slide this close to a whole number of pixels is one: at 1 mm pixels it is a tenth of the precision positions are trusted to, and pixels stay exact."""


@dataclass(frozen=True)
class Correction:
    """Where the slices of a series go on a regular grid.

    Parameters
    ----------
    grid : Grid
        Axes i (columns) and j (rows) as in the slices, same pixel spacing; k along their normal.
    along : ndarray of float64, (n,)
        Position of each slice along the normal, in steps of the new grid; ascending from 0.
    shifts : ndarray of float64, (n, 2)
        Where column 0 and row 0 of each slice lie on the new grid's i and j; at least 0.
    record : dict
        What was found and done, for JSON; see :func:`plan_correction`.
    """

    grid: Grid
    along: FloatArray
    shifts: FloatArray
    record: dict[str, Any]

    @property
    def note(self) -> str:
        """What a user should know of it, on one line."""
        before, after = ("x".join(map(str, self.record[key])) for key in ("shape_before", "shape"))
        found = "; ".join(self.record["findings"])
        return f"{found}: the series was resampled linearly from {before} to an orthogonal, even grid of {after} voxels; results lie on that grid, not on the slices"


def plan_correction(series: Series) -> Correction:
    """Choose the orthogonal, even grid for a series that is not on one.

    The slice step is the smallest spacing in the series (a thin-slice part keeps its resolution), but gives no more than twice the slice intervals; it is then stretched or shrunk
    so that first and last slice lie on the grid. A regular series with gaps keeps its step, and a merely tilted one its slices. In plane the grid is as large as all slid slices.

    Parameters
    ----------
    series : Series
        With slices in order along their normal (``mendable``).

    Returns
    -------
    Correction
        Its ``record`` has ``findings`` (as in the refusal), ``tilt_degrees``, ``slice_spacings_mm`` (pairs of mm and how often), ``largest_shift_mm`` (in plane, against the first
        slice), ``shape_before``, ``shape``, ``spacing_mm``, ``affine`` (RAS+ mm, 4 x 4) and ``interpolation``.

    Raises
    ------
    GeometryError
        If the slices cannot be mended, or the new grid would be absurdly large.
    """
    first = series.slices[0]
    positions = np.array([s.position for s in series.slices], dtype=np.float64)
    normal = normal_of(first.orientation)
    stack = stack_slices(positions, normal)
    if stack.obstacle is not None:
        msg = f"{first.member}: {'; '.join(stack.findings)}; {stack.obstacle}"
        raise GeometryError(msg)
    along = (positions - positions[0]) @ normal
    intervals = _intervals(along)
    step = float(along[-1]) / intervals
    plane = lps_affine(first.orientation, first.spacing, positions[0], normal * step)
    shifts = (positions - positions[0]) @ plane[:3, :2] / np.square(np.linalg.norm(plane[:3, :2], axis=0))
    low, high = np.floor(shifts.min(axis=0) + WHOLE_PIXEL), np.ceil(shifts.max(axis=0) - WHOLE_PIXEL)
    plane[:3, 3] += plane[:3, :2] @ low
    columns, rows = (int(size + extra) for size, extra in zip((first.columns, first.rows), high - low, strict=True))
    if columns * rows * (intervals + 1) > MAX_VOXELS:
        msg = f"{first.member}: an orthogonal grid around the slices would have {columns}x{rows}x{intervals + 1} voxels; its positions cannot be right; repair the header"
        raise GeometryError(msg)
    grid = Grid.from_lps((columns, rows, intervals + 1), plane)
    record = {
        "findings": list(stack.findings),
        "tilt_degrees": round(tilt_degrees(stack.step, normal), 4),
        "slice_spacings_mm": [[float(mm), count] for mm, count in Counter(f"{s:.3f}" for s in np.diff(along)).most_common()],
        "largest_shift_mm": round(float(np.linalg.norm((positions - positions[0]) - np.outer(along, normal), axis=1).max()), 4),
        "shape_before": [first.columns, first.rows, len(series.slices)],
        "shape": list(grid.shape),
        "spacing_mm": [round(v, 6) for v in grid.spacing],
        "affine": grid.affine.tolist(),
        "interpolation": "linear within each slice's plane by its own position, then linear between the two neighbouring slices by their positions along the normal",
    }
    return Correction(grid, along / step, np.clip(shifts - low, 0, high - low), record)


def _intervals(along: FloatArray) -> int:
    """Number of slice steps of the new grid."""
    steps = np.diff(along)
    extent = float(along[-1] - along[0])
    smallest = float(steps.min())
    # Positions are rounded in files, so the finest step is the middle of those that are the same.
    finest = float(np.median(steps[steps - smallest <= tolerance_mm(smallest)]))
    return max(1, min(round(extent / finest), MAX_FINER * len(steps)))


def corrected(array: npt.NDArray[Any], correction: Correction) -> tuple[npt.NDArray[Any], float]:
    """Resample the slices of a series onto the grid of :func:`plan_correction`.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        One slice per ``correction.along``, as :func:`~volseg.io.dicom.pixels.decode.decode_slices` gives them.
    correction : Correction
        From :func:`plan_correction` of the same series.

    Returns
    -------
    ndarray, (i, j, k)
        On ``correction.grid``, of the input's dtype (integers rounded to the nearest), column fastest in memory. Beside it only two slices are held as float32.
    fill : float
        What the voxels that no slice covers got: the smallest value of the scan, which is air or padding in CT and no signal elsewhere.
    """
    fill = float(array.min())
    stored = array.transpose(2, 1, 0)
    out = np.empty(correction.grid.shape[::-1], dtype=array.dtype)
    tolerance = tolerance_mm(correction.grid.spacing[2]) / correction.grid.spacing[2]
    slid: dict[int, npt.NDArray[np.float32]] = {}
    for k in range(len(out)):
        below, weight = _neighbours(k, correction.along, tolerance)
        needed = [below] if weight == 0 else [below, below + 1]
        slid = {m: slid[m] if m in slid else _slide(stored[m], correction.shifts[m], (out.shape[1], out.shape[2]), fill) for m in needed}
        plane = slid[below] if weight == 0 else slid[below] * np.float32(1 - weight) + slid[below + 1] * np.float32(weight)
        out[k] = np.rint(plane) if out.dtype.kind in "iu" else plane
    return out.transpose(2, 1, 0), fill


def _neighbours(k: int, along: FloatArray, tolerance: float) -> tuple[int, float]:
    """Index of the true slice at or below new slice ``k``, and the weight of the one above it; 0 where ``k`` lies on a slice as well as positions are trusted."""
    nearest = int(np.abs(along - k).argmin())
    if abs(along[nearest] - k) <= tolerance:
        return nearest, 0.0
    below = int(np.searchsorted(along, k)) - 1
    return below, float((k - along[below]) / (along[below + 1] - along[below]))


def _slide(plane: npt.NDArray[Any], shift: FloatArray, shape: tuple[int, int], fill: float) -> npt.NDArray[np.float32]:
    """(rows, columns) float32 of ``shape``: the plane moved by ``shift`` (columns, rows), linearly interpolated, ``fill`` outside it."""
    rows = _slide_rows(plane.astype(np.float32), float(shift[1]), shape[0], fill)
    return np.ascontiguousarray(_slide_rows(rows.T, float(shift[0]), shape[1], fill).T)


def _slide_rows(plane: npt.NDArray[np.float32], shift: float, size: int, fill: float) -> npt.NDArray[np.float32]:
    count = len(plane)
    whole = round(shift) if abs(shift - round(shift)) < WHOLE_PIXEL else int(np.floor(shift))
    part = np.float32(max(shift - whole, 0.0))
    if whole == 0 and size == count:
        return plane
    out = np.full((size, plane.shape[1]), fill, dtype=np.float32)
    if part < WHOLE_PIXEL:
        out[whole : whole + count] = plane
        return out
    # The border pixels fade into the fill over one pixel, as linear interpolation between them and it gives.
    padded = np.full((count + 2, plane.shape[1]), fill, dtype=np.float32)
    padded[1:-1] = plane
    out[whole : whole + count + 1] = padded[1:] * (1 - part) + padded[:-1] * part
    return out
