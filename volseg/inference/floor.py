"""How long a network's arithmetic alone must take: its floating-point operations, and how many of them this machine does in a second.

Run as a program (``python -m volseg.inference.floor``), so that whoever asks need not import torch: prints one JSON document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MATRIX = 2048
"""Edge of the square matrices multiplied: three of them in float32 are 50 MB, far beyond any cache, and their product is bound by arithmetic."""

MULTIPLICATIONS = 6
"""The fastest of them counts: others share the machine."""


def flops_per_window(bundle: Path, channels: int, roi: Sequence[int]) -> int:
    """Floating-point operations of a bundle's network on one window (a multiplication and an addition are two).

    Parameters
    ----------
    bundle : Path
        Its folder; weights are not needed.
    channels : int
        Of the image.
    roi : sequence of 3 int
        Window size (voxels).

    Notes
    -----
    Counted by ``torch.utils.flop_counter``: convolutions and matrix products; normalisation and activations are left out.
    """
    import torch
    from monai.bundle import ConfigParser
    from torch.utils.flop_counter import FlopCounterMode

    from volseg.bundle import read_bundle
    from volseg.inference.quiet import quiet_libraries

    with quiet_libraries():
        parser = ConfigParser()
        parser.read_config(str(read_bundle(bundle).inference_config))
        parser["device"] = "$torch.device('cpu')"
        network: torch.nn.Module = parser.get_parsed_content("network_def").eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(torch.zeros(1, channels, *roi))
    return int(counter.get_total_flops())


def machine_flops(precision: str, device: str = "cpu") -> float:
    """Floating-point operations a second, from the fastest of several matrix products in a precision (``fp32``, ``bf16`` or ``fp16``)."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(MULTIPLICATIONS):
        _wait(device)
        began = perf_counter()
        torch.mm(a, a, out=out)
        _wait(device)
        best = min(best, perf_counter() - began)
    return 2 * MATRIX**3 / best


def _wait(device: str) -> None:
    """CUDA computes behind the caller's back."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str]) -> None:
    """Arguments as one JSON document: ``bundle``, ``channels``, ``roi`` (null leaves the network out), ``precisions``, ``device``."""
    asked: dict[str, Any] = json.loads(arguments[0])
    told = {
        "flops_per_window": flops_per_window(Path(asked["bundle"]), asked["channels"], asked["roi"]),
        "flops_per_second": {precision: machine_flops(precision, asked["device"]) for precision in asked["precisions"]},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
