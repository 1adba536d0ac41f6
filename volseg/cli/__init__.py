"""The command line: one click command per file, loaded only when it is called, so that ``volseg --help`` imports no torch."""

from __future__ import annotations

from volseg.cli.main import main

__all__ = ["main"]
