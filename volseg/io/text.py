"""Small files (text, JSON, pictures), written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.errors import OutputError
from volseg.io.atomic import written_beside


def check_output(path: Path) -> None:
    """Refuse an output file that cannot be written, before the work is done rather than after.

    Raises
    ------
    OutputError
        If ``path`` is a folder, or its folder can neither be written to nor made.
    """
    if path.is_dir():
        msg = f"{path}: is a folder; name a file for the output"
        raise OutputError(msg)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = "no permission to write to" if folder.is_dir() else "not a folder:"
        msg = f"{path}: cannot be written, {problem} {folder}; choose another place"
        raise OutputError(msg)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write beside ``path`` (its folder is made), then rename, so that a reader sees the old file or the whole new one.

    Raises
    ------
    OutputError
        If the place cannot be written to.
    WriteError
        If writing fails half way, e.g. on a full disk; nothing is left behind.
    """
    check_output(path)
    with written_beside(path) as partial:
        partial.write_bytes(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text; see :func:`write_bytes` for how and what is raised."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write an indented JSON document (RFC 8259: no NaN), in the way of :func:`write_bytes`."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")
