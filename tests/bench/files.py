"""Time and memory of reading and writing compressed scans: volseg with all its checks, nibabel and SimpleITK.

    python tests/bench/files.py [--slices 300] [--rounds 3] [--suffix .nii.gz|.nrrd|.mha]

A noisy synthetic CT (int16) and a label of five classes (uint8), 512x512. Each library reads and writes them in a process of its own, in turn, several rounds. Prints medians
of the seconds of the act itself (imports left out), of the processor's seconds, MB of voxels a second, and how far the act raises the process's peak of resident memory, in volumes
(a writer that stays below what reading took shows 0). volseg reads with the checksum verified, the SHA-256 taken and the values' range found; nibabel and SimpleITK do none of the
last two. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 512

MEASURE = """
import json, sys, time
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
source, target = sys.argv[1:]
"""

REPORT = """
before, began, used = peak(), time.perf_counter(), time.process_time()
{act}
print(json.dumps({{"seconds": time.perf_counter() - began, "cpu": time.process_time() - used, "extra": peak() - before, "facts": {facts}}}))
"""

VOLSEG = "import volseg, numpy as np, volseg.io.save, volseg.io.nifti, volseg.io.itk, nibabel.nifti1, nibabel.nifti2, SimpleITK"

TOOLS = {
    "volseg": (
        VOLSEG,
        ("v = volseg.load(source)", "int(v.array.sum(dtype='int64'))"),
        ("from volseg.io import save_volume; v = volseg.load(source)", "save_volume(v.array, v.grid, target)"),
    ),
    "volseg, zlib": (
        "import sys; sys.modules['isal'] = None; " + VOLSEG,
        ("v = volseg.load(source)", "int(v.array.sum(dtype='int64'))"),
        ("from volseg.io import save_volume; v = volseg.load(source)", "save_volume(v.array, v.grid, target)"),
    ),
    "nibabel": (
        "import nibabel, numpy as np",
        ("v = np.asanyarray(nibabel.load(source).dataobj)", "int(v.sum(dtype='int64'))"),
        ("v = nibabel.load(source); d = np.asanyarray(v.dataobj)", "nibabel.Nifti1Image(d, v.affine, v.header).to_filename(target)"),
    ),
    "SimpleITK": (
        "import SimpleITK as sitk",
        ("v = sitk.ReadImage(source)", "int(sitk.GetArrayViewFromImage(v).sum(dtype='int64'))"),
        ("v = sitk.ReadImage(source)", "sitk.WriteImage(v, target, True)"),
    ),
}
"""Imports; reading, and a sum that shows that all read the same values; what must be there before writing, and writing."""


def phantom(slices: int) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """A noisy cylinder of soft tissue in air, and five blobs in it whose borders are ragged as a network's."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j, -1 : 1 : slices * 1j]
    image = np.empty((SIZE, SIZE, slices), np.int16, order="F")
    label = np.zeros((SIZE, SIZE, slices), np.uint8, order="F")
    for k in range(slices):
        inside = np.hypot(x[..., 0] / 0.8, y[..., 0] / 0.6) < 1
        image[:, :, k] = np.where(inside, 40, -1000) + rng.normal(0, 12, (SIZE, SIZE))
        for value in range(1, 6):
            centre = np.cos(value * 1.2) * 0.4, np.sin(value * 1.2) * 0.3
            distance = np.sqrt((x[..., 0] - centre[0]) ** 2 + (y[..., 0] - centre[1]) ** 2 + (z[0, 0, k] / 2) ** 2)
            label[:, :, k][distance + rng.normal(0, 0.01, (SIZE, SIZE)) < 0.15] = value
    return {"CT int16": image, "label uint8": label}


def measure(imports: str, before: str, act: str, facts: str, source: Path, target: Path) -> dict[str, Any]:
    """What one process says of itself."""
    code = f"{imports}\n{MEASURE}\n{before}\n{REPORT.format(act=act, facts=facts)}"
    done = subprocess.run([sys.executable, "-c", code, str(source), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"a process ended with {done.returncode}: {done.stderr}"
        raise RuntimeError(msg)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    from volseg.geometry import Grid
    from volseg.io import save_volume

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--suffix", choices=[".nii.gz", ".nrrd", ".mha"], default=".nii.gz")
    options = parser.parse_args()
    tools = {name: tool for name, tool in TOOLS.items() if options.suffix == ".nii.gz" or name != "nibabel"}
    print(f"512x512x{options.slices} {options.suffix}, {os.cpu_count()} CPUs, median of {options.rounds} rounds (least to most)")
    differ = False
    with tempfile.TemporaryDirectory() as place:
        for name, array in phantom(options.slices).items():
            source, target = Path(place) / f"source{options.suffix}", Path(place) / f"target{options.suffix}"
            save_volume(array, Grid(array.shape, np.diag([0.8, 0.8, 1.0, 1.0])), source)  # type: ignore[arg-type]
            runs: dict[tuple[str, str], list[dict[str, Any]]] = {(act, tool): [] for act in ("read", "write") for tool in tools}
            sizes: dict[str, int] = {}
            for _ in range(options.rounds):
                for tool, (imports, reading, writing) in tools.items():
                    runs["read", tool].append(measure(imports, "", *reading, source, target))
                    runs["write", tool].append(measure(imports, *writing, "0", source, target))
                    sizes[tool] = target.stat().st_size
            print(f"{name}, {array.nbytes / 1e6:.0f} MB of voxels")
            for (act, tool), results in runs.items():
                seconds, cpu, extra = (statistics.median(run[key] for run in results) for key in ("seconds", "cpu", "extra"))
                spread = f"{min(run['seconds'] for run in results):.2f} to {max(run['seconds'] for run in results):.2f}"
                size = f", file {sizes[tool] / 1e6:.1f} MB" if act == "write" else ""
                print(
                    f"  {act:5} {tool:13} {seconds:6.2f} s ({spread}), cpu {cpu:5.2f} s, {array.nbytes / seconds / 1e6:5.0f} MB/s, memory +{extra / array.nbytes:.2f} volumes{size}"
                )
            differ |= len({run["facts"] for (act, _), results in runs.items() if act == "read" for run in results}) > 1
    if differ:
        print("the readers do not agree on the values")
        sys.exit(1)


if __name__ == "__main__":
    main()
