"""Doing three things at once for several scans: the next is read and the last is written while this one is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

EXPANSION = 8
"""Bytes of voxels for each byte on disk, a high guess: deflate halves a noisy CT and quarters a bland one, and resampling or rescaling may make float32 of int16."""

SHARE = 0.25
"""Of the memory that is free, so much may go into a scan that only waits."""

MEMINFO = Path("/proc/meminfo")


def read_ahead(items: Sequence[Item], read: Callable[[Item], Result], worth: Callable[[Item], bool]) -> Iterator[Result]:
    """Yield ``read(item)`` in order; while the caller works on one, a thread reads the next. At most one waits.

    Parameters
    ----------
    items : sequence
        What to read.
    read : callable
        Reads one; what it raises is raised when that one's turn comes.
    worth : callable
        Whether an item may be read before its turn; else it is read when asked for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="volseg-read") as pool:
        waiting: Future[Result] | None = None
        for number, item in enumerate(items):
            result = read(item) if waiting is None else waiting.result()
            following = items[number + 1 : number + 2]
            waiting = pool.submit(read, following[0]) if following and worth(following[0]) else None
            yield result
            # The caller's name for it is gone by now; ours would keep a second scan alive while the next is awaited.
            del result


class Behind:
    """Tasks done one after the other in a thread, in the order they come; one at a time, and none waits.

    Parameters
    ----------
    threaded : bool
        Whether there is a thread at all; without one a task is done, and what it raises is raised, where it is given.
    """

    def __init__(self, *, threaded: bool) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="volseg-write") if threaded else None
        self._last: Future[None] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            # What is being written is finished even after Ctrl-C: all of a scan's results appear, or none.
            self._pool.shutdown(wait=True)
        if error is None:
            self._settle()

    def do(self, task: Callable[[], None]) -> None:
        """Wait for the task before, raise what it raised, and start this one."""
        if self._pool is None:
            task()
            return
        self._settle()
        self._last = self._pool.submit(task)

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()


def fits_beside(path: Path) -> bool:
    """Whether a scan is small beside the memory that is free, so that it may be read before its turn; no where the system does not say."""
    free = available_bytes()
    return free is not None and bytes_on_disk(path) * EXPANSION < free * SHARE


def bytes_on_disk(path: Path) -> int:
    """Size of a file, or of all files under a folder; what cannot be looked at counts nothing."""
    if not path.is_dir():
        return _size(path)
    return sum(_size(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def available_bytes() -> int | None:
    """Memory that can be had without swapping (Linux: ``MemAvailable``), or None where the system does not tell."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
