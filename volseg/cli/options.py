"""What every command shares: ``-v``/``-q``, ``--json``, and one way to print lines, tables and progress.

Results go to stdout, progress and warnings to stderr. With ``--json`` stdout carries one JSON document and nothing else. On a terminal rich draws tables and progress; into a
pipe or a file they are plain lines without colour, wrapping or cursor movement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


def verbosity_options(command: Function) -> Function:
    """Add ``-v/--verbose`` and ``-q/--quiet`` (parameters ``verbose`` and ``quiet``, both bool)."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")(command)
    return click.option("-v", "--verbose", is_flag=True, help="Print more.")(command)


def json_option(command: Function) -> Function:
    """Add ``--json`` (parameter ``json_output``, bool)."""
    return click.option("--json", "json_output", is_flag=True, help="Print one JSON document on stdout and nothing else there.")(command)


class NamedPath(click.Path):
    """A path that is not empty: an unset variable of the shell (``"$SCAN"``) is not the folder one happens to be in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text; see :class:`click.Path` for the rest."""
        if value == "":
            self.fail("the path is empty (an unset variable?); write . for this folder", param, ctx)
        return super().convert(value, param, ctx)


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, and whether its cells are numbers (aligned right)."""

    heading: str
    numeric: bool = False


@dataclass(frozen=True)
class Console:
    """Where a command's words go.

    Parameters
    ----------
    verbose, quiet : bool
        From ``-v`` and ``-q``; ``-q`` wins.
    json_output : bool
        From ``--json``: lines and tables are left out, :meth:`document` prints.
    """

    verbose: bool = False
    quiet: bool = False
    json_output: bool = False

    @property
    def talks(self) -> bool:
        """Whether ordinary lines and tables are printed."""
        return not (self.quiet or self.json_output)

    def say(self, text: str) -> None:
        """Print a line on stdout, unless ``-q`` or ``--json``."""
        if self.talks:
            click.echo(text)

    def detail(self, text: str) -> None:
        """Print a line on stderr, only with ``-v``."""
        if self.verbose and not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, always."""
        click.echo(f"volseg: warning: {text}", err=True)

    def document(self, content: Mapping[str, Any]) -> None:
        """Print the JSON document on stdout, only with ``--json``."""
        if self.json_output:
            click.echo(json.dumps(content, indent=2, allow_nan=False))

    def table(self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout, unless ``-q`` or ``--json``."""
        if not self.talks:
            return
        plain = format_plain_table(title, columns, rows)
        # Rich would cut cells short on a narrow terminal; numbers that are cut are worse than lines that wrap.
        widest = max(map(len, plain.splitlines())) + len(columns) + 1
        if not sys.stdout.isatty() or widest > get_terminal_size().columns:
            click.echo(plain)
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
        for column in columns:
            table.add_column(escape(column.heading), justify="right" if column.numeric else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        RichConsole().print(table)

    def track(self, items: Sequence[Item], description: str, name: Callable[[Item], str] = str) -> Iterator[Item]:
        """Yield the items while showing progress on stderr: a bar on a terminal, else a line for each item; nothing with ``-q``."""
        if self.quiet:
            yield from items
        elif sys.stderr.isatty():
            yield from _progress_bar(items, description)
        else:
            for number, item in enumerate(items, start=1):
                click.echo(f"{description} {number}/{len(items)}: {name(item)}", err=True)
                yield item


def format_plain_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Lay a table out as plain text: a title, headings, and cells aligned with spaces."""
    table = [[column.heading for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) if column.numeric else cell.ljust(width) for cell, width, column in zip(row, widths, columns, strict=True)).rstrip() for row in table]
    return "\n".join([title, *lines, ""])


def _progress_bar(items: Sequence[Item], description: str) -> Iterator[Item]:
    from rich.console import Console as RichConsole
    from rich.progress import track

    yield from track(items, description=description, console=RichConsole(stderr=True), transient=True)
