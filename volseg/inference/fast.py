"""The fast path: a planned config, run by the streaming engine on an executor."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from volseg.errors import BundleError, root_cause
from volseg.geometry import Grid
from volseg.inference.averaged import Members
from volseg.inference.engine import NetworkInput, can_run, prepare, run
from volseg.inference.executors import Executor
from volseg.inference.executors.converted import score_threshold
from volseg.inference.forecast import Forecast
from volseg.inference.forecaster import Forecaster
from volseg.inference.outcome import Outcome, WindowProgress
from volseg.inference.plan import InferencePlan
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.streaming import match_monai
from volseg.inference.windows import count_windows, window_sizes
from volseg.io import Volume


class FastRunner:
    """Runs scans through the engine.

    Parameters
    ----------
    plan : InferencePlan
        Of the bundle's config.
    network : Members
        Its network, or those whose scores are averaged.
    classes : int
        Number of label values, background included.
    max_memory : int or None
        Bytes the process may use.
    """

    def __init__(self, plan: InferencePlan, network: Members, classes: int, max_memory: int | None = None) -> None:
        self.inference, self.network, self.classes, self.max_memory = plan, network, classes, max_memory
        self._forecasters: dict[str, tuple[Executor, Forecaster]] = {}

    def can_run(self, volume: Volume) -> bool:
        """Whether the engine can resample this scan."""
        return can_run(self.inference, volume)

    def plan(self, volume: Volume, probabilities: ProbabilityStore | None = None) -> dict[str, Any]:
        """Shape of the network's input, the facts of the engine, and the forecast; runs the pre-processing, but the network only where its speed is not known yet."""
        executor = self._executor(volume)
        forecaster = self._forecaster(executor)
        name, measurements = str(volume.source.path), forecaster.measurements
        way = forecaster.forecast(volume.grid, name, limit=self.max_memory, always=True, probabilities=probabilities)
        prepared = prepare(self.inference, volume)
        told = forecaster.forecast(volume.grid, name, image=prepared.image, batch=way.batch, spill=way.spill, always=True, probabilities=probabilities)
        facts = {"network_input": [int(n) for n in prepared.image.shape], **self._facts(prepared.grid)}
        return {**facts, "forecast": told.as_dict(), "measured_now": forecaster.measurements > measurements}

    def segment(self, volume: Volume, progress: WindowProgress | None, probabilities: ProbabilityStore | None = None) -> Outcome:
        """Segment one scan; see :meth:`volseg.inference.Segmenter.segment`.

        Raises
        ------
        UnsupportedNetworkError
            When the network's output is none that the engine can take.
        BundleError
            When the network fails on this scan, or its scores are not finite.
        """
        began = perf_counter()
        executor = self._executor(volume)
        load_s = perf_counter() - began
        try:
            return self._run(volume, executor, load_s, progress, probabilities)
        except RuntimeError as error:
            if not self.network.give_up_converted(root_cause(error)[:160]):
                raise self._broken(error) from error
        return self.segment(volume, progress, probabilities)

    def _run(self, volume: Volume, executor: Executor, load_s: float, progress: WindowProgress | None, probabilities: ProbabilityStore | None) -> Outcome:
        forecaster, name = self._forecaster(executor), str(volume.source.path)
        told: list[Forecast] = []
        batch, spill = None, False
        if self.max_memory is not None:
            way = forecaster.forecast(volume.grid, name, limit=self.max_memory, probabilities=probabilities)
            batch, spill = way.batch, way.spill

        def foretell(prepared: NetworkInput) -> None:
            told.append(forecaster.forecast(volume.grid, name, image=prepared.image, batch=batch, spill=spill, probabilities=probabilities))

        try:
            label, prepared, seconds, tally = run(
                self.inference, volume, executor, classes=self.classes, progress=progress, on_prepared=foretell, probabilities=probabilities, spill=spill
            )
        except BundleError as error:
            msg = f"{', '.join(map(str, self.network.weights))}: {error}"
            raise BundleError(msg) from error
        engine = {**self._facts(prepared.grid), "windows": tally.windows, "repeated_windows": tally.repeated}
        notes = [*self.network.notes, *getattr(executor, "notes", ())]
        forecaster.learn(tally.windows - tally.repeated, seconds)
        return Outcome(label, engine, {"load": load_s, **seconds}, tuple(notes), probabilities, told[0])

    def _executor(self, volume: Volume) -> Executor:
        """What runs a scan; int8 is calibrated with the first one it is asked for."""
        if self.network.needs_calibration:
            plan = self.inference
            threshold = score_threshold(plan.decision.activation, plan.decision.threshold)
            self.network.calibrate(prepare(plan, volume).image, str(volume.source.path), cval=plan.window.cval, threshold=threshold)
        return self.network.executor(self._expected_windows(volume.grid))

    def _forecaster(self, executor: Executor) -> Forecaster:
        described = self.network.describe()
        name = described["engine"]
        if name not in self._forecasters or self._forecasters[name][0] is not executor:
            facts = {key: described[key] for key in ("engine", "device", "device_name", "precision")}
            facts |= {"bundle": self.network.bundle.name, "weights_sha256": self.network.identity()["weights_sha256"], **self.network.averaging.facts()}
            self._forecasters[name] = executor, Forecaster(self.inference, executor, facts, channels=self.network.bundle.input_channels, classes=self.classes)
        return self._forecasters[name][1]

    def _facts(self, grid: Grid) -> dict[str, Any]:
        window, engine = self.inference.window, self.network.describe()
        return {
            **{key: engine[key] for key in ("engine", "device", "device_name", "precision")},
            "network_shape": list(grid.shape),
            "network_spacing_mm": [round(s, 4) for s in grid.spacing],
            "patch": list(window_sizes(grid.shape, window.roi)),
            "overlap": list(window.overlap),
            "windows": count_windows(grid.shape, window.roi, window.overlap),
            **self.network.averaging.facts(),
            "cached_network": engine["cached_network"],
        }

    def _expected_windows(self, grid: Grid) -> int:
        """Windows over the whole resampled scan; a crop to its foreground leaves fewer."""
        plan = self.inference
        oriented = grid if plan.orientation is None else grid.reoriented(plan.orientation)
        matched = None if plan.spacing is None else match_monai(oriented, plan.spacing)
        return count_windows((matched.grid if matched else oriented).shape, plan.window.roi, plan.window.overlap)

    def _broken(self, error: RuntimeError) -> BundleError:
        return BundleError(f"{self.network.bundle.inference_config}: the network failed on this scan: {root_cause(error)[:300]}")
