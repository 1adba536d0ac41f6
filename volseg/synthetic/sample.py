"""One phantom as a user meets a scan: a DICOM series, a NIfTI, its ground truth, and a document that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from volseg import __version__
from volseg.io import save_volume
from volseg.io.staging import staged_folder
from volseg.synthetic.scan import NOTE, SyntheticScan
from volseg.synthetic.scanner import write_series

DOCUMENT = "sample.json"


def write_sample(scan: SyntheticScan, folder: str | Path, *, replace: bool = False) -> dict[str, Any]:
    """Write ``sample_ct.nii.gz``, ``sample_ct_label.nii.gz``, ``sample_ct_dicom/`` and ``sample.json`` (``sample_mri...`` for MR).

    Parameters
    ----------
    scan : SyntheticScan
        What to write.
    folder : str or Path
        Must be absent or empty, unless ``replace``.
    replace : bool
        Take the place of what is there once the sample is complete.

    Returns
    -------
    dict
        The content of ``sample.json``: file names relative to the folder, seed, geometry, labels with volumes in ml.

    Raises
    ------
    OutputError, WriteError
        If the folder cannot be written; nothing half-written is left.
    """
    stem = f"sample_{'ct' if scan.modality == 'CT' else 'mri'}"
    files = {"image": f"{stem}.nii.gz", "label": f"{stem}_label.nii.gz", "dicom": f"{stem}_dicom"}
    document = describe(scan) | {"files": files}
    with staged_folder(Path(folder).expanduser(), replace=replace) as stage:
        save_volume(scan.image, scan.grid, stage / files["image"], description=f"volseg: {NOTE}")
        save_volume(scan.label, scan.grid, stage / files["label"], description=f"volseg: {NOTE}")
        write_series(scan, stage / files["dicom"])
        (stage / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n")
    return document


def describe(scan: SyntheticScan) -> dict[str, Any]:
    """What a phantom is, ready for JSON; spacing in mm, affine in RAS+ mm, volumes in ml."""
    volumes = scan.volumes_ml()
    return {
        "synthetic": True,
        "note": NOTE,
        "made_by": f"volseg {__version__}",
        "modality": scan.modality,
        "seed": scan.seed,
        "shape": list(scan.grid.shape),
        "spacing_mm": list(scan.grid.spacing),
        "affine_ras_mm": scan.grid.affine.tolist(),
        "labels": {str(number): {"name": name, "volume_ml": round(volumes[number], 3)} for number, name in scan.labels.items()},
        "facts": dict(scan.facts),
    }


def is_ours(folder: Path) -> bool:
    """Whether a folder is an earlier sample or synthetic dataset, and so may be overwritten: its own document says ``"synthetic": true``."""
    for name in (DOCUMENT, "dataset.json"):
        try:
            content = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("synthetic") is True:
            return True
    return False
