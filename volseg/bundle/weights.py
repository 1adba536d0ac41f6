"""The weights of a bundle: their identity, and loading them so that a wrong file cannot pass unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle.read import Bundle
from volseg.errors import BundleError
from volseg.provenance import sha256_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NESTED_KEYS = ("model", "state_dict")
"""Where a checkpoint may keep its state dict; ``model`` is what MONAI's CheckpointSaver writes."""

KEYS_SHOWN = 3
"""How many keys of a mismatch a message names."""

TRAINING_ONLY = frozenset({"deep_supervision_heads", "super_head"})
"""Parts of tensor names that only training uses (MONAI's ``DynUNet``): networks for inference are built without deep supervision, because TorchScript cannot compile it."""


def weights_path(bundle: Bundle) -> Path:
    """Path of the weights.

    Raises
    ------
    BundleError
        If the bundle has none.
    """
    if bundle.weights is None:
        msg = f"{bundle.path / 'models' / 'model.pt'}: the bundle has no weights; train it (`volseg train {bundle.name}`) or put model.pt there"
        raise BundleError(msg)
    return bundle.weights


def weights_sha256(bundle: Bundle) -> str:
    """SHA-256 of the weights file's bytes, as 64 hexadecimal digits.

    Raises
    ------
    BundleError
        If the bundle has no weights.
    """
    return sha256_of(weights_path(bundle))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint without running any code from it (``weights_only=True``).

    Parameters
    ----------
    path : Path
        A file of ``torch.save``: a state dict, or a mapping that keeps one under ``model`` or ``state_dict``.

    Returns
    -------
    dict of str to Tensor
        On the CPU, as stored (half precision is not widened here).

    Raises
    ------
    BundleError
        If the file is missing, corrupt, holds anything but tensors, or holds no state dict.
    """
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        msg = f"{path}: no such weights file"
        raise BundleError(msg) from error
    except Exception as error:  # torch.load raises RuntimeError, UnpicklingError, EOFError, KeyError, ... for a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        msg = f"{path}: not weights that torch can load safely (weights_only=True): {reason}; the file is damaged or not a state dict, fetch or train it again"
        raise BundleError(msg) from error
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        msg = f"{path}: holds no state dict (tensors by name, plain or under {' or '.join(NESTED_KEYS)}); save network.state_dict() there"
        raise BundleError(msg)
    return {str(key): value for key, value in content.items()}


def load_weights(bundle: Bundle, network: Module) -> None:
    """Load a bundle's weights into a network, strictly.

    Half-precision tensors are widened to the network's own precision; every tensor of the network must be in the file with its shape, and the file may hold no other.

    Parameters
    ----------
    bundle : Bundle
        Whose weights to read; TorchScript (``.ts``) files give their parameters.
    network : torch.nn.Module
        Changed in place, on the device it is on.

    Raises
    ------
    BundleError
        If the weights are missing, damaged, or do not fit.
    """
    path = weights_path(bundle)
    state = _scripted_state(path) if path.suffix == ".ts" else read_state_dict(path)
    load_state(state, network, path)


def load_state(state: Mapping[str, Tensor], network: Module, path: Path) -> None:
    """Load a state dict into a network, strictly but for the heads that only training uses (:data:`TRAINING_ONLY`).

    Raises
    ------
    BundleError
        If a tensor is missing, left over, or of another shape; ``path`` is named in the message.
    """
    wanted = network.state_dict()
    needed = {key: tensor for key, tensor in state.items() if key in wanted or not is_training_only(key)}
    problem = mismatch(needed, network)
    if problem:
        msg = f"{path}: the weights do not fit the network of the inference config: {problem}; use weights that were trained with this bundle's config"
        raise BundleError(msg)
    network.load_state_dict(needed, strict=True)


def is_training_only(key: str) -> bool:
    """Whether a tensor of this name belongs to a deep-supervision head."""
    return not TRAINING_ONLY.isdisjoint(key.split("."))


def mismatch(state: Mapping[str, Tensor], network: Module) -> str:
    """Say how a state dict and a network disagree, e.g. ``"2 missing (a, b), 1 of another shape (c is 3x3, the network has 5x5)"``; empty when they agree."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [f"{key} is {_size(state[key])}, the network has {_size(wanted[key])}" for key in wanted if key in state and state[key].shape != wanted[key].shape]
    groups = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    return ", ".join(f"{len(keys)} {what} ({_some(keys)})" for keys, what in groups if keys)


def _scripted_state(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        msg = f"{path}: not a TorchScript model: {reason}; export it again"
        raise BundleError(msg) from error


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:KEYS_SHOWN]) + (", ..." if len(keys) > KEYS_SHOWN else "")
