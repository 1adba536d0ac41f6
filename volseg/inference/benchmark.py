"""The same scan through every engine, each run a process of its own, file to file: stages, whole process, memory, and the floor set by arithmetic."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from volseg.errors import InputError
from volseg.inference.calibration import machine_facts
from volseg.inference.device import may_have_cuda
from volseg.inference.executors.choice import ENGINES
from volseg.inference.executors.engines import converted_engine

STAGES = ("start", "read", "load", "preprocess", "forecast", "network", "restore", "write")
"""``start`` is what no stage holds: the interpreter, imports, and the end of the process; ``load`` is waiting for the network once the scan is read."""

FLOOR_PROGRAM = "volseg.inference.floor"


@dataclass(frozen=True)
class Round:
    """One process.

    Parameters
    ----------
    stages_s : mapping of str to float
        Seconds of each of :data:`STAGES`.
    process_s, cpu_s : float
        Wall clock from start to exit; processor time, user and system, of all threads.
    peak_memory_bytes : int
        Highest resident memory.
    engine : mapping
        What the run's record says of its engine.
    forecast : mapping or None
        What was foretold.
    """

    stages_s: Mapping[str, float]
    process_s: float
    cpu_s: float
    peak_memory_bytes: int
    engine: Mapping[str, Any]
    forecast: Mapping[str, Any] | None


@dataclass(frozen=True)
class Measured:
    """All rounds of one engine.

    Parameters
    ----------
    engine : str
        As asked for.
    rounds : tuple of Round
        Those that count.
    first : Round or None
        A run before them, which found nothing in the cache: it had to convert the network, or to measure it for its forecast.
    problem : str
        Why there are no rounds.
    """

    engine: str
    rounds: tuple[Round, ...] = ()
    first: Round | None = None
    problem: str = ""

    def spread(self, value: str) -> tuple[float, float, float]:
        """Median, least and greatest of a stage, or of ``process_s``, ``cpu_s`` or ``peak_memory_bytes``."""
        values = [one.stages_s.get(value, 0.0) if value in STAGES else float(getattr(one, value)) for one in self.rounds]
        return statistics.median(values), min(values), max(values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if not self.rounds:
            return {"engine": self.engine, "problem": self.problem}
        numbers = {name: dict(zip(("median", "min", "max"), self.spread(name), strict=True)) for name in ("process_s", "cpu_s", "peak_memory_bytes")}
        stages = {stage: dict(zip(("median", "min", "max"), self.spread(stage), strict=True)) for stage in STAGES}
        last = self.rounds[-1]
        first = None if self.first is None else self.first.process_s
        return {"engine": self.engine, "rounds": len(self.rounds), "stages_s": stages, **numbers, "first_process_s": first, "details": dict(last.engine), "forecast": last.forecast}


def available_engines(device: str) -> list[str]:
    """Engines worth comparing on a device, each under the name ``volseg infer --engine`` takes, without importing torch; ``monai`` is the bundle's own pipeline.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.
    """
    if device == "auto":
        device = "cuda" if may_have_cuda() else "cpu"
    converted = [name for name in ENGINES if name not in ("auto", "torch", "monai") and not converted_engine(name).why_not(device)]
    return [*converted, "torch", "monai"]


def measure_engine(bundle: Path, scan: Path, engine: str, folder: Path, *, rounds: int, options: Sequence[str] = ()) -> Measured:
    """Run one engine several times.

    Parameters
    ----------
    bundle, scan : Path
        What to run, on what.
    engine : str
        As ``volseg infer --engine`` takes it.
    folder : Path
        Results go here; overwritten by the next.
    rounds : int
        Runs that count.
    options : sequence of str
        Further options of ``volseg infer``.
    """
    done: list[Round] = []
    first: Round | None = None
    while len(done) < rounds:
        try:
            one = _run(bundle, scan, engine, folder, options)
        except InputError as error:
            return Measured(engine, problem=str(error))
        # It may have converted the network, or measured its speed for the forecast, which the later ones find in the cache.
        if one.engine.get("cached_network") is False and first is None:
            first = one
        else:
            done.append(one)
    return Measured(engine, tuple(done), first)


def _run(bundle: Path, scan: Path, engine: str, folder: Path, options: Sequence[str]) -> Round:
    command = [sys.executable, "-m", "volseg", "infer", str(scan), "-b", str(bundle), "-o", str(folder / "results"), "--engine", engine]
    command += ["--no-preview", "--no-report", "--json", "-q", *options]
    printed, said = folder / "stdout", folder / "stderr"
    with printed.open("wb") as stdout, said.open("wb") as stderr:
        began = perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        msg = (lines[-1] if lines else f"exit status {process.returncode}").removeprefix("volseg: error: ")
        raise InputError(msg)
    record = json.loads(printed.read_text(encoding="utf-8"))["results"][0]
    stages = {stage: float(s) for stage, s in record["timings_s"].items() if stage in STAGES}
    stages["start"] = max(0.0, seconds - sum(stages.values()))
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Round(stages, seconds, usage.ru_utime + usage.ru_stime, peak, record["engine"], record.get("forecast"))


def measure_floor(bundle: Path, results: Sequence[Measured], channels: int, device: str) -> dict[str, Any] | None:
    """What the network's arithmetic must take, from a process of its own; None where nothing ran or the network cannot be counted.

    Returns
    -------
    dict or None
        ``flops_per_window``, and ``flops_per_second`` by precision.
    """
    ran = [one.rounds[-1].engine for one in results if one.rounds]
    if not ran:
        return None
    precisions = sorted({str(engine["precision"]) for engine in ran} & {"fp32", "bf16", "fp16"})
    asked = {"bundle": str(bundle), "channels": channels, "roi": list(ran[0]["patch"]), "precisions": precisions, "device": "cpu" if device == "auto" else device}
    done = subprocess.run([sys.executable, "-m", FLOOR_PROGRAM, json.dumps(asked)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def floor_seconds(one: Measured, floor: Mapping[str, Any]) -> float | None:
    """Seconds that the arithmetic of the windows takes at the machine's own speed; None where it was not measured."""
    engine = one.rounds[-1].engine
    speed = floor["flops_per_second"].get(engine["precision"])
    if not speed:
        return None
    windows = int(engine["windows"]) - int(engine.get("repeated_windows") or 0)
    return windows * float(floor["flops_per_window"]) / float(speed)


def machine() -> dict[str, Any]:
    """Processor, memory, system and versions, JSON-ready."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {**machine_facts(), "memory_bytes": memory, "platform": platform.platform(), "python": platform.python_version()}


def benchmark(bundle: Path, scan: Path, engines: Sequence[str], folder: Path, *, rounds: int, options: Sequence[str] = ()) -> Iterator[Measured]:
    """Measure one engine after another; see :func:`measure_engine`."""
    for engine in engines:
        yield measure_engine(bundle, scan, engine, folder, rounds=rounds, options=options)
