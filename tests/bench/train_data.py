"""How fast training patches come: the bundle's own pipeline, the preprocessed cache, and the cache with augmentation on batches; alone, and beside the network.

    python tests/bench/train_data.py --bundle ct_tumor --data DATASET

Every way is measured in turn in each of several rounds, since other programs make a machine slower for minutes. Prints medians of milliseconds a patch, by the clock and of
processor time of this process (which other programs hardly change; processes that load are not in it), and with ``--train`` of optimiser steps a second and the share of them
spent waiting for data.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.engines.utils import default_prepare_batch

from volseg.bundle import Bundle, find_bundle, read_bundle
from volseg.dataset import read_datalist
from volseg.inference.device import describe_device, select_device
from volseg.inference.quiet import quiet_libraries
from volseg.training.chain import read_chain
from volseg.training.config import parse_setting
from volseg.training.preprocess import Preprocessed, preprocess
from volseg.training.use_cache import runs_on_batches, train_from

WAYS = ("stock", "cache", "batches")


class Way:
    """One way of loading, ready to give batches.

    Parameters
    ----------
    name : str
        One of :data:`WAYS`.
    config : dict
        Training config with the data in it.
    found : Preprocessed
        The cases in the cache.
    workers : int
        Processes that load.
    device : torch.device
        Where batches go.
    """

    def __init__(self, name: str, config: dict[str, Any], found: Preprocessed, workers: int, device: torch.device) -> None:
        parser = ConfigParser(copy.deepcopy(config))
        if name != "stock":
            if name == "batches" and not runs_on_batches(parser):
                raise SystemExit("the bundle's random transforms do not run on batches")
            train_from(parser, [str(case.folder) for case in found.cases], on_batches=name == "batches")
        parser["train#dataloader#num_workers"] = workers
        parser["train#dataloader#persistent_workers"] = workers > 0
        self.label = f"{name}, {workers} workers"
        self._device = device
        self._loader = parser.get_parsed_content("train#dataloader")
        self._prepare = parser.get_parsed_content("train#trainer#prepare_batch") if name == "batches" else default_prepare_batch
        self._batches = self._endless()
        next(self._batches)

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for batch in self._loader:
                yield self._prepare(batch, self._device)

    def patch_seconds(self, batches: int) -> tuple[float, float]:
        """Seconds a patch, by the clock and of processor time."""
        began, busy, patches = time.perf_counter(), time.process_time(), 0
        for _ in range(batches):
            patches += len(next(self._batches)[0])
        _wait(self._device)
        return (time.perf_counter() - began) / patches, (time.process_time() - busy) / patches

    def step_seconds(self, step: Any, batches: int) -> tuple[float, float]:
        """Seconds an optimiser step, and the share of it spent waiting for data."""
        began, waited = time.perf_counter(), 0.0
        for _ in range(batches):
            asked = time.perf_counter()
            image, label = next(self._batches)
            waited += time.perf_counter() - asked
            step(image, label)
        _wait(self._device)
        seconds = time.perf_counter() - began
        return seconds / batches, waited / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def make_config(bundle: Bundle, items: list[dict[str, Any]], device: torch.device, settings: list[str]) -> dict[str, Any]:
    """The bundle's training config with data, device and settings filled in."""
    parser = ConfigParser()
    parser.read_config(str(bundle.train_config))
    parser["bundle_root"] = str(bundle.path)
    parser["train#dataset#data"] = items
    parser["device"] = f"$torch.device('{device}')"
    for text in settings:
        name, value = parse_setting(text)
        parser[name] = value
    return dict(parser.get())


def make_step(config: dict[str, Any], device: torch.device) -> Any:
    """One optimiser step of the bundle's network and loss, in bfloat16 where the training would use it."""
    parser = ConfigParser(config)
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(network(image), label)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="ct_tumor")
    parser.add_argument("--data", required=True)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="measure beside the network's steps")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="ID=VALUE")
    arguments = parser.parse_args()
    bundle, device = read_bundle(find_bundle(arguments.bundle)), select_device(arguments.device)
    cases = read_datalist(arguments.data).cases[: arguments.cases]
    config = make_config(bundle, [case.as_item() for case in cases], device, arguments.settings)
    with tempfile.TemporaryDirectory() as cache, quiet_libraries():
        found = preprocess(cases, read_chain(config, Path(str(bundle.train_config))), bundle, cache=Path(cache))
        print(f"{describe_device(device)}, torch {torch.__version__}; {len(cases)} cases, {found.size_on_disk / 1e6:.1f} MB, preprocessed in {found.seconds:.1f} s")
        ways = [Way(name, config, found, workers, device) for name in arguments.ways for workers in arguments.workers]
        step = make_step(config, device) if arguments.train else None
        taken: dict[str, list[tuple[float, float]]] = {way.label: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                taken[way.label].append(way.patch_seconds(arguments.batches) if step is None else way.step_seconds(step, arguments.batches))
        for label, values in taken.items():
            seconds, other = (statistics.median(value[number] for value in values) for number in (0, 1))
            what = f"{1000 * seconds:8.1f} ms a patch, {1000 * other:6.1f} ms of processor time" if step is None else f"{1 / seconds:8.3f} steps/s, {other:6.1%} waiting"
            print(f"{label:<22}{what}   (range {1000 * min(v[0] for v in values):.1f} to {1000 * max(v[0] for v in values):.1f} ms)")


if __name__ == "__main__":
    main()
