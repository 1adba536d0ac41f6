"""Several networks of one bundle, and flips of each, behind the face of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle
from volseg.inference.executors import Executor
from volseg.inference.executors.averaging import Averaging, Ensemble, Flipped, flips_of
from volseg.inference.executors.onnx_executor import OnnxExecutor
from volseg.inference.executors.openvino_executor import OpenVINOExecutor
from volseg.inference.network import Network


class Members:
    """The networks whose scores are averaged; one network without flips is nothing but itself.

    Parameters
    ----------
    networks : sequence of Network
        At least one; the same definition with different weights.
    flips : sequence of int
        Axes (0, 1, 2 for x, y, z) along which each window is also run flipped, in every combination; none by default.
    """

    def __init__(self, networks: Sequence[Network], *, flips: Sequence[int] = ()) -> None:
        self.networks = list(networks)
        self.averaging = Averaging(len(self.networks), len(flips_of(flips)))
        self._flips = tuple(flips)
        self._executors: list[Executor] = []
        self._executor: Executor | None = None

    @property
    def bundle(self) -> Bundle:
        """Whose networks."""
        return self.networks[0].bundle

    @property
    def weights(self) -> list[Path]:
        """Of each member."""
        return [network.weights for network in self.networks]

    def identity(self) -> dict[str, Any]:
        """Weights files and their SHA-256, JSON-ready: a text each for one network, lists in the same order for several."""
        # All digests begin before the first is waited for.
        self.preload(torch=False)
        paths, digests = [str(path) for path in self.weights], [network.weights_sha256 for network in self.networks]
        return {"weights": paths, "weights_sha256": digests} if len(paths) > 1 else {"weights": paths[0], "weights_sha256": digests[0]}

    @property
    def notes(self) -> list[str]:
        """Why something other than what was to be expected runs the networks, each reason once."""
        return list(dict.fromkeys(note for network in self.networks for note in network.notes))

    def preload(self, *, torch: bool = True) -> None:
        """Begin, in threads, with what takes time before the first window."""
        for network in self.networks:
            network.preload(torch=torch)

    def executor(self, windows: int) -> Executor:
        """What runs a scan of this many windows: the same object as long as the members' own executors are the same.

        Raises
        ------
        BundleError
            When a network cannot be built or its weights cannot be used.
        DeviceError
            When an engine was asked for that cannot run the network.
        """
        found: list[Executor] = [network.executor(windows * self.averaging.flips) for network in self.networks]
        if self._executor is None or any(new is not old for new, old in zip(found, self._executors, strict=True)):
            members = [Flipped(executor, self._flips) for executor in found] if self.averaging.flips > 1 else found
            self._executors, self._executor = found, members[0] if len(members) == 1 else Ensemble(members)
        return self._executor

    @property
    def engine(self) -> str:
        """Name of what runs the scan at hand, after :meth:`executor`; of both where a converted network was in the cache for some members only."""
        return "+".join(sorted({_engine_of(executor) for executor in self._executors}))

    @property
    def needs_calibration(self) -> bool:
        """Whether int8 is asked for and a member is not calibrated yet; see :meth:`calibrate`."""
        return any(network.needs_calibration for network in self.networks)

    def calibrate(self, image: npt.NDArray[np.float32], scan: str, *, cval: float, threshold: float | None) -> None:
        """Convert the members to int8 with windows of a scan; see :meth:`volseg.inference.network.Network.calibrate`."""
        for network in self.networks:
            if network.needs_calibration:
                network.calibrate(image, scan, cval=cval, threshold=threshold)

    def give_up_converted(self, reason: str) -> bool:
        """After a run failed: PyTorch from now on for the members that another engine ran; False where it ran none, so that there is nothing left to try.

        Raises
        ------
        DeviceError
            When that engine was asked for by name.
        """
        failed = [network for network, executor in zip(self.networks, self._executors, strict=True) if _engine_of(executor) != "torch"]
        for network in failed:
            network.give_up_converted(reason)
        return bool(failed)

    def describe(self) -> dict[str, Any]:
        """Engine, device and precision, for the report; after :meth:`executor`."""
        told = [network.describe(_engine_of(executor)) for network, executor in zip(self.networks, self._executors, strict=True)]
        return {**told[0], "engine": self.engine, "cached_network": all(one["cached_network"] for one in told)}

    def should_convert_later(self) -> bool:
        """Whether converting a member makes the next run start and run faster."""
        return any(network.should_convert_later() for network in self.networks)

    def convert_later(self) -> Path | None:
        """Convert the members and keep them in the cache; the last one's path, or None where one cannot be converted."""
        paths = [network.convert_later() for network in self.networks]
        return paths[-1] if all(paths) else None

    def close(self) -> None:
        """Release the networks and the device's memory."""
        self._executors, self._executor = [], None
        for network in self.networks:
            network.close()


def _engine_of(executor: Executor) -> str:
    return executor.engine if isinstance(executor, (OpenVINOExecutor, OnnxExecutor)) else "torch"
