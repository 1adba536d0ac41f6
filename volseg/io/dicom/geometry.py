"""Where the slices of a series lie: orientation, order, spacing, gaps, duplicates and gantry tilt. Pure functions; LPS+ millimetres as in DICOM.

The equation is DICOM PS3.3 C.7.6.2.1.1: with row cosines X (direction of a growing *column* index i), column cosines Y (direction of a growing *row* index j), PixelSpacing
``[dj, di]`` (between rows first, then between columns) and ImagePositionPatient S, voxel (i, j) of a slice lies at ``X di i + Y dj j + S``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.geometry import FloatArray

COSINE_TOLERANCE = 1e-4
"""Direction cosines that differ by no more are the same: 0.006 degrees, 0.025 mm at the edge of a 500 mm field, while decimal strings of 6 digits differ by 1e-6."""

SPACING_TOLERANCE = 1e-4
"""Relative difference of two pixel spacings that are the same: 0.05 pixel at the far side of 512 columns; files of one series differ by rounding only (1e-6)."""

POSITION_TOLERANCE_MM = 0.01
"""Positions are trusted to two decimals: scanners that round ImagePositionPatient round it there or finer, and no clinical voxel is below 0.1 mm."""

POSITION_TOLERANCE_RELATIVE = 0.01
"""A slice may lie off the regular grid by this part of the slice spacing (highdicom ``get_series_volume_positions`` uses rtol=0.01)."""

DUPLICATE_MM = 1e-3
"""Slices closer than this lie in the same plane: a tenth of the precision positions are trusted to."""

TILT_TOLERANCE_DEGREES = float(np.degrees(1e-3))
"""Stacking direction and normal may differ by 0.057 degrees (highdicom's perpendicular_tol=1e-3); real gantry tilts start at 0.5 degrees."""

MAX_MISSING = 2
"""Slices that may be missing in one place for the rest to be interpolated across it: beyond that, what lies between is invented, not measured."""


@dataclass(frozen=True)
class Stack:
    """How slices lie on each other.

    Parameters
    ----------
    order : ndarray of int, (n,)
        Indices that sort the given slices along the positive normal.
    step : ndarray of float64, (3,)
        Mean vector from one slice to the next, LPS+ mm: (last - first) / (n - 1).
    findings : tuple of str
        Why the slices are no regular grid, the most telling first; empty when they are.
    obstacle : str or None
        Why resampling (:mod:`volseg.io.dicom.repair`) cannot make them one, where there are findings.
    """

    order: npt.NDArray[np.intp]
    step: FloatArray
    findings: tuple[str, ...]
    obstacle: str | None = None


def normal_of(cosines: tuple[float, ...]) -> FloatArray:
    """(3,) float64 unit normal of a slice: row cosines x column cosines (LPS+)."""
    normal = np.cross(cosines[:3], cosines[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def check_cosines(cosines: tuple[float, ...]) -> str | None:
    """Say what is wrong with the six direction cosines of ImageOrientationPatient, or None when they are two perpendicular unit vectors."""
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    # Cosines written with four decimals are off unit length by up to 1e-4 each, which normalising mends.
    if max(abs(length - 1) for length in lengths) > 1e-3:
        return f"ImageOrientationPatient (0020,0037) has vectors of length {lengths[0]:.4f} and {lengths[1]:.4f} instead of 1"
    dot = float(row @ column)
    if abs(dot) > COSINE_TOLERANCE:
        angle = np.degrees(np.arccos(dot / (lengths[0] * lengths[1])))
        return f"rows and columns meet at {angle:.3f} degrees instead of 90 (ImageOrientationPatient (0020,0037))"
    return None


def same_cosines(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two ImageOrientationPatient are the same within :data:`COSINE_TOLERANCE`."""
    return bool(np.abs(np.subtract(first, second)).max() <= COSINE_TOLERANCE)


def same_spacing(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two PixelSpacing are the same within :data:`SPACING_TOLERANCE`."""
    return bool(np.all(np.abs(np.subtract(first, second)) <= SPACING_TOLERANCE * np.asarray(first)))


def rotation_degrees(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Angle (degrees) of the rotation that takes one slice orientation into the other."""
    frames = [np.array([c[:3], c[3:], normal_of(c)]) for c in (first, second)]
    cosine = (np.trace(frames[0].T @ frames[1]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def lps_affine(cosines: tuple[float, ...], spacing: tuple[float, float], first: FloatArray, step: FloatArray) -> FloatArray:
    """Affine from voxel (i column, j row, k slice) to LPS+ mm.

    Parameters
    ----------
    cosines : tuple of 6 float
        ImageOrientationPatient.
    spacing : tuple of 2 float
        PixelSpacing: between rows, between columns (mm).
    first, step : ndarray, (3,)
        Position of the first slice, and from one slice to the next (mm).
    """
    affine = np.eye(4)
    affine[:3, 0] = np.array(cosines[:3]) / np.linalg.norm(cosines[:3]) * spacing[1]
    affine[:3, 1] = np.array(cosines[3:]) / np.linalg.norm(cosines[3:]) * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    return affine


def stack_slices(positions: FloatArray, normal: FloatArray) -> Stack:
    """Sort parallel slices along their normal and find what keeps them from being a regular grid.

    Parameters
    ----------
    positions : ndarray of float64, (n, 3), n >= 2
        ImagePositionPatient of each slice (LPS+ mm).
    normal : ndarray of float64, (3,)
        Unit normal.

    Returns
    -------
    Stack
        Tilt and spacing are judged independently, so a tilted series with a gap has both findings.
    """
    order = np.argsort(positions @ normal, kind="stable")
    sorted_positions = positions[order]
    along = sorted_positions @ normal
    step = (sorted_positions[-1] - sorted_positions[0]) / (len(positions) - 1)
    duplicates = _duplicates(sorted_positions, along)
    if duplicates:
        return Stack(order, step, (duplicates,), "they are not one volume")
    found = (_tilt(step, normal, len(positions)), _spacing(along), _sideways(sorted_positions, along))
    findings = tuple(f for f in found if f)
    return Stack(order, step, findings, _obstacle(sorted_positions, along) if findings else None)


def tolerance_mm(spacing: float) -> float:
    """How far (mm) a slice may lie from where a regular grid of this slice spacing puts it."""
    return max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_RELATIVE * spacing)


def _duplicates(positions: FloatArray, along: FloatArray) -> str | None:
    same = np.flatnonzero(np.diff(along) < DUPLICATE_MM)
    if not same.size:
        return None
    planes = 1 + int((np.diff(along) >= DUPLICATE_MM).sum())
    where = ", ".join(f"{v:.2f}" for v in positions[same[0]])
    return (
        f"duplicate positions: {len(along)} different images share {planes} slice position{'s' if planes > 1 else ''} (first at {where} mm), as in series of several "
        "time points, echoes, b-values or reconstructions; split them into one series each"
    )


def tilt_degrees(step: FloatArray, normal: FloatArray) -> float:
    """Angle (degrees) between the vector from one slice to the next and the unit normal of the slices; 0 for an upright gantry."""
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    return float(np.degrees(np.arctan2(sideways, step @ normal)))


def _tilt(step: FloatArray, normal: FloatArray, count: int) -> str | None:
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    angle = tilt_degrees(step, normal)
    # In a short stack the rounding of the positions alone can turn the stacking direction.
    if angle <= TILT_TOLERANCE_DEGREES or sideways * (count - 1) <= 2 * POSITION_TOLERANCE_MM:
        return None
    return f"gantry tilt: slices are stacked {angle:.2f} degrees off their normal (each shifted {sideways:.3f} mm in its plane)"


def _spacing(along: FloatArray) -> str | None:
    steps = np.diff(along)
    regular = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / len(steps)
    typical = float(np.median(steps))
    off = float(np.abs(along - regular).max())
    if off <= tolerance_mm(typical):
        return None
    usual = _commonest(steps, tolerance_mm(typical))
    ratio = steps / usual
    missing = np.round(ratio).astype(int) - 1
    if len(steps) > 1 and (np.abs(steps - (missing + 1) * usual) <= (missing + 1) * tolerance_mm(usual)).all() and missing.max() >= 1:
        gap = int(np.flatnonzero(missing)[0])
        return (
            f"gap: {missing.sum()} slice{'s' if missing.sum() > 1 else ''} missing from a spacing of {usual:.3f} mm, first between {along[gap]:.2f} and "
            f"{along[gap + 1]:.2f} mm along the normal ({steps[gap]:.3f} mm)"
        )
    seen = Counter(f"{s:.3f}" for s in steps)
    listed = ", ".join(f"{value} mm ({n}x)" for value, n in seen.most_common(4)) + (", ..." if len(seen) > 4 else "")
    return f"uneven slice spacing: {listed}; a slice lies {off:.3f} mm off a regular grid, the limit is {tolerance_mm(typical):.3f} mm"


def _commonest(steps: FloatArray, tolerance: float) -> float:
    # The smallest of equally common steps: with two slices either side of one gap, the gap is a multiple of the true step, never the other way round.
    votes = [(int((np.abs(steps - s) <= tolerance).sum()), -float(s)) for s in steps]
    return -max(votes)[1]


def _prevailing(steps: FloatArray) -> float:
    """The largest step that is usual: made by a third of the slices, and at least three times, so that a change of spacing half way is no gap; else the commonest."""
    votes = [(float(s), int((np.abs(steps - s) <= tolerance_mm(float(s))).sum())) for s in steps]
    usual = [step for step, count in votes if count >= max(3, len(steps) / 3)]
    return max(usual) if usual else _commonest(steps, tolerance_mm(float(np.median(steps))))


def _obstacle(positions: FloatArray, along: FloatArray) -> str | None:
    steps = np.diff(along)
    usual = _prevailing(steps)
    worst = int(steps.argmax())
    missing = round(float(steps[worst]) / usual) - 1
    if missing > MAX_MISSING:
        where = f"between {along[worst]:.2f} and {along[worst + 1]:.2f} mm along the normal"
        return f"{missing} slices are missing {where}, more than the {MAX_MISSING} that --fix-geometry bridges; fetch them from the archive"
    off = float(_beside_line(positions).max())
    if off > usual:
        return f"a slice {off:.1f} mm beside the others, more than their spacing of {usual:.3f} mm, belongs to another scan; --fix-geometry cannot mend that"
    return None


def _beside_line(positions: FloatArray) -> FloatArray:
    """Distance (mm) of each sorted position from the line through the first and the last."""
    line = positions[-1] - positions[0]
    axis = line / np.linalg.norm(line)
    offset = positions - positions[0]
    return np.asarray(np.linalg.norm(offset - np.outer(offset @ axis, axis), axis=1), dtype=np.float64)


def _sideways(positions: FloatArray, along: FloatArray) -> str | None:
    off = _beside_line(positions)
    worst = int(off.argmax())
    limit = tolerance_mm(float(np.median(np.diff(along))))
    if off[worst] <= limit:
        return None
    return f"shifted slice: the slice at {along[worst]:.2f} mm along the normal lies {off[worst]:.3f} mm beside the line of the others, the limit is {limit:.3f} mm"
