"""Transfer learning: begin with the weights of another training, as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import find_bundle, read_bundle, read_state_dict, weights_path
from volseg.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAMES_SHOWN = 4


@dataclass(frozen=True)
class Transfer:
    """What was taken over from other weights.

    Attributes
    ----------
    source : str
        The weights file.
    loaded : tuple of str
        Tensors of the network that were loaded.
    reshaped : tuple of str
        Tensors that both have in different shapes (heads for other classes, first layers for other channels): they keep their random start.
    missing : tuple of str
        Tensors that only the network has: they keep their random start too.
    unused : tuple of str
        Tensors that only the file has.
    """

    source: str
    loaded: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Lines for the user, one for each group that is not empty."""
        groups = ((self.reshaped, "have another shape and start anew"), (self.missing, "are not in the file and start anew"), (self.unused, "of the file are not used"))
        more = [f"  {len(names)} {what}: {_some(names)}" for names, what in groups if names]
        return [f"{self.source}: {len(self.loaded)} of {len(self.loaded) + len(self.reshaped) + len(self.missing)} tensors loaded", *more]


def find_weights(source: str | Path) -> Path:
    """The file of ``--pretrained``: a weights file as it is, or the weights of a bundle (folder or name).

    Raises
    ------
    InputError
        When it is neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix in (".pt", ".pth"):
        msg = f"{path}: no such weights file; give a model.pt, or a bundle that has one"
        raise InputError(msg)
    return weights_path(read_bundle(find_bundle(source)))


def load_pretrained(network: Module, path: Path) -> Transfer:
    """Copy every tensor of a weights file that the network has by the same name and in the same shape.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    path : Path
        See :func:`volseg.bundle.read_state_dict`; half precision is widened.

    Raises
    ------
    BundleError
        When the file cannot be read.
    InputError
        When nothing fits: it belongs to another kind of network.
    """
    state, wanted = read_state_dict(path), network.state_dict()
    if not any(name in wanted for name in state) and all(name.startswith("module.") for name in state):
        # As torch's DistributedDataParallel names them.
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    transfer = _match(state, wanted, path)
    if not transfer.loaded:
        msg = (
            f"{path}: none of its {len(state)} tensors fits this network ({_some(tuple(state))} against {_some(tuple(wanted))}); "
            "--pretrained needs weights of the same kind of network"
        )
        raise InputError(msg)
    network.load_state_dict({name: state[name] for name in transfer.loaded}, strict=False)
    return transfer


def _match(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> Transfer:
    shared = [name for name in wanted if name in state]
    fits = {name for name in shared if state[name].shape == wanted[name].shape}
    return Transfer(
        str(path),
        tuple(name for name in shared if name in fits),
        tuple(name for name in shared if name not in fits),
        tuple(name for name in wanted if name not in state),
        tuple(name for name in state if name not in wanted),
    )


def freeze(network: Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Keep the parameters whose name fits one of the shell patterns (``downsamples.*``) as they are.

    Returns
    -------
    tuple of str
        Their names.

    Raises
    ------
    InputError
        When a pattern fits no parameter, or all parameters would be frozen.
    """
    named = list(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            parts = sorted({name.split(".", 1)[0] for name, _ in named})
            msg = f"--freeze {pattern!r} fits no parameter of the network; its parts are {', '.join(parts)} (write e.g. '{parts[0]}.*')"
            raise InputError(msg)
    frozen = []
    for name, parameter in named:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
            frozen.append(name)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        msg = f"--freeze {' '.join(patterns)}: nothing would be left to train; freeze less"
        raise InputError(msg)
    return tuple(frozen)


def apply_pretrained(network: Module, path: Path | None, patterns: Sequence[str], *, resumed: bool) -> tuple[Transfer | None, tuple[str, ...]]:
    """Load and freeze as asked; a resumed training has its own weights, and only freezes."""
    transfer = load_pretrained(network, path) if path is not None and not resumed else None
    return transfer, freeze(network, patterns) if patterns else ()


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
