"""The bytes a user points at: one file, every file below a folder, or the members of a zip, read in place (nothing is ever extracted)."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from volseg.errors import InputError

MAX_ZIP_BYTES = 16 * 2**30
"""Largest unpacked size of a zip: a whole-body CT at 0.5 mm (4000 slices of 512x512 at 16 bit) is 2 GiB, so this leaves room for a study of several."""

MAX_MEMBER_BYTES = 2**30
"""Largest unpacked size of one member, since one slice is held in memory: a single-frame slice of 2048x2048 at 32 bit is 16 MiB."""

MAX_MEMBERS = 200_000
"""Most members of a zip: beyond any study (a 4D cardiac CT has some 10 000 slices), below what makes listing slow."""


@dataclass(frozen=True)
class Member:
    """One stretch of bytes that may be a DICOM object.

    Parameters
    ----------
    path : Path
        The file, or the zip that holds it.
    inside : str, optional
        Name inside the zip.
    size : int
        Unpacked size in bytes.
    archive : ZipFile, optional
        The open zip, shared by its members: opening it anew for each would read its directory thousands of times.
    """

    path: Path
    inside: str | None
    size: int
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.path) if self.inside is None else f"{self.path}:{self.inside}"

    @property
    def short(self) -> str:
        """File name without its folders, for messages that already name the folder."""
        return self.path.name if self.inside is None else PurePosixPath(self.inside).name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Give the bytes as a seekable binary stream; of a zip's member, only what is read gets unpacked.

        Raises
        ------
        InputError
            If the zip is damaged or the file cannot be read.
        """
        try:
            if self.archive is None or self.inside is None:
                with self.path.open("rb") as stream:
                    yield stream
            else:
                with self.archive.open(self.inside) as packed:
                    yield packed
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            msg = f"{self}: cannot be unpacked ({error}); make the zip again or give the folder itself"
            raise InputError(msg) from error
        except OSError as error:
            msg = f"{self}: cannot be read ({error.strerror or error}); check its permissions and the disk"
            raise InputError(msg) from error


def list_members(path: Path) -> list[Member]:
    """List what may be DICOM under ``path``, in a stable order.

    Parameters
    ----------
    path : Path
        A file, a folder (searched recursively; links to folders are not followed) or a ``.zip``.

    Returns
    -------
    list of Member
        A plain file gives itself alone.

    Raises
    ------
    InputError
        If there is nothing at ``path``, or it is a zip that is damaged, encrypted, too large once unpacked, or names files outside itself.
    """
    if not path.exists():
        msg = f"{path}: no such file or folder; check the path"
        raise InputError(msg)
    if path.is_dir():
        found = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        return [Member(file, None, file.stat().st_size) for file in found if file.is_file()]
    if is_zip(path):
        return _zip_members(path)
    return [Member(path, None, path.stat().st_size)]


def is_zip(path: Path) -> bool:
    """Whether ``path`` is a file that calls itself a zip; the name decides, so that a damaged zip is still reported as one."""
    return path.is_file() and path.suffix.lower() == ".zip"


def _zip_members(path: Path) -> list[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        msg = f"{path}: not a readable zip ({error}); make it again or give the folder itself"
        raise InputError(msg) from error
    infos = [info for info in archive.infolist() if not info.is_dir()]
    total = sum(info.file_size for info in infos)
    if total > MAX_ZIP_BYTES or len(infos) > MAX_MEMBERS:
        limit = f"{MAX_ZIP_BYTES / 2**30:.0f} GiB and {MAX_MEMBERS} files"
        msg = f"{path}: would unpack to {total / 2**30:.1f} GiB in {len(infos)} files, more than the limit of {limit}; unpack it yourself and give the folder"
        raise InputError(msg)
    for info in infos:
        _check_member(path, info)
    return sorted((Member(path, info.filename, info.file_size, archive) for info in infos), key=lambda member: member.inside or "")


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    inside = PurePosixPath(info.filename.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or (inside.parts and inside.parts[0].endswith(":")):
        msg = f"{path}: holds {info.filename!r}, a name that points outside the zip; do not trust this file, make it again from its source"
        raise InputError(msg)
    if info.flag_bits & 0x1:
        msg = f"{path}: {info.filename!r} is encrypted; unpack it with its password and give the folder"
        raise InputError(msg)
    if info.file_size > MAX_MEMBER_BYTES:
        msg = f"{path}: {info.filename!r} would unpack to {info.file_size / 2**30:.1f} GiB, more than the limit of {MAX_MEMBER_BYTES / 2**30:.0f} GiB for one file"
        raise InputError(msg)
