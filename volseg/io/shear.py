"""Array axes that are not at right angles: ignored when it is rounding, mended when tiny, refused or resampled when real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from volseg.errors import GeometryError
from volseg.geometry import FloatArray, Grid
from volseg.io.volume import Volume

IGNORED_SHEAR = 1e-6
"""Cosine between axes that float32 header fields (24-bit mantissa, 6e-8 relative) leave behind; nothing is changed below it."""

MENDED_SHEAR = 1e-3
"""Cosine up to which the axes are set at right angles with a warning: over a 500 mm scan the outermost voxels move by less than 0.5 mm about its centre."""


def settle_shear(grid: Grid, path: Path, fix_shear: bool = False) -> tuple[Grid, tuple[str, ...]]:
    """Decide what becomes of a grid whose axes may not be orthogonal.

    Parameters
    ----------
    grid : Grid
        As the file says.
    path : Path
        Named in messages.
    fix_shear : bool
        Whether the caller will resample a larger shear away (:func:`straightened`); the grid is then returned as it is.

    Returns
    -------
    grid : Grid
        The same grid up to a shear of 1e-6, the nearest orthogonal one up to 1e-3.
    warnings : tuple of str
        One line when the grid was changed.

    Raises
    ------
    GeometryError
        If the shear is larger and ``fix_shear`` is False.
    """
    shear = grid.shear
    if shear <= IGNORED_SHEAR:
        return grid, ()
    if shear <= MENDED_SHEAR:
        mended = grid.orthonormalised()
        return mended, (f"the voxel axes are not quite orthogonal (shear {shear:.2g}); they were set at right angles, which moves voxels by up to {grid.distance(mended):.2g} mm",)
    if fix_shear:
        return grid, ()
    msg = (
        f"{path}: the voxel axes are sheared (cosine {shear:.4g} between two axes, {np.degrees(np.arcsin(min(shear, 1.0))):.1f} degrees off a right angle); "
        "resample it to an orthogonal grid with --fix-geometry (in Python: volseg.load(path, fix_shear=True))"
    )
    raise GeometryError(msg)


def straightened(volume: Volume) -> Volume:
    """Resample a sheared volume to an orthogonal grid that covers it, by trilinear interpolation.

    The new axes come from a QR decomposition, so the first axis keeps its direction and the slices (constant ``k``) keep their planes: for a tilted gantry each slice only
    slides within its own plane, and nothing is interpolated between slices. Voxels outside the scan get its smallest finite value (air in CT).

    Parameters
    ----------
    volume : Volume
        Any volume; one whose shear is at most 1e-3 is returned unchanged.

    Returns
    -------
    Volume
        float32, with a warning that says what was done; its source keeps no header, because the file's forms no longer describe this grid.
    """
    shear = volume.grid.shear
    if shear <= MENDED_SHEAR:
        return volume
    from scipy.ndimage import affine_transform

    grid = orthogonal_cover(volume.grid)
    matrix = np.linalg.inv(volume.grid.affine) @ grid.affine
    finite = volume.array[np.isfinite(volume.array)] if volume.array.dtype.kind == "f" else volume.array
    air = float(finite.min()) if finite.size else 0.0
    array = affine_transform(volume.array, matrix[:3, :3], matrix[:3, 3], output_shape=grid.shape, output=np.float32, order=1, mode="constant", cval=air)
    size = "x".join(map(str, grid.shape))
    note = f"sheared axes (cosine {shear:.4g}) were resampled trilinearly to an orthogonal grid of {size} voxels; results lie on that grid, not on the file's"
    source = replace(volume.source, header=None, details={**volume.source.details, "fix_shear": shear})
    return Volume(array, grid, source, (*volume.warnings, note))


def orthogonal_cover(grid: Grid) -> Grid:
    """Smallest orthogonal grid, aligned with the first axis and the slice planes of ``grid``, that holds all its voxel centres."""
    rotation, upper = np.linalg.qr(grid.affine[:3, :3])
    signs = np.sign(np.diag(upper))
    step: FloatArray = (rotation * signs) * np.abs(np.diag(upper))
    corners = np.linalg.solve(step, (grid.corners() - np.array(grid.origin)).T)
    # A corner that is a whole number of steps away must not gain a voxel by rounding.
    first, last = np.floor(corners.min(axis=1) + 1e-6), np.ceil(corners.max(axis=1) - 1e-6)
    affine = np.eye(4)
    affine[:3, :3] = step
    affine[:3, 3] = np.array(grid.origin) + step @ first
    return Grid(tuple(int(n) for n in last - first + 1), affine)  # type: ignore[arg-type]
