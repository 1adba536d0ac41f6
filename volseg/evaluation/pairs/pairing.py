"""Which prediction belongs to which reference, by file name.

The stem is the file name without its image suffix. A prediction's stem is tried in these forms, and the first that names a reference wins:

1. as it is;
2. without one of the endings ``_seg``, ``_rtstruct``, ``_label``, ``_labels``, ``_mask``, ``_pred``;
3. also without nnU-Net's channel ending ``_0000``;
4. the unique reference whose stem is the beginning of it, up to an underscore: ``STS_001_CT_seg`` belongs to ``STS_001``.

A reference answers to its stem, to its stem without such an ending, and, in a Decathlon dataset, to the stems of its images; those of a DICOM folder may stand behind the names of
the folders above it (``STS_001_CT_image`` for ``STS_001/CT/image``), as results of ``volseg infer`` do. More than one candidate is an error, never a choice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from volseg.errors import DatasetError, InputError
from volseg.evaluation.labels import ignore_label_of, label_names_of, read_json
from volseg.io.formats import IMAGE_SUFFIXES
from volseg.io.labels import label_object_kind

STEM_ENDINGS = ("_seg", "_rtstruct", "_label", "_labels", "_mask", "_pred")
"""Endings that say "this is a label map" and are not part of the case's name; ``_seg`` is volseg's own."""

NNUNET_ENDING = "_0000"
"""What nnU-Net puts behind the name of a case's first channel."""

NAMES_SHOWN = 5
"""An error lists this many file names, then how many more there are."""


@dataclass(frozen=True)
class Reference:
    """A reference label map and the stems it answers to besides its own.

    Parameters
    ----------
    path : Path
        The label map.
    aliases : tuple of str
        Stems of its images, from a dataset's ``dataset.json``.
    images : tuple of Path
        The images themselves, the first channel first.
    rois : mapping of str to int, or None
        Regions to take of a DICOM object, and their label values; None takes all.
    annotated : tuple of str or int, or None
        Names or values of the classes it is annotated for; None for all.
    """

    path: Path
    aliases: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    rois: Mapping[str, int] | None = None
    annotated: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class References:
    """All references of a folder, the label names it gives, if any, and the label value of voxels that nothing is known of."""

    items: tuple[Reference, ...]
    label_names: Mapping[int, str] = field(default_factory=dict)
    ignore_label: int | None = None


@dataclass(frozen=True)
class Pair:
    """One case: a prediction and the reference to compare it with, of which ``rois`` are taken where it is a DICOM object, and which is annotated for some classes (None: all)."""

    case: str
    prediction: Path
    reference: Path
    rois: Mapping[str, int] | None = None
    annotated: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class Pairing:
    """Pairs in order of case name, and what found no partner."""

    pairs: tuple[Pair, ...]
    unmatched_predictions: tuple[Path, ...] = ()
    unmatched_references: tuple[Path, ...] = ()


def image_stem(path: Path | str) -> str:
    """File name without its suffix: ``scan_seg.nii.gz`` is ``scan_seg``."""
    name = Path(path).name
    for suffix in (*IMAGE_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def strip_ending(stem: str) -> str:
    """The stem without one of ``STEM_ENDINGS``: ``scan_seg`` is ``scan``."""
    for ending in STEM_ENDINGS:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return stem


def find_label_maps(folder: Path) -> tuple[Path, ...]:
    """Label maps, DICOM Segmentations and RT Structure Sets that lie directly in a folder, sorted by name; hidden files are skipped.

    Raises
    ------
    InputError
        If there are none.
    """
    files = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    found = tuple(sorted(p for p in files if p.name.lower().endswith(IMAGE_SUFFIXES) or label_object_kind(p)))
    if not found:
        msg = f"{folder}: no label maps in this folder; expected files ending in {', '.join(IMAGE_SUFFIXES)}, DICOM Segmentations or RT Structure Sets"
        raise InputError(msg)
    return found


def dataset_file(place: Path) -> Path | None:
    """The list of a dataset: a JSON file, or ``dataset.json`` in a folder, where there is one."""
    if place.is_file() and place.suffix.lower() == ".json":
        return place
    inside = place / "dataset.json"
    return inside if inside.is_file() else None


def find_references(folder: Path) -> References:
    """References of a folder: of a dataset when it holds ``dataset.json`` (Decathlon, or nnU-Net with ``labelsTr``), else the label maps in it; or those of a JSON datalist.

    Raises
    ------
    DatasetError
        If the list names labels that are not there, or none.
    InputError
        If the folder holds no label maps, or the JSON is malformed.
    """
    description = dataset_file(folder)
    folder = folder if folder.is_dir() else folder.resolve().parent
    if description is None:
        return References(tuple(Reference(path) for path in find_label_maps(folder)))
    content = read_json(description)
    names = label_names_of(content, description) if isinstance(content, Mapping) and "labels" in content else {}
    ignored = ignore_label_of(content, description)
    if ignored is not None:
        names.pop(ignored, None)
    listed = content.get("training")
    if not listed:
        return References(tuple(Reference(path) for path in find_label_maps(folder / "labelsTr" if (folder / "labelsTr").is_dir() else folder)), names, ignored)
    items = tuple(_dataset_reference(folder, description, item, content.get("rois"), names) for item in listed)
    return References(items, names, ignored)


def pair_files(predictions: Sequence[Path], references: Sequence[Reference]) -> Pairing:
    """Pair label maps by file name; the rules are at the top of this module.

    Raises
    ------
    InputError
        If a prediction fits several references, several predictions fit one reference, or nothing fits.
    """
    partners = {prediction: _partner(prediction, references) for prediction in predictions}
    taken: dict[Path, Path] = {}
    for prediction, reference in partners.items():
        if reference is None:
            continue
        if reference in taken:
            msg = f"{reference}: two predictions fit this reference, {taken[reference].name} and {prediction.name}; keep one of them in the folder"
            raise InputError(msg)
        taken[reference] = prediction
    if not taken:
        msg = (
            f"no prediction fits a reference by name: predictions {list_names(predictions)}; references {list_names([reference.path for reference in references])}; "
            "rename them alike (case_seg.nii.gz, case.nii.gz)"
        )
        raise InputError(msg)
    cases = _case_names(list(taken))
    told = {reference.path: reference for reference in references}
    pairs = sorted((Pair(cases[path], prediction, path, told[path].rois, told[path].annotated) for path, prediction in taken.items()), key=lambda pair: pair.case)
    return Pairing(
        tuple(pairs),
        tuple(prediction for prediction, reference in partners.items() if reference is None),
        tuple(reference.path for reference in references if reference.path not in taken),
    )


def find_images(folder: Path, pairs: Sequence[Pair]) -> dict[str, Path]:
    """The scan of each case, as far as there is one.

    Parameters
    ----------
    folder : Path
        A JSON datalist or a folder with ``dataset.json``, whose scans are known by their references (of several channels the first is taken); or a folder with image files or
        DICOM folders named after the case, with nnU-Net's ``_0000`` behind it, or with an underscore and something else behind it (of several the first by name).
    pairs : sequence of Pair
        The cases.

    Returns
    -------
    dict of str to Path
        Scan by case name.
    """
    if dataset_file(folder) is not None:
        listed = {reference.path.resolve(): reference.images for reference in find_references(folder).items if reference.images}
        return {pair.case: listed[path][0] for pair in pairs if (path := pair.reference.resolve()) in listed and listed[path][0].exists()}
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and (path.is_dir() or path.name.lower().endswith(IMAGE_SUFFIXES)))
    found = {}
    for pair in pairs:
        stem = strip_ending(image_stem(pair.reference))
        exact = [path for path in files if image_stem(path) in (stem, stem + NNUNET_ENDING)]
        longer = [path for path in files if image_stem(path).startswith(f"{stem}_")]
        if exact or longer:
            found[pair.case] = (exact or longer)[0]
    return found


def list_names(paths: Sequence[Path]) -> str:
    """File names for a message, the first few and how many more."""
    more = len(paths) - NAMES_SHOWN
    return ", ".join(path.name for path in paths[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _partner(prediction: Path, references: Sequence[Reference]) -> Path | None:
    for stem in _forms(image_stem(prediction)):
        for names in (_full_names, _short_names):
            fits = [reference.path for reference in references if stem in names(reference)]
            if fits:
                return _only(prediction, fits)
    stem = strip_ending(image_stem(prediction))
    fits = [reference.path for reference in references if any(stem.startswith(f"{name}_") for name in _short_names(reference))]
    return _only(prediction, fits) if fits else None


def _only(prediction: Path, fits: Sequence[Path]) -> Path:
    if len(fits) > 1:
        msg = f"{prediction}: fits {len(fits)} references by name, {list_names(fits)}; rename the prediction after the one it belongs to"
        raise InputError(msg)
    return fits[0]


def _forms(stem: str) -> list[str]:
    short = strip_ending(stem)
    return list(dict.fromkeys([stem, short, short.removesuffix(NNUNET_ENDING) or short]))


def _full_names(reference: Reference) -> tuple[str, ...]:
    return (image_stem(reference.path), *reference.aliases)


def _short_names(reference: Reference) -> tuple[str, ...]:
    return (strip_ending(image_stem(reference.path)), *reference.aliases)


def _case_names(references: Sequence[Path]) -> dict[Path, str]:
    short = [strip_ending(image_stem(path)) for path in references]
    files = [path.name for path in references]
    whole = [path.resolve() for path in references]
    common = os.path.commonpath([path.parent for path in whole])
    places = [str(path.relative_to(common)) for path in whole]
    return {path: name if short.count(name) == 1 else file if files.count(file) == 1 else place for path, name, file, place in zip(references, short, files, places, strict=True)}


def _dataset_reference(folder: Path, description: Path, item: Any, rois: Any, names: Mapping[int, str]) -> Reference:
    from volseg.dataset.entries import check_annotated, check_rois

    if not isinstance(item, Mapping) or not isinstance(item.get("label"), str):
        msg = f'{description}: an item of "training" names no label: {item!r}; expected {{"image": ..., "label": ...}}'
        raise DatasetError(msg)
    path = folder / item["label"]
    if not path.exists():
        msg = f"{description}: the listed label {item['label']} is not there; copy it into the dataset or take it off the list"
        raise DatasetError(msg)
    where = f"{description}: the item of {item['label']}"
    rois, annotated = check_rois(item.get("rois", rois), where), check_annotated(item.get("annotated"), where)
    images = item.get("image", [])
    images = [images] if isinstance(images, str) else images
    return Reference(path, tuple(alias for image in images for alias in _aliases(folder, image)), tuple(folder / image for image in images), rois, _by_value(annotated, names))


def _by_value(annotated: tuple[str | int, ...] | None, names: Mapping[int, str]) -> tuple[str | int, ...] | None:
    """Classes by the values that the list's own names give them; a name it does not give waits for the names of --labels."""
    values = {name: value for value, name in names.items()}
    return None if annotated is None else tuple(values.get(item, item) if isinstance(item, str) else item for item in annotated)


def _aliases(folder: Path, image: str) -> list[str]:
    if not (folder / image).is_dir():
        return [image_stem(image)]
    parts = [part for part in PurePosixPath(image).parts if part not in (".", "..", "/")]
    return ["_".join(parts[first:]) for first in range(len(parts))]
