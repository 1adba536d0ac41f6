"""Read what a dataset holds: a Decathlon folder (``dataset.json``) or a JSON datalist."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volseg.dataset.entries import channel_key, check_annotated, check_ignore_label, check_rois
from volseg.dataset.nnunet import as_decathlon, is_nnunet
from volseg.errors import DatasetError

MISSING_SHOWN = 3
"""How many missing files an error names before it only counts."""


@dataclass(frozen=True)
class Case:
    """One labelled scan.

    Attributes
    ----------
    images : tuple of Path
        One file per input channel, in channel order; or one 4D NIfTI file with all of them.
    label : Path
        Label map on the grid of the first image, or a DICOM Segmentation or RT Structure Set of it.
    fold : int or None
        Fold the datalist puts the case in, when it says so.
    rois : mapping of str to int, or None
        Which segments or ROIs of a DICOM label are taken, by name, and their label values; None takes all.
    annotated : tuple of str or int, or None
        Names or label values of the classes that the case is annotated for; None for all. Its background may be any other class.
    channels : tuple of str
        Names of the channels in their order; empty when the datalist does not say.
    suv : bool
        Read images that are DICOM PETs in body-weight SUV (g/ml); others stay as they are.
    """

    images: tuple[Path, ...]
    label: Path
    fold: int | None = None
    rois: Mapping[str, int] | None = None
    annotated: tuple[str | int, ...] | None = None
    channels: tuple[str, ...] = ()
    suv: bool = False

    @property
    def name(self) -> str:
        """Stem of the first image, e.g. ``STS_001_CT`` for ``STS_001_CT.nii.gz``."""
        return self.images[0].name.split(".", 1)[0]

    def as_item(self) -> dict[str, Any]:
        """The case as a MONAI data item, ``{"image": path or list of paths, "label": path}``."""
        images = [str(path) for path in self.images]
        return {"image": images[0] if len(images) == 1 else images, "label": str(self.label)}


@dataclass(frozen=True)
class Datalist:
    """The labelled cases of one dataset.

    Attributes
    ----------
    path : Path
        The JSON file.
    name : str
        What the dataset calls itself.
    cases : tuple of Case
        In the order of the file.
    labels : mapping of int to str
        Label value to name; empty when the file does not say.
    channels : mapping of int to str
        Channel number to modality; empty when the file does not say.
    ignore_label : int or None
        Label value of voxels that nothing is known of; they do not count in training.
    """

    path: Path
    name: str
    cases: tuple[Case, ...]
    labels: Mapping[int, str] = field(default_factory=dict)
    channels: Mapping[int, str] = field(default_factory=dict)
    ignore_label: int | None = None


def read_datalist(dataset: str | Path, *, check_files: bool = True) -> Datalist:
    """Read a dataset and make sure that every file it names exists.

    Parameters
    ----------
    dataset : path
        A folder with a ``dataset.json`` of the Medical Segmentation Decathlon or of nnU-Net v2 (:mod:`volseg.dataset.nnunet`), or a JSON datalist with ``training`` (items
        ``{"image", "label"[, "fold"]}``; ``image`` is a list when there are several channels). Paths are relative to the folder of the JSON file. Images may be DICOM folders,
        labels DICOM Segmentations or RT Structure Sets; ``"rois"`` (``{"GTV": 1}``), of the list or of an item, says which ROIs become which label. ``"annotated"`` of an item
        lists the classes (names or values) it is annotated for, and ``"ignore_label"`` of the list is the label value of voxels to be ignored.
    check_files : bool
        False leaves missing files to :func:`volseg.dataset.check_listing`, which reports them with everything else that is wrong.

    Returns
    -------
    Datalist

    Raises
    ------
    DatasetError
        When the file is missing, is not JSON, has no training cases, labels are regions, an item is malformed, or a named file does not exist.
    """
    path = Path(dataset)
    if path.is_dir():
        path = path / "dataset.json"
    if not path.is_file():
        msg = f"{path}: there is no such dataset; give a folder with a Decathlon dataset.json, or a JSON datalist with a 'training' list"
        raise DatasetError(msg)
    content = _read_json(path)
    if is_nnunet(content):
        content = as_decathlon(content, path)
    items = content.get("training")
    if not isinstance(items, list) or not items:
        msg = f"{path}: there is no 'training' list of labelled cases in it (each item is {{'image': ..., 'label': ...}}), nor channel_names and file_ending as in nnU-Net v2"
        raise DatasetError(msg)
    cases = _read_cases(items, path, content.get("rois"))
    if check_files:
        _refuse_missing(cases, path)
    # The Decathlon calls them modality, nnU-Net v2 channel_names.
    channels = _told_apart(_numbered(content.get("modality")) or _numbered(content.get("channel_names")))
    ignored = check_ignore_label(content.get("ignore_label"), path)
    cases = tuple(replace(case, channels=tuple(channels[number] for number in sorted(channels))) for case in cases)
    return Datalist(path, str(content.get("name", path.parent.name)), cases, _numbered(content.get("labels")), channels, ignored)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        msg = f"{path}: not a readable JSON file ({error}); give a Decathlon dataset.json or a JSON datalist"
        raise DatasetError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: the top level must be an object with a 'training' list, not a {type(content).__name__}"
        raise DatasetError(msg)
    return content


def _read_cases(items: Sequence[Any], path: Path, rois: Any) -> tuple[Case, ...]:
    """Every item, or one error that tells of all the malformed ones."""
    cases, problems = [], []
    for number, item in enumerate(items):
        try:
            cases.append(_read_case(item, number, path, rois))
        except DatasetError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more of {len(items)} items)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more, problems if len(problems) > 1 else ())
    return tuple(cases)


def _read_case(item: Any, number: int, path: Path, rois: Any) -> Case:
    if not isinstance(item, dict) or "image" not in item or "label" not in item:
        msg = f"{path}: training item {number} has no 'image' and 'label'; every training case needs both"
        raise DatasetError(msg)
    images: Sequence[Any] = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if not images or not all(isinstance(name, str) for name in [*images, item["label"]]):
        msg = f"{path}: training item {number} must name its files as strings, got {item}"
        raise DatasetError(msg)
    fold = item.get("fold")
    if fold is not None and not (type(fold) is int and fold >= 0):
        msg = f"{path}: training item {number} has fold {fold!r}; a fold is a whole number from 0 on"
        raise DatasetError(msg)
    rois = check_rois(item.get("rois", rois), f"{path}: training item {number}")
    annotated = check_annotated(item.get("annotated"), f"{path}: training item {number}")
    base = path.resolve().parent
    return Case(tuple(base / name for name in images), base / item["label"], fold, rois, annotated)


def _refuse_missing(cases: Sequence[Case], path: Path) -> None:
    missing = [file for case in cases for file in (*case.images, case.label) if not file.exists()]
    if missing:
        shown = ", ".join(str(file) for file in missing[:MISSING_SHOWN])
        more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
        msg = f"{path}: {len(missing)} of the files it names do not exist: {shown}{more}; correct the paths (they are relative to the JSON file's folder)"
        raise DatasetError(msg)


def _told_apart(channels: Mapping[int, str]) -> dict[int, str]:
    """Channels by names of their own: nnU-Net has two phases of CT both called CT, which become CT and CT_2."""
    told: dict[int, str] = {}
    for number, name in sorted(channels.items()):
        taken = {channel_key(other).casefold() for other in told.values()}
        own = next(
            candidate
            for candidate in (name, *(f"{name.strip()}_{count}" for count in range(2, len(channels) + 2)))
            if not channel_key(name) or channel_key(candidate).casefold() not in taken
        )
        told[number] = own
    return told


def _numbered(names: Any) -> dict[int, str]:
    """Label or channel names by number; nnU-Net writes ``{name: number}``, the Decathlon ``{number: name}``."""
    if not isinstance(names, dict):
        return {}
    pairs = ((key, value) if str(key).isdigit() else (value, key) for key, value in names.items())
    return {int(number): str(name) for number, name in pairs if str(number).isdigit()}
