"""A folder, file or zip of DICOM in; the series in it, or one of them as a :class:`~volseg.io.volume.Volume`, out."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from volseg.errors import SeriesError
from volseg.geometry import Grid
from volseg.io.dicom.files.archive import is_slice_file, is_zip
from volseg.io.dicom.find import find
from volseg.io.dicom.pixels.decode import Progress, decode_slices
from volseg.io.dicom.repair import corrected, plan_correction
from volseg.io.dicom.series import Series, choose_series
from volseg.io.dicom.suv import SUV_UNITS, suv_scale
from volseg.io.volume import Source, Volume


def find_series(path: str | os.PathLike[str], progress: Progress | None = None) -> list[Series]:
    """List what DICOM series are below a path; no pixels are read.

    Parameters
    ----------
    path : path-like
        A folder (searched recursively), a ``.zip``, or one DICOM file, which stands for all images of its series in the same folder.
    progress : callable, optional
        Called with (files done, files in all) while headers are read.

    Returns
    -------
    list of Series
        Ordered by SeriesInstanceUID; ``problem`` says why one cannot be read. Files that are not DICOM are passed over.

    Raises
    ------
    InputError
        If there is no such path, or no DICOM in it.
    """
    return list(find(Path(path), progress).series)


def read_series(
    path: str | os.PathLike[str],
    series: str | None = None,
    *,
    modality: str | None = None,
    fix_geometry: bool = False,
    suv: bool | Literal["pet"] = False,
    progress: Progress | None = None,
) -> Volume:
    """Read the one volume below a path, or the one named by ``series``.

    Parameters
    ----------
    path : path-like
        As for :func:`find_series`.
    series : str, optional
        SeriesInstanceUID, or :attr:`Series.key` where one UID holds several stacks.
    modality : str, optional
        Preferred where several series can be read and none is named, e.g. ``"CT"``.
    fix_geometry : bool
        Resample a tilted or unevenly spaced series to an orthogonal, even grid (:mod:`~volseg.io.dicom.repair`) instead of refusing it. The volume then no longer lies on its
        slices; ``details["geometry_correction"]`` and a warning say what was done.
    suv : bool or "pet"
        Turn a PET into body-weight SUV in g/ml (:mod:`~volseg.io.dicom.suv`); ``details["units"]`` is then ``"SUVbw"``. With ``"pet"`` a series that is no PET is read as it is
        instead of refused.
    progress : callable, optional
        Called with (slices done, slices in all) while pixels are decoded.

    Returns
    -------
    Volume
        Axes i (column), j (row), k (slice, along the positive normal rows x columns); the grid's k step is (last - first position) / (n - 1), never SliceThickness. Values are
        rescaled (HU for CT, Bq/ml or what ``details["units"]`` says for PET) as :func:`~volseg.io.dicom.pixels.decode.decode_slices` says.

    Raises
    ------
    SeriesError
        If no series can be read (each is listed with the reason), or several can and none was named.
    GeometryError
        If the only series has a gap, uneven spacing, duplicate positions, a tilt or mixed slices (with ``fix_geometry``: that cannot be mended).
    InputError
        If there is no DICOM, or the only series is no scan, is truncated or cannot be decoded, or SUV is asked for and its headers do not allow it.
    """
    path = Path(path)
    found = find(path)
    candidates = [replace(c, error=None) if fix_geometry and c.mendable else c for c in found.series]
    chosen = _choose(path, candidates, series, modality)
    unusable = [c for c in candidates if c.is_scan and c.problem and c.uid != chosen.uid] if series is None else []
    notes = (*found.notes, *(f"another series in the same place cannot be read: {c.problem}" for c in unusable))
    return read_found(path, chosen, notes=notes, fix_geometry=fix_geometry, suv=suv, progress=progress)


def read_found(
    path: Path, series: Series, *, notes: tuple[str, ...] = (), fix_geometry: bool = False, suv: bool | Literal["pet"] = False, progress: Progress | None = None
) -> Volume:
    """Read a series that was found before, so that several of one place need only one search.

    Parameters
    ----------
    path : Path
        Where it was found, as the user gave it.
    series : Series
        From :func:`find_series`; one of several stacks of its UID is read too (``mixed`` is ignored).
    notes : tuple of str
        Warnings of the volume behind the series' own.
    fix_geometry, suv
        As for :func:`read_series`.
    progress : callable, optional
        Called with (slices done, slices in all) while pixels are decoded.

    Returns
    -------
    Volume
        As :func:`read_series` says.

    Raises
    ------
    VolsegError
        The series' own error, or InputError where its pixels cannot be decoded.
    """
    if series.error is not None and not (fix_geometry and series.mendable):
        raise series.error
    with warnings.catch_warnings():
        # pydicom warns of every oddity of a header on stderr; what matters is checked and named here.
        warnings.simplefilter("ignore")
        # What the headers forbid is said before pixels are read.
        scale = suv_scale(series) if suv is True or (suv == "pet" and series.modality == "PT") else None
        correction = None if series.grid is not None else plan_correction(series)
        array = decode_slices(series.slices, progress)
    source = _source(path, series)
    remarks = [*series.warnings, *notes]
    if scale is not None:
        array = np.multiply(array, np.float32(scale.factor), out=array if array.dtype == np.float32 else None, dtype=np.float32)
        source = _with_details(source, units=SUV_UNITS, suv=scale.record)
        remarks += scale.notes
    if correction is None:
        assert series.grid is not None
        return Volume(array, Grid(array.shape, series.grid.affine), source, tuple(remarks))
    array, fill = corrected(array, correction)
    source = _with_details(source, geometry_correction={**correction.record, "fill": fill})
    return Volume(array, correction.grid, source, (*remarks, correction.note))


def _with_details(source: Source, **details: Any) -> Source:
    """The same source with more in its details."""
    return replace(source, details={**source.details, **details})


def _choose(path: Path, candidates: list[Series], series: str | None, modality: str | None) -> Series:
    if series is not None and not any(series in (c.key, c.uid) for c in candidates):
        msg = f"{path}: holds no series {series}; it holds: {'; '.join(map(str, candidates))}"
        raise SeriesError(msg)
    if series is None and is_slice_file(path):
        # The user named a file of it, which is a choice among the stacks of its UID.
        candidates = [replace(c, mixed=None) for c in candidates]
    return choose_series(str(path), candidates, series, modality)


def _source(path: Path, series: Series) -> Source:
    first = series.slices[0]
    where = path.resolve()
    name = where.stem if is_zip(path) else (where.name if where.is_dir() else where.parent.name)
    details: dict[str, Any] = {
        "series_description": series.description,
        "study_instance_uid": first.text["study"],
        "frame_of_reference_uid": first.text["frame"],
        "manufacturer": first.text["manufacturer"],
        "sop_class": first.sop_class,
        "transfer_syntax_uid": first.transfer_syntax,
        "units": first.text["units"],
        "slices": len(series.slices),
        "pixel_padding_value": None if first.padding is None else first.padding * first.slope + first.intercept,
        "sop_instance_uids": [s.sop_uid for s in series.slices],
    }
    if first.text["manufacturer"].startswith("volseg") and "synthetic" in series.description.lower():
        details["synthetic"] = True
    return Source(path=path, kind="dicom", name=name, series_instance_uid=series.uid or None, modality=series.modality or None, details=details, header=series)
