"""A DICOMDIR, the index on a CD or stick (PS3.3 annex F): which files it lists."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import damaged, open_dataset, parse_errors


def listed_files(path: Path) -> list[Path]:
    """The files that a DICOMDIR lists, whether they are there or not.

    Parameters
    ----------
    path : Path
        The DICOMDIR; the files lie in its folder and below (PS3.10 8.1).

    Returns
    -------
    list of Path
        Sorted, without repetition. Where a disc was mounted with its names in small letters, those.

    Raises
    ------
    InputError
        If it is no DICOMDIR, is damaged, lists nothing, or names files outside its own folder.
    """
    member = Member(path, None, path.stat().st_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = open_dataset(member, pixels=False, keywords=("DirectoryRecordSequence",))
        if dataset is None or "DirectoryRecordSequence" not in dataset:
            msg = f"{path}: is no DICOMDIR (it has no Directory Record Sequence (0004,1220)); give the folder that holds the images"
            raise InputError(msg)
        try:
            values = [record.get("ReferencedFileID") for record in dataset.DirectoryRecordSequence]
        except parse_errors() as error:
            raise damaged(member, error) from error
    names = {tuple(_parts(value)) for value in values if value}
    if not names:
        msg = f"{path}: lists no files; give the folder that holds the images"
        raise InputError(msg)
    return sorted(_below(path, parts) for parts in names)


def _parts(value: str | Iterable[str]) -> list[str]:
    parts = value.split("\\") if isinstance(value, str) else [str(part) for part in value]
    return [part.strip() for part in parts]


def _below(path: Path, parts: tuple[str, ...]) -> Path:
    if any(part in ("", ".", "..") or "/" in part or "\0" in part or ":" in part for part in parts):
        name = "\\".join(parts)
        msg = f"{path}: lists {name!r}, a name that points outside its folder; do not trust this file, give the folder that holds the images"
        raise InputError(msg)
    file = path.parent.joinpath(*parts)
    small = path.parent.joinpath(*(part.lower() for part in parts))
    return small if not file.exists() and small.exists() else file
