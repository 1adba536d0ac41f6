"""Which format a file is in, by its first bytes where they tell, else by its suffix."""

from __future__ import annotations

from pathlib import Path

from volseg.errors import InputError

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Suffixes of single-file scans (two-file NRRD and MetaImage by their header), longest first where one ends in another."""

SUFFIX_FORMATS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".zip": "dicom",
}
"""Format by suffix, for files whose first bytes do not tell."""

PREAMBLE = 132
"""Bytes in front of a DICOM data set: 128 free ones and ``DICM`` (PS3.10, 7.1)."""

NIFTI_HEADER_SIZES = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
"""``sizeof_hdr``: 348 or 540 in either byte order, the first four bytes of a NIfTI file."""


def format_of(path: Path) -> str | None:
    """Return ``"nifti"``, ``"nrrd"``, ``"mha"`` or ``"dicom"`` (a zip counts as DICOM), or None for anything else.

    Reads at most 132 bytes. A gzip file is taken at its suffix's word, and so is a file that says nothing about itself (a DICOM file without preamble, a text file called
    ``scan.nii.gz``): the reader of that format then says precisely what is wrong with it.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        raise InputError(msg) from error
    if start[128:132] == b"DICM":
        return "dicom"
    if start.startswith(b"NRRD000"):
        return "nrrd"
    if start[:4] in NIFTI_HEADER_SIZES:
        return "nifti"
    if start.startswith((b"ObjectType = Image", b"NDims =")):
        return "mha"
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIX_FORMATS.items() if name.endswith(suffix)), None)


def check_exists(path: Path) -> None:
    """Raise InputError where there is nothing at ``path``, or its folders may not be looked into."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{path}: no such file or folder; check the path"
        raise InputError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be looked at ({getattr(error, 'strerror', None) or error}); check the path and the permissions of its folders"
        raise InputError(msg) from error
