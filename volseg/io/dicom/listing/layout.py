"""How the slices of a series lie, in numbers a person can judge: plane, spacings, missing slices, tilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from volseg.geometry import FloatArray, Grid
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.geometry import DUPLICATE_MM, lps_affine, normal_of, same_cosines, stack_slices, tilt_degrees, tolerance_mm

PLANES = ("sagittal", "coronal", "axial")
"""Names of the planes whose normal runs along x, y and z (left-right, front-back, foot-head)."""

STRAIGHT_DEGREES = 0.1
"""Below this a plane is not called oblique: at 250 mm from the centre it is 0.4 mm, less than a pixel."""


@dataclass(frozen=True)
class Layout:
    """Where the slices of one stack lie.

    Parameters
    ----------
    plane : str
        ``"axial"``, ``"coronal"`` or ``"sagittal"``, whichever is nearest.
    oblique_degrees : float
        Largest angle between an axis of the slices (rows, columns, normal) and the patient axis it is nearest to; 0 where below :data:`STRAIGHT_DEGREES`.
    orientation : str
        Where columns (i), rows (j) and the normal (k) point, three letters, e.g. ``"LPS"``.
    slice_spacings_mm : tuple of (float, int)
        Distances between neighbouring slices along the normal (mm, three decimals) with how often each occurs, in order along the normal of their first.
    missing_slices : int
        Slices that would fill the places left empty where every distance is a multiple of the smallest common one; 0 where spacing is even or follows no rule.
    shared_positions : int
        Images that lie in the plane of another.
    tilt_degrees : float
        Angle between the stacking direction and the normal (gantry tilt); 0 where there is none.
    """

    plane: str
    oblique_degrees: float
    orientation: str
    slice_spacings_mm: tuple[tuple[float, int], ...] = ()
    missing_slices: int = 0
    shared_positions: int = 0
    tilt_degrees: float = 0.0

    def __str__(self) -> str:
        return f"{self.plane}, oblique by {self.oblique_degrees:.1f} degrees" if self.oblique_degrees else self.plane


def measure_layout(slices: Sequence[SliceHeader]) -> Layout | None:
    """Measure how slices lie.

    Parameters
    ----------
    slices : sequence of SliceHeader
        Those of one :class:`~volseg.io.dicom.series.Series`, in any order.

    Returns
    -------
    Layout or None
        None where the slices have no positions or several orientations.
    """
    placed = [s for s in slices if s.position]
    if not placed or len(placed) < len(slices) or not all(same_cosines(placed[0].orientation, s.orientation) for s in placed):
        return None
    cosines = placed[0].orientation
    normal = normal_of(cosines)
    grid = Grid.from_lps((1, 1, 1), lps_affine(cosines, (1.0, 1.0), np.zeros(3), normal))
    angles = np.degrees(np.arccos(np.clip(np.abs(grid.direction).max(axis=0), 0, 1)))
    oblique = float(angles.max()) if angles.max() >= STRAIGHT_DEGREES else 0.0
    seen = Layout(PLANES[grid.world_axes[2]], round(oblique, 2), grid.orientation)
    if len(placed) < 2:
        return seen
    return _measure_stack(seen, np.array([s.position for s in placed]), normal)


def _measure_stack(seen: Layout, positions: FloatArray, normal: FloatArray) -> Layout:
    along = np.sort(positions @ normal)
    steps = np.diff(along)
    apart = steps[steps >= DUPLICATE_MM]
    spacings = Counter(round(float(step), 3) for step in apart)
    stack = stack_slices(positions, normal)
    tilted = any(finding.startswith("gantry tilt") for finding in stack.findings)
    return Layout(
        seen.plane,
        seen.oblique_degrees,
        seen.orientation,
        slice_spacings_mm=tuple(spacings.items()),
        missing_slices=_missing(apart),
        shared_positions=len(steps) - len(apart),
        tilt_degrees=round(tilt_degrees(stack.step, normal), 2) if tilted else 0.0,
    )


def _missing(steps: FloatArray) -> int:
    if not steps.size:
        return 0
    multiples = np.round(steps / steps.min())
    even = np.abs(steps - multiples * steps.min()) <= multiples * tolerance_mm(float(steps.min()))
    return int((multiples - 1).sum()) if even.all() else 0
