"""Progress over thousands of DICOM files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from volseg.cli.options import Console

LINES = 10
"""Into a pipe, progress is so many lines at most."""


@contextmanager
def counting(console: Console, description: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function to be called with (done, total): a bar on a terminal, a few lines elsewhere, None with ``-q``."""
    if console.quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield lambda done, total: click.echo(f"{description} {done}/{total}", err=True) if _is_told(done, total) else None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    with Progress(console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _is_told(done: int, total: int) -> bool:
    """Whether a tenth has just been passed, no more often than every hundred files."""
    step = max(100, -(-total // LINES))
    return done == total or done % step == 0
