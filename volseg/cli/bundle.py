"""``volseg bundle``: list, describe and check MONAI bundles."""

from __future__ import annotations

from typing import Any

import click

from volseg.cli.options import Column, Console, json_option, verbosity_options
from volseg.errors import BundleError

SHORT_SHA = 16
"""Digits of a SHA-256 shown on the terminal; JSON has all 64."""

LIST_EXAMPLES = """\b
Examples:
  volseg bundle list
  volseg bundle list --json
"""

INFO_EXAMPLES = """\b
Examples:
  volseg bundle info ct_tumor
  volseg bundle info bundles/ct_tumor --json
"""

CHECK_EXAMPLES = """\b
Examples:
  volseg bundle check ct_tumor
  volseg bundle check bundles/ct_tumor --fast
  volseg bundle check ct_tumor --json
"""


@click.group()
def bundle() -> None:
    """List, describe and check MONAI bundles.

    BUNDLE is a folder, or a name found in $VOLSEG_BUNDLES, ./bundles, or among the bundles that volseg brings.

    \b
    Examples:
      volseg bundle list
      volseg bundle info ct_tumor
      volseg bundle check ct_tumor --fast
    """


@bundle.command("list", epilog=LIST_EXAMPLES)
@json_option
@verbosity_options
def list_(json_output: bool, verbose: bool, quiet: bool) -> None:
    """List the bundles that can be named, with version, place and description."""
    from volseg.bundle import bundle_folders, list_bundles, read_bundle

    console = Console(verbose, quiet, json_output)
    entries: list[dict[str, Any]] = []
    for path in list_bundles():
        try:
            found = read_bundle(path)
        except BundleError as error:
            console.warn(str(error))
            entries.append({"name": path.name, "version": None, "path": str(path), "description": None, "error": str(error)})
        else:
            entries.append({"name": found.name, "version": found.version, "path": str(path), "description": found.metadata.get("description"), "error": None})
    console.table(
        "Bundles",
        [Column("name"), Column("version"), Column("where"), Column("description")],
        [[entry["name"], entry["version"] or "unreadable", entry["path"], entry["description"] or ""] for entry in entries],
    )
    if not entries:
        console.say(f"No bundles in {', '.join(map(str, bundle_folders()))}.")
    console.document({"bundles": entries, "searched": [str(folder) for folder in bundle_folders()]})


@bundle.command(epilog=INFO_EXAMPLES)
@click.argument("name", metavar="BUNDLE")
@json_option
@verbosity_options
def info(name: str, json_output: bool, verbose: bool, quiet: bool) -> None:
    """Describe a bundle: labels, channels, spacing, weights, metrics.

    Values that the config computes by an expression are shown as -.
    """
    from volseg.bundle import describe, read_bundle

    console = Console(verbose, quiet, json_output)
    facts = describe(read_bundle(name))
    rows = [[key.replace("_", " "), _text(key, value)] for key, value in facts.items()]
    console.table(f"{facts['name']} {facts['version']}", [Column("what"), Column("value")], rows)
    console.document(facts)


@bundle.command(epilog=CHECK_EXAMPLES)
@click.argument("name", metavar="BUNDLE")
@click.option("--fast", is_flag=True, help="Leave out what runs the network: shapes, export, training and inference on a phantom.")
@json_option
@verbosity_options
def check(name: str, fast: bool, json_output: bool, verbose: bool, quiet: bool) -> None:
    """Hold a bundle against MONAI's specification, the Model Zoo's checks and MONAI Label, offline.

    A check passes, warns, fails, or is skipped. Exit status 0 when none fails, 2 when one does. Nothing is written into the bundle.
    A bundle is a program: checking one runs its code.
    """
    from volseg.bundle import find_bundle
    from volseg.conformance import Status, run_checks

    console = Console(verbose, quiet, json_output)
    path = find_bundle(name)
    results = list(run_checks(path, fast=fast, progress=lambda checks: console.track(checks, "Checking", lambda one: f"{one.identifier} ({one.title})")))
    rows = [[result.status.value, result.identifier, result.title, f"{result.seconds:.1f}", result.detail] for result in results]
    console.table(f"Checks of {path}", [Column("result"), Column("check"), Column("what must hold"), Column("s", True), Column("found")], rows)
    counts = {status.value: sum(result.status is status for result in results) for status in Status}
    console.say(", ".join(f"{count} {status}" for status, count in counts.items()))
    failed = [result.identifier for result in results if result.status is Status.FAIL]
    checks = [{"id": r.identifier, "title": r.title, "status": r.status.value, "detail": r.detail, "seconds": r.seconds} for r in results]
    console.document({"bundle": str(path), "ok": not failed, "fast": fast, "counts": counts, "checks": checks})
    if failed:
        msg = f"{path}: {len(failed)} of {len(results)} checks failed: {', '.join(failed)}; see the details above"
        raise BundleError(msg)


def _text(key: str, value: Any) -> str:
    """A fact as one cell of a table."""
    if value is None or value in ({}, []):
        return "-"
    if key == "weights":
        return f"{value['path']}, {value['bytes'] / 2**20:.1f} MiB, SHA-256 {value['sha256'][:SHORT_SHA]}..."
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value)) if all(isinstance(entry, (int, float)) for entry in value) else ", ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
