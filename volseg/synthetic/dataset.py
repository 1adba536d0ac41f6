"""A labelled set of phantoms in the Decathlon's layout, for ``volseg train --data synthetic`` and for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import InputError
from volseg.io import save_volume
from volseg.io.staging import staged_folder
from volseg.synthetic.extremity import make_ct
from volseg.synthetic.head import make_mr
from volseg.synthetic.scan import NOTE, SyntheticScan

DATASET_SHAPE = (96, 80, 40)
DATASET_SPACING = (1.5, 1.5, 3.5)

Track = Callable[[Sequence[str]], Iterable[str]]
"""Passes the names of the cases on, one at a time, to show progress."""


def make_scan(modality: str, seed: int, **options: Any) -> SyntheticScan:
    """Make a ``"CT"`` or ``"MR"`` phantom; ``options`` are those of :func:`make_ct` or :func:`make_mr`."""
    return make_ct(seed, **options) if modality == "CT" else make_mr(seed, **options)


def write_dataset(
    folder: str | Path,
    n: int,
    seed: int = 0,
    *,
    modality: str = "CT",
    shape: Sequence[int] = DATASET_SHAPE,
    spacing: Sequence[float] = DATASET_SPACING,
    oblique: float = 0.0,
    replace: bool = False,
    track: Track = iter,
) -> Path:
    """Write ``imagesTr``, ``labelsTr`` and ``dataset.json``.

    Parameters
    ----------
    folder : str or Path
        Must be absent or empty, unless ``replace``.
    n : int
        Number of cases, 1 to 9999.
    seed : int
        Case ``c`` is drawn with ``seed + c``.
    modality : str
        ``"CT"`` (label 1 tumor) or ``"MR"`` (hippocampi and a lesion).
    shape, spacing : sequence of length 3
        Voxels and voxel size (mm) along i, j, k of every case.
    oblique : float
        Degrees by which every stack is turned out of the patient's planes.
    replace : bool
        Take the place of what is there once the set is complete.
    track : callable, optional
        Wraps the names of the cases, each of which is drawn and written when it is asked for; a progress bar, for example.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If an argument is out of range.
    OutputError, WriteError
        If the folder cannot be written; nothing half-written is left.
    """
    folder = Path(folder).expanduser()
    if not 1 <= n <= 9999 or seed < 0 or modality not in ("CT", "MR"):
        msg = f"{folder}: a synthetic dataset has 1 to 9999 cases of CT or MR and a seed of at least 0, got {n} of {modality!r} with seed {seed}"
        raise InputError(msg)
    names = [f"synthetic_{seed + c:04d}" for c in range(n)]
    labels: dict[int, str] = {}
    with staged_folder(folder, replace=replace) as stage:
        for case, name in enumerate(track(names)):
            scan = make_scan(modality, seed + case, shape=shape, spacing=spacing, oblique=oblique)
            labels = dict(scan.labels)
            save_volume(scan.image, scan.grid, stage / "imagesTr" / f"{name}.nii.gz", description=f"volseg: {NOTE}")
            save_volume(scan.label, scan.grid, stage / "labelsTr" / f"{name}.nii.gz", description=f"volseg: {NOTE}")
        (stage / "dataset.json").write_text(json.dumps(_description(modality, seed, names, labels), indent=1) + "\n")
    return folder


def _description(modality: str, seed: int, names: list[str], labels: dict[int, str]) -> dict[str, Any]:
    return {
        "name": f"synthetic_{modality.lower()}",
        "description": f"volseg phantoms: {NOTE}",
        "synthetic": True,
        "seed": seed,
        "licence": "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": {"0": modality},
        "labels": {"0": "background"} | {str(number): name for number, name in labels.items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": [],
    }
