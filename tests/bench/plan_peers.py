"""A dataset as nnU-Net plans it and as `volseg plan` does, for a GPU and for a CPU, side by side, with the reason for each number.

    python tests/bench/plan_peers.py DATASET --nnunet PYTHON [--steps 3]

PYTHON is an interpreter that has nnunetv2 (its own environment, say): nnU-Net fingerprints and plans a copy of the dataset (links) in a temporary folder. Without it, the columns
of volseg are printed alone. With --steps the network planned for a CPU is trained for a few steps here, and time and memory are put beside the model's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from nnunet_raw import NAME, environment, write_raw

from volseg.dataset import read_datalist
from volseg.planning import Plan, make_plan, take_fingerprint
from volseg.planning.bundle.training import train_config
from volseg.planning.reasons import explain
from volseg.planning.run import make_budget
from volseg.provenance import peak_memory_bytes

PROGRAM = """
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
if __name__ == "__main__":
    extract_fingerprints([1], num_processes=2, check_dataset_integrity=False)
    plan_experiments([1])
"""

ROWS = (
    "spacing (mm)",
    "median scan (voxels)",
    "patch (voxels)",
    "strides",
    "kernels",
    "channels of the stages",
    "batch",
    "deep supervision",
    "optimiser",
    "steps an epoch",
    "epochs",
)


def nnunet_plan(dataset: Path, python: str, work: Path) -> dict[str, Any]:
    """nnU-Net's own 3d_fullres configuration of a dataset, with its axes put into the order x, y, z."""
    write_raw(read_datalist(dataset), work)
    (work / "plan.py").write_text(PROGRAM)
    done = subprocess.run([python, str(work / "plan.py")], env=environment(work), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    plans = json.loads((work / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    full, network = plans["configurations"]["3d_fullres"], plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    back = plans["transpose_backward"]

    def turned(values: list[float]) -> list[float]:
        """From nnU-Net's transposed z, y, x to x, y, z."""
        return [values[axis] for axis in back][::-1]

    return {
        "spacing (mm)": " x ".join(f"{value:.4g}" for value in turned(full["spacing"])),
        "median scan (voxels)": " x ".join(f"{value:g}" for value in turned(full["median_image_size_in_voxels"])),
        "patch (voxels)": " x ".join(map(str, turned(full["patch_size"]))),
        "strides": ", ".join("".join(map(str, turned(stride))) for stride in network["strides"]),
        "kernels": ", ".join("".join(map(str, turned(kernel))) for kernel in network["kernel_sizes"]),
        "channels of the stages": ", ".join(map(str, network["features_per_stage"])),
        "batch": str(full["batch_size"]),
        "deep supervision": f"{network['n_stages'] - 3} beside the output (and one of weight 0)",
        "optimiser": "SGD 0.01, momentum 0.99",
        "steps an epoch": "250",
        "epochs": "1000",
        "normalisation": ", ".join(full["normalization_schemes"]),
        "low resolution": "yes" if "3d_lowres" in plans["configurations"] else "no",
    }


def measure(plan: Plan, steps: int) -> tuple[float, float]:
    """Median seconds of a training step of a plan (the first left out), and peak memory in GB."""
    import torch
    from monai.bundle import ConfigParser

    config = train_config(plan)
    parser = ConfigParser({key: config[key] for key in ("imports", "network_def", "network", "optimizer", "deep_supervision_loss", "loss", "spacing", "patch_size")})
    parser["network"] = "@network_def"
    network, optimiser, loss = (parser.get_parsed_content(name) for name in ("network", "optimizer", "loss"))
    network.to(memory_format=torch.channels_last_3d)
    image = torch.randn(plan.batch_size, len(plan.channels), *plan.patch)
    label = torch.randint(0, plan.classes, (plan.batch_size, 1, *plan.patch)).float()
    taken = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimiser.zero_grad()
        loss(network(image), label).backward()
        optimiser.step()
        taken.append(time.perf_counter() - began)
    return sorted(taken[1:])[steps // 2], (peak_memory_bytes() or 0) / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=0)
    arguments = parser.parse_args()
    fingerprint = take_fingerprint(arguments.dataset)
    plans = {device: make_plan(fingerprint, make_budget(memory=None, device=device, preset="default", gflops=None)) for device in ("cuda", "cpu")}
    chosen = {device: {choice.what: choice for choice in explain(plan)} for device, plan in plans.items()}
    peer: dict[str, Any] = {}
    if arguments.nnunet:
        with tempfile.TemporaryDirectory() as work:
            peer = nnunet_plan(arguments.dataset, arguments.nnunet, Path(work))
    print(f"{fingerprint.dataset}: {len(fingerprint.cases)} cases\n")
    print("| what | nnU-Net | volseg, GPU of 8 GB | volseg, CPU | why on a CPU |\n| --- | --- | --- | --- | --- |")
    intensities = [what for what in chosen["cpu"] if what.startswith("intensity")]
    for what in (*ROWS, *intensities):
        theirs = peer.get("normalisation" if what in intensities else what, "-")
        print(f"| {what} | {theirs} | {chosen['cuda'][what].value} | {chosen['cpu'][what].value} | {chosen['cpu'][what].why} |")
    coarse = "no" if plans["cpu"].spacing == plans["cpu"].target.spacing else "the spacing is coarser instead"
    print(f"| low-resolution stage | {peer.get('low resolution', '-')} | {'recommended' if plans['cuda'].needs_low_resolution else 'no'} | {coarse} | |")
    if arguments.steps:
        seconds, memory = measure(plans["cpu"], arguments.steps)
        print(f"\nstep on this CPU: {seconds:.2f} s (model {plans['cpu'].step_seconds:.2f} s), peak {memory:.2f} GB (model {plans['cpu'].memory_bytes / 1e9:.2f} GB)")


if __name__ == "__main__":
    sys.exit(main())
