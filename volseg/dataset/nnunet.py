"""Raw datasets of nnU-Net v2: their ``dataset.json`` lists no cases, the names of the files say which belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.errors import DatasetError

IMAGES, LABELS = "imagesTr", "labelsTr"

IGNORE = "ignore"
"""The name that nnU-Net gives the label of voxels that nothing is known of."""


def is_nnunet(content: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is one of nnU-Net v2, which names an ending of files and no cases."""
    return "training" not in content and isinstance(content.get("file_ending"), str) and isinstance(content.get("channel_names"), dict)


def as_decathlon(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The same dataset in the terms of the Medical Segmentation Decathlon.

    Parameters
    ----------
    content : mapping
        Of a ``dataset.json`` that :func:`is_nnunet` knows (``documentation/dataset_format.md`` of nnU-Net v2).
    path : Path
        The file; images ``imagesTr/CASE_0000.ext`` (one for each channel) and labels ``labelsTr/CASE.ext`` lie beside it, unless ``dataset`` names them.

    Returns
    -------
    dict
        With ``training``, ``labels`` and, where one of the labels is called ``ignore``, ``ignore_label``.

    Raises
    ------
    DatasetError
        When labels are regions (lists of values), there are no labelled cases, or not as many as ``numTraining`` says.
    """
    labels = content.get("labels")
    labels = dict(labels) if isinstance(labels, dict) else {}
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions:
        msg = f"{path}: {', '.join(regions)} are regions of several label values; volseg trains on labels that exclude each other, name each value of the label maps"
        raise DatasetError(msg)
    ignored = {"ignore_label": labels.pop(IGNORE)} if IGNORE in labels else {}
    items = _listed(content["dataset"]) if isinstance(content.get("dataset"), dict) else _found(content, path)
    expected = content.get("numTraining", len(items))
    if not items or len(items) != expected:
        msg = (
            f"{path}: numTraining is {expected}, but there are {len(items)} labels *{content['file_ending']} in {path.parent / LABELS}; correct the number, or add what is missing"
        )
        raise DatasetError(msg)
    return {**content, **ignored, "labels": labels, "training": items}


def _listed(cases: Mapping[str, Any]) -> list[Any]:
    return [{"image": case.get("images"), "label": case.get("label")} if isinstance(case, dict) else case for case in cases.values()]


def _found(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    ending, channels = content["file_ending"], len(content["channel_names"])
    # What begins with a dot is no case: macOS leaves ._CASE.nii.gz on drives it shares.
    labels = sorted(label.name for label in (path.parent / LABELS).glob(f"*{ending}") if not label.name.startswith("."))
    return [{"image": [f"{IMAGES}/{name.removesuffix(ending)}_{channel:04d}{ending}" for channel in range(channels)], "label": f"{LABELS}/{name}"} for name in labels]
