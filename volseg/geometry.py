"""Where voxels lie in space: one frozen object, :class:`Grid`, of shape and affine.

Conventions used everywhere in volseg: arrays are indexed ``[i, j, k]``, integer indices are voxel *centres*, and world coordinates are RAS+ millimetres (+x towards the patient's
right, +y anterior, +z superior) as in NIfTI. DICOM and ITK speak LPS+; files are converted at the edge with :meth:`Grid.from_lps` and :attr:`Grid.lps_affine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError

FloatArray = npt.NDArray[np.float64]

LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Changes LPS+ (DICOM PS3.3 C.7.6.2.1.1, ITK) into RAS+ (NIfTI-1) and back; it is its own inverse."""

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of the negative and positive end of each RAS+ world axis."""

DEFAULT_TOLERANCE_MM = 1e-3
"""Two grids are the same when no voxel centre moves by more than this (mm)."""

SINGULAR_DETERMINANT_MM3 = 1e-9
"""Below this voxel volume an affine cannot be inverted meaningfully."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in world space.

    Parameters
    ----------
    shape : sequence of int, length 3
        Number of voxels along array axes ``i, j, k``; each at least 1.
    affine : array_like, (4, 4)
        Maps ``(i, j, k, 1)`` to RAS+ millimetres. Stored as read-only float64.

    Raises
    ------
    GeometryError
        If the shape is not three positive numbers, or the affine is not finite, not invertible, or its last row is not ``0 0 0 1``.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            msg = f"a grid needs three positive sizes, got shape {tuple(self.shape)}"
            raise GeometryError(msg)
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            msg = f"an affine must be a finite 4x4 matrix with last row 0 0 0 1, got {affine.tolist()}"
            raise GeometryError(msg)
        if abs(np.linalg.det(affine[:3, :3])) < SINGULAR_DETERMINANT_MM3:
            msg = f"the affine is singular (its axes do not span space): {affine[:3, :3].tolist()}"
            raise GeometryError(msg)
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_lps(cls, shape: Sequence[int], affine: npt.ArrayLike) -> Grid:
        """Make a grid from an affine that maps indices to LPS+ millimetres (DICOM, ITK)."""
        return cls(tuple(shape), LPS_TO_RAS @ np.asarray(affine, dtype=np.float64))  # type: ignore[arg-type]

    @property
    def lps_affine(self) -> FloatArray:
        """(4, 4) float64: maps ``(i, j, k, 1)`` to LPS+ millimetres."""
        return np.asarray(LPS_TO_RAS @ self.affine, dtype=np.float64)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along ``i, j, k`` (mm)."""
        i, j, k = (float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k

    @property
    def direction(self) -> FloatArray:
        """(3, 3) float64: columns are the unit vectors of ``i, j, k`` in RAS+."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing), dtype=np.float64)

    @property
    def origin(self) -> tuple[float, float, float]:
        """World position (RAS+ mm) of voxel ``(0, 0, 0)``."""
        x, y, z = (float(v) for v in self.affine[:3, 3])
        return x, y, z

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (1 ml = 1000 mm^3)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_right_handed(self) -> bool:
        """Whether ``i, j, k`` turn the same way as x, y, z (positive determinant)."""
        return bool(np.linalg.det(self.affine[:3, :3]) > 0)

    @property
    def shear(self) -> float:
        """Largest absolute cosine between two different array axes; 0 for an orthogonal grid, ``sin(tilt)`` for a tilted gantry."""
        cosines = self.direction.T @ self.direction
        return float(np.abs(cosines - np.diag(np.diag(cosines))).max())

    @cached_property
    def world_axes(self) -> tuple[int, int, int]:
        """For each array axis, the world axis (0 x, 1 y, 2 z) it follows most closely, as a permutation.

        The array axis with the strongest direction chooses first, as in ``nibabel.io_orientation`` and so in MONAI's ``Orientation``; a tie goes to the first in order.
        """
        left, _, right = np.linalg.svd(self.direction)
        # Rounding keeps the noise of the last digits from deciding a tie.
        cosines = np.round(np.abs(left @ right), 9)
        chosen = [0, 0, 0]
        for axis in np.argsort(-cosines.max(axis=0), kind="stable").tolist():
            chosen[axis] = int(np.argmax(cosines[:, axis]))
            cosines[chosen[axis]] = -1
        return chosen[0], chosen[1], chosen[2]

    @property
    def orientation(self) -> str:
        """Three letters, one per array axis, naming the patient direction it points *towards*, e.g. ``"RAS"`` or ``"LPS"``."""
        direction = self.direction
        return "".join(AXIS_CODES[world][int(direction[world, axis] > 0)] for axis, world in enumerate(self.world_axes))

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """Map voxel indices (..., 3) to RAS+ millimetres (..., 3)."""
        index = np.asarray(index, dtype=np.float64)
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3], dtype=np.float64)

    def to_voxel(self, world: npt.ArrayLike) -> FloatArray:
        """Map RAS+ millimetres (..., 3) to (fractional) voxel indices (..., 3)."""
        world = np.asarray(world, dtype=np.float64)
        return np.asarray(np.linalg.solve(self.affine[:3, :3], (world - self.affine[:3, 3])[..., None])[..., 0], dtype=np.float64)

    def corners(self) -> FloatArray:
        """(8, 3) float64: world positions (RAS+ mm) of the eight outermost voxel centres."""
        last = np.array(self.shape) - 1
        return self.to_world(np.array(np.meshgrid(*([0, n] for n in last), indexing="ij")).reshape(3, 8).T)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """Grid of ``array[start[0]:stop[0], start[1]:stop[1], start[2]:stop[2]]``; negative starts and stops past the end pad instead."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        size = [int(b) - int(a) for a, b in zip(start, stop, strict=True)]
        return Grid(tuple(size), affine)  # type: ignore[arg-type]

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Grid:
        """Grid with ``before`` voxels added in front of and ``after`` voxels behind each axis."""
        stop = [n + a for n, a in zip(self.shape, after, strict=True)]
        return self.crop([-b for b in before], stop)

    def resampled(self, spacing: Sequence[float]) -> Grid:
        """Grid of another spacing (mm) along the same axes that covers the same box, edge to edge of the outer voxels, centred on it."""
        wanted = np.asarray(spacing, dtype=np.float64)
        if wanted.shape != (3,) or not (wanted > 0).all():
            msg = f"a spacing must be three positive numbers in mm, got {list(spacing)}"
            raise GeometryError(msg)
        extent = np.array(self.shape) * np.array(self.spacing)
        shape = np.maximum(1, np.round(extent / wanted)).astype(int)
        affine = np.eye(4)
        affine[:3, :3] = self.direction * wanted
        centre = self.to_world((np.array(self.shape) - 1) / 2)
        affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
        return Grid(tuple(shape), affine)  # type: ignore[arg-type]

    def orthonormalised(self) -> Grid:
        """The nearest grid without shear (polar decomposition), same spacing, same centre.

        Source: the closest orthogonal matrix in the Frobenius norm is ``U @ Vt`` of the singular value decomposition (Higham, 1986).
        """
        left, _, right = np.linalg.svd(self.direction)
        affine = np.eye(4)
        affine[:3, :3] = (left @ right) * np.array(self.spacing)
        middle = (np.array(self.shape) - 1) / 2
        affine[:3, 3] = self.to_world(middle) - affine[:3, :3] @ middle
        return Grid(self.shape, affine)

    def reorientation(self, codes: str) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """How to permute and flip an array on this grid so that its axes point towards ``codes``.

        Parameters
        ----------
        codes : str
            Three letters such as ``"RAS"``; each world axis once.

        Returns
        -------
        order : tuple of int
            ``array.transpose(order)`` puts the axes in the wanted order.
        flips : tuple of int
            Axes of the *transposed* array to reverse.

        Raises
        ------
        GeometryError
            If ``codes`` does not name each of the three world axes once.
        """
        wanted = [_axis_of(letter) for letter in codes.upper()]
        if sorted(world for world, _ in wanted) != [0, 1, 2]:
            msg = f"an orientation names each of L/R, P/A and I/S once, got {codes!r}"
            raise GeometryError(msg)
        axis_of_world = {world: axis for axis, world in enumerate(self.world_axes)}
        order = tuple(axis_of_world[world] for world, _ in wanted)
        now = self.orientation
        flips = tuple(new for new, (old, (_, letter)) in enumerate(zip(order, wanted, strict=True)) if now[old] != letter)
        return (order[0], order[1], order[2]), flips

    def reoriented(self, codes: str) -> Grid:
        """The same voxel centres indexed along axes that point towards ``codes`` (see :func:`reorient` for arrays)."""
        order, flips = self.reorientation(codes)
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for new, old in enumerate(order):
            flipped = new in flips
            matrix[old, new] = -1 if flipped else 1
            matrix[old, 3] = self.shape[old] - 1 if flipped else 0
        return Grid(tuple(self.shape[old] for old in order), self.affine @ matrix)  # type: ignore[arg-type]

    def distance(self, other: Grid) -> float:
        """Largest distance (mm) between corresponding voxel centres; infinite when the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners() - other.corners(), axis=1).max())

    def isclose(self, other: Grid, tolerance_mm: float = DEFAULT_TOLERANCE_MM) -> bool:
        """Whether both grids have the same shape and no voxel centre differs by more than ``tolerance_mm``."""
        return self.distance(other) <= tolerance_mm

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        return f"{size} voxels of {spacing} mm, {self.orientation}"


def reorient(array: npt.NDArray[np.generic], grid: Grid, codes: str) -> tuple[npt.NDArray[np.generic], Grid]:
    """Permute and flip an array so that its axes point towards ``codes``; no voxel value changes.

    Parameters
    ----------
    array : ndarray
        The last three axes are ``i, j, k`` on ``grid``; axes before them (channels) are kept.
    grid : Grid
        Where the array lies.
    codes : str
        Wanted orientation, e.g. ``"RAS"``.

    Returns
    -------
    array : ndarray
        A view of the input.
    grid : Grid
        Where the view lies.
    """
    if array.shape[-3:] != grid.shape:
        msg = f"the array's shape {array.shape} does not end in the grid's {grid.shape}"
        raise GeometryError(msg)
    order, flips = grid.reorientation(codes)
    lead = array.ndim - 3
    view = array.transpose(*range(lead), *(lead + axis for axis in order))
    return np.flip(view, axis=tuple(lead + axis for axis in flips)), grid.reoriented(codes)


def _axis_of(letter: str) -> tuple[int, str]:
    for world, pair in enumerate(AXIS_CODES):
        if letter in pair:
            return world, letter
    msg = f"{letter!r} is not one of the orientation letters L R P A I S"
    raise GeometryError(msg)
