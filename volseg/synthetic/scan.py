"""What the phantoms return (:class:`SyntheticScan`) and where their voxels lie (:func:`scanner_grid`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import AXIS_CODES, Grid

NOTE = "synthetic, not a patient"
"""Written into every header and document a phantom leaves behind."""

SMALLEST_SIDE = 8
"""Fewest voxels along an axis; below it there is no anatomy left to draw."""

MOST_VOXELS = 512 * 512 * 400
"""Largest phantom: some 25 float32 fields of its size live at once, about 10 GB at this limit."""


@dataclass(frozen=True, eq=False)
class SyntheticScan:
    """A made-up scan with its ground truth; no patient is behind it.

    Attributes
    ----------
    image : ndarray, int16, (i, j, k)
        HU for CT, arbitrary units >= 0 for MR.
    label : ndarray, uint8, (i, j, k)
        Ground truth: 0 background, else a key of ``labels``.
    grid : Grid
        Where both arrays lie (RAS+ mm).
    modality : str
        ``"CT"`` or ``"MR"``, as in DICOM Modality (0008,0060).
    labels : mapping of int to str
        Names of the foreground labels.
    seed : int
        The seed it was drawn with; the same seed and arguments give the same arrays.
    tissues : ndarray, uint8, (i, j, k)
        Finer ground truth: what fills most of each voxel, a key of ``tissue_names``.
    tissue_names : mapping of int to str
        Names of the tissues.
    facts : mapping
        JSON-serialisable parameters that were drawn (noise SD in the image's units, oblique angle in degrees, ...).
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    grid: Grid
    modality: str
    labels: Mapping[int, str]
    seed: int
    tissues: npt.NDArray[np.uint8]
    tissue_names: Mapping[int, str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def volumes_ml(self) -> dict[int, float]:
        """Volume of each foreground label (ml), 0.0 for one that lies outside the field of view."""
        return {number: float(np.count_nonzero(self.label == number) * self.grid.voxel_volume_ml) for number in self.labels}


def scanner_axes(orientation: str = "LPS", oblique: float = 0.0) -> npt.NDArray[np.float64]:
    """Unit vectors (RAS+) of the array axes, as columns, of a scan turned out of the patient's planes.

    Parameters
    ----------
    orientation : str
        Patient direction each array axis points towards before turning, e.g. ``"LPS"`` (axial) or ``"PSR"`` (sagittal).
    oblique : float
        Angle in degrees by which the whole stack is turned about the axis (1, 0.5, 0.25) of patient space, which is parallel to no plane, so that every direction cosine changes.

    Returns
    -------
    ndarray, float64, (3, 3)

    Raises
    ------
    InputError
        If the orientation does not name each patient axis once or the angle is not within -90..90.
    """
    if not -90 <= oblique <= 90:
        msg = f"an oblique angle must lie within -90..90 degrees, got {oblique:g}"
        raise InputError(msg)
    axes = np.zeros((3, 3))
    for column, letter in enumerate(orientation.upper()):
        for world, pair in enumerate(AXIS_CODES):
            if letter in pair and column < 3:
                axes[world, column] = 1.0 if pair[1] == letter else -1.0
    if len(orientation) != 3 or abs(np.linalg.det(axes)) != 1:
        msg = f"an orientation names each of L/R, P/A and I/S once, got {orientation!r}"
        raise InputError(msg)
    return _rotation(np.array([1.0, 0.5, 0.25]), np.deg2rad(oblique)) @ axes


def scanner_grid(shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float] | npt.NDArray[np.float64], axes: npt.NDArray[np.float64] | None = None) -> Grid:
    """Grid of a box of voxels around a point.

    Parameters
    ----------
    shape : sequence of int
        Voxels along i, j, k; at least ``SMALLEST_SIDE`` each.
    spacing : sequence of float
        Voxel size along i, j, k (mm).
    centre : sequence of float
        World position (RAS+ mm) of the middle of the box.
    axes : ndarray, (3, 3), optional
        Unit vectors of i, j, k as columns (:func:`scanner_axes`); LPS when omitted.

    Raises
    ------
    InputError
        If a size or spacing is out of range.
    """
    size = np.asarray(shape, dtype=int)
    step = np.asarray(spacing, dtype=float)
    if size.shape != (3,) or size.min() < SMALLEST_SIDE or np.prod(size.astype(float)) > MOST_VOXELS:
        msg = f"a synthetic scan needs three sizes of at least {SMALLEST_SIDE} voxels and at most {MOST_VOXELS / 1e6:.0f} million voxels in all, got {list(map(int, shape))}"
        raise InputError(msg)
    if step.shape != (3,) or not np.isfinite(step).all() or step.min() < 0.1 or step.max() > 20:
        msg = f"a voxel spacing must be three numbers from 0.1 to 20 mm, got {list(map(float, spacing))}"
        raise InputError(msg)
    affine = np.eye(4)
    affine[:3, :3] = (scanner_axes() if axes is None else axes) * step
    affine[:3, 3] = np.asarray(centre, dtype=float) - affine[:3, :3] @ ((size - 1) / 2)
    return Grid((int(size[0]), int(size[1]), int(size[2])), affine)


def _rotation(axis: npt.NDArray[np.float64], angle: float) -> npt.NDArray[np.float64]:
    """Right-handed rotation matrix about an axis by an angle in radians (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: npt.NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return matrix
