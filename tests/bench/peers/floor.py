"""The least a network can cost on this machine: its FLOPs, and how many this CPU can do in a second.

    python floor.py NETWORK_JSON ROI

Prints one JSON document. The peak is the best of several dense products and convolutions in PyTorch, the fastest of them taken: no network runs faster than that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from cases import build

ROUNDS = 5


def best_seconds(work: Callable[[], Any]) -> float:
    """Shortest time of several; the first call, which allocates and compiles, is not counted."""
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def network_flops(definition: dict[str, Any], roi: int) -> int:
    """Floating-point operations (a multiplication and an addition are two) of one window's convolutions, counted by PyTorch without computing them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        build(definition).to("meta")(torch.zeros(1, 1, roi, roi, roi, device="meta"))
    return int(counter.get_total_flops())


def peak_gflops(kind: str) -> dict[str, float]:
    """GFLOP/s of a 2048^3 matrix product and of a 3x3x3 convolution of 32 and of 128 channels, in ``float32`` or ``bfloat16``."""
    import torch

    dtype = getattr(torch, kind)
    found: dict[str, float] = {}
    with torch.inference_mode():
        a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
        found["matmul 2048"] = 2 * 2048**3 / best_seconds(lambda: a @ b) / 1e9
        for channels, side in ((32, 64), (128, 24)):
            x = torch.randn(1, channels, side, side, side).to(dtype)
            convolution = torch.nn.Conv3d(channels, channels, 3, padding=1, bias=False).to(dtype)
            flops = 2 * channels**2 * 27 * side**3
            found[f"conv3d {channels}x{side}^3"] = flops / best_seconds(lambda x=x, convolution=convolution: convolution(x)) / 1e9
    return found


def main() -> None:
    definition, roi = json.loads(sys.argv[1]), int(sys.argv[2])
    from volseg.inference.device import cpu_computes_bf16

    kinds = ["float32", *(["bfloat16"] if cpu_computes_bf16() else [])]
    weights = sum(p.numel() for p in build(definition).parameters())
    print(json.dumps({"flops_a_window": network_flops(definition, roi), "weights": weights, "gflops": {kind: peak_gflops(kind) for kind in kinds}}))


if __name__ == "__main__":
    main()
