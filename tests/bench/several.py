"""What one call with many scans saves over many calls with one scan each.

    python tests/bench/several.py [--scans 20] [--size 64] [--bundle ct_tumor] [-- more options of volseg infer]

Writes noisy CTs of size^3 voxels at 3 mm, then runs whole processes of ``volseg infer``: one with all scans, and one for each scan, report and preview on. Prints seconds, and the
processor's seconds, which say more on a machine that others use too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def run(scans: Sequence[Path], out: Path, bundle: str, more: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and processor's seconds of one process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", "from volseg.cli.main import main; main()", "infer", *map(str, scans), "-o", str(out), "-b", bundle, "-q", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    from volseg.geometry import Grid
    from volseg.io import save_volume

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--bundle", default="ct_tumor")
    parser.add_argument("more", nargs="*")
    options = parser.parse_args()
    rng, shape = np.random.default_rng(0), (options.size,) * 3
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        grid = Grid(shape, np.diag([3.0, 3.0, 3.0, 1.0]))
        scans = [save_volume(rng.normal(0, 200, shape).astype(np.int16), grid, folder / f"scan{number:02}.nii.gz") for number in range(options.scans)]
        run(scans[:1], folder / "warm", options.bundle, options.more)
        together = run(scans, folder / "together", options.bundle, options.more)
        single = [run([scan], folder / f"single{number}", options.bundle, options.more) for number, scan in enumerate(scans)]
    seconds, cpu = (sum(part) for part in zip(*single, strict=True))
    print(f"{options.scans} scans of {options.size}^3 voxels, {os.cpu_count()} CPUs")
    print(f"one call    {together[0]:7.1f} s, cpu {together[1]:7.1f} s")
    print(f"{options.scans:3} calls   {seconds:7.1f} s, cpu {cpu:7.1f} s, {seconds / together[0]:.1f} times as long")
    sys.exit(together[0] >= seconds)


if __name__ == "__main__":
    main()
