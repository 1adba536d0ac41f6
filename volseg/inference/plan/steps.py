"""The two transform chains of a config, and how their arguments are read as plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from volseg.bundle.config import Step, follow, lookup, read_steps
from volseg.inference.plan.facts import UnrecognisedError

PREPROCESSING = ("preprocessing", "pre_transforms")
POSTPROCESSING = ("postprocessing", "post_transforms")
"""Ids of the two transform chains, in the order MONAI Label looks for them."""

WITHOUT_EFFECT = frozenset({"LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "SaveImaged", "CopyItemsd", "DeleteItemsd", "ToTensord"})
"""Transforms that change no value and no place of what volseg hands over: one channel-first float32 image."""

FLOAT32 = (None, "$torch.float32", "float32", "$np.float32")
"""How a config names the dtype the image has anyway."""


def find_steps(config: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Step, ...]:
    """Transforms of the first of several ids that the config has.

    Raises
    ------
    UnrecognisedError
        When it has none, or the chain is computed by an expression.
    """
    name = next((name for name in names if lookup(config, name) is not None), None)
    steps = read_steps(config, name) if name else None
    if steps is None:
        msg = f"`{names[0]}` cannot be read without running it"
        raise UnrecognisedError(msg)
    return steps


def check_without_effect(step: Step, held: Collection[str] = ()) -> None:
    """Make sure that a transform of :data:`WITHOUT_EFFECT` has none.

    Parameters
    ----------
    step : Step
        Any transform.
    held : collection of str
        Keys beside ``image`` and ``pred`` that hold voxels now.

    Raises
    ------
    UnrecognisedError
        When it is another transform, or moves, drops or casts voxels.
    """
    if step.target not in WITHOUT_EFFECT:
        msg = f"{step.target} on {', '.join(step.keys) or 'no key'}"
        raise UnrecognisedError(msg)
    if step.target in ("CopyItemsd", "DeleteItemsd"):
        if {"image", "pred", *held} & {*step.keys, *texts(step.arguments.get("names"))}:
            msg = f"{step.target} of the image itself"
            raise UnrecognisedError(msg)
        if step.arguments.get("use_re"):
            msg = f"{step.target} by regular expression"
            raise UnrecognisedError(msg)
    if step.target == "EnsureTyped" and step.arguments.get("dtype") not in FLOAT32:
        msg = f"EnsureTyped with dtype {step.arguments.get('dtype')}"
        raise UnrecognisedError(msg)


def only(step: Step, known: Collection[str]) -> None:
    """Refuse a transform with an argument that is not among the known ones."""
    unknown = set(step.arguments) - {*known, "keys", "allow_missing_keys", "_requires_", "_desc_"}
    if unknown:
        msg = f"{step.target} with {', '.join(sorted(unknown))}"
        raise UnrecognisedError(msg)


def plain(config: Mapping[str, Any], value: Any) -> Any:
    """A value with the references in it followed; lists element by element."""
    value = follow(config, value)
    return [plain(config, item) for item in value] if isinstance(value, (list, tuple)) else value


def single(value: Any) -> Any:
    """MONAI takes one value for one key, or a list of one."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def texts(value: Any) -> set[str]:
    """One text, several, or none, as a set."""
    return {value} if isinstance(value, str) else set(value or ())


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments as a message names them."""
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items() if key != "keys")
