"""Where a DICOM volume's slices come from, and how a label map travels between the volume's grid and those slices. LPS+ millimetres, as in DICOM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.geometry import FloatArray
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import damaged, parse_errors
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.geometry import lps_affine, normal_of
from volseg.io.dicom.series import Series
from volseg.io.volume import Volume

SAME_VOXEL = 0.25
"""Voxels. Where no pixel centre of a slice is farther than this from its voxel's centre, the nearest voxel is that voxel (anything below a half would do)."""


def series_of(volume: Volume) -> Series:
    """The series a volume was read from.

    Raises
    ------
    InputError
        If the volume is not from DICOM.
    """
    series = volume.source.header
    if volume.source.kind != "dicom" or not isinstance(series, Series):
        msg = f"{volume.source.path}: a DICOM object can only be written for, or placed on, a scan read from a DICOM series (this is {volume.source.kind}); it needs a DICOM series"
        raise InputError(msg)
    return series


def source_datasets(volume: Volume) -> list[Any]:
    """Full headers, without pixels, of the objects behind a DICOM volume.

    Parameters
    ----------
    volume : Volume
        As :func:`~volseg.io.load.load` gave it, or anything derived from it that keeps its source.

    Returns
    -------
    list of pydicom.Dataset
        In order of first use along k: one for a multi-frame object, else one a slice.

    Raises
    ------
    InputError
        If the volume is not from DICOM, or its files have gone or changed since it was read.
    """
    series = series_of(volume)
    first_use: dict[Member, SliceHeader] = {}
    for header in series.slices:
        first_use.setdefault(header.member, header)
    return [_read_again(header) for header in first_use.values()]


def _read_again(header: SliceHeader) -> Any:
    import pydicom

    member = header.member
    if not member.path.is_file():
        msg = f"{member}: has gone since the scan was read; put it back and run again"
        raise InputError(msg)
    with warnings.catch_warnings(), member.open() as stream:
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
            found = str(dataset.get("SOPInstanceUID", ""))
        except parse_errors() as error:
            raise damaged(member, error) from error
    if found != header.sop_uid:
        msg = f"{member}: has changed since the scan was read (SOPInstanceUID was {header.sop_uid or 'absent'}, is {found or 'absent'}); run again on the new files"
        raise InputError(msg)
    return dataset


def slice_affine(header: SliceHeader) -> FloatArray:
    """(4, 4) float64: maps ``(column, row, mm along the normal, 1)`` of one slice to LPS+ mm, by the equation of DICOM PS3.3 C.7.6.2.1.1."""
    return lps_affine(header.orientation, header.spacing, np.array(header.position), normal_of(header.orientation))


def label_on_slices(label: npt.NDArray[Any], volume: Volume) -> npt.NDArray[Any]:
    """Sample a label map on the original slices of its scan.

    Parameters
    ----------
    label : ndarray, (i, j, k)
        On ``volume.grid``; any dtype (probabilities too).
    volume : Volume
        The DICOM scan it was made for; its grid may be corrected, cropped or reoriented, as long as both lie in the same frame of reference.

    Returns
    -------
    ndarray, (slices, rows, columns)
        Slices in the order of the original series. A plain transpose (a view) where each slice's pixel centres are the volume's voxel centres; else the nearest voxel in world
        space at each pixel's centre, 0 outside the volume.

    Raises
    ------
    InputError
        If the volume is not from DICOM.
    GeometryError
        If the label map's shape is not the volume's.
    """
    series = series_of(volume)
    if label.shape != volume.grid.shape:
        msg = f"{volume.source.path}: the label map's shape {label.shape} is not the scan's {volume.grid.shape}; give one value per voxel"
        raise GeometryError(msg)
    if lies_on_slices(volume):
        return label.transpose(2, 1, 0)
    to_voxel = np.linalg.inv(volume.grid.lps_affine)
    out = np.zeros((len(series.slices), series.rows, series.columns), dtype=label.dtype)
    rows, columns = np.arange(series.rows)[:, None], np.arange(series.columns)[None, :]
    for k, header in enumerate(series.slices):
        pixel_to_voxel = to_voxel @ slice_affine(header)
        # One axis at a time, so that only whole-slice integer arrays are held.
        index = [_nearest(pixel_to_voxel[axis, 0] * columns + (pixel_to_voxel[axis, 1] * rows + pixel_to_voxel[axis, 3])) for axis in range(3)]
        inside = np.logical_and.reduce([(n >= 0) & (n < size) for n, size in zip(index, label.shape, strict=True)])
        out[k][inside] = label[tuple(n[inside] for n in index)]
    return out


def label_from_slices(stack: npt.NDArray[Any], volume: Volume) -> npt.NDArray[Any]:
    """Bring what was drawn on a scan's slices onto the volume's grid; the way back of :func:`label_on_slices`.

    Parameters
    ----------
    stack : ndarray, (slices, rows, columns)
        In the order of the series' slices.
    volume : Volume
        The DICOM scan.

    Returns
    -------
    ndarray, (i, j, k)
        On ``volume.grid``: a plain transpose (a view) where the volume lies on its slices; else, for each voxel, the nearest pixel of the nearest slice along the normal, 0
        outside the scan (farther than half a pixel from the last row or column, or half a slice step from the first or last slice).

    Raises
    ------
    InputError
        If the volume is not from DICOM.
    GeometryError
        If the stack's shape is not that of the series.
    """
    series = series_of(volume)
    expected = (len(series.slices), series.rows, series.columns)
    if stack.shape != expected:
        msg = f"{volume.source.path}: {stack.shape} pixels (slices, rows, columns) do not fit the series' {expected}"
        raise GeometryError(msg)
    if lies_on_slices(volume):
        return stack.transpose(2, 1, 0)
    planes = _Planes(series.slices)
    out = np.zeros(volume.grid.shape, dtype=stack.dtype)
    corner = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape[:2]), indexing="ij"), axis=-1)
    affine = volume.grid.lps_affine
    for k in range(volume.grid.shape[2]):
        world = corner @ affine[:3, :2].T + (affine[:3, 2] * k + affine[:3, 3])
        index, inside = planes.nearest(world)
        out[:, :, k][inside] = stack[tuple(n[inside] for n in index)]
    return out


def lies_on_slices(volume: Volume) -> bool:
    """Whether every voxel centre of a DICOM volume is (within a quarter voxel) the pixel centre of the same column, row and slice of its series."""
    series = series_of(volume)
    if volume.grid.shape != (series.columns, series.rows, len(series.slices)):
        return False
    to_voxel = np.linalg.inv(volume.grid.lps_affine)
    corners = np.array([[c, r, 0, 1] for c in (0, series.columns - 1) for r in (0, series.rows - 1)], dtype=np.float64).T
    for k, header in enumerate(series.slices):
        voxels = to_voxel @ slice_affine(header) @ corners
        if np.abs(voxels[:3] - corners[:3] - [[0], [0], [k]]).max() > SAME_VOXEL:
            return False
    return True


def _nearest(index: FloatArray) -> npt.NDArray[np.int32]:
    # Not np.rint: it rounds halves to even, so that two neighbours could fall onto one voxel and none onto the next.
    return np.floor(index + 0.5).astype(np.int32)


class _Planes:
    """Parallel slices of one orientation, at any distances and offsets."""

    def __init__(self, slices: Sequence[SliceHeader]) -> None:
        first = slices[0]
        self.size = (first.rows, first.columns)
        self.normal = normal_of(first.orientation)
        self.to_pixel = np.linalg.inv(slice_affine(first)[:3, :3])
        self.positions = np.array([s.position for s in slices], dtype=np.float64)
        along = self.positions @ self.normal
        self.order = np.argsort(along)
        sorted_along = along[self.order]
        middles = (sorted_along[:-1] + sorted_along[1:]) / 2
        # The outermost slices reach as far outwards as they do inwards.
        ends = (2 * sorted_along[0] - middles[0], 2 * sorted_along[-1] - middles[-1])
        self.bounds = np.concatenate([[ends[0]], middles, [ends[1]]])

    def nearest(self, world: FloatArray) -> tuple[tuple[npt.NDArray[np.int64], ...], npt.NDArray[np.bool_]]:
        """Indices (slice, row, column), each (...), of the pixels nearest to LPS+ positions (..., 3), and whether each position lies inside the scan."""
        place = np.searchsorted(self.bounds, world @ self.normal, side="right") - 1
        inside = (place >= 0) & (place < len(self.order))
        k = self.order[np.clip(place, 0, len(self.order) - 1)]
        pixel = (world - self.positions[k]) @ self.to_pixel.T
        column, row = _nearest(pixel[..., 0]).astype(np.int64), _nearest(pixel[..., 1]).astype(np.int64)
        inside &= (row >= 0) & (row < self.size[0]) & (column >= 0) & (column < self.size[1])
        return (k, row, column), inside


def referenced_images(dataset: Any) -> dict[str, set[str]]:
    """What images a SEG, RTSTRUCT or report refers to.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Any object with a Referenced Series Sequence (0008,1115) or, in an RTSTRUCT, RT Referenced Series Sequence (3006,0014) below its Referenced Frame of Reference Sequence.

    Returns
    -------
    dict of str to set of str
        SOPInstanceUIDs by SeriesInstanceUID, in the object's order; empty where it names no series.
    """
    items = list(dataset.get("ReferencedSeriesSequence") or [])
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            items += study.get("RTReferencedSeriesSequence") or []
    found: dict[str, set[str]] = {}
    for item in items:
        instances = [*(item.get("ReferencedInstanceSequence") or []), *(item.get("ContourImageSequence") or []), *(item.get("ReferencedSOPSequence") or [])]
        uids = {str(i.ReferencedSOPInstanceUID) for i in instances if i.get("ReferencedSOPInstanceUID")}
        if item.get("SeriesInstanceUID"):
            found.setdefault(str(item.SeriesInstanceUID), set()).update(uids)
    return found


def find_referenced_series(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Folder and series of :func:`find_referenced`, as :func:`~volseg.io.load.load` takes them: ``volume = load(*find_referenced_series(path))``."""
    folder, series = find_referenced(path)
    return folder, series.key


def find_referenced(path: str | os.PathLike[str], scans: str | os.PathLike[str] | None = None) -> tuple[Path, Series]:
    """Find the images that a DICOM-SEG or RTSTRUCT file was made for.

    Looked for by SeriesInstanceUID below ``scans``, then below the file's own folder, then below that folder's parent.

    Parameters
    ----------
    path : path-like
        The object's file.
    scans : path-like, optional
        A folder, file or zip to look in first.

    Returns
    -------
    folder : Path
        Where it was found.
    series : Series
        Where the series holds several stacks, the one with the referenced images.

    Raises
    ------
    InputError
        If the file cannot be read, names no series, or the series is in none of the folders.
    """
    path = Path(path)
    wanted = referenced_images(read_object(path))
    if not wanted:
        msg = f"{path}: does not say which images it belongs to (no Referenced Series Sequence (0008,1115)); give the scan it was made for"
        raise InputError(msg)
    own = path.absolute().parent
    # Searching a whole disk for a stray file in its root would take hours.
    places = [*([] if scans is None else [Path(scans)]), *([own] if own.parent == Path(own.anchor) else [own, own.parent])]
    for folder in places:
        series = _find_in(folder, wanted)
        if series is not None:
            return folder, series
    msg = (
        f"{path}: the images it belongs to (SeriesInstanceUID {' or '.join(wanted)}) are not below {' or '.join(map(str, places))}; "
        "put the series beside it, or name its folder (volseg evaluate --scans)"
    )
    raise InputError(msg)


def _find_in(folder: Path, wanted: dict[str, set[str]]) -> Series | None:
    from volseg.io.dicom.read import find_series

    try:
        candidates = [c for c in find_series(folder) if c.uid in wanted and c.is_scan]
    except InputError:
        return None
    if not candidates:
        return None
    return max(candidates, key=lambda c: sum(s.sop_uid in wanted[c.uid] for s in c.slices))


def read_object(path: str | os.PathLike[str], *, pixels: bool = False) -> Any:
    """Parse one DICOM file as a whole.

    Parameters
    ----------
    path : path-like
        A file with or without preamble (PS3.10 7.1).
    pixels : bool
        Whether to read PixelData too.

    Returns
    -------
    pydicom.Dataset

    Raises
    ------
    InputError
        If there is no such file, or it is no DICOM object.
    """
    import pydicom

    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file; check the path"
        raise InputError(msg)
    member = Member(path, None, path.stat().st_size)
    with warnings.catch_warnings(), member.open() as stream:
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
            known = "SOPClassUID" in dataset
        except parse_errors() as error:
            raise damaged(member, error) from error
    if not known:
        msg = f"{path}: is no DICOM object (no SOPClassUID (0008,0016)); give a .dcm file"
        raise InputError(msg)
    return dataset
