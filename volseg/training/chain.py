"""The part of a training config that gives the same voxels every time, read as data: what a preprocessed cache holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.bundle.config import REFERENCE, SUM_OF_REFERENCES, follow, lookup
from volseg.dataset.cache import digest_of
from volseg.dataset.cache.entry import LAYOUT
from volseg.errors import BundleError
from volseg.provenance import software_versions

DETERMINISTIC, RANDOM = "train#deterministic_transforms", "train#random_transforms"
TRAINING, VALIDATION = "train#preprocessing", "validate#preprocessing"

KEYS = frozenset({"image", "label"})
"""What a case of the cache holds."""

PACKAGES_THAT_MATTER = ("monai", "torch", "numpy", "nibabel")
"""They read and resample: cases made by other versions are made again."""

NEEDS_HISTORY = frozenset({"Invertd", "SaveImaged"})
"""Transforms after the network that want to know how a case was read; cases of the cache do not."""


@dataclass(frozen=True)
class Chain:
    """What is done to a case once and for all.

    Attributes
    ----------
    config : mapping
        The whole training config, from which the transforms are built.
    steps : tuple
        Config of the deterministic transforms of training.
    shared : int
        So many of the first steps are those of validation, too.
    rest_of_validation : tuple or None
        What validation does after them; None where validation needs more than the voxels.
    digest : str
        Hash of the steps, everything they refer to, and the versions of the libraries that run them.
    """

    config: Mapping[str, Any]
    steps: tuple[Any, ...]
    shared: int
    rest_of_validation: tuple[Any, ...] | None
    digest: str


def read_chain(config: Mapping[str, Any], where: Path) -> Chain:
    """Read the chain of a training config, without building anything.

    Parameters
    ----------
    config : mapping
        Content of ``configs/train.*``, with the settings of the run.
    where : Path
        The file, for messages.

    Raises
    ------
    BundleError
        When the config does not keep its deterministic transforms apart, or its training draws on more than an image and a label.
    """
    steps, rest = raw_steps(config, f"@{DETERMINISTIC}"), raw_steps(config, f"@{RANDOM}")
    whole = raw_steps(config, lookup(config, "train#dataset#transform"))
    if not steps or not rest:
        msg = f"{where}: there are no `{DETERMINISTIC}` and `{RANDOM}` in it; list the transforms there, so that the first can be done once and kept"
        raise BundleError(msg)
    if whole != [*steps, *rest]:
        msg = f"{where}: `train#dataset#transform` is not `{DETERMINISTIC}` followed by `{RANDOM}`; only such a pipeline can be cut where chance begins"
        raise BundleError(msg)
    foreign = sorted({key for step in rest for key in _keys(config, step)} - KEYS)
    if foreign or lookup(config, "train#trainer#prepare_batch") is not None:
        msg = f"{where}: its training uses {', '.join(foreign) or 'a prepare_batch of its own'}; the cache holds only image and label"
        raise BundleError(msg)
    shared, rest_of_validation = _compare(config, steps)
    facts = {
        "layout": LAYOUT,
        "steps": [with_references(config, step) for step in steps],
        "shared": shared,
        "scripts": _scripts(config, steps),
        "packages": software_versions(PACKAGES_THAT_MATTER),
    }
    return Chain(config, tuple(steps), shared, rest_of_validation, digest_of(facts))


def raw_steps(config: Mapping[str, Any], value: Any) -> list[Any] | None:
    """Transforms of a list, a plain ``Compose``, a reference or a sum of references as the config has them, or None where that takes more than reading."""
    value = follow(config, value)
    if isinstance(value, str) and SUM_OF_REFERENCES.fullmatch(value):
        parts = [raw_steps(config, f"@{name}") for name in REFERENCE.findall(value)]
        return [step for part in parts if part is not None for step in part] if all(part is not None for part in parts) else None
    if isinstance(value, Mapping) and _target(value) == "Compose" and set(value) <= {"_target_", "transforms"}:
        return raw_steps(config, value.get("transforms", []))
    return [follow(config, step) for step in value] if isinstance(value, list) else None


def with_references(config: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """A part of a config together with everything it refers to, near and far: equal for parts that build the same."""
    found: dict[str, Any] = {}
    waiting = [value]
    while waiting:
        for text in _texts(waiting.pop()):
            for name in REFERENCE.findall(text):
                if name not in found:
                    found[name] = lookup(config, name)
                    waiting.append(found[name])
    return {"value": value, "references": found}


def _compare(config: Mapping[str, Any], steps: Sequence[Any]) -> tuple[int, tuple[Any, ...] | None]:
    validation = raw_steps(config, f"@{VALIDATION}")
    afterwards = with_references(config, "@validate#postprocessing")["references"]
    needs_history = any(text.rpartition(".")[2] in NEEDS_HISTORY for text in _texts(afterwards))
    if validation is None or needs_history or raw_steps(config, lookup(config, "validate#dataset#transform")) != validation:
        return len(steps), None
    shared = 0
    for ours, theirs in zip(steps, validation, strict=False):
        if with_references(config, ours) != with_references(config, theirs):
            break
        shared += 1
    return shared, tuple(validation[shared:])


def _keys(config: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Every key that a transform, or one inside it, works on or looks at."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name == "keys" or name.endswith("_key"):
                yield from _texts(follow(config, part))
            else:
                yield from _keys(config, part)
    elif isinstance(value, list):
        for part in value:
            yield from _keys(config, part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


def _target(step: Any) -> str:
    return str(step.get("_target_", "")).rpartition(".")[2] if isinstance(step, Mapping) else ""


def _scripts(config: Mapping[str, Any], steps: Sequence[Any]) -> dict[str, str]:
    """Hashes of the bundle's own code, where a step is of it."""
    if not any(text.startswith("scripts.") for text in _texts(list(steps))):
        return {}
    folder = Path(str(config.get("bundle_root", "."))) / "scripts"
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.py"))}
