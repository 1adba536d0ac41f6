"""From a dataset to a bundle, in one call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import InputError
from volseg.inference.device import device_name
from volseg.io.text import check_output as check_writable
from volseg.planning.bundle import write_bundle
from volseg.planning.bundle.write import check_free
from volseg.planning.fingerprint import take_fingerprint
from volseg.planning.planner import Plan, make_plan
from volseg.planning.rules.budget import DEFAULT_MEMORY_BYTES, GB, GFLOPS_CUDA, PRESET_NAMES, Budget, cpu_gflops
from volseg.processors import usable_threads

if TYPE_CHECKING:
    from volseg.planning.fingerprint.take import Track

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What a bundle may be called: MONAI Label and shells take it as it is."""

LEAST_MEMORY_BYTES = GB
"""Below this not even the programs fit."""


def plan(
    dataset: str | Path,
    out: str | Path,
    *,
    memory: int | None = None,
    device: str = "auto",
    preset: str = "default",
    gflops: float | None = None,
    overwrite: bool = False,
    workers: int = 1,
    track: Track = iter,
) -> Plan:
    """Measure a dataset and write a complete bundle for it.

    Parameters
    ----------
    dataset : str or Path
        A folder with a Decathlon ``dataset.json``, or a JSON datalist (:func:`volseg.dataset.read_datalist`).
    out : str or Path
        Folder of the bundle; its name becomes the bundle's.
    memory : int, optional
        Bytes that a training may take: of the GPU, or RAM on a CPU; 8 GB by default.
    device : str
        ``"cpu"``, ``"cuda"``, or ``"auto"``: what this machine has.
    preset : str
        ``"default"``, ``"fast"`` (smaller network, coarser), ``"fullres"`` (never coarser than the data) or ``"lowres"`` (coarser, so that a patch sees a quarter of a scan).
    gflops : float, optional
        Effective speed of training in GFLOP/s, on which the size of the network depends on a CPU; 45 for each processor of this machine by default.
    overwrite : bool
        Replace a bundle that is at ``out``.
    workers : int
        Processes that read cases. More than one needs the caller's ``if __name__ == "__main__":`` guard.
    track : callable
        Wraps the names of the cases; a progress bar, for example.

    Returns
    -------
    Plan
        With its fingerprint and warnings.

    Raises
    ------
    DatasetError
        With everything that is wrong with the dataset in ``problems``.
    InputError, OutputError, WriteError, DeviceError
        When an argument, the folder or the device cannot be used.
    """
    folder = Path(out)
    check_output(folder, overwrite=overwrite)
    made = prepare(dataset, memory=memory, device=device, preset=preset, gflops=gflops, workers=workers, track=track)
    write_bundle(made, folder, overwrite=overwrite)
    return made


def prepare(
    dataset: str | Path,
    *,
    memory: int | None = None,
    device: str = "auto",
    preset: str = "default",
    gflops: float | None = None,
    workers: int = 1,
    track: Track = iter,
) -> Plan:
    """As :func:`plan`, without writing anything."""
    budget = make_budget(memory=memory, device=device, preset=preset, gflops=gflops)
    return make_plan(take_fingerprint(dataset, workers=workers, track=track), budget)


def make_budget(*, memory: int | None, device: str, preset: str, gflops: float | None) -> Budget:
    """Check the arguments of a budget and fill in what is left out.

    Raises
    ------
    InputError
        When one is out of range or unknown.
    DeviceError
        When ``device`` is ``"auto"`` and cannot be told.
    """
    if preset not in PRESET_NAMES:
        msg = f"there is no preset {preset!r}; choose {', '.join(PRESET_NAMES)}"
        raise InputError(msg)
    if device not in ("auto", "cpu", "cuda"):
        msg = f"a bundle is planned for cpu or cuda, not for {device!r}; auto takes what this machine has"
        raise InputError(msg)
    if gflops is not None and not gflops > 0:
        msg = f"a speed of {gflops:g} GFLOP/s is not possible; give what the machine does in a training, e.g. 90 for two processors"
        raise InputError(msg)
    memory_bytes = DEFAULT_MEMORY_BYTES if memory is None else memory
    if memory_bytes < LEAST_MEMORY_BYTES:
        msg = f"{memory_bytes / GB:.2g} GB of memory are not enough for any training; give at least {LEAST_MEMORY_BYTES / GB:.0f}, e.g. --memory 8G"
        raise InputError(msg)
    # A plan for a GPU may be made on a machine without one.
    kind = "cuda" if (device if device != "auto" else device_name("auto")).startswith("cuda") else "cpu"
    speed = gflops or (GFLOPS_CUDA if kind == "cuda" else cpu_gflops(usable_threads()))
    return Budget("cuda" if kind == "cuda" else "cpu", memory_bytes, preset, speed)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse a name no bundle may have, or a folder that is occupied or cannot be written to, before the work is done.

    Raises
    ------
    InputError, OutputError
        With what to do.
    """
    name = folder.expanduser().absolute().name
    if not NAME.fullmatch(name):
        msg = f"{folder}: {name!r} is no name for a bundle; use letters, digits, '_', '-' and '.'"
        raise InputError(msg)
    check_free(folder.expanduser(), overwrite=overwrite)
    check_writable(folder.expanduser() / "LICENSE")
