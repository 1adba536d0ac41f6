"""What a converted network depends on: where one of these facts differs, it is converted again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.bundle import Bundle, follow
from volseg.bundle.read import read_config
from volseg.provenance import software_versions

CONVERTED_BY = ("torch", "monai")
"""Whatever the engine, the network comes out of these."""


def network_facts(bundle: Bundle, weights_sha256: str, roi: Sequence[int], engine: str = "openvino", packages: Sequence[str] = ("openvino",)) -> dict[str, Any]:
    """What a converted network depends on: weights, definition, the bundle's own code, window, versions, kind of machine; JSON-ready.

    Parameters
    ----------
    bundle : Bundle
        Whose network.
    weights_sha256 : str
        Of the weights file.
    roi : sequence of 3 int
        Window size it is traced with.
    engine : str
        What it is converted for.
    packages : sequence of str
        Packages of the engine whose versions count; of several that provide the same, those that are installed.
    """
    return {
        "engine": engine,
        "weights_sha256": weights_sha256,
        "definition": _definition(read_config(bundle.inference_config)),
        "code_sha256": _code_sha256(bundle.path),
        "roi": [int(n) for n in roi],
        "versions": software_versions((*packages, *CONVERTED_BY)),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _definition(config: Mapping[str, Any]) -> Any:
    """`network_def` with its references followed; the whole config where an expression in it may depend on anything."""
    definition = _resolved(config, "@network_def")
    return config if _has_expression(definition) else definition


def _resolved(config: Mapping[str, Any], value: Any) -> Any:
    value = follow(config, value)
    if isinstance(value, Mapping):
        return {key: _resolved(config, item) for key, item in value.items()}
    return [_resolved(config, item) for item in value] if isinstance(value, list) else value


def _has_expression(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_expression, value.values()))
    if isinstance(value, list):
        return any(map(_has_expression, value))
    return value is None if not isinstance(value, str) else value.startswith("$") or "@" in value


def _code_sha256(bundle: Path) -> str:
    """SHA-256 over the bundle's own Python files, which may define the network."""
    digest = hashlib.sha256()
    for path in sorted(bundle.rglob("*.py")):
        digest.update(str(path.relative_to(bundle)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
