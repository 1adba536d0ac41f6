"""Label maps from any format: images, and DICOM Segmentations and RT Structure Sets placed on the series they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError, SeriesError
from volseg.io.formats import format_of
from volseg.io.load import load
from volseg.io.names import suffix_of
from volseg.io.volume import Source, Volume

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5)."""

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""


def label_object_kind(path: Path) -> str | None:
    """Return ``"seg"`` or ``"rtstruct"`` for a DICOM file that holds labels, None for anything else; reads a few hundred bytes."""
    if not path.is_file() or format_of(path) != "dicom" or path.suffix.lower() == ".zip":
        return None
    from volseg.io.dicom.files.dataset import parse_errors

    try:
        sop_class = _sop_class(path)
    except parse_errors():
        return None
    return "seg" if sop_class in SEGMENTATION_CLASSES else "rtstruct" if sop_class == RTSTRUCT_CLASS else None


def segment_names(path: Path) -> tuple[str, ...] | None:
    """Names by which the segments or ROIs of a label object can be chosen; None for an image. A folder stands for the one object in it.

    Raises
    ------
    InputError, GeometryError
        If the object cannot be read.
    """
    file = _object_in(path) if path.is_dir() else path
    kind = label_object_kind(file) if file is not None else None
    if file is None or kind is None:
        return None
    if kind == "seg":
        from volseg.io.dicom.objects.seg import read_seg

        segments = read_seg(file).segments
        return (*(s.name for s in segments), *(str(s.number) for s in segments))
    from volseg.io.dicom.objects.rtstruct import read_rtstruct

    return tuple(roi.name for roi in read_rtstruct(file).rois)


def load_label(path: str | Path, *, scan: Volume | None = None, rois: Mapping[str, int] | None = None, scans: Path | None = None) -> Volume:
    """Read a label map.

    Parameters
    ----------
    path : str or Path
        An image file (:func:`volseg.io.load`), a DICOM Segmentation or RT Structure Set, or a folder that holds one such object.
    scan : Volume, optional
        The DICOM scan a DICOM object belongs to; looked for beside the object when omitted (its folder, then that folder's parent, by SeriesInstanceUID).
    rois : mapping of str to int, optional
        Which segments or ROIs to take, by name, and the label value each gets; all of them by default. Only for DICOM objects.
    scans : Path, optional
        Where to look for the scan first.

    Returns
    -------
    Volume
        The label map; of a DICOM object on its scan's grid.

    Raises
    ------
    InputError
        If it cannot be read, its scan is not found, or segments overlap.
    GeometryError
        If the object does not fit its scan.
    """
    path = Path(path).expanduser()
    file = _object_in(path) if path.is_dir() else path
    kind = label_object_kind(file) if file is not None else None
    if file is None or kind is None:
        return load(path)
    on = scan if scan is not None else _scan_of(file, scans)
    from volseg.provenance import sha256_of

    array, notes = _seg(file, on, rois) if kind == "seg" else _rtstruct(file, on, rois)
    details = {"labels_of_series": on.source.series_instance_uid}
    source = Source(
        path=file,
        kind="dicom",
        name=file.name.removesuffix(file.suffix) if suffix_of(file) else file.name,
        sha256=sha256_of(file),
        modality="SEG" if kind == "seg" else "RTSTRUCT",
        details=details,
    )
    return Volume(array, on.grid, source, notes)


def _seg(file: Path, on: Volume, rois: Mapping[str, int] | None) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    from volseg.io.dicom.objects.seg import seg_on_volume

    return seg_on_volume(file, on, rois), ()


def _rtstruct(file: Path, on: Volume, rois: Mapping[str, int] | None) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    from volseg.io.dicom.objects.rtstruct import rasterise

    found = rasterise(file, on, rois)
    return found.label, tuple(found.notes)


def _object_in(folder: Path) -> Path | None:
    """The one DICOM Segmentation or RT Structure Set directly in a folder, if there is any."""
    found = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and label_object_kind(file)]
    if len(found) > 1:
        msg = f"{folder}: holds {len(found)} DICOM label objects ({found[0].name}, {found[1].name}{', ...' if len(found) > 2 else ''}); name one of them"
        raise InputError(msg)
    return found[0] if found else None


def _scan_of(file: Path, scans: Path | None) -> Volume:
    """The series a label object belongs to: its place in space, without decoding its pixels."""
    from volseg.io.dicom.objects.origin import find_referenced

    folder, series = find_referenced(file, scans)
    if series.grid is None:
        msg = f"{file}: the series it belongs to is no regular volume: {series.problem}"
        raise SeriesError(msg)
    source = Source(path=folder, kind="dicom", name=folder.name, series_instance_uid=series.uid, modality=series.modality, header=series)
    return Volume(np.broadcast_to(np.int16(0), series.grid.shape), series.grid, source)


def _sop_class(path: Path) -> str:
    import warnings

    import pydicom

    with warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(dataset.get("SOPClassUID", ""))
