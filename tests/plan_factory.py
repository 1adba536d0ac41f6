"""Small labelled datasets whose facts are known: boxes of known size and value in volumes of known spacing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from volseg.planning.fingerprint.facts import CaseFacts, ClassFacts, Fingerprint, Intensities, LabelFacts


def save(path: Path, array: np.ndarray, spacing: Sequence[float], origin: Sequence[float] = (0, 0, 0)) -> Path:
    """Write a NIfTI whose axes run along RAS+."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_boxes(
    folder: Path, n: int = 6, *, shape: Sequence[int] = (24, 20, 16), spacing: Sequence[float] = (1.0, 1.0, 2.0), channels: Sequence[str] = ("CT",), **content: Any
) -> Path:
    """A Decathlon folder; in case ``c`` a box of 6 x 6 x 6 voxels from (4 + c, 4, 4) on is label 1 with values near 100 + c, the rest is near 0.

    Further channels are ten times as large.
    """
    rng = np.random.default_rng(0)
    items = []
    for case in range(n):
        label = np.zeros(shape, np.uint8)
        label[4 + case : 10 + case, 4:10, 4:10] = 1
        image = np.where(label, 100 + case, 0) + rng.integers(-5, 6, shape)
        images = [save(folder / "imagesTr" / f"case_{case}_{number:04d}.nii.gz", (image * 10**number).astype(np.int16), spacing) for number in range(len(channels))]
        save(folder / "labelsTr" / f"case_{case}.nii.gz", label, spacing)
        names = [f"./imagesTr/{path.name}" for path in images]
        items.append({"image": names if len(names) > 1 else names[0], "label": f"./labelsTr/case_{case}.nii.gz"})
    description: dict[str, Any] = {"name": "boxes", "modality": {str(k): name for k, name in enumerate(channels)}, "labels": {"0": "background", "1": "box"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(description | content))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Replace entries of ``dataset.json``."""
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def items(folder: Path) -> list[dict[str, Any]]:
    """The training cases of ``dataset.json``."""
    found: list[dict[str, Any]] = json.loads((folder / "dataset.json").read_text())["training"]
    return found


def fingerprint(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    cases: int = 100,
    channels: Sequence[str] = ("CT",),
    labels: Sequence[str] = ("tumor",),
    piece_ml: float = 100.0,
    intensities: Intensities | None = None,
    nonzero: Sequence[int] | None = None,
) -> Fingerprint:
    """A fingerprint of equal cases, without any file."""
    found = intensities or Intensities(50.0, 30.0, 50.0, -40.0, 140.0)
    names = {0: "background", **dict(enumerate(labels, start=1))}
    facts = {value: LabelFacts(piece_ml, 1, (piece_ml,), 0) for value in names if value}
    size: Any = tuple(shape)
    one = CaseFacts("case", size, tuple(spacing), "RAS", tuple(nonzero or shape), (found,) * len(channels), facts, ("image", "label"))  # type: ignore[arg-type]
    classes = {value: ClassFacts(name, cases, (piece_ml,) * 3, 1.0, (piece_ml,) * 3, 0.01) for value, name in names.items() if value}
    return Fingerprint("made up", tuple(channels), names, (one,) * cases, (found,) * len(channels), classes, (), cases * 4 // 5, cases // 5)
