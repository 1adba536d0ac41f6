"""How volseg's time and memory grow, whole processes, on one machine.

    python tests/bench/infer_scale.py --quick                    (a minute; every part on toys)
    python tests/bench/infer_scale.py --parts time,classes,length,calls --max-memory 4G -o scale

- time: seconds against voxels at three lengths of one 512x512 scan, with a straight line through them (results.json, time.png).
- classes: peak memory at 3, 25 and 100 classes of one scan.
- length: peak memory at 100, 300 and 1000 slices and 25 classes.
- calls: 20 scans in one call against 20 calls.

The phantoms and networks are those of infer_peers.py; time uses the full network, the others a small one, since the network is not what they ask about.
Windows come in whole numbers, so that time against voxels is a staircase around the line: the windows of each run are in the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from cases import NETWORKS, Size, constant_share, write_phantom
from commands import ENGINES, Case, Tools, prepare, warm_up, why_not, write_case
from measure import run_measured
from report import GIB, describe_machine, markdown, say, spread, summarise
from rounds import run_case

SPACING = (0.8, 0.8, 1.0)
CALLS = 20

COSTS = ("wall_s", "cpu_s", "peak_rss", "peak_pss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--network", choices=sorted(NETWORKS), help="for every part [full for time, small for the others]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--max-memory", metavar="4G", help="limit given to volseg")
    parser.add_argument("--quick", action="store_true", help="toy scans and network, one round, 2 calls: does everything run?")
    parser.add_argument("-o", "--output", type=Path, help="folder for results.json, table.md and time.png")
    options = parser.parse_args()
    if set(options.parts.split(",")) - set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")
    if options.quick:
        options.network, options.rounds = "quick", 1
    tools = Tools(None, options.precision, options.max_memory)
    options.peer = f"volseg-{options.engine}"
    reason = why_not(options.peer, tools)
    if reason:
        parser.error(reason)
    with tempfile.TemporaryDirectory(prefix="volseg-bench-") as place:
        document = {"machine": describe_machine(), "peer": options.peer, "max_memory": options.max_memory, "rounds": options.rounds}
        document |= {part: PARTS[part](options, tools, Path(place)) for part in options.parts.split(",")}
    text = render(document)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(document, indent=2))
        (options.output / "table.md").write_text(text)
        if "time" in document:
            plot(document["time"], options.output / "time.png")
    print(text)


def measure_time(options: argparse.Namespace, tools: Tools, work: Path) -> dict[str, Any]:
    """Seconds at three lengths, and the line through them."""
    lengths = (20, 40, 60) if options.quick else (100, 200, 300)
    rows = [measure(options, tools, work, length, 3, options.network or "full") for length in lengths]
    voxels = [row["voxels"] for row in rows]
    return {"rows": rows, **{key: fit(voxels, [row[key]["median"] for row in rows]) for key in ("wall_s", "cpu_s")}}


def measure_classes(options: argparse.Namespace, tools: Tools, work: Path) -> dict[str, Any]:
    """Peak memory against the number of classes."""
    length = 40 if options.quick else 300
    return {"rows": [measure(options, tools, work, length, classes, options.network or "small") for classes in (3, 25, 100)]}


def measure_length(options: argparse.Namespace, tools: Tools, work: Path) -> dict[str, Any]:
    """Peak memory against the number of slices."""
    lengths = (20, 40, 60) if options.quick else (100, 300, 1000)
    return {"rows": [measure(options, tools, work, length, 25, options.network or "small") for length in lengths]}


def measure(options: argparse.Namespace, tools: Tools, work: Path, length: int, classes: int, network: str) -> dict[str, Any]:
    """One scan of some slices with a number of classes; its folder is emptied afterwards.

    Raises
    ------
    RuntimeError
        When volseg fails.
    """
    size = Size((64, 64, length), (6.0, 6.0, 5.0)) if options.quick else Size((512, 512, length), SPACING)
    folder = work / f"{length}-{classes}"
    folder.mkdir()
    scan = folder / "ct_0000.nii.gz"
    windows, constant = constant_share(write_phantom(scan, size), size, NETWORKS[network])
    say(f"{length} slices, {classes} classes, {windows} windows")
    case = write_case(folder, scan, size, NETWORKS[network], classes, tools)
    result = run_case(case, [options.peer], tools, options.rounds)[options.peer]
    shutil.rmtree(folder)
    if "error" in result:
        raise RuntimeError(result["error"])
    return {"slices": length, "voxels": size.voxels, "classes": classes, "network": asdict(NETWORKS[network]), "windows": windows, "constant_windows": constant, **result}


def fit(voxels: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """Straight line by least squares: seconds at no voxels, seconds a million voxels, and the share of the variance it explains (R squared)."""
    x, y = np.asarray(voxels, float) / 1e6, np.asarray(seconds, float)
    slope, start = np.polyfit(x, y, 1)
    left, whole = float(((y - slope * x - start) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return {"start_s": float(start), "s_a_million_voxels": float(slope), "r_squared": 1 - left / whole if whole else 1.0}


def measure_calls(options: argparse.Namespace, tools: Tools, work: Path) -> dict[str, Any]:
    """Several scans in one call, and in a call each."""
    number = 2 if options.quick else CALLS
    size = Size((48, 48, 24), (6.0, 6.0, 5.0)) if options.quick else Size((256, 256, 60), (1.6, 1.6, 3.0))
    folder = work / "calls"
    folder.mkdir()
    scans = [folder / f"ct{n:02d}_0000.nii.gz" for n in range(number)]
    write_phantom(scans[0], size)
    for scan in scans[1:]:
        shutil.copy(scans[0], scan)
    case = write_case(folder / "case", scans[0], size, NETWORKS[options.network or "small"], 3, tools)
    warm_up(options.peer, case, tools)
    rows = []
    for _ in range(options.rounds):
        rows.append({"one call": together(options.peer, case, tools, scans), "a call each": one_by_one(options.peer, case, tools, scans)})
        say(f"{number} scans: {rows[-1]}")
    shutil.rmtree(folder)
    return {"scans": number, "shape": size.shape, **{way: {key: summarise([row[way][key] for row in rows]) for key in COSTS} for way in rows[0]}}


def together(peer: str, case: Case, tools: Tools, scans: list[Path]) -> dict[str, float]:
    """All scans in one call."""
    run = prepare(peer, case, tools)
    place = run.command.index(str(case.scan))
    command = [*run.command[:place], *map(str, scans), *run.command[place + 1 :]]
    usage = run_measured(command, log=case.folder / "together.log", environment=run.environment)
    found = len(list(run.label.parent.glob("*.nii.gz")))
    if found != len(scans):
        msg = f"{len(scans)} scans in one call left {found} labels"
        raise RuntimeError(msg)
    return {key: getattr(usage, key) for key in COSTS}


def one_by_one(peer: str, case: Case, tools: Tools, scans: list[Path]) -> dict[str, float]:
    """A call for each scan: sums of seconds, highest peak."""
    usages = []
    for scan in scans:
        run = prepare(peer, replace(case, scan=scan), tools)
        usages.append(run_measured(run.command, log=case.folder / "single.log", environment=run.environment))
    return {key: (sum if key.endswith("_s") else max)(getattr(usage, key) for usage in usages) for key in COSTS}


PARTS: dict[str, Callable[[argparse.Namespace, Tools, Path], dict[str, Any]]] = {
    "time": measure_time,
    "classes": measure_classes,
    "length": measure_length,
    "calls": measure_calls,
}


def plot(found: dict[str, Any], path: Path) -> None:
    """Seconds against voxels, each round a point, with the line through the medians."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for key, name in (("wall_s", "wall"), ("cpu_s", "CPU")):
        points = [(row["voxels"] / 1e6, one[key]) for row in found["rows"] for one in row["rounds"]]
        dots = axes.scatter(*zip(*points, strict=True), label=f"{name}: {found[key]['s_a_million_voxels']:.2f} s a million voxels, R² {found[key]['r_squared']:.3f}")
        ends = np.array([0, max(x for x, _ in points)])
        axes.plot(ends, found[key]["start_s"] + found[key]["s_a_million_voxels"] * ends, color=dots.get_facecolor()[0], linewidth=1)
    axes.set(xlabel="million voxels of the scan", ylabel="seconds, file to file", ylim=(0, None), xlim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def render(document: dict[str, Any]) -> str:
    """Everything in markdown."""
    machine = document["machine"]
    limit = f", --max-memory {document['max_memory']}" if document["max_memory"] else ""
    lines = [f"{document['peer']}{limit}; {machine['cpu']}, {machine['usable_cores']} cores; load average before {machine['load_average'][0]:.1f}; {document['rounds']} rounds"]
    for part in ("time", "classes", "length"):
        if part in document:
            rows = [
                [
                    str(row["slices"]),
                    f"{row['voxels'] / 1e6:.1f}",
                    str(row["classes"]),
                    str(row["windows"]),
                    spread(row["wall_s"]),
                    spread(row["cpu_s"]),
                    spread(row["peak_rss"], GIB, 2),
                ]
                for row in document[part]["rows"]
            ]
            lines += ["", f"### {part}", markdown(["slices", "million voxels", "classes", "windows", "wall s", "CPU s", "peak RSS GiB"], rows)]
    if "time" in document:
        for key in ("wall_s", "cpu_s"):
            line = document["time"][key]
            lines.append(f"{key}: {line['start_s']:.1f} s + {line['s_a_million_voxels']:.3f} s a million voxels, R squared {line['r_squared']:.4f}")
    if "calls" in document:
        calls = document["calls"]
        units = ((1.0, 1), (1.0, 1), (GIB, 2), (GIB, 2))
        rows = [[way, *(spread(calls[way][key], *unit) for key, unit in zip(COSTS, units, strict=True))] for way in ("one call", "a call each")]
        lines += ["", f"### {calls['scans']} scans", markdown(["way", "wall s", "CPU s", "peak RSS GiB", "peak PSS GiB"], rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
