"""The bytes a user points at: one file, every file below a folder, or the members of a zip, read in place (nothing is ever extracted)."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from volseg.errors import InputError
from volseg.io.formats import check_exists

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
        name = str(self.path) if self.inside is None else f"{self.path}:{self.inside}"
        # A name in a hostile zip could send commands to the terminal, or start a line of its own.
        return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)

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
        except FileNotFoundError as error:
            msg = f"{self}: is not there (moved or deleted, or only listed in a DICOMDIR); copy the whole folder again"
            raise InputError(msg) from error
        except OSError as error:
            msg = f"{self}: cannot be read ({error.strerror or error}); check its permissions and the disk"
            raise InputError(msg) from error


def list_members(path: Path) -> list[Member]:
    """List what may be DICOM under ``path``, in a stable order.

    Parameters
    ----------
    path : Path
        A file, a folder (searched recursively; links to folders are not followed), a ``.zip``, or a DICOMDIR, which stands for the files it lists.

    Returns
    -------
    list of Member
        A plain file gives itself alone. Folders that cannot be listed, and files that a DICOMDIR lists and that are not there, are among them: opening them says so.

    Raises
    ------
    InputError
        If there is nothing, or no file and no folder, at ``path``, or it is a zip that is damaged, encrypted, too large once unpacked, or names files outside itself.
    """
    check_exists(path)
    if path.is_dir():
        return _folder_members(path)
    if not path.is_file():
        msg = f"{path}: is neither a file nor a folder; give a DICOM file, folder or zip"
        raise InputError(msg)
    if is_zip(path):
        return _zip_members(path)
    if is_directory_record(path):
        from volseg.io.dicom.files.directory import listed_files

        return [_file_member(file) for file in listed_files(path)]
    return [_file_member(path)]


def _folder_members(path: Path) -> list[Member]:
    closed: list[Path] = []
    found = [Path(folder) / name for folder, _, names in os.walk(path, onerror=lambda error: closed.append(Path(error.filename))) for name in names]
    members = [_file_member(file) for file in found if stat.S_ISREG(_mode_of(file))]
    return sorted([*members, *(Member(folder, None, 0) for folder in closed)], key=lambda member: member.path)


def _file_member(file: Path) -> Member:
    try:
        return Member(file, None, file.stat().st_size)
    except OSError:
        return Member(file, None, 0)


def _mode_of(file: Path) -> int:
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return 0
    except OSError as error:
        # What loops or leads nowhere holds nothing; what may not be looked at may hold a slice, and is to be named.
        return 0 if error.errno == errno.ELOOP else stat.S_IFREG


def is_directory_record(path: Path) -> bool:
    """Whether ``path`` is a DICOMDIR, the index of a file set, which always has this name (PS3.10 8.6)."""
    return path.name.upper() == "DICOMDIR" and path.is_file()


def is_slice_file(path: Path) -> bool:
    """Whether ``path`` is one file that stands for the series it is a slice of: no folder, zip or DICOMDIR."""
    return path.is_file() and not is_zip(path) and not is_directory_record(path)


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
