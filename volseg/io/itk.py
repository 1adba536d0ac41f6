"""NRRD (``.nrrd``, ``.nhdr``) and MetaImage (``.mha``, ``.mhd``) files to volumes, through SimpleITK.

ITK reports positions in LPS+ and converts NRRD files whose ``space`` is RAS or LAS; they become RAS+ here. A NRRD without an anatomical ``space`` is taken as LPS, as ITK
takes it, with a warning. ITK accepts what should be refused (several components, 2D), allocates before it looks, and reads damaged compressed data
without a word, so header and data are checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from volseg.errors import GeometryError, InputError
from volseg.geometry import Grid
from volseg.io.intensity import rescaled
from volseg.io.names import scan_stem
from volseg.io.shear import settle_shear, straightened
from volseg.io.stream import DEFLATE_MAX_RATIO, check_deflated, sha256_of
from volseg.io.volume import Source, Volume

ANATOMICAL_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
"""NRRD ``space`` values whose axes are patient directions (NRRD format definition, section 4); ITK turns all of them into LPS."""

HEADER_LIMIT = 1 << 20
"""Bytes in which a text header must end; a segmentation of a hundred segments by 3D Slicer has some 100 KiB."""

SKIPPING_FIELDS = {"line skip", "lineskip", "byte skip", "byteskip", "headersize"}
"""Fields by which data starts elsewhere than right behind the header."""


@dataclass(frozen=True)
class TextHeader:
    """Fields of a NRRD or MetaImage header, lower-case names, and the byte where attached data starts."""

    fields: dict[str, str]
    length: int


def read_itk(path: Path, kind: str, *, fix_shear: bool = False) -> Volume:
    """Read one 3D NRRD or MetaImage file.

    Parameters
    ----------
    path : Path
        ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
    kind : str
        ``"nrrd"`` or ``"mha"``: which of the two formats it is.
    fix_shear : bool
        Resample a sheared grid (cosine above 1e-3) to an orthogonal one instead of refusing it.

    Returns
    -------
    Volume
        RAS+ mm, axes ``(i, j, k)`` (SimpleITK's arrays are ``(k, j, i)``).

    Raises
    ------
    InputError
        Not in that format, truncated, not one real-valued 3D image.
    GeometryError
        The axes are not finite, singular or sheared.
    """
    import SimpleITK

    if path.stat().st_size == 0:
        msg = f"{path}: the file is empty (0 bytes); copy or export it again"
        raise InputError(msg)
    header = read_text_header(path, kind)
    data = _detached_data(path, header, kind)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if kind == "nrrd" else "MetaImageIO")
    reader.SetFileName(str(path))
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(_itk_message(path, "its header cannot be read", error)) from error
        shape = _volume_shape(reader, path)
        _check_data(path, header, data, kind, prod(shape) * _item_size(reader))
        grid, notes = settle_shear(_grid(reader, shape, path), path, fix_shear)
        try:
            image = reader.Execute()
        except (RuntimeError, MemoryError) as error:
            raise InputError(_itk_message(path, "its voxels cannot be read (truncated or damaged)", error)) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    array, more = rescaled(SimpleITK.GetArrayFromImage(image).reshape(shape[::-1]).transpose(2, 1, 0))
    space = header.fields.get("space", "") if kind == "nrrd" else "left-posterior-superior"
    if space.lower() not in ANATOMICAL_SPACES:
        said = f"its space is '{space}'" if space else "it names no space"
        more = (*more, f"{said}: the orientation is unknown, and its axes were taken as left-posterior-superior")
    details = {"space": space, "stored_dtype": reader_type(reader)}
    sha256 = sha256_of(path) if data is None else sha256_of(path, data)
    return straightened(Volume(array, grid, Source(path, kind, scan_stem(path), sha256=sha256, details=details), notes + more))


def reader_type(reader: Any) -> str:
    """Return the stored voxel type of a SimpleITK reader in words, e.g. ``"16-bit signed integer"``."""
    import SimpleITK

    return str(SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()))


def read_text_header(path: Path, kind: str) -> TextHeader:
    """Read the ``name: value`` (NRRD) or ``name = value`` (MetaImage) lines at the start of a file.

    Raises
    ------
    InputError
        When the header does not end within 1 MiB or is not one of that format.
    """
    separator, name = (":", "NRRD") if kind == "nrrd" else ("=", "MetaImage")
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        text = file.read(HEADER_LIMIT)
    position = 0
    for number, line in enumerate(text.splitlines(keepends=True)):
        position += len(line)
        words = line.decode("latin-1").strip()
        if kind == "nrrd" and number == 0 and not words.startswith("NRRD000"):
            break
        if kind == "nrrd" and not words:
            return TextHeader(fields, position)
        key, found, value = words.partition(separator)
        # NRRD's "key:=value" pairs are free text and must not pass for fields.
        if found and not words.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
        if kind == "mha" and key.strip().lower() == "elementdatafile" and found:
            return TextHeader(fields, position)
    if kind == "nrrd" and {"data file", "datafile"} & fields.keys():
        # A detached header may end with its file instead of with an empty line.
        return TextHeader(fields, position)
    start = text[:16].decode("latin-1").encode("unicode_escape").decode()
    msg = f"{path}: is not a complete {name} file (it starts with '{start}' and its header does not end); check what the file really is"
    raise InputError(msg)


def _detached_data(path: Path, header: TextHeader, kind: str) -> Path | None:
    """Return the one file that holds the voxels of a detached header, or None when they are attached (or spread over several files)."""
    keys = ("data file", "datafile") if kind == "nrrd" else ("elementdatafile",)
    name = next((header.fields[key] for key in keys if key in header.fields), "LOCAL")
    if name.upper() == "LOCAL" or name.upper().startswith("LIST") or "%" in name:
        return None
    data = path.parent / name
    if not data.is_file():
        msg = f"{path}: its voxels are in {data}, which is not there; keep both files together"
        raise InputError(msg)
    return data


def _check_data(path: Path, header: TextHeader, data: Path | None, kind: str, claimed: int) -> None:
    """Refuse voxels that are cut off or damaged, before anything is allocated; data spread over files or behind skipped bytes is left to ITK."""
    fields = header.fields
    names = " ".join(fields.get(key, "") for key in ("data file", "datafile", "elementdatafile"))
    if (data is None and ("LIST" in names or "%" in names)) or fields.keys() & SKIPPING_FIELDS:
        return
    file, start = (path, header.length) if data is None else (data, 0)
    there = file.stat().st_size - start
    if kind == "nrrd":
        encoding = fields.get("encoding", "raw").lower()
        packed, plain, size = encoding in ("gzip", "gz"), encoding == "raw", ""
    else:
        packed = fields.get("compresseddata", "False").lower() == "true"
        plain, size = fields.get("binarydata", "True").lower() == "true", fields.get("compresseddatasize", "")
        if packed and not (size.isdigit() and int(size)):
            msg = f"{path}: is compressed but does not say CompressedDataSize, without which ITK reads wrong voxels; write it again with SimpleITK or 3D Slicer"
            raise InputError(msg)
    needed = max(int(size or 1), -(-claimed // DEFLATE_MAX_RATIO)) if packed else claimed if plain else 1
    if there < needed:
        msg = f"{file}: the file is truncated (its header describes {claimed} bytes of voxels, which need at least {needed} bytes, but {there} are there); copy or export it again"
        raise InputError(msg)
    if packed:
        check_deflated(file, start, claimed, int(size or there))


def _volume_shape(reader: Any, path: Path) -> tuple[int, int, int]:
    sizes = [int(n) for n in reader.GetSize()]
    text = "x".join(map(str, sizes))
    components = int(reader.GetNumberOfComponents())
    if components > 1 or "complex" in reader_type(reader):
        msg = f"{path}: holds {max(components, 2)} numbers per voxel ({text}, {reader_type(reader)}); a scan has one, so extract a single channel first"
        raise InputError(msg)
    extra = prod(sizes[3:])
    if extra > 1:
        msg = f"{path}: holds {extra} volumes ({text}); a scan is one 3D volume, so split the file and give one of them"
        raise InputError(msg)
    if len(sizes) < 3 or min(sizes[:3]) < 2:
        msg = f"{path}: is a 2D image ({text} voxels); a scan needs at least 2 voxels along each of three axes, so give the whole volume"
        raise InputError(msg)
    return sizes[0], sizes[1], sizes[2]


def _item_size(reader: Any) -> int:
    bits = reader_type(reader).split("-bit")[0].rsplit(" ", 1)[-1]
    return int(bits) // 8 if bits.isdigit() else 1


def _grid(reader: Any, shape: tuple[int, int, int], path: Path) -> Grid:
    affine = np.eye(4)
    axes = len(reader.GetSize())
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3] * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    try:
        return Grid.from_lps(shape, affine)
    except GeometryError as error:
        msg = f"{path}: the header does not place the voxels: {error}; correct its directions or export the file again"
        raise GeometryError(msg) from error


def _itk_message(path: Path, what: str, error: BaseException) -> str:
    """One line with the last part of ITK's report, which is where the cause stands."""
    text = " ".join(str(error).split())
    return f"{path}: {what}: {text[-160:]}; copy or export it again"
