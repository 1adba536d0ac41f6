"""How fast and how large a network is on this machine: measured once with two batches of noise, kept on disk beside the converted networks, sharpened by every run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from volseg.errors import VolsegError
from volseg.inference.executors import Executor
from volseg.inference.executors.compiled import cache_folder
from volseg.inference.memory import PeakMeter
from volseg.io.text import write_json
from volseg.processors import usable_threads
from volseg.provenance import software_versions

LAYOUT = 2
"""Raised whenever a field of the stored record changes its meaning."""

MACHINE_PACKAGES = ("volseg", "numpy", "torch", "monai", "openvino")
"""Another version of one of these may run at another speed."""

ENOUGH_WINDOWS = 8
"""A run of fewer windows says little about the speed of one, and is over before a calibration would have paid."""


@dataclass(frozen=True)
class Calibration:
    """What was measured of one network on one machine.

    Parameters
    ----------
    seconds_per_window : float
        Network and blending.
    network_bytes : int
        Memory for one batch over that of the loaded program: weights in the engine's own layout, activations, work space.
    pace : mapping of str to float
        Stage (``read``, ``preprocess``, ``restore``, ``write``) -> seconds of the last run over those that its shape made expect
        (:func:`~volseg.inference.workload.expected_seconds`): what this machine, and how ragged this network's labels are, make of it. Stages not run yet are absent.
    """

    seconds_per_window: float
    network_bytes: int
    pace: Mapping[str, float] = field(default_factory=dict)

    def after_run(self, windows: int, timings_s: Mapping[str, float], expected_s: Mapping[str, float]) -> Calibration:
        """What a finished run teaches.

        Parameters
        ----------
        windows : int
            Windows the network was run on.
        timings_s : mapping of str to float
            Seconds per stage.
        expected_s : mapping of str to float
            What the scan's shape made expect of the stages around the network.
        """
        measured = {stage: timings_s[stage] / seconds for stage, seconds in expected_s.items() if stage in timings_s and seconds > 0}
        speed = timings_s["network"] / windows if windows >= ENOUGH_WINDOWS and "network" in timings_s else self.seconds_per_window
        return replace(self, seconds_per_window=speed, pace={**self.pace, **measured})


def calibrate(executor: Executor, shape: tuple[int, int, int, int]) -> Calibration:
    """Run two batches of noise: the first one warms up (and compiles), the second one is timed; memory is that of both.

    Parameters
    ----------
    executor : Executor
        The network.
    shape : tuple of 4 int
        Channels and size of a window.
    """
    windows = np.random.default_rng(0).random((executor.batch, *shape), dtype=np.float32)
    with PeakMeter() as memory:
        executor(windows)
        began = perf_counter()
        executor(windows)
        seconds = perf_counter() - began
    return Calibration(seconds / executor.batch, int(memory.rise * getattr(executor, "memory_margin", 1.0)))


def machine_facts() -> dict[str, Any]:
    """Processor, processors this process may use, and versions: where one differs, so do speeds. JSON-ready."""
    return {"processor": processor_name(), "processors": usable_threads(), "versions": software_versions(MACHINE_PACKAGES)}


def processor_name() -> str:
    """The CPU's name, e.g. ``"Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"``."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()


def load_calibration(facts: Mapping[str, Any]) -> Calibration | None:
    """The stored calibration of these facts, or None where there is none or it is damaged."""
    try:
        stored = json.loads(_place(facts).read_text(encoding="utf-8"))
        found = Calibration(float(stored["seconds_per_window"]), int(stored["network_bytes"]), {str(k): float(v) for k, v in stored["pace"].items()})
        numbers = [found.seconds_per_window, found.network_bytes, *found.pace.values()]
        return found if stored["facts"] == json.loads(json.dumps(facts)) and all(np.isfinite(n) and n >= 0 for n in numbers) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_calibration(facts: Mapping[str, Any], calibration: Calibration) -> None:
    """Keep a calibration; a cache that cannot be written to is no error, the next run measures again."""
    with contextlib.suppress(VolsegError, OSError):
        write_json(_place(facts), {**asdict(calibration), "facts": dict(facts)})


def _place(facts: Mapping[str, Any]) -> Path:
    text = json.dumps({"layout": LAYOUT, **facts}, sort_keys=True)
    return cache_folder() / "calibrations" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
