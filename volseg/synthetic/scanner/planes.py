"""Where the synthetic scanner cuts its slices, and what it sees there. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError
from volseg.geometry import LPS_TO_RAS, FloatArray, Grid, reorient
from volseg.synthetic.scan import SyntheticScan
from volseg.synthetic.scanner.settings import ScannerSettings, scanner_orientation

SHEAR_LIMIT = 1e-6
"""Rows and columns of Image Orientation (0020,0037) must be orthogonal (PS3.3 C.7.6.2.1.1), and slices of one series lie along their normal."""

AIR = {"CT": -1000.0, "MR": 0.0, "PT": 0.0}
"""What lies outside the phantom, in the image's units."""

Field3D = Callable[[FloatArray], npt.ArrayLike]
"""Gives the value (HU or the image's units) at each of (n, 3) points in RAS+ mm."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Parallel slices in the terms of DICOM PS3.3 C.7.6.2.1.1 (LPS+ mm).

    Parameters
    ----------
    along_row, along_column : ndarray of float64, (3,)
        Unit vectors of a growing column index and of a growing row index (ImageOrientationPatient).
    spacing : tuple of float
        Between rows, between columns (mm, PixelSpacing).
    rows, columns : int
        Matrix.
    positions : ndarray of float64, (n, 3)
        ImagePositionPatient of each slice.
    thickness : float
        SliceThickness (mm).
    tilt_degrees : float
        GantryDetectorTilt.
    on_grid : tuple of int or None
        Which slice ``k`` of the scan's grid each one is; None where slices were cut between its voxels.
    """

    along_row: FloatArray
    along_column: FloatArray
    spacing: tuple[float, float]
    rows: int
    columns: int
    positions: FloatArray
    thickness: float
    tilt_degrees: float = 0.0
    on_grid: tuple[int, ...] | None = None

    @property
    def normal(self) -> FloatArray:
        """(3,) float64: rows x columns."""
        return np.asarray(np.cross(self.along_row, self.along_column), dtype=np.float64)

    def points(self, k: int) -> FloatArray:
        """(rows, columns, 3) float64: centre of each pixel of slice ``k``, RAS+ mm."""
        across = np.arange(self.columns)[None, :, None] * self.along_row * self.spacing[1]
        down = np.arange(self.rows)[:, None, None] * self.along_column * self.spacing[0]
        return np.asarray((self.positions[k] + across + down) * np.diag(LPS_TO_RAS)[:3], dtype=np.float64)


def laid_down(scan: SyntheticScan, patient_position: str | None) -> SyntheticScan:
    """The same voxels in the order in which the scanner sees a patient who lies so; unchanged for None."""
    if patient_position is None:
        return scan
    codes = scanner_orientation(patient_position)
    arrays: dict[str, Any] = {name: reorient(getattr(scan, name), scan.grid, codes)[0] for name in ("image", "label", "tissues")}
    return replace(scan, grid=scan.grid.reoriented(codes), **arrays)


def slice_planes(grid: Grid, settings: ScannerSettings) -> Planes:
    """Cut slices out of a grid's box: columns along ``i``, rows along ``j``, the table along ``k``.

    Raises
    ------
    GeometryError
        If the grid is sheared, which pixels in rows and columns cannot say.
    """
    if grid.shear > SHEAR_LIMIT:
        msg = f"a DICOM series needs orthogonal axes, this grid has a cosine of {grid.shear:.2g} between two of them; resample it first"
        raise GeometryError(msg)
    affine, spacing = grid.lps_affine, grid.spacing
    i, j, table = (affine[:3, axis] / spacing[axis] for axis in range(3))
    tilt = np.deg2rad(settings.tilt_degrees)
    turned = j * np.cos(tilt) - table * np.sin(tilt) if tilt else j
    offsets = np.arange(grid.shape[2]) * spacing[2] if settings.offsets_mm is None else np.array(settings.offsets_mm, dtype=np.float64)
    kept = np.delete(offsets, list(settings.missing))
    # The gantry turns about the middle of the rows, so the first pixel moves.
    first = affine[:3, 3] + (j - turned) * spacing[1] * (grid.shape[1] - 1) / 2
    positions = first + kept[:, None] * table
    own = None if settings.tilt_degrees or settings.offsets_mm is not None else tuple(int(k) for k in np.delete(np.arange(grid.shape[2]), list(settings.missing)))
    return Planes(i, turned, (spacing[1], spacing[0]), grid.shape[1], grid.shape[0], positions, spacing[2], settings.tilt_degrees, own)


def seen_on(planes: Planes, scan: SyntheticScan, field: Field3D | None = None) -> npt.NDArray[np.int16]:
    """Values on the slices.

    Parameters
    ----------
    planes : Planes
        From :func:`slice_planes`.
    scan : SyntheticScan
        Its own voxels where the slices are those of its grid, else trilinear interpolation and :data:`AIR` outside.
    field : callable, optional
        The anatomy as a function of world position, taken instead of the scan's voxels.

    Returns
    -------
    ndarray, int16, (slices, rows, columns)
        Rounded to whole numbers.
    """
    if field is None and planes.on_grid is not None:
        return np.ascontiguousarray(scan.image[:, :, list(planes.on_grid)].transpose(2, 1, 0))
    image = np.empty((len(planes.positions), planes.rows, planes.columns), dtype=np.int16)
    for k in range(len(image)):
        points = planes.points(k).reshape(-1, 3)
        values = _interpolated(scan, points) if field is None else np.asarray(field(points))
        image[k] = np.rint(values).reshape(image.shape[1:]).astype(np.int16)
    return image


def _interpolated(scan: SyntheticScan, points: FloatArray) -> npt.NDArray[np.float64]:
    from scipy.ndimage import map_coordinates

    index = scan.grid.to_voxel(points)
    nearest = np.rint(index)
    # Decimal dust at the outer voxels would otherwise read as outside.
    index = np.where(np.abs(index - nearest) < 1e-6, nearest, index)
    values: npt.NDArray[np.float64] = map_coordinates(scan.image, index.T, output=np.float64, order=1, mode="constant", cval=AIR[scan.modality])
    return values
