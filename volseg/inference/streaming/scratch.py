"""Files without a name: room on a disk that is gone with the process, whatever ends it."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path


def scratch_file(length: int, folder: Path | None = None) -> mmap.mmap:
    """Map a new file of zeros into memory.

    Parameters
    ----------
    length : int
        Bytes; they are taken at once, so that a full disk is told now rather than by a signal when a page is written.
    folder : Path, optional
        On which disk; the system's temporary folder by default.

    Raises
    ------
    OSError
        When the file cannot be made or there is no room for it.
    """
    with tempfile.TemporaryFile(prefix="volseg-", dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)
        return mmap.mmap(file.fileno(), length)


def give_back(file: mmap.mmap) -> None:
    """Take a file's pages out of this process; they stay with the system, which writes them out when it wants to."""
    if hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
