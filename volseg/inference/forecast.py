"""What a run will take, told before it: windows, seconds, peak memory; and whether it fits into a limit.

All of it is arithmetic on shapes and on what :mod:`volseg.inference.calibration` measured; no network runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from volseg.errors import InputError
from volseg.inference.calibration import Calibration
from volseg.inference.memory import format_bytes
from volseg.inference.streaming.memory import FLOAT, engine_memory
from volseg.inference.workload import Workload, expected_seconds
from volseg.processors import usable_threads

STAGES = ("read", "preprocess", "network", "restore", "write")

HEADROOM = 1.1
"""A limit that is told in an error message should work when it is given: this much over the forecast."""


MEASURING_BYTES = 6.5
"""For each voxel of the scan, what the statistics ask for once the engine has let go of the scores, where a label reaches through all of it: the number of its connected piece
(uint32), a table for numbering (half a byte), a mask, and the mask of the largest piece. A label in a corner needs less; only noise from voxel to voxel in many labels more."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Parameters
    ----------
    windows, repeated : int
        Windows in all, and those of them that take no time.
    stages_s : mapping of str to float, or None
        Seconds per stage; None where the network's speed is not known.
    memory_bytes : mapping of str to int
        What is in memory when most is.
    batch : int
        Windows at once.
    spill : bool
        Whether the scores are kept in a temporary file, which is slower but keeps a memory limit.
    unknown : str
        Why there are no seconds.
    """

    windows: int
    repeated: int
    stages_s: Mapping[str, float] | None
    memory_bytes: Mapping[str, int]
    batch: int = 1
    spill: bool = False
    unknown: str = ""

    @property
    def seconds(self) -> float | None:
        """Of all stages, program start left out."""
        return None if self.stages_s is None else sum(self.stages_s.values())

    @property
    def peak_memory_bytes(self) -> int:
        """Resident memory of the process at its highest."""
        return sum(self.memory_bytes.values())

    def as_dict(self) -> dict[str, Any]:
        """For the JSON of a run or a dry run; where ``seconds`` is None, ``seconds_unknown`` says why."""
        return {
            "windows": self.windows,
            "repeated_windows": self.repeated,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "stages_s": None if self.stages_s is None else {stage: round(seconds, 3) for stage, seconds in self.stages_s.items()},
            "seconds_unknown": self.unknown or None,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_bytes": dict(self.memory_bytes),
            "batch": self.batch,
            "spill": self.spill,
        }


def memory_model(work: Workload, batch: int, network_bytes: int, resident: int, *, spill: bool = False) -> dict[str, int]:
    """What is in memory when most is, by part (bytes), while the engine runs.

    Parameters
    ----------
    work : Workload
        The run.
    batch : int
        Windows at once.
    network_bytes : int
        From the calibration with this batch.
    resident : int
        Of the process once the scan is read and the network loaded, before any window.
    spill : bool
        Whether the scores are kept in a file.
    """
    sizes = {"channels": work.channels, "classes": work.classes, "batch": batch, "threads": usable_threads()}
    engine = engine_memory(work.window, work.scan_shape, work.network_shape, **sizes, float_scan=work.float_scan, spill=spill)
    image = work.channels * prod(work.network_shape) * FLOAT
    parts = {"scan and programs": resident, "network input": image, "scores, windows and label": engine - image, "network": network_bytes}
    return {name: amount for name, amount in parts.items() if amount}


def measuring_memory(work: Workload, network_bytes: int, resident: int) -> dict[str, int]:
    """What is in memory, by part (bytes), while the statistics of a ragged label are taken; the network stays for the next scan.

    Parameters
    ----------
    work, network_bytes, resident
        As for :func:`memory_model`.
    """
    voxels = prod(work.scan_shape)
    label = voxels * np.min_scalar_type(work.classes - 1).itemsize
    parts = {"scan and programs": resident, "label": label, "its statistics": int(MEASURING_BYTES * voxels), "network": network_bytes}
    return {name: amount for name, amount in parts.items() if amount}


def forecast(work: Workload, calibration: Calibration | None, *, batch: int, resident: int, spill: bool = False, read_s: float | None = None, unknown: str = "") -> Forecast:
    """Foretell a run.

    Parameters
    ----------
    work : Workload
        The run.
    calibration : Calibration or None
        Of this network with this batch on this machine; without it there are no seconds, and memory lacks the network's own.
    batch : int
        Windows at once.
    resident : int
        Bytes in RAM before the run, scan included.
    spill : bool
        Whether the scores are kept in a file.
    read_s : float, optional
        Seconds the reading took, where it is over.
    unknown : str
        Why there is no calibration.
    """
    network_bytes = calibration.network_bytes if calibration else 0
    phases = memory_model(work, batch, network_bytes, resident, spill=spill), measuring_memory(work, network_bytes, resident)
    memory = max(phases, key=lambda parts: sum(parts.values()))
    if calibration is None:
        return Forecast(work.windows, work.repeated, None, memory, batch, spill, unknown)
    stages = {stage: seconds * calibration.pace.get(stage, 1.0) for stage, seconds in expected_seconds(work).items()}
    stages["network"] = (work.windows - work.repeated) * calibration.seconds_per_window
    if read_s is not None:
        stages["read"] = read_s
    return Forecast(work.windows, work.repeated, {stage: stages[stage] for stage in STAGES}, memory, batch, spill)


def fit(limit: int, batch: int, foretell: Callable[[int, bool], Forecast], name: str) -> Forecast:
    """The fastest way of running that stays within a limit: the executor's own batch, halves of it, and at last scores in a file.

    Parameters
    ----------
    limit : int
        Bytes the process may use.
    batch : int
        Most windows at once.
    foretell : callable
        (batch, spill) -> forecast.
    name : str
        The scan, for the message.

    Raises
    ------
    InputError
        When not even single windows with their scores in a file fit; with the numbers and what would help.
    """
    ways = [(batch >> halvings, False) for halvings in range(batch.bit_length())]
    for way in [*ways, (1, True)]:
        told = foretell(*way)
        if told.peak_memory_bytes <= limit:
            return told
    raise InputError(too_little(limit, told, name))


def too_little(limit: int, told: Forecast, name: str) -> str:
    """The message that refuses a run which does not fit: what it needs, for what, and what to do."""
    parts = ", ".join(f"{part} {format_bytes(amount)}" for part, amount in sorted(told.memory_bytes.items(), key=lambda item: -item[1]))
    # A tenth more, in steps the option can be given in.
    enough = -(-int(told.peak_memory_bytes * HEADROOM) // 10**8) / 10
    return (
        f"{name}: --max-memory {format_bytes(limit)} is too little: the run needs at least {format_bytes(told.peak_memory_bytes)} ({parts}); "
        f"give --max-memory {enough:.1f}G, use a bundle with coarser spacing or smaller windows, or crop the scan"
    )
