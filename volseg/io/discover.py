"""Which separate scans lie under a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from volseg.errors import InputError
from volseg.io.formats import IMAGE_SUFFIXES, check_exists, format_of

OUTPUT_ENDINGS = tuple("_seg" + suffix for suffix in IMAGE_SUFFIXES)
"""How volseg's own label files end; they are results, not scans."""

PROBABILITY = "_prob_"
"""Stands in the name of volseg's own probability maps, between the scan's name and the label's."""

RECORD = "_seg.json"
"""How the record ends that lies beside the results of a scan."""


def discover(path: str | Path) -> list[Path]:
    """List what is to be treated as separate scans.

    Parameters
    ----------
    path : str or Path
        A file is itself, whatever it is. A folder gives the NIfTI, NRRD and MetaImage files it directly holds, and itself when it directly holds DICOM files; when it holds
        neither, its sub-folders are searched in the same way, each DICOM folder being one scan. Hidden files and folders and volseg's own results (``*_seg``, and ``*_prob_*``
        beside their record) are skipped, and where there are scans, DICOM folders that only hold what is none (RTSTRUCT, SEG, SR).

    Returns
    -------
    list of Path
        Sorted within each folder; never empty.

    Raises
    ------
    InputError
        If there is nothing at the path, a folder cannot be listed, or no scan is in it.
    """
    path = Path(path).expanduser()
    check_exists(path)
    if not path.is_dir():
        return [path]
    found = list(_scans_under(path, set()))
    if not found:
        msg = f"{path}: no scan is in this folder (looked for {', '.join(IMAGE_SUFFIXES)} and DICOM files, in sub-folders too); check the path"
        raise InputError(msg)
    if len(found) > 1:
        return [scan for scan in found if not (scan.is_dir() and _holds_objects_only(scan))] or found
    return found


def _holds_objects_only(folder: Path) -> bool:
    """Whether all DICOM below a folder is no image; one that cannot be read may be an image, and is to be told of."""
    from volseg.io.dicom.files.archive import list_members
    from volseg.io.dicom.files.header import read_headers

    try:
        return all(header.is_object for member in list_members(folder) for header in read_headers(member))
    except InputError:
        return False


def _scans_under(folder: Path, seen: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        # A link that leads back up would be followed for ever.
        return
    seen.add(real)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        msg = f"{folder}: cannot be listed ({error.strerror or error}); check its permissions"
        raise InputError(msg) from error
    files = [entry for entry in entries if entry.is_file()]
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    scans = [image for image in images if not _is_result(image)]
    yield from scans
    dicom = any(_is_dicom_slice(file) for file in files if file not in images)
    if dicom:
        yield folder
    if not scans and not dicom:
        for entry in entries:
            if entry.is_dir():
                yield from _scans_under(entry, seen)


def _is_result(image: Path) -> bool:
    """Whether an image is a label map or a probability map that volseg wrote; a scan may have ``_prob_`` in its name, but then no record lies beside it."""
    parts = image.name.split(PROBABILITY)
    stems = (PROBABILITY.join(parts[:n]) for n in range(1, len(parts)))
    return image.name.lower().endswith(OUTPUT_ENDINGS) or any(image.with_name(stem + RECORD).exists() for stem in stems)


def _is_dicom_slice(file: Path) -> bool:
    """Whether a file is DICOM by preamble or suffix; a directory record (DICOMDIR) and a zip are no slices."""
    return file.name.upper() != "DICOMDIR" and file.suffix.lower() != ".zip" and format_of(file) == "dicom"
