"""NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``) to volumes.

Which of the header's two placements counts (NIfTI-1 standard, "3D IMAGE (VOLUME) ORIENTATION AND LOCATION IN SPACE"):

1. the sform when its code is greater than 0;
2. else the qform when its code is greater than 0;
3. else the voxel sizes alone, as nibabel's fallback does (centred, first axis towards the left), with a warning that orientation and position are unknown.

The choice and both codes are recorded in ``Source.details``. When both forms are set and place voxels differently, a warning says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.geometry import DEFAULT_TOLERANCE_MM, FloatArray, Grid
from volseg.io.intensity import rescaled
from volseg.io.names import scan_stem
from volseg.io.shear import settle_shear, straightened
from volseg.io.stream import ByteStream
from volseg.io.volume import Source, Volume

HEADER_SIZES = {348: 352, 540: 544}
"""``sizeof_hdr`` of NIfTI-1 and NIfTI-2 -> the first byte at which voxels can start in a single file."""

UNITS_NOT_MM = {1: "metres", 3: "micrometres"}
"""Spatial part (lowest three bits) of ``xyzt_units`` that cannot be read as millimetres; 2 is mm and 0 unknown, which all tools read as mm."""

QUATERNION_ROUNDING = 2.0**-22
"""Bound on the error of ``b^2 + c^2 + d^2`` when b, c, d are rounded to float32 (relative 2^-24 each): ``2 * 2^-24``, doubled for the arithmetic."""


@dataclass(frozen=True)
class Placement:
    """Where a NIfTI header puts its voxels, and how that was decided."""

    grid: Grid
    form: str
    warnings: tuple[str, ...]


SYNTHETIC_MARK = b"volseg: synthetic"
"""How the description of volseg's own phantoms begins."""


def read_nifti(path: Path, *, fix_shear: bool = False, channels: int | None = 1) -> Volume:
    """Read one NIfTI file completely, in a single pass.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``; compression is recognised by content.
    fix_shear : bool
        Resample a sheared grid (cosine above 1e-3) to an orthogonal one instead of refusing it.
    channels : int, optional
        Volumes that a 4D file may hold; they become the channels of one image. None takes any number.

    Returns
    -------
    Volume
        RAS+ mm; ``scl_slope``/``scl_inter`` applied; singleton trailing axes dropped; ``source.header`` is the nibabel header. Of a 4D file the first volume, with the others as
        ``further``.

    Raises
    ------
    InputError
        Not a NIfTI, truncated, damaged, not one real-valued 3D image (or 4D image of so many channels).
    GeometryError
        The placement that counts is not finite, singular or sheared, or the header's unit is not mm.
    """
    with ByteStream(path) as stream:
        header = _read_header(stream)
        shape, count = _volume_shape(header, path, channels)
        dtype = _voxel_type(header, path)
        slope, intercept = _scaling(header, path)
        place = placement(header, shape, path)
        grid, notes = settle_shear(place.grid, path, fix_shear)
        raw = _read_voxels(stream, header, shape if count == 1 else (*shape, count), dtype)
        sha256, trailing = stream.finish()
    scaled = [rescaled(raw if count == 1 else raw[..., number], slope, intercept) for number in range(count)]
    more = tuple(note if count == 1 else f"volume {number}: {note}" for number, (_, found) in enumerate(scaled) for note in found)
    if trailing:
        more = (*more, f"{trailing} bytes or more follow the image that the header describes; they are ignored")
    details = {
        "form": place.form,
        "sform_code": int(header["sform_code"]),
        "qform_code": int(header["qform_code"]),
        "stored_dtype": dtype.newbyteorder("=").name,
        "scl_slope": slope,
        "scl_inter": intercept,
    }
    if SYNTHETIC_MARK in bytes(header["descrip"]):
        details["synthetic"] = True
    source = Source(path, "nifti", scan_stem(path), sha256=sha256, details=details, header=header)
    first, *further = (straightened(Volume(array, grid, source, () if number else place.warnings + notes + more)) for number, (array, _) in enumerate(scaled))
    return replace(first, further=tuple(replace(volume, warnings=()) for volume in further))


def placement(header: Any, shape: tuple[int, int, int], path: Path) -> Placement:
    """Apply the module's policy to a nibabel header.

    Parameters
    ----------
    header : nibabel.Nifti1Header or Nifti2Header
        Header to read both forms from.
    shape : tuple of int
        Sizes of the three spatial axes.
    path : Path
        Named in messages.

    Returns
    -------
    Placement
        The grid exactly as the chosen form says (shear and all), the form's name (``"sform"``, ``"qform"`` or ``"pixdim"``), and warnings.

    Raises
    ------
    GeometryError
        If the chosen form is not a finite, invertible affine, or the unit is not mm.
    """
    unit = UNITS_NOT_MM.get(int(header["xyzt_units"]) & 7)
    if unit:
        msg = f"{path}: the header gives distances in {unit} (xyzt_units {int(header['xyzt_units'])}); convert the file to millimetres, or correct xyzt_units if they already are"
        raise GeometryError(msg)
    if int(header["sform_code"]) > 0:
        grid = _grid(header.get_sform(), shape, path, "sform")
        return Placement(grid, "sform", _disagreement(header, grid))
    if int(header["qform_code"]) > 0:
        return Placement(_grid(_qform(header, path), shape, path, "qform"), "qform", ())
    note = "the header has neither a sform nor a qform: orientation and position are unknown, and only the voxel sizes were used (first axis taken as towards the left)"
    return Placement(_grid(header.get_base_affine(), shape, path, "pixdim"), "pixdim", (note,))


def _read_header(stream: ByteStream) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = stream.read(348)
    orders = [order for order in ("little", "big") if int.from_bytes(block[:4], order) in HEADER_SIZES]  # type: ignore[arg-type]
    if not orders:
        start = block[:16].decode("latin-1").encode("unicode_escape").decode()
        msg = f"{stream.path}: is not a NIfTI file (it starts with '{start}', not with a header size of 348 or 540); check what the file really is"
        raise InputError(msg)
    size = int.from_bytes(block[:4], orders[0])  # type: ignore[arg-type]
    block += stream.read(size - len(block))
    if len(block) < size:
        msg = f"{stream.path}: the file is truncated ({len(block)} of {size} header bytes); copy or export it again"
        raise InputError(msg)
    header = (Nifti1Header if size == 348 else Nifti2Header)(block, endianness=orders[0], check=False)
    magic = bytes(header["magic"].tobytes())[:3]
    if magic not in (b"n+1", b"n+2"):
        kind = "the header half of a two-file NIfTI" if magic in (b"ni1", b"ni2") else "an Analyze 7.5 or damaged header"
        msg = f"{stream.path}: is {kind} (magic '{magic.decode('latin-1').encode('unicode_escape').decode()}'); convert it to a single .nii or .nii.gz file"
        raise InputError(msg)
    return header


def _volume_shape(header: Any, path: Path, channels: int | None) -> tuple[tuple[int, int, int], int]:
    """Sizes of the three spatial axes, and the number of volumes."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        msg = f"{path}: the header claims {count} dimensions (dim[0]); NIfTI allows 1 to 7, so the header is damaged: export the file again"
        raise InputError(msg)
    sizes = [int(n) for n in header["dim"][1 : 1 + count]]
    text = "x".join(map(str, sizes))
    if min(sizes) < 1:
        msg = f"{path}: the header claims a size of {text} voxels; every size must be at least 1, so the header is damaged: export the file again"
        raise InputError(msg)
    extra = prod(sizes[3:])
    if extra > 1 and channels == 1:
        msg = f"{path}: holds {extra} volumes ({text}); a scan is one 3D volume, so split the file (e.g. nibabel.four_to_three) and give one of them"
        raise InputError(msg)
    if extra > 1 and (extra != sizes[3] or channels not in (None, extra)):
        wanted = "on its fourth axis" if channels is None else f"{channels} volumes on its fourth axis, one for each channel"
        msg = f"{path}: holds {extra} volumes ({text}), but an image of several channels has {wanted}; give the file the bundle was made for"
        raise InputError(msg)
    if len(sizes) < 3 or min(sizes[:3]) < 2:
        msg = f"{path}: is a 2D image ({text} voxels); a scan needs at least 2 voxels along each of three axes, so give the whole volume"
        raise InputError(msg)
    return (sizes[0], sizes[1], sizes[2]), extra


def _voxel_type(header: Any, path: Path) -> np.dtype[Any]:
    from nibabel.spatialimages import HeaderDataError

    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        msg = f"{path}: the voxel type (datatype code {code}) is not one NIfTI readers know; convert the file to int16 or float32"
        raise InputError(msg) from error
    if dtype.fields or dtype.kind not in "iuf":
        kind = "colour (RGB)" if dtype.fields else "complex-valued" if dtype.kind == "c" else f"of type {dtype}"
        msg = f"{path}: the image is {kind} (datatype code {code}); a scan has one real number per voxel, so convert it to a single channel first"
        raise InputError(msg)
    return dtype


def _scaling(header: Any, path: Path) -> tuple[float, float]:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        msg = f"{path}: scl_inter is {float(header['scl_inter'])}, so voxel values cannot be computed; correct it (0 for no offset)"
        raise InputError(msg) from error
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _read_voxels(stream: ByteStream, header: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    claimed = prod(shape) * dtype.itemsize
    offset = float(header["vox_offset"])
    first = HEADER_SIZES[int(header["sizeof_hdr"])]
    start = max(int(offset), first) if np.isfinite(offset) else first
    cut = f"{stream.path}: the file is truncated ({{0}} of the {claimed} bytes of voxels its header describes: {'x'.join(map(str, shape))} {dtype.name}); copy or export it again"
    if start + claimed > stream.capacity:
        msg = cut.format(f"at most {max(stream.capacity - start, 0)}")
        raise InputError(msg)
    try:
        raw = np.empty(prod(shape), dtype)
    except MemoryError as error:
        msg = f"{stream.path}: {claimed / 2**30:.1f} GiB of voxels do not fit in memory; crop the scan or use a larger machine"
        raise InputError(msg) from error
    header_size = int(header["sizeof_hdr"])
    stream.skip(start - header_size)
    filled = stream.read_into(raw.view(np.uint8).data)
    if filled < claimed:
        msg = cut.format(filled)
        raise InputError(msg)
    return raw.reshape(shape, order="F")


def _grid(affine: FloatArray, shape: tuple[int, int, int], path: Path, form: str) -> Grid:
    try:
        return Grid(shape, affine)
    except GeometryError as error:
        msg = f"{path}: the {form} does not place the voxels: {error}; correct the header (e.g. nibabel's set_sform) or export the file again"
        raise GeometryError(msg) from error


def _qform(header: Any, path: Path) -> FloatArray:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine: FloatArray = header.get_qform()
    except (HeaderDataError, ValueError) as error:
        msg = f"{path}: the qform does not place the voxels: {error}; correct the header (e.g. nibabel's set_qform) or export the file again"
        raise GeometryError(msg) from error
    return affine


def _disagreement(header: Any, grid: Grid) -> tuple[str, ...]:
    """Warn when a qform is set beside the sform and says something else."""
    if int(header["qform_code"]) <= 0:
        return ()
    codes = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])})"
    try:
        other = Grid(grid.shape, _qform(header, Path()))
    except GeometryError:
        return (f"{codes} are both set, but the qform is not a valid placement; the sform is used",)
    apart = grid.distance(other)
    if apart <= _rounding_of_qform(header, grid):
        return ()
    return (f"{codes} place voxels up to {apart:.3g} mm apart ({grid.orientation} and {other.orientation}); the sform is used",)


def _rounding_of_qform(header: Any, grid: Grid) -> float:
    """How far (mm) a voxel may move only because a qform stores b, c, d of a unit quaternion as float32.

    ``a = sqrt(1 - b^2 - c^2 - d^2)`` is ill-conditioned near 0 (rotations by 180 degrees, as in every LPS file); changing ``a`` turns the grid by at most twice that (rad).
    """
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    squared = max(1.0 - b * b - c * c - d * d, 0.0)
    angle = 2 * (np.sqrt(squared + QUATERNION_ROUNDING) - np.sqrt(max(squared - QUATERNION_ROUNDING, 0.0)))
    reach = float(np.linalg.norm(grid.corners() - np.array(grid.origin), axis=1).max())
    return DEFAULT_TOLERANCE_MM + float(angle) * reach
