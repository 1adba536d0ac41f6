"""What a preprocessed case depends on: its files, as the system describes them without reading them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.dataset.datalist import Case
from volseg.errors import DatasetError

LONGEST_NAME = 80
"""Characters of a case's name in the name of its entry; file systems allow 255 bytes."""

DIGITS = 16
"""Hexadecimal digits of the hashes in names: 64 bits, so that a million cases meet by chance once in 37 million caches."""


def digest_of(facts: Any) -> str:
    """Hash of JSON-ready facts, as :data:`DIGITS` hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def source_of(case: Case) -> dict[str, Any]:
    """The files of a case (place, size, time of change), the regions taken of a DICOM label, and whether PET is read as SUV.

    Raises
    ------
    DatasetError
        When a file is gone.
    """
    return {
        "images": [_describe(path) for path in case.images],
        "label": _describe(case.label),
        "rois": None if case.rois is None else dict(case.rois),
        **({"suv": True} if case.suv else {}),
    }


def entry_name(case: Case, source: Mapping[str, Any]) -> str:
    """Name of a case's entry: readable, and different for cases of other files."""
    readable = re.sub(r"[^\w.-]", "_", case.name)[:LONGEST_NAME].lstrip(".")
    return f"{readable}-{digest_of(source)}"


def _describe(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            members = sorted(member for member in path.rglob("*") if member.is_file())
            return {"path": str(path.resolve()), "members": digest_of([[str(member.relative_to(path)), *_stamp(member)] for member in members])}
        size, changed = _stamp(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); correct the dataset's list of files"
        raise DatasetError(msg) from error
    return {"path": str(path.resolve()), "bytes": size, "modified_ns": changed}


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
