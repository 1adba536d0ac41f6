"""Entries of a dataset's list that training and evaluation read alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from volseg.errors import DatasetError


def channel_key(name: str) -> str:
    """A channel's name as part of a key: what is no letter, digit or underscore replaced; empty where nothing is left."""
    return re.sub(r"\W+", "_", name).strip("_")


def check_ignore_label(value: object, path: Path) -> int | None:
    """The label value of voxels that nothing is known of, as a ``dataset.json`` or datalist gives it; None where it gives none.

    Raises
    ------
    DatasetError
        When it is no label value.
    """
    if value is None or (type(value) is int and value >= 1):
        return value
    msg = f"{path}: ignore_label is {value!r}; give a label value, e.g. 255"
    raise DatasetError(msg)


def check_annotated(value: object, where: str) -> tuple[str | int, ...] | None:
    """Names or values of the classes a case is annotated for, as a list gives them; None where it gives none, which means all.

    Parameters
    ----------
    value : object
        From the list.
    where : str
        File and item, for the message.

    Raises
    ------
    DatasetError
        When it is anything else.
    """
    if value is None:
        return None
    if isinstance(value, list) and value and all(isinstance(name, str) or type(name) is int for name in value):
        return tuple(value)
    msg = f'{where} has annotated {value!r}; list the names or values of the classes it is annotated for, e.g. ["liver"]'
    raise DatasetError(msg)


def annotated_values(annotated: Sequence[str | int], labels: Mapping[int, str], where: str) -> frozenset[int]:
    """Label values of the classes a case is annotated for.

    Parameters
    ----------
    annotated : sequence of str or int
        Names or values.
    labels : mapping of int to str
        Name of each class by its value; 0 is background.
    where : str
        File and case, for the message.

    Raises
    ------
    DatasetError
        When one is no class, or is background.
    """
    values = {name: value for value, name in labels.items()}
    foreign = [item for item in annotated if (values.get(item) if isinstance(item, str) else item if item in labels else None) in (None, 0)]
    if foreign:
        names = ", ".join(name for value, name in sorted(labels.items()) if value)
        msg = f"{where} is said to be annotated for {foreign[0]!r}, but the classes are {names}; correct `annotated`"
        raise DatasetError(msg)
    return frozenset(values[item] if isinstance(item, str) else item for item in annotated)


def check_rois(value: object, where: str) -> Mapping[str, int] | None:
    """Regions to take of a DICOM label and their label values, as a list gives them; None where it gives none.

    Parameters
    ----------
    value : object
        From the list.
    where : str
        File and item, for the message.

    Raises
    ------
    DatasetError
        When it is anything else.
    """
    if value is None:
        return None
    if isinstance(value, Mapping) and value and all(type(label) is int and label >= 1 for label in value.values()):
        return value
    msg = f'{where} has rois {value!r}; expected names and label values, e.g. {{"GTV": 1}}'
    raise DatasetError(msg)
