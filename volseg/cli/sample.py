"""``volseg sample``: a synthetic scan, or a labelled set of them, to try everything else on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from volseg.cli.options import Console, json_option, verbosity_options

MODALITIES = {"ct": "CT", "mri": "MR"}


@click.command()
@click.argument("kind", type=click.Choice(list(MODALITIES)))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Draws the anatomy; the same seed gives the same scan.")
@click.option("--oblique", type=float, default=0.0, show_default=True, metavar="DEG", help="Turn the slices out of the patient's planes by this angle.")
@click.option("--spacing", type=float, nargs=3, metavar="X Y Z", help="Voxel size in mm.")
@click.option("--size", type=int, nargs=3, metavar="I J K", help="Number of columns, rows and slices.")
@click.option("--cases", type=click.IntRange(1, 9999), metavar="N", help="Write a labelled dataset of N small scans (Decathlon layout) instead of one scan.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier sample or synthetic dataset in OUT_DIR; nothing else is ever replaced.")
@json_option
@verbosity_options
def sample(
    kind: str,
    out_dir: Path,
    seed: int,
    oblique: float,
    spacing: tuple[float, float, float] | None,
    size: tuple[int, int, int] | None,
    cases: int | None,
    overwrite: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write a synthetic scan with its ground truth.

    OUT_DIR gets the scan as a DICOM series (sample_ct_dicom/) and as NIfTI (sample_ct.nii.gz), the true labels (sample_ct_label.nii.gz) and sample.json.
    ct is a thigh with a soft-tissue mass, mri a T1-weighted head with hippocampi and a lesion. Nothing in it comes from a patient, and every file says so.

    \b
    Examples:
      volseg sample ct sample_ct
      volseg sample mri sample_mri --seed 3 --oblique 20
      volseg sample ct sample_small --size 96 80 30 --spacing 2 2 5
      volseg sample ct synthetic_set --cases 8
    """
    from volseg.errors import OutputError
    from volseg.synthetic.sample import is_ours

    console = Console(verbose, quiet, json_output)
    out_dir = out_dir.expanduser()
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (overwrite and is_ours(out_dir)):
        remedy = "it is no earlier sample, so --overwrite does not apply: name a new folder" if overwrite else "name a new one (or give --overwrite to replace an earlier sample)"
        msg = f"{out_dir}: the folder is not empty; {remedy}"
        raise OutputError(msg)
    grid: dict[str, Any] = {"oblique": oblique} | ({"shape": size} if size else {}) | ({"spacing": spacing} if spacing else {})
    if cases is None:
        _write_scan(console, kind, out_dir, seed, grid, overwrite)
    else:
        _write_cases(console, kind, out_dir, seed, cases, grid, overwrite)


def _write_scan(console: Console, kind: str, out_dir: Path, seed: int, grid: dict[str, Any], overwrite: bool) -> None:
    from volseg.synthetic import make_scan, write_sample

    scan = make_scan(MODALITIES[kind], seed, **grid)
    console.detail(f"drawn: {scan.grid}, {scan.facts}")
    document = write_sample(scan, out_dir, replace=overwrite)
    paths = {name: str(out_dir / file) for name, file in document["files"].items()}
    # The default bundle is for CT.
    command = f"volseg infer {shlex.quote(paths['dicom'])} -o {shlex.quote(str(out_dir.with_name(out_dir.name + '_out')))}" if kind == "ct" else None
    console.document(document | {"files": paths, "next": command})
    console.say(f"Synthetic {scan.modality} (no patient), seed {seed}: {scan.grid}")
    console.say(f"  scan    {paths['image']}\n  DICOM   {paths['dicom']}\n  truth   {paths['label']}")
    for number, label in document["labels"].items():
        console.say(f"  label {number} {label['name']}: {label['volume_ml']:.1f} ml")
    if command:
        console.say(f"Try next:\n  {command}")


def _write_cases(console: Console, kind: str, out_dir: Path, seed: int, cases: int, grid: dict[str, Any], overwrite: bool) -> None:
    from volseg.synthetic import write_dataset

    write_dataset(out_dir, cases, seed, modality=MODALITIES[kind], replace=overwrite, track=lambda names: console.track(names, "drawing"), **grid)
    command = f"volseg train bundles/ct_tumor --data {shlex.quote(str(out_dir))}" if kind == "ct" else None
    console.document({"synthetic": True, "modality": MODALITIES[kind], "seed": seed, "cases": cases, "dataset": str(out_dir / "dataset.json"), "next": command})
    console.say(f"{cases} synthetic {MODALITIES[kind]} scans (no patients), seeds {seed}-{seed + cases - 1}: {out_dir / 'dataset.json'}")
    if command:
        console.say(f"Try next:\n  {command}")
