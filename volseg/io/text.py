"""Small text and JSON files, written completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.io.atomic import written_beside


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text beside the target, then rename.

    Raises
    ------
    OutputError
        If the place cannot be written to.
    WriteError
        If writing fails half way (disk full).
    """
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write an indented JSON document (RFC 8259: no NaN), in the way of :func:`write_text`."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")
