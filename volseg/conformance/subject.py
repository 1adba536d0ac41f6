"""The bundle being checked: its facts, its configs, and a copy in which its programs may run and write."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import Bundle, find_config, lookup, read_bundle, read_config, read_steps
from volseg.conformance.phantom import Phantom, phantom_shape, write_phantom

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

CPU = "$torch.device('cpu')"
"""``device`` of every run: a check must give the same answer on every machine."""


class Subject:
    """One bundle under examination.

    Parameters
    ----------
    path : Path
        Folder of the bundle; only read.
    work : Path
        Empty temporary folder.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = path
        self.work = work

    @cached_property
    def bundle(self) -> Bundle:
        """What the bundle says about itself; raises BundleError when it cannot be read."""
        return read_bundle(self.path)

    @cached_property
    def inference(self) -> dict[str, Any]:
        """The inference config as written."""
        return read_config(self.bundle.inference_config)

    @cached_property
    def train(self) -> dict[str, Any] | None:
        """The training config as written, or None."""
        return read_config(self.bundle.train_config) if self.bundle.train_config else None

    @cached_property
    def copy(self) -> Path:
        """A copy of the bundle; where the bundle has no ``model.pt``, the copy gets one with random weights, so that its programs can run."""
        copy = self.work / "copy" / self.path.name
        shutil.copytree(self.path, copy, ignore=shutil.ignore_patterns("eval", "__pycache__"))
        weights = copy / "models" / "model.pt"
        if not weights.is_file():
            import torch

            weights.parent.mkdir(exist_ok=True)
            with self.running():
                torch.save(self.parser().get_parsed_content("network_def").state_dict(), weights)
        return copy

    @cached_property
    def phantom(self) -> Phantom:
        """A small scan with labels, on a rotated, flipped, anisotropic grid, large enough for the network's patch."""
        patch = self.bundle.metadata["network_data_format"]["inputs"]["image"].get("spatial_shape", [])
        spacing = next((step.arguments.get("pixdim") for step in read_steps(self.inference, "preprocessing") or () if step.target == "Spacingd"), None)
        known = isinstance(spacing, list) and all(isinstance(value, (int, float)) and value > 0 for value in spacing)
        shape = phantom_shape([size for size in patch if isinstance(size, int)], spacing if known else None)
        return write_phantom(self.work / "phantom", self.bundle.input_channels, [value for value in self.bundle.labels if value > 0], shape)

    def parser(self) -> Any:
        """A MONAI ConfigParser of the inference config and the metadata, on the CPU."""
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(self.bundle.inference_config))
        parser.read_meta(str(self.path / "configs" / "metadata.json"))
        parser["device"] = CPU
        return parser

    def workflow(self, kind: str, *stems: str, **overrides: Any) -> ConfigWorkflow:
        """MONAI's own workflow of the copy's configs (later ones overlay earlier ones), with the phantom for data.

        Parameters
        ----------
        kind : str
            ``"infer"`` or ``"train"``: which properties MONAI demands.
        *stems : str
            Config names without suffix, e.g. ``"train", "evaluate"``.
        **overrides : Any
            Values by config id; those whose id the configs do not have are left out, since an override would hide that it is missing.
        """
        from monai.bundle import ConfigWorkflow

        files = [str(file) for stem in stems if (file := find_config(self.copy, stem))]
        written = self.inference if kind == "infer" else self.train or {}
        wanted = {"bundle_root": str(self.copy), "dataset_dir": str(self.phantom.folder), "device": CPU, **overrides}
        given = {name: value for name, value in wanted.items() if lookup(written, name) is not None}
        return ConfigWorkflow(files, meta_file=str(self.copy / "configs" / "metadata.json"), logging_file=False, workflow_type=kind, **given)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the bundle's programs run in this process: in the work folder, with its ``scripts`` importable and its output kept off the terminal; everything is put back after."""
        import torch
        from monai.utils import set_determinism

        before = Path.cwd()
        path = list(sys.path)
        level = logging.root.manager.disable
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            os.chdir(self.work)
            sys.path.insert(0, str(self.path))
            try:
                yield
            finally:
                set_determinism(None)
                os.chdir(before)
                sys.path[:] = path
                for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
                    del sys.modules[name]
                logging.disable(level)
