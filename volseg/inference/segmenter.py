"""Run a bundle on scans, in memory, with checks before and after: by the engine where it knows every part of the config, else through stock MONAI."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from volseg.bundle import Bundle, find_bundle, lookup, read_bundle, read_config, weights_path
from volseg.errors import BundleError, DeviceError, InputError
from volseg.inference.averaged import Members
from volseg.inference.checks import check_scan
from volseg.inference.device import device_name, precision_for
from volseg.inference.executors.choice import ENGINES
from volseg.inference.executors.torch_executor import UnsupportedNetworkError
from volseg.inference.fast import FastRunner
from volseg.inference.forecast import Forecast
from volseg.inference.forecaster import forecast_stock
from volseg.inference.network import Network, NetworkSettings
from volseg.inference.outcome import Outcome, WindowProgress
from volseg.inference.plan import UnrecognisedError, read_plan
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.segmentation import Segmentation
from volseg.inference.stock import StockRunner
from volseg.io import Volume, load
from volseg.io.channels import load_channels, with_names
from volseg.io.dicom.objects.segments import Segment, describe_segments
from volseg.io.modality import plain_modality
from volseg.provenance import peak_memory_bytes

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
    weights : path or sequence of paths, optional
        Other weights for the bundle's network; of several, such as those of cross-validation folds, the scores (before the softmax) are averaged.
    overlap : float, optional
        Overrides the overlap of the sliding window (0 to below 1).
    engine : str
        ``auto`` (see :func:`~volseg.inference.executors.choice.choose_engine` for the rule), ``torch``, ``openvino``, ``onnxruntime``, ``tensorrt``,
        or ``monai`` for the stock pipeline.
    batch : int, optional
        Windows at once in the engine; None leaves it to the executor.
    tta : bool
        Test-time augmentation: run each window in every combination of flips along the axes the bundle was trained to see mirrored (its ``mirror_axes``; all
        three, so eight runs, where it says nothing) and average the scores.
    max_memory : int, optional
        Bytes of RAM the process may use: batches are made smaller to keep it, and a scan that cannot be kept within it is refused before the network runs.

    Raises
    ------
    BundleError
        When the bundle cannot be used or has no weights.
    DeviceError
        When the device, precision or engine is not available.
    InputError
        When ``tta`` is asked of a bundle that was trained without mirroring.
    """

    def __init__(
        self,
        bundle: str | Path = "ct_tumor",
        *,
        device: str = "auto",
        precision: str = "auto",
        weights: str | Path | Sequence[str | Path] | None = None,
        overlap: float | None = None,
        engine: str = "auto",
        batch: int | None = None,
        tta: bool = False,
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
        self._precision = precision_for(precision, self._device.partition(":")[0], engine)
        self._other_weights = _given_weights(weights)
        self._overlap, self._flips = overlap, _flips(self.bundle, tta)
        self._max_memory = max_memory
        settings = NetworkSettings("auto" if engine == "monai" else engine, self._device, precision, batch)
        self.fast, self._reason = self._plan(engine, settings)
        if self.fast is None:
            self._refuse_int8(self._reason)
        self._members = self.fast.network if self.fast else self._networks(WHOLE_AXIS, replace(settings, engine="torch"))
        self._stock: StockRunner | None = None
        self.segments: Mapping[int, Segment] = describe_segments(self.bundle.labels, self.bundle.metadata)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def preload(self) -> None:
        """Begin in a thread with what takes time before the first window; worth calling before a scan is read."""
        self._members.preload()

    def plan(self, volume: Volume, *, probabilities: ProbabilityStore | None = None) -> dict[str, Any]:
        """What segmenting a volume would do: the network's input, windows, patch, device, forecast; runs the pre-processing but not the network.

        Parameters
        ----------
        volume : Volume
            A loaded scan.
        probabilities : ProbabilityStore, optional
            As :meth:`segment` would get it; nothing is written there.
        """
        notes = [*volume.warnings, *check_scan(self.bundle, volume)]
        reason = self._why_stock(volume, probabilities=probabilities is not None)
        if self.fast is not None and not reason:
            try:
                return {**self.fast.plan(volume, probabilities), "warnings": notes}
            except UnsupportedNetworkError as error:
                self._reason = reason = str(error)
        told = self._stock_forecast(volume)
        found = self._stock_runner(reason).plan(volume)
        return {**found, "forecast": replace(told, windows=found["windows"]).as_dict(), "measured_now": False, "warnings": notes}

    def segment(
        self,
        scan: Volume | str | Path | Mapping[str, Volume | str | Path],
        *,
        series: str | None = None,
        progress: WindowProgress | None = None,
        probabilities: bool | ProbabilityStore = False,
    ) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        scan : Volume, path, or mapping of str to them
            A loaded volume, or anything :func:`volseg.io.load` reads; for a bundle of several channels one 4D NIfTI file, or each channel by its name in the bundle's metadata,
            ``{"CT": path, "PET": path}``, on whatever grids of one frame (:func:`volseg.io.channels.load_channels`). The first channel's grid is the label's.
        series : str, optional
            SeriesInstanceUID, where a DICOM folder holds several volumes.
        progress : callable, optional
            Called with (windows done, windows in all).
        probabilities : bool or ProbabilityStore
            Keep the probability of every label but the background too: True in memory, which takes four bytes for each voxel and label; a store made with a folder takes one byte
            of disk instead.

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
        volume = self._read(scan, series)
        read_s = time.perf_counter() - began
        notes = [*volume.warnings, *check_scan(self.bundle, volume)]
        kept = self.probability_store(volume) if probabilities is True else probabilities or None
        outcome = self._run(volume, progress, kept)
        names = {value: name for value, name in self.bundle.labels.items() if value != 0}
        seconds = {"read": read_s, **outcome.seconds}
        notes += outcome.notes
        told = None if outcome.forecast is None else outcome.forecast.as_dict()
        named = with_names(volume, self.bundle.channel_names)
        return Segmentation(outcome.label, named, names, self._identity(), outcome.engine, seconds, peak_memory_bytes(), tuple(notes), self.segments, outcome.probabilities, told)

    def _read(self, scan: Volume | str | Path | Mapping[str, Volume | str | Path], series: str | None) -> Volume:
        if isinstance(scan, Volume):
            return scan
        suv: Literal["pet", False] = "pet" if self.bundle.wants_suv else False
        if isinstance(scan, Mapping):
            return load_channels(scan.items(), self.bundle.channel_names, suv=suv)
        modality = plain_modality(self.bundle.modality)
        return load(scan, series=series, modality=modality, suv=suv, channels=self.bundle.input_channels)

    def probability_store(self, volume: Volume, folder: Path | None = None) -> ProbabilityStore:
        """Room for the probabilities of every label but the background on a scan's grid: in a file in ``folder``, or in memory."""
        return ProbabilityStore(sorted(value for value in self.bundle.labels if value != 0), volume.grid.shape, folder)

    def should_convert_later(self) -> bool:
        """Whether a conversion of the network, once all results are written, makes the next run start and run faster (``VOLSEG_NO_CACHE=1`` says no)."""
        return self.fast is not None and self._members.should_convert_later()

    def convert_later(self) -> Path | None:
        """Convert the network to OpenVINO and keep it in the cache (``$VOLSEG_CACHE``, else ``~/.cache/volseg``); the path, or None where that cannot be."""
        return self._members.convert_later()

    def close(self) -> None:
        """Release the network and the device's memory; the segmenter cannot be used afterwards."""
        self._members.close()
        self._stock = None

    def _plan(self, engine: str, settings: NetworkSettings) -> tuple[FastRunner | None, str]:
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
        return FastRunner(plan, self._networks(plan.window.roi, settings), classes, self._max_memory), ""

    def _networks(self, roi: tuple[int, int, int], settings: NetworkSettings) -> Members:
        paths = self._other_weights or (weights_path(self.bundle),)
        return Members([Network(self.bundle, path, bool(self._other_weights), roi, settings) for path in paths], flips=self._flips)

    def _run(self, volume: Volume, progress: WindowProgress | None, probabilities: ProbabilityStore | None) -> Outcome:
        reason = self._why_stock(volume, probabilities=probabilities is not None)
        if self.fast is not None and not reason:
            try:
                return self.fast.segment(volume, progress, probabilities)
            except UnsupportedNetworkError as error:
                self._reason = reason = str(error)
        told = self._stock_forecast(volume)
        outcome = self._stock_runner(reason).segment(volume, progress, probabilities)
        return replace(outcome, forecast=replace(told, windows=outcome.engine["windows"]))

    def _stock_forecast(self, volume: Volume) -> Forecast:
        return forecast_stock(volume.grid, str(volume.source.path), classes=len(self.bundle.labels), channels=self.bundle.input_channels, limit=self._max_memory)

    def _why_stock(self, volume: Volume, *, probabilities: bool) -> str:
        """Why this scan runs through MONAI; empty when it does not."""
        if self._reason or self.fast is None:
            return self._reason
        if probabilities and self.fast.inference.decision.activation == "none":
            return "probabilities are asked for, which this bundle makes after its scores are interpolated"
        return "" if self.fast.can_run(volume) else "the scan's axes are not orthogonal"

    def _stock_runner(self, reason: str) -> StockRunner:
        from volseg.inference.device import select_device
        from volseg.inference.pipeline import build_pipeline
        from volseg.inference.quiet import quiet_libraries

        self._refuse_int8(reason)
        if self._stock is None:
            with quiet_libraries():
                pipeline = build_pipeline(self.bundle, select_device(self._device), self._other_weights, self._overlap, flips=self._flips)
            self._stock = StockRunner(self.bundle, pipeline, self._precision, self._members.averaging)
        self._stock.reason = reason
        return self._stock

    def _refuse_int8(self, reason: str) -> None:
        if self._precision == "int8":
            msg = f"{self.bundle.inference_config}: --precision int8 is for volseg's own engine, but stock MONAI has to run this ({reason}); use --precision auto"
            raise DeviceError(msg)

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.bundle.name,
            "version": self.bundle.version,
            "intended_use": self.bundle.metadata.get("intended_use"),
            "path": str(self.bundle.path),
            **self._members.identity(),
        }


def _flips(bundle: Bundle, tta: bool) -> tuple[int, ...]:
    """Axes to flip windows along."""
    if tta and not bundle.mirror_axes:
        msg = f"--tta: {bundle.name} was trained without mirroring (`mirror_axes` of its metadata is empty), so flipped scans would only harm; leave --tta out"
        raise InputError(msg)
    return bundle.mirror_axes if tta else ()


def _given_weights(weights: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    paths = tuple(Path(path) for path in ([weights] if isinstance(weights, (str, Path)) else weights or ()))
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        msg = f"{missing}: no such weights file"
        raise BundleError(msg)
    twice = next((path for number, path in enumerate(paths) if path.resolve() in [other.resolve() for other in paths[:number]]), None)
    if twice is not None:
        msg = f"{twice}: the same weights are given twice; an ensemble averages different ones, so give each once"
        raise InputError(msg)
    return paths
