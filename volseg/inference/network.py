"""A bundle's network behind the executor that suits the machine, loaded no earlier than needed and beside the reading of the scan."""

from __future__ import annotations

import atexit
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import Bundle
from volseg.errors import DeviceError, root_cause
from volseg.inference.device import describe_cpu, describe_device, precision_for, select_device, usable_threads
from volseg.inference.executors.choice import choose_engine
from volseg.inference.executors.compiled import cache_folder
from volseg.inference.executors.converter import convert
from volseg.inference.executors.openvino_executor import OpenVINOExecutor, find_converted, is_installed, network_facts
from volseg.inference.executors.torch_executor import TorchExecutor, UnsupportedNetworkError
from volseg.inference.quiet import quiet_libraries
from volseg.provenance import sha256_of

if TYPE_CHECKING:
    import torch

NO_CACHE = "VOLSEG_NO_CACHE"
"""Environment variable; when it is not empty, no converted network is read from the cache or kept there."""

OPENVINO_FAILURES = (ImportError, OSError, RuntimeError)
"""What OpenVINO raises when it is broken, or its files are."""


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is to be run.

    Parameters
    ----------
    engine : str
        ``auto``, ``torch`` or ``openvino``.
    device : str
        Name of a device that exists, e.g. ``cpu`` or ``cuda:0``.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
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
        Window size; OpenVINO needs one that does not follow the scan (no 0 or less in it).
    settings : NetworkSettings
        How to run it.

    Raises
    ------
    DeviceError
        When OpenVINO is asked for and is not installed, or the device is not a CPU.

    Attributes
    ----------
    notes : list of str
        Why something other than what was to be expected runs the network.
    """

    def __init__(self, bundle: Bundle, weights: Path, replaced: bool, roi: tuple[int, int, int], settings: NetworkSettings) -> None:
        self.bundle, self.weights, self.roi, self.settings = bundle, weights, roi, settings
        self.precision = precision_for(settings.precision, settings.device.partition(":")[0])
        self.notes: list[str] = []
        self._replaced = replaced
        self._refused = self._why_not_openvino()
        if settings.engine == "openvino" and self._refused:
            msg = f"--engine openvino: {self._refused}; use --engine auto or torch"
            raise DeviceError(msg)
        self._windows_by_torch = 0
        self._torch: TorchExecutor | None = None
        self._openvino: OpenVINOExecutor | None = None
        self.from_cache = False
        self._sha256: Future[str] | None = None
        self._found: Future[OpenVINOExecutor | None] | None = None

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
        total = self._windows_by_torch + windows
        return choose_engine(self.settings.engine, self.settings.device, windows=total, converted=self._openvino is not None, convertible=self._refused == "" and self.may_cache)

    def executor(self, windows: int) -> TorchExecutor | OpenVINOExecutor:
        """The executor for a scan of this many windows.

        Raises
        ------
        BundleError
            When the network cannot be built or its weights cannot be used.
        DeviceError
            When OpenVINO was asked for and cannot run the network.
        """
        if self.engine_for(windows) == "openvino":
            found = self._openvino or self._convert()
            if found is not None:
                self._openvino = found
                return found
        self._windows_by_torch += windows
        if self._torch is None:
            self._torch = TorchExecutor(self._load(), select_device(self.settings.device), self.precision, self.settings.batch)
        return self._torch

    def give_up_openvino(self, reason: str) -> None:
        """After OpenVINO failed: PyTorch from now on.

        Raises
        ------
        DeviceError
            When OpenVINO was asked for by name.
        """
        self._openvino, self._refused, self.from_cache = None, reason, False
        if self.settings.engine == "openvino":
            msg = f"--engine openvino: {self.bundle.name}: {reason}; use --engine torch"
            raise DeviceError(msg)
        self.notes.append(f"OpenVINO is not used: {reason}")

    def describe(self, engine: str) -> dict[str, Any]:
        """Engine, device and precision, for the report."""
        if engine == "openvino" or self.settings.device == "cpu":
            device, name = "cpu", describe_cpu(usable_threads())
        else:
            device, name = self.settings.device, describe_device(select_device(self.settings.device))
        return {"engine": engine, "device": device, "device_name": name, "precision": self.precision, "cached_network": engine == "openvino" and self.from_cache}

    def should_convert_later(self) -> bool:
        """Whether PyTorch ran on the CPU where a converted network would start and run faster the next time."""
        return self._windows_by_torch > 0 and self.settings.engine == "auto" and self.settings.device == "cpu" and self._openvino is None and not self._refused and self.may_cache

    def convert_later(self) -> Path | None:
        """Convert the network and keep it in the cache; the path, or None where that cannot be."""
        try:
            return self._converted()
        except (UnsupportedNetworkError, *OPENVINO_FAILURES) as error:
            self.notes.append(root_cause(error))
            return None

    def close(self) -> None:
        """Release networks and the device's memory."""
        if self._torch is not None:
            self._torch.close()
        self._torch = self._openvino = None

    def _why_not_openvino(self) -> str:
        if not self.settings.device.startswith("cpu"):
            return f"volseg runs OpenVINO on the CPU, and the device is {self.settings.device}"
        if not is_installed():
            return "OpenVINO is not installed (pip install openvino)"
        return "the window follows the size of the scan" if min(self.roi) <= 0 else ""

    def _load_converted(self, torch_otherwise: bool) -> OpenVINOExecutor | None:
        wanted = self.settings.engine in ("auto", "openvino") and not self._refused
        try:
            path = find_converted(self._facts()) if wanted and self.may_cache else None
            if path is not None:
                return self._open(path)
        except OPENVINO_FAILURES as error:
            self._refused = f"it does not load here ({root_cause(error)[:160]})"
        if torch_otherwise:
            # MONAI's many optional imports are left to the main thread, which may be importing the same packages to read the scan.
            import_module("torch")
        return None

    def _wait(self) -> None:
        self.preload(torch=False)
        if self._found is not None:
            self._openvino = self._found.result()
            self._found, self.from_cache = None, self._openvino is not None

    def _facts(self) -> dict[str, Any]:
        return network_facts(self.bundle, self.weights_sha256, self.roi)

    def _open(self, path: Path) -> OpenVINOExecutor:
        # Matrix units for bf16 are kept busy by two windows; without them one window has work enough for all cores.
        batch = self.settings.batch or (2 if self.precision == "bf16" else 1)
        executor = OpenVINOExecutor(path, self.bundle.input_channels, self.roi, self.precision, batch, usable_threads())
        executor.compile()
        return executor

    def _convert(self) -> OpenVINOExecutor | None:
        try:
            return self._open(self._converted())
        except (UnsupportedNetworkError, *OPENVINO_FAILURES) as error:
            self.give_up_openvino(root_cause(error) if not isinstance(error, UnsupportedNetworkError) else str(error))
            return None

    def _converted(self) -> Path:
        facts = self._facts()
        # Another process may have made it meanwhile.
        found = find_converted(facts) if self.may_cache else None
        if found is not None:
            return found
        with quiet_libraries():
            path = convert(facts, self._load, self.bundle.input_channels, self.roi, keep=self.may_cache)
        if cache_folder() not in path.parents:
            atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
        return path

    def _load(self) -> torch.nn.Module:
        from volseg.inference.pipeline import load_network

        if self._torch is not None and self._torch.device.type == "cpu" and self._torch.network is not None:
            network: torch.nn.Module = self._torch.network
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()
            return network
        with quiet_libraries():
            return load_network(self.bundle, self.weights if self._replaced else None)
