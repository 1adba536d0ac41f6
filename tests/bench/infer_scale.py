"""How volseg's time and memory grow, whole processes, on one machine.

    python tests/bench/infer_scale.py --quick                    (a minute; every part on toys)
    python tests/bench/infer_scale.py -o scale                   (all parts, some ten minutes on two cores)
    python tests/bench/infer_scale.py --part length --max-memory 3G
    python tests/bench/infer_scale.py --part time --network full

- time: seconds against voxels at three lengths of one 512x512 scan with 3 classes, and a straight line through them.
- classes: peak memory at 3, 25 and 100 classes of 512x512x300.
- length: peak memory at 100, 300 and 1000 slices of 512x512 and 25 classes, each run under --max-memory.
- calls: 20 scans in one call against 20 calls.

With -o, FOLDER gets results.json, table.md, and for the parts that ran time.png and memory.png. The exit status is 1 where a limit was not kept.

The phantoms and networks are those of infer_peers.py. The small network is the default, since the network is not what is asked about; random weights make the classes as ragged as
they come, so that restoring is measured at its worst. Windows come in whole numbers: time against voxels is a staircase around the line, and each run's windows are in the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from cases import NETWORKS, Network, Size, constant_share, write_phantom
from commands import ENGINES, Case, Tools, prepare, warm_up, why_not, write_case
from measure import run_measured
from report import describe_machine, say, summarise
from rounds import run_case
from scale_report import plot_memory, plot_time, render

from volseg.errors import InputError
from volseg.inference.memory import parse_bytes

SPACING = (0.8, 0.8, 1.0)
CALLS = 20

ROUNDS = {"time": 3}
"""Of a part, where ``--rounds`` is not given; the others ask about memory, which hardly varies, or take long, and get one."""

COSTS = ("wall_s", "cpu_s", "peak_rss", "peak_pss")


@dataclass
class Bench:
    """What the parts share: options, and scans and bundles that are written once.

    Attributes
    ----------
    peer : str
        Which volseg runs, by its name among the peers.
    tools : Tools
        Its options.
    network : Network
        Of every bundle.
    limit : str
        Memory limit of the part ``length``, as the command line takes it.
    rounds : int or None
        For every part; None takes :data:`ROUNDS`.
    quick : bool
        Toys.
    work : Path
        Everything is written there.
    """

    peer: str
    tools: Tools
    network: Network
    limit: str
    rounds: int | None
    quick: bool
    work: Path
    cases: dict[int, Case] = field(default_factory=dict)
    scans: dict[int, tuple[Path, int, float]] = field(default_factory=dict)

    def size(self, length: int) -> Size:
        """Of a scan of some slices."""
        return Size((64, 64, length), (6.0, 6.0, 5.0)) if self.quick else Size((512, 512, length), SPACING)

    def scan(self, length: int) -> tuple[Path, int, float]:
        """A scan of some slices, its windows, and the share of them that is constant."""
        if length not in self.scans:
            say(f"drawing {length} slices")
            path, size = self.work / f"ct{length}_0000.nii.gz", self.size(length)
            self.scans[length] = path, *constant_share(write_phantom(path, size), size, self.network)
        return self.scans[length]

    def case(self, classes: int, length: int) -> Case:
        """A scan and a bundle whose converted network lies in its cache."""
        scan, size = self.scan(length)[0], self.size(length)
        if classes not in self.cases:
            say(f"making a bundle of {classes} classes")
            self.cases[classes] = write_case(self.work / f"classes{classes}", scan, size, self.network, classes, self.tools)
            warm_up(self.peer, self.cases[classes], self.tools)
        return replace(self.cases[classes], scan=scan, size=size)

    def measure(self, part: str, length: int, classes: int, *, limit: str | None = None) -> dict[str, Any]:
        """Run volseg on a scan of some slices with a number of classes.

        Raises
        ------
        RuntimeError
            When it fails.
        """
        case = self.case(classes, length)
        _, windows, constant = self.scan(length)
        say(f"{part}: {length} slices, {classes} classes, {windows} windows, {constant:.0%} of them constant")
        result = run_case(case, [self.peer], replace(self.tools, max_memory=limit), self.rounds or ROUNDS.get(part, 1), warm=True)[self.peer]
        if "error" in result:
            raise RuntimeError(result["error"])
        return {"slices": length, "voxels": case.size.voxels, "classes": classes, "windows": windows, "constant_windows": constant, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="run this part only (repeatable) [all]")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="small", help="full takes about an hour on two cores [small]")
    parser.add_argument("--rounds", type=int, help="of every part [3 for time, 1 for the others]")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--max-memory", metavar="4G", default="4G", help="limit that the part `length` has to keep [4G]")
    parser.add_argument("--quick", action="store_true", help="toy scans and network, one round, 2 calls: does everything run?")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="folder for results.json, table.md, time.png and memory.png")
    options = parser.parse_args()
    tools, peer = Tools(None, options.precision), f"volseg-{options.engine}"
    reason = why_not(peer, tools)
    if reason:
        parser.error(reason)
    try:
        parse_bytes(options.max_memory)
    except InputError as error:
        parser.error(str(error))
    name, rounds = ("quick", options.rounds or 1) if options.quick else (options.network, options.rounds)
    with tempfile.TemporaryDirectory(prefix="volseg-bench-") as place:
        bench = Bench(peer, tools, NETWORKS[name], options.max_memory, rounds, options.quick, Path(place))
        document = {"machine": describe_machine(), "peer": peer, "network": {"name": name, **asdict(bench.network)}, "max_memory": options.max_memory}
        for part in options.part or PARTS:
            document[part] = PARTS[part](bench)
            write(document, options.output)
    print(render(document))
    sys.exit(1 if any(not row["kept"] for row in document.get("length", {"rows": []})["rows"]) else 0)


def write(document: dict[str, Any], folder: Path | None) -> None:
    """What is known so far; after every part, so that a long run that is stopped leaves what it found."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document, indent=2))
    (folder / "table.md").write_text(render(document))
    if "time" in document:
        plot_time(document["time"], folder / "time.png")
    if "classes" in document or "length" in document:
        plot_memory(document, folder / "memory.png")


def measure_time(bench: Bench) -> dict[str, Any]:
    """Seconds at three lengths, and the line through them."""
    lengths = (20, 40, 60) if bench.quick else (100, 200, 300)
    rows = [bench.measure("time", length, 3) for length in lengths]
    voxels = [row["voxels"] for row in rows]
    return {"rows": rows, **{key: fit(voxels, [row[key]["median"] for row in rows]) for key in ("wall_s", "cpu_s")}}


def measure_classes(bench: Bench) -> dict[str, Any]:
    """Peak memory against the number of classes."""
    return {"rows": [bench.measure("classes", 40 if bench.quick else 300, classes) for classes in (3, 25, 100)]}


def measure_length(bench: Bench) -> dict[str, Any]:
    """Peak memory against the number of slices, and whether the limit was kept."""
    lengths = (20, 40, 60) if bench.quick else (100, 300, 1000)
    rows = [bench.measure("length", length, 25, limit=bench.limit) for length in lengths]
    return {"rows": [{**row, "kept": row["peak_rss"]["highest"] <= parse_bytes(bench.limit)} for row in rows]}


def fit(voxels: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """Straight line by least squares: seconds at no voxels, seconds a million voxels, and the share of the variance it explains (R squared)."""
    x, y = np.asarray(voxels, float) / 1e6, np.asarray(seconds, float)
    slope, start = np.polyfit(x, y, 1)
    left, whole = float(((y - slope * x - start) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return {"start_s": float(start), "s_a_million_voxels": float(slope), "r_squared": 1 - left / whole if whole else 1.0}


def measure_calls(bench: Bench) -> dict[str, Any]:
    """Several scans in one call, and in a call each."""
    number = 2 if bench.quick else CALLS
    size = Size((48, 48, 24), (6.0, 6.0, 5.0)) if bench.quick else Size((256, 256, 60), (1.6, 1.6, 3.0))
    folder = bench.work / "calls"
    folder.mkdir()
    scans = [folder / f"ct{n:02d}_0000.nii.gz" for n in range(number)]
    write_phantom(scans[0], size)
    for scan in scans[1:]:
        shutil.copy(scans[0], scan)
    case = write_case(folder / "case", scans[0], size, bench.network, 3, bench.tools)
    warm_up(bench.peer, case, bench.tools)
    rows = []
    for _ in range(bench.rounds or ROUNDS.get("calls", 1)):
        rows.append({"one call": together(bench.peer, case, bench.tools, scans), "a call each": one_by_one(bench.peer, case, bench.tools, scans)})
        say(f"calls: {number} scans: {rows[-1]}")
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


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "time": measure_time,
    "classes": measure_classes,
    "length": measure_length,
    "calls": measure_calls,
}


if __name__ == "__main__":
    main()
