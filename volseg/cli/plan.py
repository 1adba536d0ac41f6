"""``volseg plan``: a dataset measured, and a bundle planned for it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volseg.cli.options import Column, Console, json_option, verbosity_options

if TYPE_CHECKING:
    from volseg.planning import Plan
    from volseg.planning.reasons import Choice
    from volseg.report.dataset import Example

REPORT = Path("docs", "fingerprint.html")

WARNINGS_SHOWN = 12
"""Warnings on the terminal; all of them are in docs/plan.md."""


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="BUNDLE_DIR", type=click.Path(path_type=Path), help="Folder of the bundle; its name becomes the bundle's.")
@click.option("--memory", default="8G", show_default=True, metavar="SIZE", help="Memory a training may take: of the GPU, or RAM on a CPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where it will be trained; auto: what this machine has.")
@click.option("--preset", default="default", show_default=True, metavar="NAME", help="default, fast, fullres or lowres.")
@click.option("--gflops", type=float, help="Speed of training on a CPU (GFLOP/s)  [default: 45 for each processor of this machine]")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that read cases  [default: one for each processor, 8 at most]")
@click.option("--dry-run", is_flag=True, help="Check, measure and plan, but write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle in BUNDLE_DIR, its weights too.")
@json_option
@verbosity_options
def plan(
    dataset: Path,
    output: Path | None,
    memory: str,
    device: str,
    preset: str,
    gflops: float | None,
    workers: int | None,
    dry_run: bool,
    overwrite: bool,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Check and measure DATASET, choose a network and a training for it, and write a complete MONAI bundle.

    DATASET is a folder with a dataset.json (Decathlon or nnU-Net v2), or a JSON datalist. Everything that is wrong with it is reported at once. What was measured, and every
    chosen number with its reason, are in the bundle's docs: plan.md, fingerprint.json and fingerprint.html (which shows slices of three of your scans). The rules are those of
    nnU-Net but for what plan.md says; on a CPU the network is smaller and the voxels may be larger, so that a training gets somewhere in minutes.

    default plans at the data's own resolution for a GPU; for a CPU it is coarser where a patch would see less than a quarter of a scan or be shorter than one and a half times the
    largest structure. fullres is never coarser; lowres is coarser on a GPU too; fast is a small network on coarse voxels.

    \b
    Examples:
      volseg plan DATASET -o bundles/liver
      volseg plan DATASET --dry-run -v
      volseg plan DATASET -o bundles/liver --device cuda --memory 24G --overwrite
      volseg plan DATASET -o bundles/liver_fast --preset fast
    """
    from volseg.inference.memory import parse_bytes
    from volseg.planning import prepare, write_bundle
    from volseg.planning.reasons import explain
    from volseg.planning.run import check_output
    from volseg.processors import usable_threads

    console = Console(verbose, quiet, json_output)
    if output is None and not dry_run:
        msg = "no folder given for the bundle: use -o bundles/NAME, or --dry-run to see the plan only"
        raise click.UsageError(msg)
    if output is not None:
        check_output(output, overwrite=overwrite or dry_run)
    amount = parse_bytes(memory, "--memory")
    processes = workers or min(usable_threads(), 8)
    made = prepare(dataset, memory=amount, device=device, preset=preset, gflops=gflops, workers=processes, track=lambda names: console.track(names, "reading"))
    choices = explain(made)
    for warning in made.warnings[:WARNINGS_SHOWN]:
        console.warn(warning)
    if len(made.warnings) > WARNINGS_SHOWN:
        console.warn(f"and {len(made.warnings) - WARNINGS_SHOWN} more, in docs/plan.md")
    _show(console, made, choices)
    written = None
    if output is not None and not dry_run:
        written = write_bundle(made, output, overwrite=overwrite)
        _write_report(written, dataset, made, choices)
        console.say(f"bundle written to {output}; docs/plan.md has the reasons, {REPORT.as_posix()} the data with pictures of three scans")
        console.say(f"next: {shlex.join(['volseg', 'train', str(output), '--data', str(dataset), '--fold', '0'])}")
    console.document({"bundle": None if written is None else str(written), **made.as_dict(), "choices": [vars(choice) for choice in choices]})


def _show(console: Console, made: Plan, choices: tuple[Choice, ...]) -> None:
    columns = [Column("what"), Column("value"), *([Column("why")] if console.verbose else [])]
    rows = [[choice.what, choice.value, *([choice.why] if console.verbose else [])] for choice in choices]
    title = f"{made.fingerprint.dataset}: {len(made.fingerprint.cases)} cases, planned for {made.budget.device} ({made.budget.preset})"
    console.table(title, columns, rows)
    if made.budget.device == "cpu":
        console.say(f"a training step takes about {made.step_seconds:.2f} s and the training {made.memory_bytes / 1e9:.1f} GB (modelled)")


def _write_report(folder: Path, dataset: Path, made: Plan, choices: tuple[Choice, ...]) -> None:
    from volseg.report.dataset import write_dataset_report

    fingerprint = made.fingerprint
    facts = [("Dataset", fingerprint.dataset), ("Cases", str(len(fingerprint.cases))), ("Channels", ", ".join(channel.name for channel in made.channels))]
    planned = f"{made.budget.device}, {made.budget.memory_bytes / 1e9:.3g} GB, preset {made.budget.preset}"
    write_dataset_report(
        folder / REPORT,
        fingerprint.as_dict(),
        title=folder.name,
        facts=[*facts, ("Planned for", planned)],
        choices=[(choice.what, choice.value, choice.why, choice.nnunet) for choice in choices],
        warnings=made.warnings,
        examples=_examples(dataset, made),
    )


def _examples(dataset: Path, made: Plan) -> list[Example]:
    """The cases with the least, the median and the most labelled volume."""
    from volseg.dataset import read_datalist
    from volseg.io import load, load_label
    from volseg.io.modality import expected_modality
    from volseg.report.dataset import Example

    cases = read_datalist(dataset).cases
    volumes = [sum(facts.volume_ml for facts in case.labels.values()) for case in made.fingerprint.cases]
    order = sorted((number for number, volume in enumerate(volumes) if volume), key=lambda number: volumes[number])
    chosen = {order[0]: "least labelled volume", order[-1]: "most labelled volume", order[len(order) // 2]: "median labelled volume"}
    examples = []
    for number in dict.fromkeys([order[0], order[len(order) // 2], order[-1]]):
        volume = load(cases[number].images[0], modality=expected_modality(next(iter(cases[number].channels), None)))
        label = load_label(cases[number].label, scan=volume if volume.source.kind == "dicom" else None, rois=cases[number].rois)
        examples.append(Example(volume, label.array, f"{chosen[number]}, {volumes[number]:.3g} ml"))
    return examples
