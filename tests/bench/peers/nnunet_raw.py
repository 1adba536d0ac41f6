"""A dataset laid out as nnU-Net v2 wants it, of links to the files where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

from volseg.dataset import Datalist

NAME = "Dataset001_peer"


def write_raw(datalist: Datalist, work: Path) -> Path:
    """Write WORK/raw/Dataset001_peer: every case under its own name, one file for each channel.

    Returns
    -------
    Path
        The folder of the dataset.
    """
    raw = work / "raw" / NAME
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for case in datalist.cases:
        for channel, image in enumerate(case.images):
            _link(raw / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz", image)
        _link(raw / "labelsTr" / f"{case.name}.nii.gz", case.label)
    description = {
        "channel_names": {str(number): name for number, name in datalist.channels.items()},
        "labels": {name: value for value, name in datalist.labels.items()},
        "numTraining": len(datalist.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    return raw


def environment(work: Path) -> dict[str, str]:
    """Environment of nnU-Net's programs whose folders all lie in ``work``."""
    places = {"nnUNet_raw": work / "raw", "nnUNet_preprocessed": work / "preprocessed", "nnUNet_results": work / "results"}
    return os.environ | {name: str(path) for name, path in places.items()}


def _link(link: Path, file: Path) -> None:
    if not link.exists():
        link.symlink_to(file.resolve())
