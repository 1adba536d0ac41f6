"""What a label value stands for when it is not one class: codes for "one of these classes".

A voxel of background in a case that is annotated for the liver only may be background, or any class but the liver. A voxel with the ignore label may be anything. Both are sets of
classes that the voxel may belong to, so each such set gets a label value of its own behind the classes'; transforms carry it like any label, and the loss
(:mod:`volseg.training.partial.loss`) knows the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from volseg.dataset import Case
from volseg.dataset.entries import annotated_values
from volseg.errors import DatasetError
from volseg.geometry import Grid
from volseg.io import load_label, save_label

ROUNDING_MM = 1e-3
"""What a file's header may round a place by."""

LARGEST = 255
"""Largest label value of the uint8 label maps that are written."""


@dataclass(frozen=True)
class LabelCodes:
    """Label values that stand for sets of classes.

    Attributes
    ----------
    classes : int
        Number of classes, background included; the values below it are the classes themselves.
    sets : mapping of int to tuple of int
        Value to the classes a voxel of that value may belong to; the ignore label's are all.
    """

    classes: int
    sets: Mapping[int, tuple[int, ...]]

    def __bool__(self) -> bool:
        return bool(self.sets)

    @property
    def ignored(self) -> tuple[int, ...]:
        """Values that say nothing at all."""
        return tuple(value for value, members in self.sets.items() if len(members) == self.classes)

    def code_of(self, members: tuple[int, ...]) -> int:
        """Value of a set of classes."""
        return next(value for value, known in self.sets.items() if known == members)


def label_codes(cases: Sequence[Case], labels: Mapping[int, str], ignore_label: int | None, path: Path) -> LabelCodes:
    """Find out which codes a dataset needs.

    Parameters
    ----------
    cases : sequence of Case
        All cases of a run.
    labels : mapping of int to str
        The bundle's label values and names, background included.
    ignore_label : int or None
        Value of voxels to be ignored.
    path : Path
        The datalist, for messages.

    Raises
    ------
    DatasetError
        When a case names a class the bundle does not have, or the ignore label is a class.
    """
    everything = tuple(sorted(labels))
    classes = everything[-1] + 1
    if ignore_label is not None and not classes <= ignore_label <= LARGEST:
        msg = f"{path}: ignore_label {ignore_label} must lie behind the bundle's labels (0 to {classes - 1}) and be at most {LARGEST}; {LARGEST} is a good choice"
        raise DatasetError(msg)
    sets: dict[int, tuple[int, ...]] = {} if ignore_label is None else {ignore_label: tuple(range(classes))}
    free = (value for value in range(classes, LARGEST + 1) if value != ignore_label)
    for case in cases:
        members = may_be(case, labels, path)
        if len(members) > 1 and members not in sets.values():
            value = next(free, None)
            if value is None:
                msg = f"{path}: too many different sets of annotated classes for label values up to {LARGEST}; annotate more cases alike"
                raise DatasetError(msg)
            sets[value] = members
    return LabelCodes(classes, sets)


def may_be(case: Case, labels: Mapping[int, str], path: Path) -> tuple[int, ...]:
    """Classes that the unlabelled voxels of a case may belong to: background, and whatever the case is not annotated for."""
    if case.annotated is None:
        return (0,)
    known = annotated_values(case.annotated, labels, f"{path}: case {case.name}")
    return tuple(value for value in sorted(labels) if value == 0 or value not in known)


def _holds(target: Path, values: npt.NDArray[np.uint8], grid: Grid) -> bool:
    """Whether a file holds this label map already: written again, it would pass for another one in the preprocessed cache."""
    if not target.is_file():
        return False
    there = load_label(target)
    return np.array_equal(there.array, values) and there.grid.isclose(grid, ROUNDING_MM)


def encode_cases(cases: Sequence[Case], labels: Mapping[int, str], codes: LabelCodes, folder: Path, path: Path) -> list[Case]:
    """Write the label maps of partly annotated cases with the codes in place of background.

    Parameters
    ----------
    cases : sequence of Case
        Those that are annotated for every class come back as they are.
    labels, codes, path
        See :func:`label_codes`.
    folder : Path
        Where ``CASE_NUMBER_partial.nii.gz`` go.

    Returns
    -------
    list of Case
        In the same order.

    Raises
    ------
    DatasetError
        When a label map holds a class that its case is said not to be annotated for.
    """
    encoded = []
    for number, case in enumerate(cases):
        members = may_be(case, labels, path)
        if len(members) == 1:
            encoded.append(case)
            continue
        found = load_label(case.label)
        strange = [value for value in np.unique(found.array).tolist() if value in members and value != 0]
        if strange:
            msg = f"{case.label}: holds {labels[strange[0]]!r} ({strange[0]}), for which the case is said not to be annotated; correct `annotated` in {path}"
            raise DatasetError(msg)
        target = folder / f"{case.name}_{number:04d}_partial.nii.gz"
        values = np.where(found.array == 0, codes.code_of(members), found.array).astype(np.uint8)
        if not _holds(target, values, found.grid):
            save_label(values, found, target)
        encoded.append(replace(case, label=target))
    return encoded
