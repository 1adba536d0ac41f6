"""DICOM cases as NIfTI: a bundle's own transforms read images, and MONAI's readers of DICOM do not check geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from volseg.dataset.datalist import Case
from volseg.errors import DatasetError, InputError
from volseg.io import Volume, load, load_label, output_stems, save_label, save_volume
from volseg.io.formats import format_of
from volseg.io.labels import label_object_kind


def convert_dicom(cases: Sequence[Case], folder: Path, *, reuse: bool = False, progress: Callable[[str], None] | None = None) -> list[Case]:
    """Write the DICOM images and labels of cases as NIfTI.

    Parameters
    ----------
    cases : sequence of Case
        Those without DICOM are returned as they are.
    folder : Path
        Where ``CASE_0000.nii.gz`` (one for each channel) and ``CASE_label.nii.gz`` go; made when needed. Further labels of the same image (other readers') are
        ``CASE_label_2.nii.gz`` and so on.
    reuse : bool
        Keep files that are there already (a resumed training).
    progress : callable, optional
        Called with a line for each case that is converted.

    Returns
    -------
    list of Case
        In the same order.

    Raises
    ------
    DatasetError
        When a series or label object cannot be read, or does not fit its image; every such case is named.
    """
    concerned = [case for case in cases if any(_is_dicom(image) for image in case.images) or _is_dicom(case.label)]
    scans = list(dict.fromkeys(case.images[0].resolve() for case in concerned))
    names = dict(zip(scans, output_stems(scans), strict=True))
    seen: Counter[Path] = Counter()
    converted: dict[int, Case] = {}
    problems: list[str] = []
    for case in concerned:
        if progress is not None:
            progress(f"converting {case.images[0]}")
        scan = case.images[0].resolve()
        seen[scan] += 1
        ending = "_label" if seen[scan] == 1 else f"_label_{seen[scan]}"
        try:
            converted[id(case)] = _convert(case, folder / names[scan], ending, reuse=reuse)
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more of {len(cases)} cases)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more)
    return [converted.get(id(case), case) for case in cases]


def _convert(case: Case, stem: Path, ending: str, *, reuse: bool) -> Case:
    first: Volume | None = None
    images = []
    for channel, image in enumerate(case.images):
        target = stem.with_name(f"{stem.name}_{channel:04d}.nii.gz")
        if not _is_dicom(image):
            images.append(image)
            continue
        images.append(target)
        if reuse and target.exists():
            continue
        volume = load(image)
        first = volume if channel == 0 else first
        save_volume(volume.array, volume.grid, target)
    if not _is_dicom(case.label):
        return replace(case, images=tuple(images))
    label = stem.with_name(f"{stem.name}{ending}.nii.gz")
    if not (reuse and label.exists()):
        scan = first if first is not None else (load(case.images[0]) if _is_dicom(case.images[0]) else None)
        found = load_label(case.label, scan=scan, rois=case.rois)
        save_label(found.array, found, label)
    return replace(case, images=tuple(images), label=label)


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or format_of(path) == "dicom" or label_object_kind(path) is not None
