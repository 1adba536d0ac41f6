"""``volseg preprocess``: bring the cases of a dataset into the form a bundle trains on, once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volseg.cli.options import Console, json_option, verbosity_options
from volseg.errors import BundleError

if TYPE_CHECKING:
    from volseg.training.case_processes import Progress
    from volseg.training.preprocess import Preprocessed


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-b", "--bundle", required=True, metavar="BUNDLE", help="Folder or name of the bundle whose transforms are run.")
@click.option(
    "-o",
    "--output",
    "cache",
    metavar="CACHE_DIR",
    type=click.Path(path_type=Path),
    help="Folder of preprocessed cases  [default: preprocessed/ in $VOLSEG_CACHE or ~/.cache/volseg]",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes  [default: as many as processors and memory allow, once it is worth starting them]")
@json_option
@verbosity_options
def preprocess(dataset: Path, bundle: str, cache: Path | None, workers: int | None, json_output: bool, verbose: bool, quiet: bool) -> None:
    """Run the deterministic transforms of BUNDLE's training on every labelled case of DATASET, and keep the results.

    `volseg train` does the same for the cases it needs, and finds what is there; use this command to prepare a dataset ahead. Cases are compressed and read by patch, so that
    training needs no memory in proportion to the dataset. Cases that are there already (same files, transforms and versions) are kept: an interrupted run continues where it was.

    \b
    Examples:
      volseg preprocess DATASET -b bundles/ct_tumor
      volseg preprocess DATASET -b bundles/ct_tumor -o /data/cache --workers 8
    """
    console = Console(verbose, quiet, json_output)
    from volseg.bundle import find_bundle, read_bundle
    from volseg.bundle.read import read_config
    from volseg.dataset import check_cases, read_datalist
    from volseg.training.chain import read_chain
    from volseg.training.preprocess import missing_cases
    from volseg.training.preprocess import preprocess as run
    from volseg.training.sources import check_channels, in_units_of

    read = read_bundle(find_bundle(bundle))
    if read.train_config is None:
        msg = f"{read.path}: it has no configs/train.json (or .yaml), so there is nothing that its training would do to a case"
        raise BundleError(msg)
    chain = read_chain(read_config(read.train_config) | {"bundle_root": str(read.path)}, read.train_config)
    datalist = read_datalist(dataset)
    check_channels(read, datalist.cases, datalist.path)
    # What such a case's label means depends on the other cases of a training, which writes it anew.
    cases = [case for case in in_units_of(read, datalist.cases) if case.annotated is None]
    if len(cases) < len(datalist.cases):
        console.warn(f"{len(datalist.cases) - len(cases)} partly annotated cases are left to `volseg train`")
    new = missing_cases(cases, chain, read, cache)
    console.detail(f"checking {len(new)} new cases")
    check_cases(new, {*read.labels, *([] if datalist.ignore_label is None else [datalist.ignore_label])})
    with _progress(console) as progress:
        found = run(cases, chain, read, cache=cache, workers=workers, progress=progress)
    console.say(_summary(found))
    console.document(
        {
            "folder": str(found.folder),
            "cases": len(found.cases),
            "made": found.made,
            "reused": found.reused,
            "bytes": found.size_on_disk,
            "seconds": round(found.seconds, 3),
            "entries": {case.folder.name: {"name": case.name, "shape": list(case.shape), "channels": case.channels, "voxels": dict(case.counts)} for case in found.cases},
        }
    )


def _summary(found: Preprocessed) -> str:
    made = f"{found.made} made in {found.seconds:.1f} s" if found.made else "none to make"
    return f"{len(found.cases)} cases ({made}, {found.reused} were there), {found.size_on_disk / 1e6:.1f} MB in {found.folder}"


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """A bar on a terminal, else a line for each case, on stderr; nothing with ``-q``."""
    if console.quiet:
        yield lambda done, total, name: None
    elif not sys.stderr.isatty():
        yield lambda done, total, name: click.echo(f"preprocessed {done}/{total}: {name}", err=True)
    else:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task("preprocessing", total=None)
            yield lambda done, total, name: bar.update(task, completed=done, total=total, description=f"preprocessing ({name})")
