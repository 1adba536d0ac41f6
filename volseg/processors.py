"""How many processors this process may use: those it is bound to, and no more than its container's share of them."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """Count the processors this process may use.

    The affinity mask (``taskset``, Slurm) and the CPU quota of its control group (``docker run --cpus 2``, Kubernetes limits) both count. More threads than that wait for each
    other: a quota of 2 on a machine of 64 lets all 64 threads run for a thirty-second part of the time, in turns.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, ceil(quota)))


def cpu_quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors' worth of time that the control groups of this process allow it, or None where they set no limit.

    Version 2 (``cpu.max``, of the process's own group and of those above it) and version 1 (``cpu.cfs_quota_us``) of Linux's control groups; see the kernel's cgroup-v2.rst and
    sched-bwc.rst. Inside a container its own group is usually the root.

    Parameters
    ----------
    root : Path
        Where control groups are mounted.
    own : Path
        The process's groups, as ``/proc/self/cgroup`` lists them.
    """
    found = [quota for folder in _groups(root, own) for quota in (_version_2(folder), _version_1(folder)) if quota is not None]
    return min(found, default=None)


def _groups(root: Path, own: Path) -> list[Path]:
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = [root, root / "cpu"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or "cpu" in controllers.split(","):
            base = root / "cpu" if controllers else root
            parts = Path(path.strip("/")).parts
            folders += [base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _version_2(folder: Path) -> float | None:
    text = _read(folder / "cpu.max").split()
    return None if len(text) != 2 or text[0] == "max" else int(text[0]) / int(text[1])


def _version_1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
