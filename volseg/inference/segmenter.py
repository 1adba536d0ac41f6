"""Run a bundle on scans, in memory, with checks before and after: by the engine where it knows every part of the config, else through stock MONAI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from volseg.bundle import Bundle, find_bundle, lookup, read_bundle, read_config, weights_path
from volseg.errors import BundleError, DeviceError, InputError
from volseg.inference.device import device_name, precision_for
from volseg.inference.executors.choice import ENGINES
from volseg.inference.executors.torch_executor import UnsupportedNetworkError
from volseg.inference.fast import FastRunner
from volseg.inference.forecast import Forecast
from volseg.inference.forecaster import forecast_stock
from volseg.inference.network import Network, NetworkSettings
from volseg.inference.outcome import Outcome, WindowProgress, lowest_finite
from volseg.inference.plan import UnrecognisedError, read_plan
from volseg.inference.segmentation import Segmentation
from volseg.inference.stock import StockRunner
from volseg.io import Volume, load
from volseg.io.dicom.objects.segments import Segment, describe_segments
from volseg.provenance import peak_memory_bytes

LARGEST_EXTENT_MM = 3000.0
"""A whole-body scan is about 2 m long; a longer field of view comes from a wrong spacing."""

SMALLEST_EXTENT_MM = 10.0
"""Less than a few voxels of any clinical scan."""

WHOLE_AXIS = (0, 0, 0)
"""Window of a network that nothing is known of: it follows the scan."""


class Segmenter:
    """A bundle, ready to segment. The network is loaded when the first scan needs it.

    Parameters
    ----------
    bundle : str or Path
        Folder or name of a MONAI bundle.
    device : str
        ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``; auto is fp16 on CUDA, bf16 on CPUs that compute it, else fp32.
    weights : str or Path, optional
        Other weights for the bundle's network.
    overlap : float, optional
        Overrides the overlap of the sliding window (0 to below 1).
    engine : str
        ``auto`` (see :func:`~volseg.inference.executors.choice.choose_engine` for the rule), ``torch``, ``openvino``, or ``monai`` for the stock pipeline.
    batch : int, optional
        Windows at once in the engine; None leaves it to the executor.
    max_memory : int, optional
        Bytes of RAM the process may use: batches are made smaller to keep it, and a scan that cannot be kept within it is refused before the network runs.

    Raises
    ------
    BundleError
        When the bundle cannot be used or has no weights.
    DeviceError
        When the device, precision or engine is not available.
    """

    def __init__(
        self,
        bundle: str | Path = "ct_tumor",
        *,
        device: str = "auto",
        precision: str = "auto",
        weights: str | Path | None = None,
        overlap: float | None = None,
        engine: str = "auto",
        batch: int | None = None,
        max_memory: int | None = None,
    ) -> None:
        self.bundle: Bundle = read_bundle(find_bundle(bundle))
        if overlap is not None and not 0 <= overlap < 1:
            msg = f"--overlap {overlap}: give a share from 0 to below 1, e.g. 0.5"
            raise InputError(msg)
        if engine not in ENGINES:
            msg = f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}"
            raise DeviceError(msg)
        self._device = device_name(device)
        self._precision = precision_for(precision, self._device.partition(":")[0])
        self._other_weights = Path(weights) if weights else None
        self._overlap = overlap
        self._max_memory = max_memory
        path = self._other_weights or weights_path(self.bundle)
        if not path.is_file():
            msg = f"{path}: no such weights file"
            raise BundleError(msg)
        self.fast, self._reason = self._plan(engine, path, NetworkSettings("auto" if engine == "monai" else engine, self._device, precision, batch))
        roi = self.fast.inference.window.roi if self.fast else WHOLE_AXIS
        self._network = self.fast.network if self.fast else Network(self.bundle, path, self._other_weights is not None, roi, NetworkSettings("torch", self._device, precision))
        self._stock: StockRunner | None = None
        self.segments: Mapping[int, Segment] = describe_segments(self.bundle.labels, self.bundle.metadata)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def preload(self) -> None:
        """Begin in a thread with what takes time before the first window; worth calling before a scan is read."""
        self._network.preload()

    def plan(self, volume: Volume) -> dict[str, Any]:
        """What segmenting a volume would do: the network's input, windows, patch, device; runs the pre-processing but not the network."""
        notes = [*volume.warnings, *self._check(volume)]
        reason = self._why_stock(volume, probabilities=False)
        if self.fast is not None and not reason:
            try:
                return {**self.fast.plan(volume), "warnings": notes}
            except UnsupportedNetworkError as error:
                self._reason = reason = str(error)
        told = self._stock_forecast(volume)
        found = self._stock_runner(reason).plan(volume)
        return {**found, "forecast": replace(told, windows=found["windows"]).as_dict(), "measured_now": False, "warnings": notes}

    def segment(self, scan: Volume | str | Path, *, series: str | None = None, progress: WindowProgress | None = None, probabilities: bool = False) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        scan : Volume or path
            A loaded volume, or anything :func:`volseg.io.load` reads.
        series : str, optional
            SeriesInstanceUID, where a DICOM folder holds several volumes.
        progress : callable, optional
            Called with (windows done, windows in all).
        probabilities : bool
            Keep the probability of every label too, which takes four bytes for each voxel and class.

        Returns
        -------
        Segmentation
            Its label lies on exactly the scan's grid.

        Raises
        ------
        InputError, GeometryError, SeriesError
            When the scan cannot be read, or has no finite voxel.
        BundleError
            When the network cannot be loaded, or the bundle does not fit the scan (number of channels), or its post-processing gives no label map.
        """
        self.preload()
        began = time.perf_counter()
        volume = scan if isinstance(scan, Volume) else load(scan, series=series)
        read_s = time.perf_counter() - began
        notes = [*volume.warnings, *self._check(volume)]
        outcome = self._run(volume, progress, probabilities)
        names = {value: name for value, name in self.bundle.labels.items() if value != 0}
        seconds = {"read": read_s, **outcome.seconds}
        notes += outcome.notes
        told = None if outcome.forecast is None else outcome.forecast.as_dict()
        return Segmentation(outcome.label, volume, names, self._identity(), outcome.engine, seconds, peak_memory_bytes(), tuple(notes), self.segments, outcome.probabilities, told)

    def should_convert_later(self) -> bool:
        """Whether a conversion of the network, once all results are written, makes the next run start and run faster (``VOLSEG_NO_CACHE=1`` says no)."""
        return self.fast is not None and self._network.should_convert_later()

    def convert_later(self) -> Path | None:
        """Convert the network to OpenVINO and keep it in the cache (``$VOLSEG_CACHE``, else ``~/.cache/volseg``); the path, or None where that cannot be."""
        return self._network.convert_later()

    def close(self) -> None:
        """Release the network and the device's memory; the segmenter cannot be used afterwards."""
        self._network.close()
        self._stock = None

    def _plan(self, engine: str, weights: Path, settings: NetworkSettings) -> tuple[FastRunner | None, str]:
        """The fast path, or None and why there is none."""
        if engine == "monai":
            return None, "asked for"
        config = read_config(self.bundle.inference_config)
        try:
            plan = read_plan(self.bundle, config, self._overlap)
        except UnrecognisedError as error:
            return None, str(error)
        channels = lookup(self.bundle.metadata, "network_data_format#outputs#pred#num_channels")
        classes = max([2, *([channels] if isinstance(channels, int) else []), *(value + 1 for value in self.bundle.labels)])
        network = Network(self.bundle, weights, self._other_weights is not None, plan.window.roi, settings)
        return FastRunner(plan, network, classes, self._max_memory), ""

    def _run(self, volume: Volume, progress: WindowProgress | None, probabilities: bool) -> Outcome:
        reason = self._why_stock(volume, probabilities=probabilities)
        if self.fast is not None and not reason:
            try:
                return self.fast.segment(volume, progress)
            except UnsupportedNetworkError as error:
                self._reason = reason = str(error)
        told = self._stock_forecast(volume)
        outcome = self._stock_runner(reason).segment(volume, progress, probabilities)
        return replace(outcome, forecast=replace(told, windows=outcome.engine["windows"]))

    def _stock_forecast(self, volume: Volume) -> Forecast:
        return forecast_stock(volume.grid, str(volume.source.path), classes=len(self.bundle.labels), limit=self._max_memory)

    def _why_stock(self, volume: Volume, *, probabilities: bool) -> str:
        """Why this scan runs through MONAI; empty when it does not."""
        if self._reason or self.fast is None:
            return self._reason
        if probabilities:
            return "probabilities are asked for"
        return "" if self.fast.can_run(volume) else "the scan's axes are not orthogonal"

    def _stock_runner(self, reason: str) -> StockRunner:
        from volseg.inference.device import select_device
        from volseg.inference.pipeline import build_pipeline
        from volseg.inference.quiet import quiet_libraries

        if self._stock is None:
            with quiet_libraries():
                pipeline = build_pipeline(self.bundle, select_device(self._device), self._other_weights, self._overlap)
            self._stock = StockRunner(self.bundle, pipeline, self._precision)
        self._stock.reason = reason
        return self._stock

    def _check(self, volume: Volume) -> list[str]:
        if self.bundle.input_channels != 1:
            needed = ", ".join(self.bundle.channel_names)
            msg = f"{volume.source.path}: one image, but bundle {self.bundle.name} takes {self.bundle.input_channels} channels ({needed}); use a bundle of one channel"
            raise InputError(msg)
        notes = _check_extent(volume)
        wanted, found = self.bundle.modality, volume.source.modality
        if wanted and found and wanted.upper() != found.upper():
            notes.append(f"bundle {self.bundle.name} was made for {wanted}, but this series says {found}")
        lowest = lowest_finite(volume.array)
        if lowest is None:
            msg = f"{volume.source.path}: no voxel has a finite value; export the scan again"
            raise InputError(msg)
        if wanted == "CT" and lowest >= 0:
            notes.append("no voxel is negative, so the values do not look like Hounsfield units; check the rescale slope and intercept of the scan")
        return notes

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.bundle.name,
            "version": self.bundle.version,
            "intended_use": self.bundle.metadata.get("intended_use"),
            "path": str(self.bundle.path),
            "weights": str(self._network.weights),
            "weights_sha256": self._network.weights_sha256,
        }


def _check_extent(volume: Volume) -> list[str]:
    """Refuse a field of view that no patient fills: resampled to the network's spacing it would take all memory. Doubt one that is too small to show anything."""
    extent = [n * mm for n, mm in zip(volume.grid.shape, volume.grid.spacing, strict=True)]
    size = " x ".join(f"{mm:.4g}" for mm in extent)
    if max(extent) > LARGEST_EXTENT_MM:
        msg = f"{volume.source.path}: the scan is {size} mm large, more than any patient; its spacing is probably wrong: correct the header and try again"
        raise InputError(msg)
    if min(extent) < SMALLEST_EXTENT_MM:
        return [f"the scan is only {size} mm large; check its spacing, the result probably means nothing"]
    return []
