"""The cache of converted networks is held to a size: what was not used for longest goes first."""

from __future__ import annotations

import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from volseg.errors import InputError
from volseg.inference.executors.compiled import MANIFEST, cache_folder

LIMIT_GB = "VOLSEG_CACHE_LIMIT_GB"
"""Environment variable: gigabytes (10^9 bytes) of converted networks that are kept."""

DEFAULT_LIMIT_GB = 5.0
"""Some forty networks of nnU-Net's size (31 million weights, 125 MB in float32)."""

SPARED_S = 3600.0
"""What was used within the last hour is kept whatever its size: another process may be about to load it. One that has it loaded needs the files no longer."""

ABANDONED_S = 24 * 3600.0
"""A folder aside that is older than this was left by a process that was killed."""


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    Parameters
    ----------
    path : Path
        The folder.
    size : int
        Bytes of its files.
    used : float
        When it was last read or written (seconds since the epoch).
    """

    path: Path
    size: int
    used: float


def cache_limit_bytes() -> int:
    """``$VOLSEG_CACHE_LIMIT_GB`` in bytes, else :data:`DEFAULT_LIMIT_GB`.

    Raises
    ------
    InputError
        When it is no number of 0 or more.
    """
    given = os.environ.get(LIMIT_GB, "").strip()
    try:
        limit = float(given) if given else DEFAULT_LIMIT_GB
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        msg = f"{LIMIT_GB}={given}: give the gigabytes that converted networks may take in {cache_folder()}, e.g. 5"
        raise InputError(msg)
    return int(limit * 1e9)


def prune(limit: int, now: float | None = None) -> list[Path]:
    """Remove the entries that were not used for longest until the rest keeps the limit, and what killed processes left.

    Parameters
    ----------
    limit : int
        Bytes.
    now : float, optional
        Seconds since the epoch.

    Returns
    -------
    list of Path
        What was removed. What cannot be removed (a cache that is read-only, a file in use on Windows) stays without an error.
    """
    now = time.time() if now is None else now
    found = [entry for path in _folders() if (entry := _measured(path)) is not None]
    aside = [entry for entry in found if entry.path.name.startswith(".")]
    kept = sorted((entry for entry in found if not entry.path.name.startswith(".")), key=lambda entry: entry.used)
    doomed = [entry for entry in aside if now - entry.used > ABANDONED_S]
    over = sum(entry.size for entry in kept) - limit
    for entry in kept:
        if over <= 0 or now - entry.used < SPARED_S:
            break
        doomed.append(entry)
        over -= entry.size
    return [entry.path for entry in doomed if _remove(entry.path)]


def _folders() -> list[Path]:
    try:
        return [path for path in (cache_folder() / "networks").iterdir() if path.is_dir()]
    except OSError:
        return []


def _measured(folder: Path) -> Entry | None:
    """None for a folder that another process has just removed."""
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        manifest = folder / MANIFEST
        return Entry(folder, size, (manifest if manifest.exists() else folder).stat().st_mtime)
    except OSError:
        return None


def _remove(folder: Path) -> bool:
    # Moved aside first: an entry is there completely or not at all.
    aside = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}-{uuid4().hex}")
    with suppress(OSError):
        if aside != folder:
            folder.rename(aside)
        shutil.rmtree(aside)
        return True
    return False
