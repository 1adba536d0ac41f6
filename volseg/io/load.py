"""One door for every format: :func:`load`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from volseg.errors import InputError
from volseg.io.discover import discover
from volseg.io.formats import IMAGE_SUFFIXES, check_exists, format_of
from volseg.io.volume import Volume


def load(
    path: str | Path,
    series: str | None = None,
    *,
    modality: str | None = None,
    fix_shear: bool = False,
    fix_geometry: bool = False,
    suv: bool | Literal["pet"] = False,
    channels: int | None = 1,
) -> Volume:
    """Read one scan.

    Parameters
    ----------
    path : str or Path
        NIfTI (``.nii``, ``.nii.gz``), NRRD (``.nrrd``, ``.nhdr``), MetaImage (``.mha``, ``.mhd``), or DICOM (a file, a folder or a ``.zip``). Content decides where the first bytes
        tell, else the suffix. A folder is read as DICOM, or as the one image file in it.
    series : str, optional
        SeriesInstanceUID to pick when DICOM input holds several volumes.
    modality : str, optional
        Preferred when DICOM input holds several volumes and none is named, e.g. ``"CT"``; the others are named in a warning.
    fix_shear : bool
        Resample a NIfTI, NRRD or MetaImage scan whose axes are not orthogonal (cosine above 1e-3) trilinearly to an orthogonal grid, instead of refusing it.
    fix_geometry : bool
        The same, and also resample a DICOM series with a tilted gantry, uneven slice spacing or gaps of up to two slices to an orthogonal, even grid.
    suv : bool or "pet"
        Turn a DICOM PET into body-weight SUV (g/ml). With ``"pet"`` only what is a DICOM PET, and nothing else is refused.
    channels : int, optional
        Of the image that is wanted: a 4D NIfTI file of so many volumes is read as one image (``further`` of the result); None takes any number. Channels in files of their own are
        put together by :func:`volseg.io.channels.load_channels`.

    Returns
    -------
    Volume
        Voxel values on a RAS+ mm grid, with source and warnings.

    Raises
    ------
    InputError
        Missing, unreadable, truncated, of an unknown format, or not one real-valued 3D volume (or 4D image of ``channels``); or SUV is asked for and the headers do not allow it.
    GeometryError
        The voxels cannot be placed in space without guessing.
    SeriesError
        DICOM input without a usable series, or with several and none chosen.
    """
    path = Path(path).expanduser()
    check_exists(path)
    kind = _kind_of_folder(path, series) if path.is_dir() else format_of(path)
    if kind == "dicom":
        from volseg.io.dicom import read_series

        return read_series(path, series, modality=modality, fix_geometry=fix_geometry, suv=suv)
    if kind == "folder":
        (path,) = discover(path)
        kind = format_of(path)
    if series is not None:
        msg = f"{path}: a series ({series}) was chosen, but this is not DICOM; leave the series out"
        raise InputError(msg)
    if suv is True:
        msg = f"{path}: body-weight SUV needs the patient's weight and the injected dose from DICOM headers, which this file has not; give the DICOM series"
        raise InputError(msg)
    fix_shear = fix_shear or fix_geometry
    if kind == "nifti":
        from volseg.io.nifti import read_nifti

        return read_nifti(path, fix_shear=fix_shear, channels=channels)
    if kind is not None:
        from volseg.io.itk import read_itk

        return read_itk(path, kind, fix_shear=fix_shear)
    what = "the file is empty (0 bytes)" if path.stat().st_size == 0 else "is in no format volseg reads"
    msg = f"{path}: {what}; give a {', '.join(IMAGE_SUFFIXES)} file, or a DICOM file, folder or zip"
    raise InputError(msg)


def _kind_of_folder(path: Path, series: str | None) -> str:
    """Return ``"dicom"``, or ``"folder"`` when exactly one image file lies in it.

    Raises
    ------
    InputError
        If there is no scan, or there are several image files.
    """
    found = discover(path)
    images = [scan for scan in found if not scan.is_dir()]
    if len(images) < len(found) or series is not None:
        return "dicom"
    if len(images) > 1:
        msg = f"{path}: holds {len(images)} scans ({images[0].name}, {images[1].name}{', ...' if len(images) > 2 else ''}); load one of them"
        raise InputError(msg)
    return "folder"
