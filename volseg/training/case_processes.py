"""Processes of their own that make cases for the preprocessed cache."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from volseg.errors import DatasetError, VolsegError
from volseg.processors import usable_threads
from volseg.training.case_maker import Job
from volseg.training.chain import Chain

Progress = Callable[[int, int, str], None]
"""Called with the number of finished cases, the number of all, and the name of the case that was finished."""


class Teller:
    """Counts finished cases for the progress, and keeps what went wrong; called from several threads.

    Parameters
    ----------
    progress : callable or None
        Called with the number of finished cases, of all, and the name of the one that was finished.
    done, total : int
        How many there were at the beginning, and how many there will be.
    """

    def __init__(self, progress: Progress | None, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total
        self._lock = threading.Lock()
        self.problems: list[VolsegError] = []

    def finish(self, job: Job, problem: VolsegError | None = None) -> None:
        """Count a case that was made, or could not be."""
        with self._lock:
            self._done += 1
            if problem is not None:
                self.problems.append(problem)
            if self._progress is not None:
                self._progress(self._done, self._total, job.case.name)

    def raise_problems(self) -> None:
        """Raise what went wrong: at once what concerns all cases, else the first case's error with the number of the others."""
        others = [problem for problem in self.problems if not isinstance(problem, DatasetError)]
        if others:
            raise others[0]
        if self.problems:
            more = f" (and {len(self.problems) - 1} more of {self._total} cases)" if len(self.problems) > 1 else ""
            msg = f"{self.problems[0]}{more}"
            raise DatasetError(msg, [str(problem) for problem in self.problems] if more else ())


def make_elsewhere(jobs: Sequence[Job], chain: Chain, count: int, teller: Teller) -> None:
    """Make cases in ``count`` processes, each of which takes the next case when it is done with one."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stop = threading.Event()
    helpers = [Helper(chain, max(1, usable_threads() // count)) for _ in range(count)]
    threads = [threading.Thread(target=helper.work, args=(waiting, teller, stop), daemon=True) for helper in helpers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for helper in helpers:
            helper.close()


class Helper:
    """A process of its own that makes cases.

    It is started as a program, not forked: a fork inherits the locks of PyTorch's and ITK's threads, and a spawned process would run the user's script again.

    Parameters
    ----------
    chain : Chain
        What it runs.
    threads : int
        Threads it may compute with.
    """

    def __init__(self, chain: Chain, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the helper
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "volseg.training.case_maker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment)
        self._first = pickle.dumps((threads, chain))

    def work(self, waiting: queue.SimpleQueue[Job], teller: Teller, stop: threading.Event) -> None:
        """Make cases until none waits."""
        self._send(self._first)
        while not stop.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            self._send(pickle.dumps(job))
            try:
                problem = pickle.load(_pipe(self._process.stdout))
            except (EOFError, pickle.UnpicklingError):
                if not stop.is_set():
                    teller.finish(job, self._death(job))
                return
            teller.finish(job, problem)

    def close(self) -> None:
        """End the process, in the middle of a case if need be."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _send(self, content: bytes) -> None:
        # A process that is gone is noticed when its answer does not come.
        with suppress(BrokenPipeError):
            stream = _pipe(self._process.stdin)
            stream.write(content)
            stream.flush()

    def _death(self, job: Job) -> DatasetError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        why = "it was killed, most likely for want of memory: run again with fewer --workers" if status == -9 else last
        return DatasetError(f"case {job.case.name}: the process that preprocessed {job.case.images[0]} ended with status {status} ({why})")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # both pipes were asked for
    return stream
