"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volseg.errors import OutputError, WriteError
from volseg.io.atomic import HALF_WAY


@contextmanager
def staged_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary sibling to write into, and rename it to ``folder`` when the block ends well.

    Parameters
    ----------
    folder : Path
        Where the content shall be; must be absent or empty unless ``replace``.
    replace : bool
        Take the place of what is there, which is kept until the new folder is complete.

    Yields
    ------
    Path
        An empty folder beside ``folder``; removed when the block raises.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to, or holds something that may not be replaced.
    WriteError
        If writing fails half way (disk full).
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        msg = f"{folder}: is a file, not a folder; name a new folder"
        raise OutputError(msg)
    try:
        occupied = folder.is_dir() and any(folder.iterdir())
        if occupied and not replace:
            msg = f"{folder}: the folder is not empty; name a new one"
            raise OutputError(msg)
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        msg = f"{folder}: cannot be written to ({error.strerror or error}); choose another output folder"
        raise OutputError(msg) from error
    try:
        stage.chmod(0o777 & ~_umask())
        yield stage
        _put_in_place(stage, folder)
    except OSError as error:
        half_way = error.errno in HALF_WAY
        msg = f"{folder}: writing failed ({error.strerror or error}); nothing was left behind: {'free some space or ' if half_way else ''}choose another output folder"
        raise (WriteError if half_way else OutputError)(msg) from error
    except (OutputError, WriteError) as error:
        # A reader of the message knows the folder asked for, not the temporary one.
        raise type(error)(str(error).replace(str(stage), str(folder))) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _put_in_place(stage: Path, folder: Path) -> None:
    old = stage.with_suffix(".old")
    if folder.exists():
        folder.replace(old)
    try:
        stage.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """The process's umask, which mkdtemp ignores; there is no way to read it without setting it."""
    current = os.umask(0)
    os.umask(current)
    return current
