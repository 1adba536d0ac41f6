"""Medians, spread and tables of measured runs, and what the machine is."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

GIB = 2**30

PACKAGES = ("volseg", "torch", "monai", "openvino", "numpy", "nibabel")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, load and versions; JSON-ready."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())}
    flags = set(values.get("flags", "").split())
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": values.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "amx_tile"}),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def spread(summary: dict[str, float], unit: float = 1.0, digits: int = 1) -> str:
    """``"12.3 (12.0-13.1)"``, or one number where there was one round."""
    low, middle, high = (f"{summary[name] / unit:.{digits}f}" for name in ("lowest", "median", "highest"))
    return middle if low == high else f"{middle} ({low}-{high})"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |", *("| " + " | ".join(row) + " |" for row in rows)])


def say(text: str) -> None:
    """Progress, so that a long comparison is not silent."""
    print(text, file=sys.stderr, flush=True)
