"""Label maps read for comparison, and the names of their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io import Volume


def label_array(volume: Volume) -> npt.NDArray[np.integer[Any]]:
    """The volume's array as integers.

    Float images whose values are all whole numbers are accepted, because many tools write label maps as float32.

    Parameters
    ----------
    volume : Volume
        A label map as read by :func:`volseg.io.load`.

    Returns
    -------
    ndarray of integers, axes (i, j, k)
        Unchanged values; int32 where the file held floats.

    Raises
    ------
    InputError
        If a value is not a whole number: the file is an image or a probability map.
    """
    array = volume.array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "ui":
        return array
    whole = np.isfinite(array) & (array == np.rint(array)) & (np.abs(array) < np.iinfo(np.int32).max)
    if not whole.all():
        first = array[~whole].flat[0]
        msg = (
            f"{volume.source.path}: not a label map, {int((~whole).sum())} of {array.size} values are not whole numbers (first: {first:.6g}); "
            "give the segmentation, not an image or probabilities"
        )
        raise InputError(msg)
    return array.astype(np.int32)


def parse_label_names(text: str) -> dict[int, str]:
    """Label names from ``"1=tumor,2=node"``, or from a file or bundle folder (see :func:`read_label_names`).

    Raises
    ------
    InputError
        If the text is neither pairs of number and name nor a path that holds label names.
    """
    path = Path(text)
    if path.exists():
        return read_label_names(path)
    names: dict[int, str] = {}
    for item in text.split(","):
        number, equals, name = (part.strip() for part in item.partition("="))
        if not equals or not number.isascii() or not number.isdigit() or not name:
            msg = f"--labels: {item!r} is neither NUMBER=NAME nor an existing file; write 1=tumor,2=node or name a dataset.json, a bundle's metadata.json or a bundle folder"
            raise InputError(msg)
        if int(number) in names:
            msg = f"--labels: label {int(number)} is named twice, {names[int(number)]!r} and {name!r}; name it once"
            raise InputError(msg)
        names[int(number)] = name
    return _foreground(names)


def read_label_names(path: Path) -> dict[int, str]:
    """Label names from a Decathlon or nnU-Net ``dataset.json``, a bundle's ``metadata.json``, or a folder that holds either.

    Parameters
    ----------
    path : Path
        The JSON file, a dataset folder or a bundle folder.

    Returns
    -------
    dict of int to str
        Name by label value, without the background (0).

    Raises
    ------
    InputError
        If there is no such file, it is not JSON, or it names no labels.
    """
    if path.is_dir():
        inside = [path / "dataset.json", path / "configs" / "metadata.json"]
        found = [file for file in inside if file.is_file()]
        if not found:
            msg = f"{path}: neither dataset.json nor configs/metadata.json in it; name a dataset folder, a bundle folder or a JSON file"
            raise InputError(msg)
        path = found[0]
    return label_names_of(read_json(path), path)


def read_json(path: Path) -> Any:
    """Contents of a JSON file; InputError with line and column where it is malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read as text ({error})"
        raise InputError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}"
        raise InputError(msg) from error


def label_names_of(content: Any, path: Path) -> dict[int, str]:
    """Label names in the content of ``path``.

    Three layouts are known: Decathlon (``labels: {"1": "tumor"}``), nnU-Net v2 (``labels: {"tumor": 1}``) and MONAI bundle metadata
    (``channel_def`` of the first network output).

    Raises
    ------
    InputError
        If none of them fits.
    """
    content = content if isinstance(content, Mapping) else {}
    outputs = content.get("network_data_format", {}).get("outputs", {})
    first_output: Mapping[str, Any] = next(iter(outputs.values()), {})
    pairs = content.get("labels") or first_output.get("channel_def")
    names: dict[int, str] = {}
    for key, value in pairs.items() if isinstance(pairs, Mapping) else ():
        number, name = (key, value) if str(key).isdigit() else (value, key)
        # nnU-Net's region-based classes map a name to several values: such a name is not one label.
        if str(number).isdigit():
            names[int(number)] = str(name)
    if not names:
        msg = f'{path}: names no labels; expected "labels": {{"1": "tumor"}} (dataset.json) or a bundle\'s metadata with channel_def'
        raise InputError(msg)
    return _foreground(names)


def ignore_label_of(content: Any, path: Path) -> int | None:
    """Label value of voxels that nothing is known of, in the content of a ``dataset.json``: its ``ignore_label``, or nnU-Net v2's label called ``ignore``.

    Raises
    ------
    DatasetError
        If it is no label value.
    """
    from volseg.dataset.entries import check_ignore_label
    from volseg.dataset.nnunet import IGNORE

    content = content if isinstance(content, Mapping) else {}
    labels = content.get("labels")
    return check_ignore_label(content.get("ignore_label", labels.get(IGNORE) if isinstance(labels, Mapping) else None), path)


def _foreground(names: Mapping[int, str]) -> dict[int, str]:
    return {number: names[number] for number in sorted(names) if number != 0}
