"""Cases as a bundle's own transforms can read them: DICOM as NIfTI, since MONAI's readers of DICOM do not check geometry, and all channels of a case on the grid of its first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from volseg.dataset.cache.identity import digest_of, source_of
from volseg.dataset.datalist import Case
from volseg.errors import DatasetError, GeometryError, InputError
from volseg.geometry import Grid
from volseg.io import Volume, load, load_label, output_stems, save_label, save_volume
from volseg.io.alignment import voxels_on
from volseg.io.channels import combine
from volseg.io.formats import format_of
from volseg.io.labels import label_object_kind
from volseg.io.modality import expected_modality
from volseg.io.shear import IGNORED_SHEAR
from volseg.io.text import write_text


def convert_cases(
    cases: Sequence[Case], folder: Path, *, channels: Sequence[str] = (), reuse: bool = False, progress: Callable[[str], None] | None = None, threads: int = 1
) -> list[Case]:
    """Write the DICOM images and labels of cases as NIfTI, and channels that lie on other grids than the first one's on that grid.

    Parameters
    ----------
    cases : sequence of Case
        Those that MONAI can read as they are come back unchanged.
    folder : Path
        Where ``CASE_0000.nii.gz`` (one for each channel) and ``CASE_label.nii.gz`` go; made when needed. Further labels of the same image (other readers') are
        ``CASE_label_2.nii.gz`` and so on.
    channels : sequence of str
        The bundle's names of the channels, in its order; by default those of the datalist. They tell a CT, which is air outside its field of view, from anything else, which is 0
        there (:mod:`volseg.io.alignment`, as at inference).
    reuse : bool
        Keep files that were made from the same files before (a resumed training).
    progress : callable, optional
        Called with a line for each case that is converted.
    threads : int
        Slices interpolated at the same time.

    Returns
    -------
    list of Case
        In the same order.

    Raises
    ------
    DatasetError
        When an image or label object cannot be read, does not fit its image, or channels do not lie in one place; every such case is named.
    """
    converted: dict[int, Case] = {}
    problems: list[str] = []
    concerned = []
    for case in cases:
        try:
            if any(map(_is_dicom, (*case.images, case.label))) or not _can_be_stacked(case.images):
                concerned.append(case)
        except InputError as error:
            problems.append(str(error))
    scans = list(dict.fromkeys(case.images[0].resolve() for case in concerned))
    names = dict(zip(scans, output_stems(scans), strict=True))
    seen: Counter[Path] = Counter()
    for case in concerned:
        if progress is not None:
            progress(f"converting {case.images[0]}")
        scan = case.images[0].resolve()
        seen[scan] += 1
        ending = "_label" if seen[scan] == 1 else f"_label_{seen[scan]}"
        try:
            converted[id(case)] = _convert(case, folder / names[scan], ending, channels or case.channels, reuse=reuse, threads=threads)
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more of {len(cases)} cases)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more, problems if len(problems) > 1 else ())
    return [converted.get(id(case), case) for case in cases]


def read_reference(case: Case, scan: Volume | None = None, names: Sequence[str] = ()) -> Volume:
    """The label of a case on its own grid; a DICOM object on that of the case's first image.

    Parameters
    ----------
    case : Case
        Its files.
    scan : Volume, optional
        The first image, where it was read before.
    names : sequence of str
        Names of the channels, by default those of the datalist: of a folder with several series the first one's modality is read.

    Raises
    ------
    InputError, GeometryError, SeriesError
        When the label or the image cannot be read, or they do not fit.
    """
    if scan is None and _is_dicom(case.label) and _is_dicom(case.images[0]):
        scan = load(case.images[0], modality=expected_modality(next(iter(names or case.channels), None)))
    if scan is not None and scan.source.kind != "dicom":
        # An object is placed on its series, which then lies beside it.
        scan = None
    return load_label(case.label, scan=scan, rois=case.rois)


def count_channels(case: Case) -> int:
    """Channels of a case's image: its files, or the volumes of its only one where that is a 4D NIfTI.

    Raises
    ------
    InputError
        When the only file claims to be NIfTI and is none.
    """
    if len(case.images) > 1 or _is_dicom(case.images[0]) or format_of(case.images[0]) != "nifti":
        return len(case.images)
    shape = _open_nifti(case.images[0]).shape
    return int(shape[3]) if len(shape) > 3 else 1


def _convert(case: Case, stem: Path, ending: str, names: Sequence[str], *, reuse: bool, threads: int) -> Case:
    targets = _targets(case.images, stem)
    reuse = reuse and _made_before(case, stem, ending, names)
    missing = [number for number, (image, target) in enumerate(zip(case.images, targets, strict=True)) if target != image and not (reuse and target.exists())]
    first: Volume | None = None
    if not reuse:
        _mark(stem, ending).unlink(missing_ok=True)
    if missing:
        image = _load_image(case, names)
        first = image
        for number in missing:
            channel = image.channels[number]
            save_volume(channel.array if number == 0 else voxels_on(channel, image.grid, threads), image.grid, targets[number])
    if not _is_dicom(case.label):
        _keep_identity(case, stem, ending, names)
        return replace(case, images=targets)
    label = stem.with_name(f"{stem.name}{ending}.nii.gz")
    if not (reuse and label.exists()):
        found = read_reference(case, first, names)
        save_label(found.array, found, label)
    _keep_identity(case, stem, ending, names)
    return replace(case, images=targets, label=label)


def _mark(stem: Path, ending: str) -> Path:
    """File beside a converted case that says what it was made from."""
    return stem.with_name(f".{stem.name}{ending}.made_from")


def _identity(case: Case, names: Sequence[str]) -> str:
    return digest_of(source_of(case) | {"channels": list(names)})


def _keep_identity(case: Case, stem: Path, ending: str, names: Sequence[str]) -> None:
    if not _made_before(case, stem, ending, names):
        write_text(_mark(stem, ending), _identity(case, names))


def _made_before(case: Case, stem: Path, ending: str, names: Sequence[str]) -> bool:
    """Whether the files that are there were made from these very files, in these units and with these regions."""
    mark = _mark(stem, ending)
    return mark.is_file() and mark.read_text(encoding="utf-8") == _identity(case, names)


def _load_image(case: Case, names: Sequence[str]) -> Volume:
    """All channels, checked against each other."""
    images = case.images
    suv: Literal["pet", False] = "pet" if case.suv else False
    known = names if len(names) == len(images) else [f"channel {number}" for number in range(len(images))]
    return combine({name: load(image, modality=expected_modality(name), suv=suv) for name, image in zip(known, images, strict=True)})


def _targets(images: Sequence[Path], stem: Path) -> tuple[Path, ...]:
    """Where each channel will be read from: its own file, or one to be written."""
    written = tuple(stem.with_name(f"{stem.name}_{number:04d}.nii.gz") for number in range(len(images)))
    if len(images) == 1:
        return written if _is_dicom(images[0]) else tuple(images)
    return (images[0] if _is_plain_nifti(images[0]) else written[0], *written[1:])


def _can_be_stacked(images: Sequence[Path]) -> bool:
    """Whether MONAI can load the files as one image: NIfTI of one shape with affines that are equal to within rounding (``numpy.allclose``, as MONAI 1.6 compares them)."""
    if len(images) == 1:
        return True
    if any(_is_dicom(image) or format_of(image) != "nifti" for image in images):
        return False
    grids = [_nifti_grid(image) for image in images]
    return all(grid.shape == grids[0].shape and np.allclose(grid.affine, grids[0].affine) for grid in grids)


def _is_plain_nifti(image: Path) -> bool:
    """Whether MONAI places a file's voxels where volseg does: NIfTI without a shear that volseg mends."""
    return not _is_dicom(image) and format_of(image) == "nifti" and _nifti_grid(image).shear <= IGNORED_SHEAR


def _nifti_grid(image: Path) -> Grid:
    """As nibabel, and so MONAI, reads it."""
    found = _open_nifti(image)
    try:
        return Grid(found.shape[:3], found.affine)
    except GeometryError as error:
        msg = f"{image}: {error}; correct the header or export the file again"
        raise GeometryError(msg) from error


def _open_nifti(image: Path) -> Any:
    """The header; no voxel is read."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        return nibabel.load(image)
    except (ImageFileError, OSError) as error:
        msg = f"{image}: cannot be read as NIfTI ({' '.join(str(error).split())[:160]}); copy or export it again"
        raise InputError(msg) from error


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or format_of(path) == "dicom" or label_object_kind(path) is not None
