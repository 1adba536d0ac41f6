"""A bundle's network in the format of one engine: found in the cache, or made; in int8, calibrated first."""

from __future__ import annotations

import atexit
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle, read_config
from volseg.inference.device import INT8_CPU_FLAGS, cpu_computes_bf16, cpu_flags
from volseg.inference.executors.compiled import cache_folder
from volseg.inference.executors.conversion.facts import network_facts
from volseg.inference.executors.conversion.int8 import Agreement, calibrate, choose_windows
from volseg.inference.executors.conversion.kept import find_converted
from volseg.inference.executors.engines import ConvertedEngine, ConvertedExecutor
from volseg.inference.quiet import quiet_libraries
from volseg.processors import usable_threads

if TYPE_CHECKING:
    import torch

INT8_PACKAGES = ("nncf",)


@dataclass(frozen=True)
class ConvertedNetwork:
    """Where a converted network comes from.

    Parameters
    ----------
    bundle : Bundle
        Whose network.
    roi : tuple of 3 int
        Window size.
    engine : ConvertedEngine
        What runs it.
    device : str
        Name of the device, e.g. ``cpu`` or ``cuda:0``.
    precision : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    batch : int or None
        Windows at once; None leaves it to the engine.
    may_cache : bool
        Whether the cache is read and written.
    load : callable
        Gives the network in PyTorch, on the CPU.
    digest : callable
        Gives the SHA-256 of the weights.
    """

    bundle: Bundle
    roi: tuple[int, int, int]
    engine: ConvertedEngine
    device: str
    precision: str
    batch: int | None
    may_cache: bool
    load: Callable[[], torch.nn.Module]
    digest: Callable[[], str]

    def find(self) -> Path | None:
        """The network's file in the cache, ready for :meth:`open`, or None."""
        facts = self._int8_facts() if self.precision == "int8" else self._facts()
        return find_converted(facts, self.engine.file) if self.may_cache else None

    def make(self) -> Path:
        """Convert the network (not to int8), unless another process has done so meanwhile; its file.

        Raises
        ------
        UnsupportedNetworkError
            When it cannot be converted.
        """
        facts = self._facts()
        found = find_converted(facts, self.engine.file) if self.may_cache else None
        if found is not None:
            return found
        with quiet_libraries():
            return _swept(self.engine.convert(facts, self.load, self.bundle.input_channels, self.roi, threads=usable_threads(), keep=self.may_cache))

    def calibrate(self, image: npt.NDArray[np.float32], scan: str, *, cval: float, threshold: float | None) -> Path:
        """Convert the network to int8 with windows of a scan; its file.

        Parameters
        ----------
        image : ndarray, float32, (channels, x, y, z)
            The scan as the network gets it.
        scan : str
            Its name, for messages.
        cval : float
            What a scan smaller than a window is padded with.
        threshold : float or None
            Score above which a voxel has the label of its channel; None takes the largest score.

        Raises
        ------
        DeviceError
            When int8 changes the labels, or they cannot be compared.
        UnsupportedNetworkError
            When the network cannot be converted at all.
        """
        model = self.make()
        with quiet_libraries():
            windows = choose_windows(image, self.roi, cval)
            path = calibrate(self._int8_facts(), model, windows, scan, threshold=threshold, precision=self._computed_precision(), threads=usable_threads(), keep=self.may_cache)
        return _swept(path)

    def open(self, path: Path) -> ConvertedExecutor:
        """Load a converted network's file; see :meth:`~volseg.inference.executors.engines.ConvertedEngine.open` for what is raised."""
        return self.engine.open(path, self.device, self.bundle.input_channels, self.roi, self._computed_precision(), self.batch, usable_threads())

    def _computed_precision(self) -> str:
        """Number format of what stays in floating point."""
        if self.precision != "int8":
            return self.precision
        return "bf16" if cpu_computes_bf16() else "fp32"

    def _facts(self) -> dict[str, Any]:
        return network_facts(self.bundle, self.digest(), self.roi, self.engine.name, self.engine.packages)

    def _int8_facts(self) -> dict[str, Any]:
        # How 8-bit products are added up depends on the CPU, and the labels were compared on this one.
        facts = network_facts(self.bundle, self.digest(), self.roi, self.engine.name, (*self.engine.packages, *INT8_PACKAGES))
        # Ranges were measured, and labels compared, on scans as this config normalises them and with its decision.
        return {**facts, "precision": "int8", "cpu_flags": sorted(INT8_CPU_FLAGS & cpu_flags()), "config": read_config(self.bundle.inference_config)}


def score_threshold(activation: str, threshold: float | None) -> float | None:
    """The score above which a probability is above a threshold."""
    if threshold is None or activation != "sigmoid":
        return threshold
    if not 0 < threshold < 1:
        return math.inf if threshold >= 1 else -math.inf
    return math.log(threshold / (1 - threshold))


def describe_agreement(agreement: Agreement) -> str:
    """In one line, for the user."""
    dice = ", ".join(f"{value:.4f} for label {label}" for label, value in agreement.dice.items())
    return f"int8 was calibrated on {agreement.calibrated_on} windows of one scan; on {agreement.checked_on} others of it, its labels agree with fp32 at Dice {dice}"


def _swept(path: Path) -> Path:
    """Have a network that the cache did not take removed at the end of the process."""
    if cache_folder() not in path.parents:
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path
