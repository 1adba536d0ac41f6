"""Checkpoints from which a training continues to the same result."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import is_training_only
from volseg.errors import InputError
from volseg.io import written_beside

if TYPE_CHECKING:
    import torch

BEST = "model.pt"
LAST = "last.pt"
FINAL = "final.pt"


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes
    ----------
    epoch : int
        Epochs completed.
    iteration : int
        Optimiser steps made.
    elapsed_s : float
        Wall-clock seconds spent, over all resumed parts.
    schedule_steps : int
        Steps the learning-rate scheduler has made.
    best_metric : float or None
        Best key metric of a validation so far.
    best_epoch : int
        Epoch of that validation.
    validation_s : float
        Seconds of ``elapsed_s`` that validations took.
    last_validation_s : float or None
        Seconds the latest of them took: what a time limit keeps for the last one.
    cut : bool
        Whether a time limit ended the last epoch of all before its last step: with more time, that epoch is begun again.
    """

    epoch: int = 0
    iteration: int = 0
    elapsed_s: float = 0.0
    schedule_steps: int = 0
    best_metric: float | None = None
    best_epoch: int = 0
    validation_s: float = 0.0
    last_validation_s: float | None = None
    cut: bool = False


def save_torch(content: Any, path: Path) -> None:
    """Write with ``torch.save`` beside the target, then rename: the file is complete or absent."""
    import torch

    with written_beside(path) as partial, partial.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def detached_state(state: Mapping[str, torch.Tensor], *, half: bool = False) -> dict[str, torch.Tensor]:
    """Copy a state dict to the CPU, contiguous, optionally in half precision.

    Names that share one tensor still share it in the copy, so that ``torch.save`` writes it once: MONAI's DynUNet registers every block twice.
    """
    copies: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    result = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in copies:
            copy = tensor.detach().cpu().contiguous().clone()
            copies[key] = copy.half() if half and copy.is_floating_point() else copy
        result[name] = copies[key]
    return result


def inference_weights(state: Mapping[str, torch.Tensor], needed: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """The part of a trained state dict that inference needs: all but the deep-supervision heads, unless ``needed`` names them."""
    return {name: tensor for name, tensor in state.items() if name in needed or not is_training_only(name)}


def save_last(path: Path, position: Position, identity: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Write everything a resumed run needs.

    Parameters
    ----------
    path : Path
        Target, normally ``RUN_DIR/last.pt``.
    position : Position
        How far the training is.
    identity : mapping
        What must be the same when resuming (bundle, fold, cases).
    states : mapping
        ``state_dict`` of the network under ``"model"``, of the optimizer, the running average and the scaler under their names.
    """
    save_torch({**states, "position": asdict(position), "identity": dict(identity)}, path)


def load_last(path: Path, identity: Mapping[str, Any]) -> tuple[Position, dict[str, Any]]:
    """Read what :func:`save_last` wrote.

    Raises
    ------
    InputError
        When the file is missing or unreadable, or belongs to another training (the message names what differs).
    """
    import torch

    if not path.is_file():
        msg = f"{path}: nothing to resume; leave out --resume to start a new training"
        raise InputError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        position = Position(**content["position"])
        made_for: dict[str, Any] = content["identity"]
    except Exception as error:
        msg = f"{path}: not a checkpoint of volseg ({type(error).__name__}); start again in another folder (-o)"
        raise InputError(msg) from error
    for key, value in identity.items():
        if made_for.get(key) != value:
            msg = f"{path}: made with {key} {made_for.get(key)!r}, but this run has {value!r}; resume with the same settings or choose another folder (-o)"
            raise InputError(msg)
    if position.cut:
        position = replace(position, epoch=position.epoch - 1, cut=False)
    return position, content
