"""Put partial labels into a run's training config; the bundle's own config stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volseg.errors import BundleError
from volseg.training.partial.codes import LabelCodes

LOSS = "DiceCELoss"


def use_codes(config: Any, codes: LabelCodes, name: str) -> None:
    """Replace the loss, let patches be centred on what is known, and wrap the validation's post-processing.

    Parameters
    ----------
    config : monai.bundle.ConfigParser
        A parsed training config; changed in place.
    codes : LabelCodes
        Nothing is changed where there are none.
    name : str
        The config's file, for messages.

    Raises
    ------
    BundleError
        When the config has no ``DiceCELoss`` to be extended.
    """
    if not codes:
        return
    sets = [[value, list(members)] for value, members in codes.sets.items()]
    content = config.get()
    replaced = _with_loss(content, {"_target_": "volseg.training.partial.loss.PartialDiceCELoss", "sets": sets})
    if replaced == content:
        msg = f"{name}: partial labels (`annotated`, `ignore_label`) need a loss of {LOSS}, which volseg extends; this config has none"
        raise BundleError(msg)
    config.set(_with_crops(replaced, codes))
    postprocessing = config.get("validate#postprocessing")
    if postprocessing is not None:
        config["validate#postprocessing"] = {"_target_": "volseg.training.partial.validation.KnownOnly", "transform": postprocessing, "sets": sets, "classes": codes.classes}


def _with_loss(value: Any, loss: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        if str(value.get("_target_", "")).rpartition(".")[2] == LOSS:
            return {**value, **loss}
        return {key: _with_loss(item, loss) for key, item in value.items()}
    return [_with_loss(item, loss) for item in value] if isinstance(value, list) else value


def _with_crops(value: Any, codes: LabelCodes) -> Any:
    """Random crops around labels draw no ignored voxels, and draw those that may be background as background."""
    if isinstance(value, Mapping):
        kind = str(value.get("_target_", "")).rpartition(".")[2]
        if kind == "RandCropByPosNegLabeld" and not {"fg_indices_key", "bg_indices_key"} & set(value):
            each = value.get("pos", 1.0) / (codes.classes - 1)
            kept = {key: item for key, item in value.items() if key not in ("pos", "neg")}
            value = {**kept, "ratios": [value.get("neg", 1.0), *[each] * (codes.classes - 1)], "num_classes": codes.classes, "warn": False}
            kind = "RandCropByLabelClassesd"
        if kind == "RandCropByLabelClassesd" and isinstance(value.get("ratios"), list) and len(value["ratios"]) == codes.classes:
            partial = [code for code in codes.sets if code not in codes.ignored]
            behind = [value["ratios"][0] if code in partial else 0 for code in range(codes.classes, max(partial, default=0) + 1)]
            return {**value, "_target_": kind, "warn": False, "ratios": [*value["ratios"], *behind], "num_classes": codes.classes + len(behind)}
        return {key: _with_crops(item, codes) for key, item in value.items()}
    return [_with_crops(item, codes) for item in value] if isinstance(value, list) else value
