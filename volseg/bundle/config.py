"""Reading a MONAI config as data: ids, references and lists of transforms, without instantiating anything.

Only what can be read without running code is followed: ids (``train#dataset``), references (``@spacing``) and sums of references (``$@a + @b``). Whatever needs an expression
to be evaluated is reported as unknown (None), never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SEPARATOR = re.compile("#|::")
"""MONAI joins the parts of an id with ``#`` (before 1.3) or ``::``."""

SUM_OF_REFERENCES = re.compile(r"\$\s*@[\w#:]+(\s*\+\s*@[\w#:]+)*\s*")
REFERENCE = re.compile(r"[@%]([\w#:]+)")
"""``@id`` is the object of an id, ``%id`` its text; read as data they are the same."""

DEEPEST_REFERENCE = 20
"""References that lead through more than this many others are taken for a circle."""


@dataclass(frozen=True)
class Step:
    """One transform of a pipeline: the last part of its ``_target_``, and its arguments as written."""

    target: str
    arguments: Mapping[str, Any]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the data it works on."""
        keys = self.arguments.get("keys", ())
        return (keys,) if isinstance(keys, str) else tuple(keys)


def lookup(config: Mapping[str, Any], identifier: str) -> Any:
    """Value of an id such as ``train#dataset#data``, or None where there is none."""
    value: Any = config
    for part in SEPARATOR.split(identifier):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def follow(config: Mapping[str, Any], value: Any) -> Any:
    """Replace a reference (``"@id"``, ``"%id"``) by what it refers to; anything else comes back as it is, a broken reference as None."""
    for _ in range(DEEPEST_REFERENCE):
        if not (isinstance(value, str) and REFERENCE.fullmatch(value)):
            return value
        value = lookup(config, value[1:])
    return None


def read_steps(config: Mapping[str, Any], identifier: str) -> tuple[Step, ...] | None:
    """Transforms of a pipeline (``Compose`` or list) in order.

    Parameters
    ----------
    config : mapping
        A whole config.
    identifier : str
        Where the pipeline is, e.g. ``preprocessing``.

    Returns
    -------
    tuple of Step or None
        None when there is no such pipeline or it cannot be read without running code; disabled transforms (``"_disabled_": true``) are left out.
    """
    return _steps(config, lookup(config, identifier), DEEPEST_REFERENCE)


def _steps(config: Mapping[str, Any], value: Any, depth: int) -> tuple[Step, ...] | None:
    value = follow(config, value)
    if depth == 0 or value is None:
        return None
    if isinstance(value, str) and SUM_OF_REFERENCES.fullmatch(value):
        return _join(_steps(config, f"@{name}", depth - 1) for name in REFERENCE.findall(value))
    if isinstance(value, list):
        return _join(_steps(config, item, depth - 1) for item in value)
    if isinstance(value, Mapping) and isinstance(value.get("_target_"), str):
        if value.get("_disabled_") is True:
            return ()
        name = value["_target_"].rpartition(".")[2]
        if name == "Compose":
            return _steps(config, value.get("transforms", []), depth - 1)
        return (Step(name, {key: follow(config, argument) for key, argument in value.items() if key != "_target_"}),)
    return None


def _join(parts: Iterator[tuple[Step, ...] | None]) -> tuple[Step, ...] | None:
    joined: list[Step] = []
    for part in parts:
        if part is None:
            return None
        joined.extend(part)
    return tuple(joined)
