"""Make sure that labelled cases can be trained on, before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from volseg.dataset.datalist import Case
from volseg.errors import DatasetError, InputError
from volseg.io import Volume, load, load_label
from volseg.io.channels import combine
from volseg.io.modality import expected_modality
from volseg.io.tally import count_values

GRID_TOLERANCE_MM = 1e-2
"""NIfTI keeps affines in float32, which places voxels a metre from the origin within about 1e-4 mm; tools that round spacings add up to some thousandths over a stack."""

READERS = 2

VALUES_SHOWN = 5
"""How many values that are no labels an error names."""


@dataclass(frozen=True)
class Inspection:
    """What reading one case showed.

    Attributes
    ----------
    case : Case
        The case.
    problems, warnings : tuple of str
        Why it cannot be trained on, and what is odd about it; one line each, naming the file.
    images : tuple of Volume
        One for each channel, on its own grid; empty when one could not be read.
    label : Volume or None
        None when it could not be read.
    """

    case: Case
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    images: tuple[Volume, ...] = ()
    label: Volume | None = None


def check_cases(cases: Sequence[Case], labels: Collection[int]) -> int:
    """Read every image and label once, and refuse what cannot be trained on.

    Parameters
    ----------
    cases : sequence of Case
        All cases of a run.
    labels : collection of int
        Values a label map may hold.

    Returns
    -------
    int
        How many of the cases have anything labelled.

    Raises
    ------
    DatasetError
        When a file cannot be read, holds NaN or infinite voxels, a label lies on another grid than its first image or holds values that are not labels, or channels of a case have
        no common field of view. The first problem is in the message, all of them are in ``problems``.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda case: _judge(inspect_case(case, labels)), cases))
    refuse([problem for problems, _ in found for problem in problems], len(cases))
    return sum(labelled for _, labelled in found)


def _judge(inspection: Inspection) -> tuple[tuple[str, ...], bool]:
    """Without the volumes, which need not stay in memory: the problems, and whether anything is labelled."""
    return inspection.problems, inspection.label is not None and bool(inspection.label.array.any())


def refuse(problems: Sequence[str], cases: int) -> None:
    """Raise a :class:`DatasetError` with everything that is wrong, if anything is."""
    if problems:
        more = f" (and {len(problems) - 1} more in {cases} cases)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more, problems if len(problems) > 1 else ())


def inspect_case(case: Case, labels: Collection[int]) -> Inspection:
    """Read one case and say what is wrong with it.

    Parameters
    ----------
    case : Case
        Its files exist.
    labels : collection of int
        Values its label map may hold.

    Returns
    -------
    Inspection
        With the volumes, so that nobody need read them again.
    """
    problems: list[str] = []
    images: list[Volume] = []
    label = None
    expected = [expected_modality(name) for name in case.channels] if len(case.channels) == len(case.images) else [None] * len(case.images)
    for image, modality in zip(case.images, expected, strict=True):
        try:
            images.append(load(image, modality=modality, suv="pet" if case.suv else False, channels=None if len(case.images) == 1 else 1))
        except InputError as error:
            problems.append(str(error))
    try:
        label = load_label(case.label, scan=images[0] if images and images[0].source.kind == "dicom" else None, rois=case.rois)
    except InputError as error:
        problems.append(str(error))
    if problems:
        return Inspection(case, tuple(problems), label=label)
    assert label is not None
    found, warnings = _channels(case, images)
    channels = tuple(channel for image in images for channel in image.channels)
    problems = [*found, *(text for channel in channels for text in _unusable_voxels(channel)), *_label_problems(case, channels[0], label, labels)]
    return Inspection(case, tuple(problems), tuple(warnings), channels, label)


def _channels(case: Case, images: Sequence[Volume]) -> tuple[list[str], list[str]]:
    """What is wrong, and what is odd, about the channels of a case together."""
    count = sum(len(image.channels) for image in images)
    if case.channels and count != len(case.channels):
        return [
            f"{case.images[0]}: {count} channel{'' if count == 1 else 's'}, but the dataset names {len(case.channels)} ({', '.join(case.channels)}); list one file for each"
        ], []
    if len(images) == 1:
        return [], []
    names = case.channels or [f"channel {number}" for number in range(count)]
    try:
        together = combine(dict(zip(names, images, strict=True)))
    except InputError as error:
        return [str(error)], []
    # What the readers noted comes first, what the channels say of each other after it.
    notes = together.warnings[sum(len(image.warnings) for image in images) :]
    return [], [f"{case.images[0]}: {note}" for note in notes]


def _unusable_voxels(image: Volume) -> list[str]:
    if image.array.dtype.kind != "f":
        return []
    odd = image.array.size - int(np.count_nonzero(np.isfinite(image.array)))
    return [f"{image.source.path}: {odd} of {image.array.size} voxels are NaN or infinite; replace them by a value of the scan's background"] if odd else []


def _label_problems(case: Case, image: Volume, label: Volume, labels: Collection[int]) -> list[str]:
    problems = []
    if not label.grid.isclose(image.grid, GRID_TOLERANCE_MM):
        problems.append(f"{case.label}: the label lies on {label.grid}, its image {case.images[0].name} on {image.grid}; resample the label to the image's grid")
    values = np.flatnonzero(count_values(label.array)) if label.array.dtype.kind in "bu" else np.unique(label.array)
    foreign = [f"{value:g}" for value in values.tolist() if value not in labels]
    if foreign:
        shown = ", ".join(foreign[:VALUES_SHOWN]) + (f" and {len(foreign) - VALUES_SHOWN} more" if len(foreign) > VALUES_SHOWN else "")
        problems.append(f"{case.label}: holds the values {shown}, but the labels are {', '.join(map(str, sorted(labels)))}; correct the label map or the list of labels")
    return problems
