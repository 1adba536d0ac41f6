"""A loaded network's forecasts: finds or makes its calibration, keeps a run within a memory limit, and learns from each run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.inference.calibration import ENOUGH_WINDOWS, Calibration, calibrate, load_calibration, machine_facts, store_calibration
from volseg.inference.executors import Executor
from volseg.inference.forecast import Forecast, fit, forecast, too_little
from volseg.inference.memory import coming_bytes, resident_bytes
from volseg.inference.plan import InferencePlan
from volseg.inference.probability_cost import with_probabilities
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.windows import window_sizes
from volseg.inference.workload import count_repeated, expected_seconds, workload

STOCK_BYTES_PER_VOXEL = 30
STOCK_COPIES_OF_SCORES = 3.25
"""Stock MONAI holds the scores of every class at the scan's resolution, a good three times in float32, and some thirty bytes a voxel of image and sampling grid: fitted to whole
processes of MONAI 1.6 on 512x512x99 (3 classes 2.8 GB, 25 classes 10.1 GB) and 512x512x304 (3 classes 5.5 GB), of which 0.6 GB are programs."""

STOCK_LIBRARIES = 5 * 10**8
"""What PyTorch and MONAI take of those 0.6 GB, where a run is foretold before it imports them."""

STOCK_BYTES_PER_FURTHER_CHANNEL = 4
"""The channel itself in float32, on the safe side: of 256x256x160 voxels in 1, 2 and 4 channels (2 classes, MONAI 1.6) the peak was 29.1, 29.2 and 29.4 bytes a voxel, which the
scores set, not the image."""


FEW_WINDOWS = f"a run of fewer than {ENOUGH_WINDOWS} windows is over before measuring the network would have paid (--dry-run measures it)"

STOCK_UNTIMED = "the bundle's own pipeline in MONAI is not timed before it runs"


class Forecaster:
    """Foretells runs of one network.

    Parameters
    ----------
    plan : InferencePlan
        What the bundle asks for.
    executor : Executor
        The network; its ``batch`` is set for each scan, to keep a limit and to what lies side by side.
    facts : mapping
        What its speed depends on besides the machine: engine, precision, device, weights. JSON-ready.
    channels, classes : int
        Of the network.

    Attributes
    ----------
    measurements : int
        How many times the network's speed was measured, since it was not known.
    """

    def __init__(self, plan: InferencePlan, executor: Executor, facts: Mapping[str, Any], *, channels: int, classes: int) -> None:
        self.plan, self.executor, self.channels, self.classes = plan, executor, channels, classes
        self._facts = {**facts, **machine_facts(), "channels": channels, "classes": classes}
        self._shape = (channels, *plan.window.roi)
        self._known: dict[tuple[int, ...], Calibration] = {}
        self._expected: dict[str, float] = {}
        # What the executor likes, and what it was given last, which is not its own choice.
        self._liked = self._given = executor.batch
        self.measurements = 0
        # Loaded once and without the work space that stays behind the first batch, so that a limit means the same in each run.
        self._settled = 0

    def forecast(
        self,
        grid: Grid,
        name: str,
        *,
        image: npt.NDArray[np.float32] | None = None,
        limit: int | None = None,
        batch: int | None = None,
        spill: bool = False,
        always: bool = False,
        read_s: float | None = None,
        probabilities: ProbabilityStore | None = None,
    ) -> Forecast:
        """Foretell a run on a loaded scan, and make the executor's batch small enough for a limit.

        Parameters
        ----------
        grid : Grid
            Of the scan, which is in memory.
        name : str
            The scan, for messages.
        image : ndarray, float32, (channels, x, y, z), optional
            The prepared network input; constant windows are counted in it.
        limit : int, optional
            Bytes the process may use.
        batch : int, optional
            Most windows at once, such as an earlier forecast of this scan found to keep a limit  [default: as many as the executor likes]
        spill : bool
            Without a limit: whether the scores are kept in a file.
        always : bool
            Measure the network where no calibration is stored, however few the windows.
        read_s : float, optional
            Seconds the reading took.
        probabilities : ProbabilityStore, optional
            Where probabilities go, if they are kept.

        Raises
        ------
        InputError
            When the limit is too small even for single windows.
        """
        resident = max((resident_bytes() or 0) - self._settled - (image.nbytes if image is not None else 0), 0) + coming_bytes()
        work = workload(self.plan, grid, channels=self.channels, classes=self.classes)
        if work is None:
            msg = f"{name}: its axes are not at right angles, so the engine's windows cannot be foretold; use --engine monai"
            raise InputError(msg)
        if image is not None:
            # A crop to the foreground leaves less than the whole resampled scan.
            work = replace(work, network_shape=image.shape[1:], repeated=count_repeated(image, self.plan.window))
        self._expected = expected_seconds(work)
        measure = always or limit is not None or work.windows - work.repeated >= ENOUGH_WINDOWS
        size = window_sizes(work.network_shape, self.plan.window.roi)
        self._shape = (self.channels, size[0], size[1], size[2])

        if self.executor.batch != self._given:
            self._liked = self.executor.batch
        most = min(batch or self._liked, work.windows_at_once)

        def foretell(windows: int, spilled: bool) -> Forecast:
            self.executor.batch = self._given = windows
            told = forecast(work, self._calibration(measure=measure), batch=windows, resident=resident, spill=spilled, read_s=read_s, unknown=FEW_WINDOWS)
            return told if probabilities is None else with_probabilities(told, work, probabilities)

        return foretell(most, spill) if limit is None else fit(limit, most, foretell, name)

    def learn(self, windows: int, timings_s: Mapping[str, float]) -> None:
        """Keep what the run that was foretold last taught of this network's speed; nothing is kept of a network that was never calibrated.

        Parameters
        ----------
        windows : int
            Windows the network was run on.
        timings_s : mapping of str to float
            Seconds per stage.
        """
        batch = self._batch
        if batch in self._known:
            self._known[batch] = self._known[batch].after_run(windows, timings_s, self._expected)
            store_calibration(self._key, self._known[batch])

    def _calibration(self, *, measure: bool) -> Calibration | None:
        batch = self._batch
        if batch not in self._known:
            found = load_calibration(self._key)
            if found is None and measure:
                before = resident_bytes() or 0
                found = calibrate(self.executor, self._shape)
                self.measurements += 1
                self._settled += max((resident_bytes() or 0) - before, 0)
                store_calibration(self._key, found)
            if found is not None:
                self._known[batch] = found
        return self._known.get(batch)

    @property
    def _batch(self) -> tuple[int, ...]:
        """Shape of what the network gets at once."""
        return (self.executor.batch, *self._shape)

    @property
    def _key(self) -> dict[str, Any]:
        return {**self._facts, "input": list(self._batch)}


def forecast_stock(grid: Grid, name: str, *, classes: int, channels: int = 1, limit: int | None = None) -> Forecast:
    """Foretell the memory of a run of the bundle's own pipeline in stock MONAI, whose windows (0 here) and seconds are not known before it.

    Raises
    ------
    InputError
        When it does not fit into the limit; nothing can be made smaller.
    """
    voxels = int(np.prod(grid.shape))
    memory = {
        "scores of all classes": int(STOCK_COPIES_OF_SCORES * 4 * classes * voxels),
        "image and sampling grid": (STOCK_BYTES_PER_VOXEL + STOCK_BYTES_PER_FURTHER_CHANNEL * (channels - 1)) * voxels,
        "scan and programs": (resident_bytes() or 0) + coming_bytes() + (0 if "monai" in sys.modules else STOCK_LIBRARIES),
    }
    told = Forecast(0, 0, None, memory, unknown=STOCK_UNTIMED)
    if limit is not None and told.peak_memory_bytes > limit:
        raise InputError(too_little(limit, told, name))
    return told
