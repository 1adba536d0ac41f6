"""Converted networks on disk, so that a later run needs neither PyTorch nor MONAI.

The cache is ``$VOLSEG_CACHE``, else ``$XDG_CACHE_HOME/volseg``, else ``~/.cache/volseg``. An entry is a folder named after the hash of everything the network depends on: weights,
definition, versions, this layout. It holds the network (OpenVINO IR or ONNX) and a manifest with the same facts and the SHA-256 of each file. What does not match its manifest, or
was made by other versions or on another kind of machine, is not used and is made again. The time stamp of a manifest says when its entry was last used
(:mod:`~volseg.inference.executors.cache_limit` goes by it). The whole folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from volseg.provenance import sha256_of

LAYOUT = 1
"""Raised whenever the files of an entry change their meaning."""

MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """``$VOLSEG_CACHE``, else ``$XDG_CACHE_HOME/volseg``, else ``~/.cache/volseg``."""
    given = os.environ.get("VOLSEG_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "volseg"


def entry_for(facts: Mapping[str, Any]) -> Path:
    """Folder of a network with these facts (JSON-ready); it may not exist."""
    text = json.dumps({"layout": LAYOUT, **facts}, sort_keys=True)
    return cache_folder() / "networks" / hashlib.sha256(text.encode()).hexdigest()[:32]


def read_entry(entry: Path, facts: Mapping[str, Any]) -> dict[str, Path] | None:
    """Files of an entry by name, or None where it is absent, incomplete, damaged or of other facts; one that is good counts as used now."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        files = {name: entry / name for name in manifest["files"]}
        good = manifest["layout"] == LAYOUT and manifest["facts"] == dict(facts) and all(sha256_of(path) == manifest["files"][name] for name, path in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not good:
        return None
    # A cache that is shared and read-only keeps its stamps.
    with suppress(OSError):
        os.utime(entry / MANIFEST)
    return files


def write_entry(entry: Path, facts: Mapping[str, Any], staged: Path) -> Path:
    """Make an entry of the files in a folder, in one step; the folder is used up.

    Returns
    -------
    Path
        The entry, or the folder itself where the cache could not take it: that is no error, the next run converts again.
    """
    if read_entry(entry, facts) is not None:
        # Another process was faster, and may be using its entry.
        shutil.rmtree(staged, ignore_errors=True)
        return entry
    names = sorted(path.name for path in staged.iterdir())
    manifest = {"layout": LAYOUT, "facts": dict(facts), "files": {name: sha256_of(staged / name) for name in names}}
    old = entry.with_name(f".{entry.name}-{uuid4().hex}")
    try:
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        # Only a bad entry is moved away: a good one of another process must never be missing, not even for a moment.
        if entry.exists() and read_entry(entry, facts) is None:
            with suppress(FileNotFoundError):
                entry.rename(old)
        staged.rename(entry)
    except OSError:
        if read_entry(entry, facts) is None:
            return staged
        shutil.rmtree(staged, ignore_errors=True)
    finally:
        shutil.rmtree(old, ignore_errors=True)
    return entry


def staging_folder() -> Path | None:
    """A fresh folder inside the cache for :func:`write_entry`, or None where the cache cannot be written to."""
    folder = cache_folder() / "networks" / f".new-{uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError:
        return None
    return folder
