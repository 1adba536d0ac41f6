"""The command line of each peer: from one CT file to one label file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

from cases import REPOSITORY, WINDOW_HU, Network, Size, write_bundle, write_phantom

ENGINES = ("auto", "torch", "openvino", "monai")
"""What ``volseg infer --engine`` is asked for."""

PEERS = {
    **{f"volseg-{engine}": f"volseg infer --engine {engine}, converted network in the cache" for engine in ENGINES},
    **{f"volseg-{engine}-first": f"volseg infer --engine {engine}, empty cache" for engine in ("auto", "openvino")},
    "volseg-auto-full": "volseg-auto with its picture and HTML report, which no peer makes",
    "monai": "python -m monai.bundle run, the same bundle",
    "nnunet": "nnUNetPredictor.predict_from_files, 3 + 3 worker processes as by default",
    "nnunet-sequential": "nnUNetPredictor.predict_from_files_sequential, one process",
}
"""Name of each peer and what it runs."""

HERE = Path(__file__).resolve().parent

THIS_CHECKOUT = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}
"""What is measured is the volseg beside this script, whichever is installed."""


@dataclass(frozen=True)
class Case:
    """One scan and one network, written for every peer.

    Attributes
    ----------
    folder : Path
        Where everything of the case lies.
    scan : Path
        ``scan_0000.nii.gz``, the name nnU-Net asks for.
    bundle : Path
        MONAI bundle with random weights.
    model : Path or None
        nnU-Net's model folder, where nnU-Net is there.
    size, network, classes
        What they were written for.
    """

    folder: Path
    scan: Path
    bundle: Path
    model: Path | None
    size: Size
    network: Network
    classes: int


@dataclass(frozen=True)
class Tools:
    """Interpreters and options of the peers.

    Attributes
    ----------
    nnunet : Path or None
        A Python that has nnunetv2.
    precision : str
        ``--precision`` of volseg.
    max_memory : str or None
        ``--max-memory`` of volseg.
    """

    nnunet: Path | None = None
    precision: str = "auto"
    max_memory: str | None = None
    options: frozenset[str] = field(default_factory=lambda: infer_options())


def infer_options() -> frozenset[str]:
    """Options of this checkout's ``volseg infer``."""
    shown = subprocess.run([*volseg(), "infer", "--help"], capture_output=True, text=True, check=True, env={**os.environ, **THIS_CHECKOUT}).stdout
    return frozenset(word.strip(",") for word in shown.split() if word.startswith("--"))


def volseg() -> list[str]:
    """The ``volseg`` command of this interpreter, by its installed script where there is one."""
    script = Path(sys.executable).with_name("volseg")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "volseg"]


def write_case(folder: Path, scan: Path, size: Size, network: Network, classes: int, tools: Tools) -> Case:
    """Write the bundle and nnU-Net's model of a case.

    Raises
    ------
    RuntimeError
        When both networks do not have the same number of weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bundle = write_bundle(folder, network, classes, "bundle")
    model = None
    if tools.nnunet:
        model = folder / "Dataset001_bench" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        made = nnunet_json(tools.nnunet, "make", str(model), *_make_arguments(network, classes))
        ours = count_weights(bundle)
        if made["weights"] != ours:
            msg = f"nnU-Net's network has {made['weights']} weights, the bundle's {ours}"
            raise RuntimeError(msg)
    return Case(folder, scan, bundle, model, size, network, classes)


def _make_arguments(network: Network, classes: int) -> list[str]:
    low, high = WINDOW_HU
    return [
        *("--filters", ",".join(map(str, network.filters)), "--roi", str(network.roi), "--spacing", str(network.spacing)),
        *("--classes", str(classes), f"--low={low}", f"--high={high}"),
    ]


def count_weights(bundle: Path) -> int:
    """Weights of a bundle's network as its state dict holds them, each once."""
    import torch

    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    return sum(tensor.numel() for name, tensor in state.items() if not name.startswith("skip_layers."))


def nnunet_json(python: Path, *arguments: str) -> dict[str, Any]:
    """What ``nnunet_peer.py`` prints last.

    Raises
    ------
    RuntimeError
        When it fails.
    """
    done = subprocess.run([str(python), str(HERE / "nnunet_peer.py"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"nnunet_peer.py {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
        raise RuntimeError(msg)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class Run:
    """A peer's command, the label file it leaves, and the variables it runs with."""

    command: list[str]
    label: Path
    environment: dict[str, str]
    report: Path | None = None


def why_not(peer: str, tools: Tools) -> str | None:
    """Why a peer cannot run here, or None."""
    if peer.startswith("nnunet") and tools.nnunet is None:
        return "no Python with nnunetv2 (give --nnunet-python, or --make-nnunet FOLDER to install it)"
    if peer.startswith("volseg-") and "--engine" not in tools.options and engine_of(peer) != "auto":
        return "this volseg infer has no --engine"
    return None


def engine_of(peer: str) -> str:
    """``volseg-openvino-first`` -> ``openvino``."""
    return peer.split("-")[1]


def prepare(peer: str, case: Case, tools: Tools, scan: Path | None = None) -> Run:
    """The run of a peer on a case's scan, or on another one; its folder of results is fresh, and so is its cache where the peer wants that."""
    out, scan = case.folder / f"out-{peer}", scan or case.scan
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    stem = scan.name.removesuffix(".nii.gz")
    if peer == "monai":
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(case.bundle / "configs" / "inference.json"), "--bundle_root", str(case.bundle)]
        return Run([*command, "--output_dir", str(out), "--datalist", json.dumps([str(scan)])], out / f"{stem}_seg.nii.gz", {})
    if peer.startswith("nnunet"):
        workers = "0" if peer.endswith("sequential") else "3"
        command = [str(tools.nnunet), str(HERE / "nnunet_peer.py"), "predict", str(case.model), str(scan), str(out / "label")]
        places = {f"nnUNet_{name}": str(case.folder) for name in ("raw", "preprocessed", "results")}
        return Run([*command, "--overlap", str(case.network.overlap), "--workers", workers], out / "label.nii.gz", places)
    return _prepare_volseg(peer, case, tools, scan, out)


def _prepare_volseg(peer: str, case: Case, tools: Tools, scan: Path, out: Path) -> Run:
    stem = scan.name.removesuffix(".nii.gz")
    command = [*volseg(), "infer", str(scan), "-b", str(case.bundle), "-o", str(out), "--device", "cpu", "--precision", tools.precision, "--quiet"]
    if "--engine" in tools.options:
        command += ["--engine", engine_of(peer)]
    if not peer.endswith("-full"):
        command += ["--no-preview", "--no-report"]
    if tools.max_memory:
        command += ["--max-memory", tools.max_memory]
    cache = case.folder / ("cache-first" if peer.endswith("-first") else "cache")
    if peer.endswith("-first"):
        shutil.rmtree(cache, ignore_errors=True)
    return Run(command, out / f"{stem}_seg.nii.gz", {**THIS_CHECKOUT, "VOLSEG_CACHE": str(cache)}, out / f"{stem}_seg.json")


def warm_up(peer: str, case: Case, tools: Tools) -> None:
    """Let volseg convert the network and calibrate on a tiny scan, so that what follows finds them in its cache."""
    tiny = case.folder / "tiny_0000.nii.gz"
    if not tiny.is_file():
        write_phantom(tiny, Size((32, 32, 16), (4.0, 4.0, 5.0)))
    wanted = peer.replace("-auto", "-openvino") if "--engine" in tools.options and util.find_spec("openvino") else peer
    run = prepare(wanted, case, tools, tiny)
    done = subprocess.run(run.command, env={**os.environ, **run.environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"warming up {peer} ended with {done.returncode}: {done.stderr[-2000:]}"
        raise RuntimeError(msg)


def make_nnunet(folder: Path) -> Path:
    """A virtual environment with nnunetv2 and this interpreter's version of torch; kept and used again where it is there.

    Raises
    ------
    CalledProcessError
        When pip cannot install it.
    """
    import torch

    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"torch=={torch.__version__.split('+')[0]}", "nnunetv2"], check=True)
    return python
