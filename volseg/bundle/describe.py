"""What a person wants to know about a bundle, as plain JSON values."""

from __future__ import annotations

from typing import Any

from volseg.bundle.config import Step, follow, lookup, read_steps
from volseg.bundle.read import Bundle, read_config
from volseg.bundle.weights import weights_sha256

LICENCE_FILE = "LICENSE"
"""Exactly this name (MONAI bundle specification)."""


def describe(bundle: Bundle) -> dict[str, Any]:
    """Facts for ``volseg bundle info``.

    Returns
    -------
    dict
        JSON values; what the inference config computes by an expression (and so cannot be read without running it) is None. ``spacing`` is in mm, ``roi_size`` in voxels of that
        spacing along the axes of ``orientation``.
    """
    config = read_config(bundle.inference_config)
    steps = read_steps(config, "preprocessing") or ()
    inferer = follow(config, lookup(config, "inferer"))
    inferer = inferer if isinstance(inferer, dict) else {}
    licence = bundle.path / LICENCE_FILE
    return {
        "name": bundle.name,
        "title": bundle.metadata.get("name"),
        "description": bundle.metadata.get("description"),
        "version": bundle.version,
        "path": str(bundle.path),
        "modality": bundle.modality,
        "input_channels": list(bundle.channel_names),
        "labels": {str(value): name for value, name in bundle.labels.items()},
        "network": _readable(lookup(config, "network_def#_target_")),
        "roi_size": _readable(follow(config, inferer.get("roi_size"))),
        "overlap": _readable(follow(config, inferer.get("overlap"))),
        "spacing": _argument(steps, ("Spacingd", "Spacing"), "pixdim"),
        "orientation": _argument(steps, ("Orientationd", "Orientation"), "axcodes"),
        "weights": _weights(bundle),
        "licence": str(licence) if licence.is_file() else None,
        "metrics": bundle.metadata.get("eval_metrics") or {},
        "intended_use": bundle.metadata.get("intended_use"),
        "can_train": bundle.train_config is not None,
    }


def _argument(steps: tuple[Step, ...], targets: tuple[str, ...], name: str) -> Any:
    return next((_readable(step.arguments.get(name)) for step in steps if step.target in targets), None)


def _readable(value: Any) -> Any:
    """None for an expression (``"$..."``), whose value is known only by running it."""
    return None if isinstance(value, str) and value.startswith("$") else value


def _weights(bundle: Bundle) -> dict[str, Any] | None:
    if bundle.weights is None:
        return None
    return {"path": str(bundle.weights), "bytes": bundle.weights.stat().st_size, "sha256": weights_sha256(bundle)}
