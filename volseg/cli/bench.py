"""``volseg bench``: what a bundle costs on this machine, engine by engine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from volseg.cli.options import Column, Console, json_option, verbosity_options
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.inference.benchmark import Measured

DEFAULT_SIZE = (256, 256, 128)
"""A quarter of a chest CT: minutes on two cores."""

ROWS = (
    ("start", "start and exit"),
    ("read", "read"),
    ("load", "load the network"),
    ("preprocess", "resample"),
    ("forecast", "forecast"),
    ("network", "network"),
    ("restore", "restore"),
    ("write", "write"),
    ("process_s", "whole process"),
    ("cpu_s", "CPU time"),
)


@click.command()
@click.argument("bundle")
@click.argument("scan", required=False, type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Engine to measure, as in `volseg infer` (repeatable)  [default: every one there is]")
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Processes for each engine; a first one that has to convert or measure the network is not counted."
)
@click.option("--size", type=click.IntRange(8), nargs=3, metavar="I J K", default=DEFAULT_SIZE, show_default=True, help="Voxels of the synthetic CT that stands in for SCAN.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]), default="auto", show_default=True, help="Number format of the network.")
@json_option
@verbosity_options
def bench(
    bundle: str,
    scan: Path | None,
    engines: tuple[str, ...],
    rounds: int,
    size: tuple[int, int, int],
    device: str,
    precision: str,
    json_output: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Time a BUNDLE on a SCAN with each engine: reading, resampling, network, restoring, writing, the whole process, and its peak memory.

    BUNDLE is a folder or a name, SCAN a NIfTI, NRRD or MHA file or a DICOM series; without it a synthetic CT is drawn. Each round is one `volseg infer` process, file to file,
    without picture and report. The floor is the time that the network's arithmetic takes at the speed of a large matrix product on this machine. Nothing is left behind but a
    converted network and its calibration in the cache.

    \b
    Examples:
      volseg bench ct_tumor
      volseg bench ct_tumor scan.nii.gz --rounds 5
      volseg bench bundles/ct_tumor DICOM_FOLDER --engine torch --engine openvino --json
      volseg bench ct_tumor --size 128 128 64 --rounds 1
    """
    from volseg.bundle import find_bundle, read_bundle
    from volseg.inference.benchmark import available_engines, benchmark, machine, measure_floor

    console = Console(verbose, quiet, json_output)
    found = read_bundle(find_bundle(bundle))
    if scan is not None:
        _check(scan)
    chosen = list(dict.fromkeys(engines)) or available_engines(device)
    options = ["--device", device, "--precision", precision]
    with tempfile.TemporaryDirectory(prefix="volseg-bench-") as name:
        folder = Path(name)
        given = _synthetic(folder / "sample", size) if scan is None else scan.absolute()
        results: list[Measured] = []
        for engine in console.track(chosen, "measuring"):
            results += benchmark(found.path, given, [engine], folder, rounds=rounds, options=options)
    floor = measure_floor(found.path, results, found.input_channels, device)
    document = _document(found.name, "synthetic CT {}x{}x{}".format(*size) if scan is None else str(scan), machine(), results, floor)
    console.document(document)
    if not any(one.rounds for one in results):
        raise InputError(results[0].problem)
    _show(console, document, results)
    return 0


def _check(scan: Path) -> None:
    from volseg.io import discover

    if not scan.exists():
        msg = f"{scan}: there is no such file or folder; give a scan, or leave it out for a synthetic one"
        raise InputError(msg)
    found = discover(scan)
    if len(found) != 1:
        msg = f"{scan}: holds {len(found)} scans, of which one is to be timed; give e.g. {found[0]}"
        raise InputError(msg)


def _synthetic(folder: Path, size: Sequence[int]) -> Path:
    """A phantom, drawn by a process of its own: a child's peak memory starts from its parent's, which must therefore stay small."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "volseg", "sample", "ct", str(folder), "--size", *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(done.stderr.strip().removeprefix("volseg: error: ") or "the synthetic CT could not be drawn")
    return folder / "sample_ct.nii.gz"


def _document(bundle: str, scan: str, machine: dict[str, Any], results: Sequence[Measured], floor: dict[str, Any] | None) -> dict[str, Any]:
    from volseg.inference.benchmark import floor_seconds

    engines = []
    for one in results:
        entry = one.as_dict()
        if one.rounds and floor:
            seconds, network = floor_seconds(one, floor), entry["stages_s"]["network"]["median"]
            entry["floor_s"] = seconds
            entry["floor_share_of_network"] = seconds / network if seconds is not None and network else None
        engines.append(entry)
    return {"bundle": bundle, "scan": scan, "machine": machine, "floor": floor, "engines": engines}


def _show(console: Console, document: dict[str, Any], results: Sequence[Measured]) -> None:
    machine = document["machine"]
    ran = [one for one in results if one.rounds]
    columns = [Column("seconds: median (least-most)"), *(Column(one.engine, numeric=True) for one in ran)]
    rows = [[label, *(_spread(one.spread(value)) for one in ran)] for value, label in ROWS]
    rows.append(["peak memory, MB", *(_spread(one.spread("peak_memory_bytes"), 1e6, 0) for one in ran)])
    entries = [entry for entry in document["engines"] if "problem" not in entry]
    rows.append(["foretold s, read to write", *(_foretold(one, "seconds", 1.0, 2) for one in ran)])
    rows.append(["foretold memory, MB", *(_foretold(one, "peak_memory_bytes", 1e6, 0) for one in ran)])
    rows.append(["windows (repeats)", *(f"{entry['details'].get('windows')} ({entry['details'].get('repeated_windows') or 0})" for entry in entries)])
    rows.append(["precision", *(str(entry["details"].get("precision")) for entry in entries)])
    rows.append(["first run, not counted", *("-" if one.first is None else f"{one.first.process_s:.2f}" for one in ran)])
    rows.append(["floor of the network", *(_floor(entry) for entry in entries)])
    memory = machine["memory_bytes"]
    console.say(
        f"{machine['processor']}, {machine['processors']} processors, {memory / 2**30:.0f} GiB" if memory else f"{machine['processor']}, {machine['processors']} processors"
    )
    console.say(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    floor = document["floor"]
    if floor:
        speeds = ", ".join(f"{speed / 1e9:.0f} GFLOP/s {precision}" for precision, speed in floor["flops_per_second"].items())
        console.say(f"network: {floor['flops_per_window'] / 1e9:.2f} GFLOP a window; this machine: {speeds or 'not measured'}")
    rounds = len(ran[0].rounds)
    console.table(f"{document['bundle']} on {document['scan']}, {rounds} round{'s' if rounds > 1 else ''}", columns, rows)
    for one in results:
        if not one.rounds:
            console.warn(f"engine {one.engine} was not measured: {one.problem}")


def _spread(numbers: tuple[float, float, float], unit: float = 1.0, digits: int = 2) -> str:
    median, least, most = (f"{number / unit:.{digits}f}" for number in numbers)
    return median if least == most else f"{median} ({least}-{most})"


def _foretold(one: Measured, value: str, unit: float, digits: int) -> str:
    """What the last round had been told before it ran."""
    told = (one.rounds[-1].forecast or {}).get(value)
    return "-" if told is None else f"{told / unit:.{digits}f}"


def _floor(entry: dict[str, Any]) -> str:
    seconds, share = entry.get("floor_s"), entry.get("floor_share_of_network")
    return "-" if seconds is None or share is None else f"{seconds:.2f} ({share:.0%} of it)"
