"""File to file, in one run on one machine: volseg, the plain MONAI pipeline of the same bundle, and nnU-Net v2 with the same architecture.

    python tests/bench/infer_peers.py --quick                                       (a minute; every part of the comparison on a toy)
    python tests/bench/infer_peers.py --sizes 100,300 --classes 3,25 --rounds 3 --nnunet-python ENV/bin/python -o bench

Every run is a whole process (interpreter, imports, read, segment, write one .nii.gz label) on a synthetic CT with random weights: a U-Net of 32 to 320
features in 5 stages, windows of 96^3 at 2 mm, overlap 0.5, gaussian blending, no test-time augmentation. The peers run in turn within a round, so that a
change of the machine's speed meets all of them. Measured are wall seconds, CPU seconds, and the peak memory of the process tree (RSS, in which pages shared
by two processes count twice; in PSS they count once). Beside each case stands the floor: FLOPs of its windows over the most GFLOP/s that this CPU reached in
a matrix product or convolution in the same run, and the bytes that have to be read and written.

volseg runs with a converted network in its cache (a user's second scan) and, as "-first", with an empty cache; without its picture and HTML report, as no
peer makes them ("-full" makes them). nnU-Net interpolates the image with splines of order 3 where the bundle does linearly: that is its default; its weights
are others and its labels are not compared. nnU-Net comes from --nnunet-python, or is installed once into the folder given by --make-nnunet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from cases import NETWORKS, SIZES, Network, Size, constant_share, definition_of, write_phantom
from commands import PEERS, Case, Tools, make_nnunet, nnunet_json, why_not, write_case
from report import GIB, describe_machine, markdown, say, spread
from rounds import run_case

DEFAULT_PEERS = ["volseg-auto", "volseg-torch", "volseg-openvino", "volseg-openvino-first", "monai", "nnunet"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,300", help=f"of {', '.join(SIZES)} [100,300]")
    parser.add_argument("--classes", default="3,25", help="output channels, background among them [3,25]")
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto", help="of volseg; auto is what a user gets [auto]")
    parser.add_argument("--max-memory", metavar="4G", help="limit given to volseg")
    parser.add_argument("--nnunet-python", type=Path, metavar="FILE", help="a Python that has nnunetv2")
    parser.add_argument("--make-nnunet", type=Path, metavar="FOLDER", help="make a virtual environment with nnunetv2 there, or use it again")
    parser.add_argument("--quick", action="store_true", help="a toy scan and network, one round: does everything run?")
    parser.add_argument("-o", "--output", type=Path, help="folder for results.json and table.md; they are printed in any case")
    parser.add_argument("--work", type=Path, help="folder for scans and bundles, kept and used again [a temporary one]")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.network, options.rounds = "quick", "quick", 1
    unknown = [name for name in options.peers.split(",") if name not in PEERS] + [name for name in options.sizes.split(",") if name not in SIZES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    nnunet = make_nnunet(options.make_nnunet) if options.make_nnunet else options.nnunet_python
    tools = Tools(nnunet, options.precision, options.max_memory)
    with tempfile.TemporaryDirectory(prefix="volseg-bench-") as place:
        document = compare(options, tools, options.work or Path(place))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(document, indent=2))
        (options.output / "table.md").write_text(render(document))
    print(render(document))
    sys.exit(1 if any("error" in peer for case in document["cases"] for peer in case["peers"].values()) else 0)


def compare(options: argparse.Namespace, tools: Tools, work: Path) -> dict[str, Any]:
    """Run everything; JSON-ready."""
    peers, skipped = [], {}
    for name in options.peers.split(","):
        reason = why_not(name, tools)
        if reason:
            skipped[name] = reason
        else:
            peers.append(name)
    network = NETWORKS[options.network]
    machine = describe_machine()
    if tools.nnunet:
        machine["nnunet_versions"] = nnunet_json(tools.nnunet, "versions")
    document: dict[str, Any] = {"machine": machine, "network": asdict(network), "rounds": options.rounds, "skipped": skipped, "floor": {}, "cases": []}
    for name in options.sizes.split(","):
        size, scan = SIZES[name], work / f"ct-{name}_0000.nii.gz"
        work.mkdir(parents=True, exist_ok=True)
        image = write_phantom(scan, size)
        windows, constant = constant_share(image, size, network)
        del image
        for classes in map(int, options.classes.split(",")):
            say(f"{name}, {classes} classes: {windows} windows, {constant:.0%} of them constant")
            floor = measure_floor(network, classes)
            case = write_case(work / f"{name}-{options.network}-{classes}", scan, size, network, classes, tools)
            results = run_case(case, peers, tools, options.rounds)
            document["cases"].append({"size": name, **describe_case(case, windows, constant, floor, results), "peers": results})
    return document


def describe_case(case: Case, windows: int, constant: float, floor: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Shape, windows and floor of a case."""
    fastest = {kind: max(rates.values()) for kind, rates in floor["gflops"].items()}
    flops = floor["flops_a_window"] * windows
    written = [Path(case.folder / f"out-{name}").glob("*.nii.gz") for name in results if name.startswith("volseg")]
    label_bytes = next((file.stat().st_size for files in written for file in files), None)
    return {
        "shape": case.size.shape,
        "spacing_mm": case.size.spacing,
        "classes": case.classes,
        "windows": windows,
        "constant_windows": constant,
        "floor": {
            **floor,
            "flops": flops,
            "seconds": {kind: flops / rate / 1e9 for kind, rate in fastest.items()},
            "bytes_read": case.scan.stat().st_size,
            "bytes_written": label_bytes,
        },
    }


def measure_floor(network: Network, classes: int) -> dict[str, Any]:
    """FLOPs of a window and GFLOP/s of this machine, from a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve().parent / "peers" / "floor.py"), json.dumps(definition_of(network, classes)), str(network.roi)]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return result


def render(document: dict[str, Any]) -> str:
    """The whole comparison in markdown."""
    machine = document["machine"]
    lines = [
        f"{machine['cpu']}, {machine['usable_cores']} cores ({', '.join(machine['instructions'])}), {machine['memory_bytes'] / GIB:.0f} GiB",
        f"load average before: {machine['load_average'][0]:.1f} (above 0, somebody else was computing: trust the CPU seconds)",
        ", ".join(f"{name} {version}" for name, version in {**machine["versions"], **machine.get("nnunet_versions", {})}.items() if version),
        f"{document['rounds']} rounds: median (lowest-highest)",
        *(f"not run: {name}: {reason}" for name, reason in document["skipped"].items()),
    ]
    for case in document["cases"]:
        lines += ["", *render_case(case)]
    return "\n".join(lines) + "\n"


def render_case(case: dict[str, Any]) -> list[str]:
    """One case: what it is, its floor, and a row a peer."""
    floor, size = case["floor"], Size(tuple(case["shape"]), tuple(case["spacing_mm"]))
    seconds = ", ".join(f"{value:.1f} s in {kind} at {max(floor['gflops'][kind].values()):.0f} GFLOP/s" for kind, value in floor["seconds"].items())
    written = f"{floor['bytes_written'] / 1e6:.1f} MB" if floor["bytes_written"] else "?"
    peers = case["peers"]
    others = [result["wall_s"]["median"] for name, result in peers.items() if not name.startswith("volseg") and "wall_s" in result]
    rows = []
    for name, result in peers.items():
        if "wall_s" not in result:
            rows.append([name, f"failed: {result['error'].splitlines()[-1][:120]}", *[""] * 6])
            continue
        same = result.get("agreement")
        faster = f"{min(others) / result['wall_s']['median']:.1f}x" if others and name.startswith("volseg") else ""
        of_floor = f"{min(floor['seconds'].values()) / result['wall_s']['median']:.0%}"
        rows.append(
            [
                *(f"{name}{ran_as(result)}", spread(result["wall_s"]), faster, spread(result["cpu_s"]), spread(result["peak_rss"], GIB, 2), spread(result["peak_pss"], GIB, 2)),
                *(f"{same['equal']:.6f} ({same['lowest_dice']:.4f})" if same else "", of_floor),
            ]
        )
    headings = ["peer", "wall s", "faster than the better peer", "CPU s", "peak RSS GiB", "peak PSS GiB", "voxels equal to MONAI's (lowest Dice)", "floor / wall"]
    return [
        f"### {'x'.join(map(str, size.shape))} at {'x'.join(f'{s:.3g}' for s in size.spacing)} mm, {case['classes']} classes",
        f"{case['windows']} windows, {case['constant_windows']:.0%} of them constant. "
        f"Floor: {floor['flops'] / 1e12:.3g} TFLOP = {seconds}; {floor['bytes_read'] / 1e6:.1f} MB read, {written} written.",
        "",
        markdown(headings, rows),
    ]


def ran_as(result: dict[str, Any]) -> str:
    """Engine and precision that a volseg run chose, as its own report says, in brackets."""
    engine = result.get("report", {}).get("engine")
    return f" ({engine['engine']} {engine['precision']})" if engine else ""


if __name__ == "__main__":
    main()
