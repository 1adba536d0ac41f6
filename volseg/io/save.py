"""Arrays to image files: labels on exactly the grid of the scan they belong to, and images on any grid.

Written by hand rather than through nibabel and SimpleITK: a few slices at a time without copies, the same bytes for the same content, and a full disk is noticed and said.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.geometry import LPS_TO_RAS, Grid
from volseg.io.atomic import written_beside
from volseg.io.deflate import BLOCK, Wrapper, write_deflated
from volseg.io.intensity import smallest_integer
from volseg.io.nifti import placement
from volseg.io.shear import settle_shear
from volseg.io.volume import Volume

WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Formats written, all single files: two files cannot appear at once."""

METAIMAGE_TYPES = {"uint8": "UCHAR", "int8": "CHAR", "uint16": "USHORT", "int16": "SHORT", "uint32": "UINT", "int32": "INT", "float32": "FLOAT", "float64": "DOUBLE"}
"""dtype -> MetaImage ElementType (``MET_`` in front); also the list of dtypes that can be written."""

NRRD_TYPES = {"float32": "float", "float64": "double"}
"""dtype -> NRRD type where the names differ (NRRD format definition, section 5)."""

SCANNER_CODE = 1
"""NIFTI_XFORM_SCANNER_ANAT: the coordinates are the scanner's (nifti1.h)."""


PROBABILITY_STEPS = 255
"""A probability of 1 in uint8."""

PROBABILITY_SLOPE = float(np.nextafter(np.float32(1 / PROBABILITY_STEPS), np.float32(0)))
"""``scl_slope`` is a float32; rounded up, as 1/255 would be, a probability of 1 would be read as 1.00000006."""


def save_label(array: npt.NDArray[Any], like: Volume, path: str | Path) -> Path:
    """Write a label map on exactly the grid of ``like``.

    Parameters
    ----------
    array : ndarray
        Whole numbers from 0 to 2^32 - 1 of any dtype, axes ``(i, j, k)`` of ``like.grid``; stored as uint8, uint16 or uint32, whichever is the smallest that holds them.
    like : Volume
        The scan the label belongs to. When it was read from NIfTI and still lies on that file's grid, a NIfTI output repeats sform, qform and both codes bit for bit; otherwise
        both forms are written from the grid with code 1 (scanner).
    path : str or Path
        Ends in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``; its folder is made. An existing file is replaced in one step.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    GeometryError
        If the array is not of the grid's shape.
    InputError
        If a value is negative, not whole or too large, or the suffix is none of the four.
    OutputError
        If the place cannot be written to.
    WriteError
        If writing fails half way (disk full); nothing is left behind.
    """
    path = _checked_path(path)
    _check_shape(array, like.grid, path)
    dtype = _label_type(array, path)
    header = like.source.header if like.source.kind == "nifti" and _is_grid_of(like) else None
    _write(path, array, like.grid, dtype, "volseg", header, intent="label")
    return path


def save_probability(array: npt.NDArray[Any], like: Volume, path: str | Path) -> Path:
    """Write a probability map on exactly the grid of ``like``, a byte a voxel: NIfTI's ``scl_slope`` turns 0 to 255 into 0 to 1 in every reader.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        uint8 in steps of 1/255, or floats from 0 to 1, which are rounded to such steps.
    like : Volume
        The scan, as for :func:`save_label`.
    path : str or Path
        Ends in ``.nii.gz`` or ``.nii``: the other formats have no scale.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    GeometryError, OutputError, WriteError
        As :func:`save_label`.
    InputError
        If a value is not a probability, or the suffix is another.
    """
    path = _checked_path(path)
    if not path.name.lower().endswith((".nii.gz", ".nii")):
        msg = f"{path}: probabilities are written as NIfTI only, whose header holds their scale; end the name in .nii.gz"
        raise InputError(msg)
    _check_shape(array, like.grid, path)
    if array.dtype != np.uint8 and not (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1):
        msg = f"{path}: probabilities are uint8 or floats from 0 to 1, got {array.dtype} from {array.min():g} to {array.max():g}; give them after softmax or sigmoid"
        raise InputError(msg)
    if array.dtype != np.uint8:
        steps = np.empty(array.shape, dtype=np.uint8, order="F")
        for k in range(array.shape[2]):
            steps[:, :, k] = np.rint(array[:, :, k] * PROBABILITY_STEPS)
        array = steps
    header = like.source.header if like.source.kind == "nifti" and _is_grid_of(like) else None
    _write(path, array, like.grid, np.dtype(np.uint8), "volseg probability", header, slope=PROBABILITY_SLOPE)
    return path


def save_volume(array: npt.NDArray[Any], grid: Grid, path: str | Path, *, dtype: npt.DTypeLike | None = None, description: str = "") -> Path:
    """Write an image (not a label) on a grid.

    Parameters
    ----------
    array : ndarray
        Real numbers, axes ``(i, j, k)`` of ``grid``.
    grid : Grid
        Where the voxels lie; NIfTI gets it as sform and qform with code 1 (scanner).
    path : str or Path
        Ends in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``; its folder is made. An existing file is replaced in one step.
    dtype : dtype, optional
        Stored type: integers up to 32 bits, float32 or float64. By default the array's own, with bool and 64-bit integers made as small as they go and float16 made float32.
    description : str
        Free text for the header (NIfTI keeps 79 bytes).

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    GeometryError, InputError, OutputError, WriteError
        As :func:`save_label`; InputError also when an integer ``dtype`` cannot hold the values exactly.
    """
    path = _checked_path(path)
    _check_shape(array, grid, path)
    _write(path, array, grid, _image_type(array, dtype, path), " ".join(description.split()), None)
    return path


def _checked_path(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.name.lower().endswith(WRITTEN_SUFFIXES):
        msg = f"{path}: the suffix does not name a format volseg writes; use {', '.join(WRITTEN_SUFFIXES)}"
        raise InputError(msg)
    return path


def _check_shape(array: npt.NDArray[Any], grid: Grid, path: Path) -> None:
    if array.shape != grid.shape:
        msg = f"{path}: the array's shape {array.shape} is not the grid's {grid.shape}; bring it to the grid before saving"
        raise GeometryError(msg)


def _label_type(array: npt.NDArray[Any], path: Path) -> np.dtype[Any]:
    low, high = array.min(), array.max()
    whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool(np.isfinite(low) and np.isfinite(high)) and all((s == np.rint(s)).all() for s in array))
    if not whole or low < 0 or high > np.iinfo(np.uint32).max:
        msg = f"{path}: a label map holds whole numbers from 0 to 4294967295, got {array.dtype} values from {low} to {high}; take the arg-max before saving"
        raise InputError(msg)
    return next(np.dtype(kind) for kind in (np.uint8, np.uint16, np.uint32) if high <= np.iinfo(kind).max)


def _image_type(array: npt.NDArray[Any], dtype: npt.DTypeLike | None, path: Path) -> np.dtype[Any]:
    given = array.dtype.newbyteorder("=")
    target = given if dtype is None else np.dtype(dtype).newbyteorder("=")
    if dtype is None and given.kind in "biu" and given.name not in METAIMAGE_TYPES:
        target = smallest_integer(int(array.min()), int(array.max())) or given
    elif dtype is None and given == np.float16:
        target = np.dtype(np.float32)
    if given.kind not in "biuf" or target.name not in METAIMAGE_TYPES:
        msg = f"{path}: {given} values cannot be written as {target}; use one of {', '.join(METAIMAGE_TYPES)}"
        raise InputError(msg)
    if target.kind in "iu" and target != given:
        limits = np.iinfo(target)
        low, high = array.min(), array.max()
        if not (limits.min <= low and high <= limits.max) or (given.kind == "f" and any((s != np.rint(s)).any() for s in array)):
            msg = f"{path}: values from {low} to {high} ({given}) are not all exact in {target}; round them or choose a wider dtype"
            raise InputError(msg)
    return target


def _is_grid_of(like: Volume) -> bool:
    """Whether a NIfTI volume still lies where its header says; not so after cropping or resampling."""
    header = like.source.header
    if header is None:
        return False
    try:
        grid, _ = settle_shear(placement(header, like.grid.shape, like.source.path).grid, like.source.path)
    except GeometryError:
        return False
    return grid == like.grid and tuple(int(n) for n in header["dim"][1:4]) == grid.shape


def _write(path: Path, array: npt.NDArray[Any], grid: Grid, dtype: np.dtype[Any], description: str, header: Any, *, intent: str = "none", slope: float = 1.0) -> None:
    stored = dtype.newbyteorder("<")
    name = path.name.lower()
    with written_beside(path) as temporary, temporary.open("xb") as file:
        if name.endswith(".nrrd"):
            file.write(_nrrd_header(grid, stored, description))
            _write_packed(file, b"", array, stored, "gzip")
        elif name.endswith(".mha"):
            _write_metaimage(file, array, grid, stored, description)
        else:
            start = _nifti_header(grid, stored, description, header, intent=intent, slope=slope)
            if name.endswith(".gz"):
                _write_packed(file, start, array, stored, "gzip")
            else:
                file.write(start)
                _write_slices(file, array, stored)


def _write_slices(stream: IO[bytes], array: npt.NDArray[Any], stored: np.dtype[Any]) -> None:
    """Write voxels with ``i`` running fastest, a few slices at a time, so that no second copy of the array exists."""
    for number in range(_slab_count(array, stored)):
        stream.write(_slab(array, stored, number))


def _write_packed(file: IO[bytes], start: bytes, array: npt.NDArray[Any], stored: np.dtype[Any], wrapper: Wrapper) -> None:
    """Write ``start`` and the voxels compressed; the parts follow from shape and dtype alone, so that equal content gives equal bytes."""
    write_deflated(file, lambda number: (start if number == 0 else b"") + _slab(array, stored, number), _slab_count(array, stored), wrapper)


def _slab_height(array: npt.NDArray[Any], stored: np.dtype[Any]) -> int:
    return max(1, BLOCK // (int(array.shape[0]) * int(array.shape[1]) * stored.itemsize))


def _slab_count(array: npt.NDArray[Any], stored: np.dtype[Any]) -> int:
    return -(-int(array.shape[2]) // _slab_height(array, stored))


def _slab(array: npt.NDArray[Any], stored: np.dtype[Any], number: int) -> bytes:
    height = _slab_height(array, stored)
    return array[:, :, number * height : (number + 1) * height].astype(stored).tobytes(order="F")


def _nifti_header(grid: Grid, stored: np.dtype[Any], description: str, like: Any, *, intent: str, slope: float) -> bytes:
    """Header, and the four bytes that say no extension follows."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    # A short integer cannot hold a size above 32767 in NIfTI-1; NIfTI-2 input keeps its 64-bit forms only in NIfTI-2.
    large = max(grid.shape) > np.iinfo(np.int16).max
    header = Nifti2Header(endianness="<") if large or (like is not None and int(like["sizeof_hdr"]) == 540) else Nifti1Header(endianness="<")
    header.set_data_shape(grid.shape)
    header.set_data_dtype(stored)
    header.set_xyzt_units("mm")
    if like is None:
        header.set_qform(grid.affine, SCANNER_CODE)
        header.set_sform(grid.affine, SCANNER_CODE)
    else:
        for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "qform_code", "sform_code"):
            header[field] = like[field]
        header["pixdim"][:4] = like["pixdim"][:4]
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["descrip"] = description.encode("utf-8", "replace")[:79]
    header.set_intent(intent)
    size = int(header["sizeof_hdr"]) + 4
    header["vox_offset"] = size
    return bytes(header.binaryblock) + b"\0" * 4


def _nrrd_header(grid: Grid, stored: np.dtype[Any], description: str) -> bytes:
    affine = grid.lps_affine
    lines = [
        "NRRD0004",
        f"type: {NRRD_TYPES.get(stored.name, stored.name)}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, grid.shape))}",
        f"space directions: {' '.join(_vector(affine[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(affine[:3, 3])}",
    ]
    if description:
        lines.insert(1, f"content: {description}")
    return ("\n".join(lines) + "\n\n").encode()


def _vector(values: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"


def _write_metaimage(file: IO[bytes], array: npt.NDArray[Any], grid: Grid, stored: np.dtype[Any], description: str) -> None:
    """Header and zlib data; the compressed size stands in the header, so it is filled in at the end."""
    direction = LPS_TO_RAS[:3, :3] @ grid.direction
    # MetaImage lists the direction of the first axis first, that is, the matrix by columns.
    numbers = {"TransformMatrix": direction.T.ravel().tolist(), "Offset": grid.lps_affine[:3, 3].tolist(), "ElementSpacing": list(grid.spacing)}
    head = "ObjectType = Image\nNDims = 3\n" + (f"Comment = {description}\n" if description else "")
    head += "BinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\nCompressedDataSize = "
    tail = "".join(f"{key} = {' '.join(repr(float(v)) for v in values)}\n" for key, values in numbers.items())
    tail += f"DimSize = {' '.join(map(str, grid.shape))}\nElementType = MET_{METAIMAGE_TYPES[stored.name]}\nElementDataFile = LOCAL\n"
    file.write(f"{head}{0:<16}\n{tail}".encode())
    start = file.tell()
    _write_packed(file, b"", array, stored, "zlib")
    size = file.tell() - start
    file.seek(len(head.encode()))
    file.write(f"{size:<16}".encode())
