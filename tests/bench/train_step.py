"""Time of one training step of a bundle's network for each memory layout and number format, and on a CPU with freed memory kept as `volseg train` does.

    python tests/bench/train_step.py

Prints the median of several steps (forward, backward, optimiser) on random patches, with the machine and its threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from monai.networks.nets import DynUNet

from volseg.bundle import find_bundle
from volseg.inference.device import autocast, describe_device, select_device
from volseg.training.heap import freed_memory_kept


def step_seconds(network: torch.nn.Module, patch: torch.Tensor, precision: str, steps: int) -> float:
    """Median seconds of a training step after one warm-up."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    taken = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        with autocast(precision, patch.device):
            loss = network(patch).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if patch.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> None:
    """Measure every combination and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="ct_tumor")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    arguments = parser.parse_args()
    config = json.loads((Path(find_bundle(arguments.bundle)) / "configs" / "train.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in config["network_def"].items() if key != "_target_"}
    device = select_device(arguments.device)
    print(f"{describe_device(device)}, torch {torch.__version__}, 2 patches of {config['patch_size']}, median of {arguments.steps} steps")
    for precision in arguments.precisions:
        for name, layout, keeping in (
            ("contiguous", torch.contiguous_format, nullcontext),
            ("channels last", torch.channels_last_3d, nullcontext),
            *([("channels last, memory kept", torch.channels_last_3d, freed_memory_kept)] if device.type == "cpu" else []),
        ):
            torch.manual_seed(0)
            network = DynUNet(**settings).to(device).to(memory_format=layout)
            patch = torch.randn(2, settings["in_channels"], *config["patch_size"], device=device)
            with keeping():
                print(f"{precision:<6}{name:<28}{step_seconds(network, patch, precision, arguments.steps):8.3f} s")


if __name__ == "__main__":
    main()
