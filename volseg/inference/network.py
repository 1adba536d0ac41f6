"""A bundle's network behind the executor that suits the machine, loaded no earlier than needed and beside the reading of the scan."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle
from volseg.errors import DeviceError, root_cause
from volseg.inference.device import describe_cpu, describe_device, precision_for, select_device
from volseg.inference.executors.choice import check_precision, choose_engine, conversion_pays, least_windows
from volseg.inference.executors.conversion.int8 import is_installed as can_calibrate
from volseg.inference.executors.conversion.int8 import read_agreement
from volseg.inference.executors.converted import ConvertedNetwork, describe_agreement
from volseg.inference.executors.engines import FAILURES, ConvertedExecutor, converted_engine
from volseg.inference.executors.torch_executor import TorchExecutor, UnsupportedNetworkError
from volseg.inference.quiet import quiet_libraries
from volseg.processors import usable_threads
from volseg.provenance import sha256_of

if TYPE_CHECKING:
    import torch

NO_CACHE = "VOLSEG_NO_CACHE"
"""Environment variable; when it is not empty, no converted network is read from the cache or kept there."""


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is to be run.

    Parameters
    ----------
    engine : str
        ``auto``, ``torch``, ``openvino``, ``onnxruntime`` or ``tensorrt``.
    device : str
        Name of a device that exists, e.g. ``cpu`` or ``cuda:0``.
    precision : str
        ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    batch : int or None
        Windows at once; None leaves it to the executor.
    """

    engine: str
    device: str
    precision: str
    batch: int | None = None


class Network:
    """The network of a bundle, for windows of one size.

    Parameters
    ----------
    bundle : Bundle
        Whose network.
    weights : Path
        File of its weights.
    replaced : bool
        Whether they are other weights than the bundle's own.
    roi : tuple of 3 int
        Window size; a converted network needs one that does not follow the scan (no 0 or less in it).
    settings : NetworkSettings
        How to run it.

    Raises
    ------
    DeviceError
        When an engine that is asked for is not installed, or does not run on the device or in the number format. Asking for int8 is asking for OpenVINO.

    Attributes
    ----------
    precision : str
        Number format that is aimed at; executors know what they came to.
    from_cache : bool
        Whether the converted network was in the cache.
    notes : list of str
        Why something other than what was to be expected runs the network.
    """

    def __init__(self, bundle: Bundle, weights: Path, replaced: bool, roi: tuple[int, int, int], settings: NetworkSettings) -> None:
        check_precision(settings.engine, settings.precision)
        self.bundle, self.weights, self.roi, self.settings = bundle, weights, roi, settings
        self.precision = precision_for(settings.precision, settings.device.partition(":")[0], settings.engine)
        self.notes: list[str] = []
        self._replaced = replaced
        self._by_name = settings.engine not in ("auto", "torch") or self.precision == "int8"
        self._engine = converted_engine(settings.engine)
        self._source = ConvertedNetwork(
            bundle, roi, self._engine, settings.device, self.precision, settings.batch, self.may_cache, load=self._load, digest=lambda: self.weights_sha256
        )
        self._refused = self._engine.why_not(settings.device) or ("the window follows the size of the scan" if min(roi) <= 0 else "")
        if self._by_name and self._refused:
            raise DeviceError(self._refusal(self._refused))
        self._windows_by_torch = 0
        self._window_s: float | None = None
        self._torch: TorchExecutor | None = None
        self._converted: ConvertedExecutor | None = None
        self.from_cache = False
        self._sha256: Future[str] | None = None
        self._found: Future[ConvertedExecutor | None] | None = None

    @property
    def may_cache(self) -> bool:
        """Whether converted networks are read from and kept in the cache."""
        return not os.environ.get(NO_CACHE)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file; computed beside other work."""
        self.preload(torch=False)
        assert self._sha256 is not None
        return self._sha256.result()

    @property
    def needs_calibration(self) -> bool:
        """Whether int8 is asked for and no calibrated network is in the cache: :meth:`calibrate` comes before :meth:`executor` then."""
        self._wait()
        return self.precision == "int8" and self._converted is None

    def preload(self, *, torch: bool = True) -> None:
        """Begin, in a thread, with what takes time before the first window: the weights' digest, and loading the converted network or else (if ``torch``) importing torch."""
        if self._sha256 is not None:
            return
        pool = ThreadPoolExecutor(1)
        self._sha256 = pool.submit(sha256_of, self.weights)
        self._found = pool.submit(self._load_converted, torch)
        pool.shutdown(wait=False)

    def engine_for(self, windows: int) -> str:
        """Name of the engine that would run this many windows (see :func:`~volseg.inference.executors.choice.choose_engine`)."""
        self._wait()
        asked = self._engine.name if self._by_name else self.settings.engine
        convertible = self._refused == "" and self.may_cache
        open_question = asked == "auto" and self.settings.device == "cpu" and convertible and self._converted is None
        pays = open_question and self._pays(self._windows_by_torch + windows)
        return choose_engine(asked, self.settings.device, converted=self._converted is not None, convertible=convertible, pays=pays)

    def executor(self, windows: int) -> TorchExecutor | ConvertedExecutor:
        """The executor for a scan of this many windows.

        Raises
        ------
        BundleError
            When the network cannot be built or its weights cannot be used.
        DeviceError
            When an engine was asked for that cannot run the network, or int8 without a calibration.
        """
        if self.needs_calibration:
            msg = f"{self.bundle.name}: int8 needs a calibration, which a scan gives; segment one first"
            raise DeviceError(msg)
        if self.engine_for(windows) != "torch":
            found = self._converted or self._convert()
            if found is not None:
                self._converted = found
                return found
        self._windows_by_torch += windows
        return self._torch_executor()

    def calibrate(self, image: npt.NDArray[np.float32], scan: str, *, cval: float = 0.0, threshold: float | None = None) -> None:
        """Convert the network to int8 with windows of a scan, once, and keep it in the cache for all that follow.

        Parameters
        ----------
        image : ndarray, float32, (channels, x, y, z)
            The scan as the network gets it.
        scan : str
            Its name.
        cval : float
            What a scan smaller than a window is padded with.
        threshold : float or None
            Score above which a voxel has the label of its channel; None takes the largest score.

        Raises
        ------
        DeviceError
            When NNCF is not installed, or int8 does not give the labels of fp32 on windows it was not calibrated on (the measured Dice is told).
        """
        if not can_calibrate():
            raise DeviceError(self._refusal("calibrating needs NNCF, which is not installed (pip install 'volseg[int8]')"))
        try:
            path = self._source.calibrate(image, scan, cval=cval, threshold=threshold)
            self._converted = self._source.open(path)
        except (UnsupportedNetworkError, *FAILURES) as error:
            raise DeviceError(self._refusal(root_cause(error)[:200])) from error
        self._tell_agreement(path)

    def give_up_converted(self, reason: str) -> None:
        """After the engine of a converted network failed: PyTorch from now on.

        Raises
        ------
        DeviceError
            When the engine was asked for by name.
        """
        self._converted, self._refused, self.from_cache = None, reason, False
        if self._by_name:
            raise DeviceError(self._refusal(f"{self.bundle.name}: {reason}"))
        self.notes.append(f"{self._engine.title} is not used: {reason}")

    def describe(self, engine: str) -> dict[str, Any]:
        """Engine, device and precision, for the report."""
        running = self._torch if engine == "torch" else self._converted
        precision = self.precision if running is None or self.precision == "int8" else running.precision
        device = str(self._torch.device) if engine == "torch" and self._torch is not None else self.settings.device
        name = describe_cpu(usable_threads()) if device == "cpu" else describe_device(select_device(device))
        return {"engine": engine, "device": device, "device_name": name, "precision": precision, "cached_network": engine != "torch" and self.from_cache}

    def should_convert_later(self) -> bool:
        """Whether PyTorch ran on the CPU where a converted network would start and run faster the next time."""
        return self._windows_by_torch > 0 and self.settings.engine == "auto" and self.settings.device == "cpu" and self._converted is None and not self._refused and self.may_cache

    def convert_later(self) -> Path | None:
        """Convert the network and keep it in the cache; the path, or None where that cannot be."""
        try:
            return self._source.make()
        except (UnsupportedNetworkError, *FAILURES) as error:
            self.notes.append(root_cause(error))
            return None

    def close(self) -> None:
        """Release networks and the device's memory."""
        if self._torch is not None:
            self._torch.close()
        self._torch = self._converted = None

    def _refusal(self, reason: str) -> str:
        asked = "--precision int8" if self.precision == "int8" else f"--engine {self.settings.engine}"
        return f"{asked}: {reason}; use --engine {'auto or ' if self.settings.engine == 'openvino' else ''}torch"

    def _pays(self, windows: int) -> bool:
        """Whether converting pays for this many windows; where that is not plain without, torch is timed on one."""
        if windows < least_windows(self.precision):
            return False
        try:
            if self._window_s is None:
                self._window_s = self._timed_window()
                # The first run also allocates and chooses algorithms, and may take twice as long as others.
                if conversion_pays(windows, self._window_s, self.precision) != conversion_pays(windows, self._window_s / 2, self.precision):
                    self._window_s = self._timed_window()
        except (UnsupportedNetworkError, RuntimeError):
            # The run itself will say what is wrong with the network.
            return False
        return conversion_pays(windows, self._window_s, self.precision)

    def _timed_window(self) -> float:
        window = np.random.default_rng(0).random((1, self.bundle.input_channels, *self.roi), dtype=np.float32)
        executor = self._torch_executor()
        began = perf_counter()
        executor(window)
        return perf_counter() - began

    def _torch_executor(self) -> TorchExecutor:
        if self._torch is None:
            self._torch = TorchExecutor(self._load(), select_device(self.settings.device), self.precision, self.settings.batch)
        return self._torch

    def _load_converted(self, torch_otherwise: bool) -> ConvertedExecutor | None:
        wanted = self.settings.engine != "torch" and not self._refused
        try:
            path = self._source.find() if wanted else None
            if path is not None:
                executor = self._source.open(path)
                self._tell_agreement(path)
                return executor
        except FAILURES as error:
            self._refused = f"it does not load here ({root_cause(error)[:160]})"
            self.notes.append(f"{self._engine.title} is not used: {self._refused}")
        if torch_otherwise:
            # MONAI's many optional imports are left to the main thread, which may be importing the same packages to read the scan.
            import_module("torch")
        return None

    def _wait(self) -> None:
        self.preload(torch=False)
        if self._found is not None:
            self._converted = self._found.result()
            self._found, self.from_cache = None, self._converted is not None

    def _convert(self) -> ConvertedExecutor | None:
        try:
            return self._source.open(self._source.make())
        except (UnsupportedNetworkError, *FAILURES) as error:
            self.give_up_converted(root_cause(error) if not isinstance(error, UnsupportedNetworkError) else str(error))
            return None

    def _tell_agreement(self, path: Path) -> None:
        agreement = read_agreement(path) if self.precision == "int8" else None
        if agreement is not None:
            self.notes.append(describe_agreement(agreement))

    def _load(self) -> torch.nn.Module:
        from volseg.inference.pipeline import load_network

        if self._torch is not None and self._torch.device.type == "cpu" and self._torch.network is not None:
            network: torch.nn.Module = self._torch.network
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()
            return network
        with quiet_libraries():
            return load_network(self.bundle, self.weights if self._replaced else None)
