"""Run a command as a whole process tree and measure it: wall seconds, CPU seconds, peak memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
"""How often resident memory is read (/proc/PID/statm, microseconds)."""

POLLS_A_PSS = 10
"""Proportional memory is read in every tenth poll: the kernel walks the page tables for it."""

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What one run of a command cost.

    Attributes
    ----------
    wall_s : float
        From before the start to after the end of the first process.
    cpu_s : float
        User and system seconds of it and of every descendant that was waited for (``wait4``).
    peak_rss : int
        Largest sum of resident bytes over the tree, as polled; pages that two processes share count twice.
    peak_pss : int
        The same with shared pages divided among their users (``smaps_rollup``), polled less often.
    processes : int
        Most processes seen at once.
    load : float
        One-minute load average when it began: above 0 somebody else was computing.
    """

    wall_s: float
    cpu_s: float
    peak_rss: int
    peak_pss: int
    processes: int
    load: float


class CommandError(RuntimeError):
    """A measured command failed."""


def run_measured(command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end and measure its process tree.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    log : Path
        File for what it prints.
    environment : mapping, optional
        Variables on top of this process's own.

    Raises
    ------
    CommandError
        When it exits with anything but 0; the message ends with the last lines it printed.
    """
    load, peaks = os.getloadavg()[0], _Peaks()
    stop = threading.Event()
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(list(command), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
        watcher = threading.Thread(target=peaks.watch, args=(process.pid, stop), daemon=True)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        watcher.join()
    if process.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        msg = f"{' '.join(command)} ended with {process.returncode}:\n{last}"
        raise CommandError(msg)
    return Usage(wall, used.ru_utime + used.ru_stime, peaks.rss, peaks.pss, peaks.processes, load)


class _Peaks:
    """Largest values seen while watching a tree of processes."""

    def __init__(self) -> None:
        self.rss = self.pss = self.processes = 0

    def watch(self, root: int, stop: threading.Event) -> None:
        polls = 0
        while not stop.is_set():
            tree = process_tree(root)
            self.rss = max(self.rss, sum(resident_bytes(pid) for pid in tree))
            self.processes = max(self.processes, len(tree))
            if polls % POLLS_A_PSS == 0:
                self.pss = max(self.pss, sum(proportional_bytes(pid) for pid in tree))
            polls += 1
            stop.wait(POLL_S)


def process_tree(root: int) -> list[int]:
    """A process and all its living descendants, by the kernel's lists of children."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for task in _listed(Path(f"/proc/{pid}/task")):
            queue.extend(map(int, _read(task / "children").split()))
    return found


def resident_bytes(pid: int) -> int:
    """Resident set of a process; 0 once it has ended."""
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * PAGE if fields else 0


def proportional_bytes(pid: int) -> int:
    """Resident set with shared pages divided among their users; 0 once the process has ended."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # The process ended between two looks.
        return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
