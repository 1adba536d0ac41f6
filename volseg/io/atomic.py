"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from volseg.errors import OutputError, VolsegError, WriteError

HALF_WAY = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew past the size limit",
    errno.EIO: "input/output error",
}
"""Errors that come while writing, through no fault of the path."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends well it is renamed to ``path``, else it is removed.

    Parameters
    ----------
    path : Path
        Where the file is to appear; its folder is made. The temporary name is hidden and keeps the suffixes, since writers choose the format by them.

    Yields
    ------
    Path
        Name to write to; nothing exists there yet.

    Raises
    ------
    OutputError
        If the folder or file cannot be made or replaced (permissions, a file where a folder should be, a name too long).
    WriteError
        If writing failed half way (disk full, quota, I/O error).
    """
    temporary = path.with_name(f".volseg-{uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise named_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def named_error(path: Path, error: OSError) -> VolsegError:
    """What to raise for an error of the system while ``path`` was written: :class:`WriteError` half way, :class:`OutputError` where the place cannot be written to at all."""
    if error.errno in HALF_WAY:
        return WriteError(f"{path}: writing failed: {HALF_WAY[error.errno]}; nothing was left behind: free some space or choose another folder, then run again")
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder or check its permissions")
