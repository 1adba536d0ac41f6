"""``configs/metadata.json`` of a planned bundle."""

from __future__ import annotations

from typing import Any

from volseg.bundle.read import HU, SUV
from volseg.planning.planner import Plan
from volseg.provenance import software_versions

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

VERSION = "0.0.1"

UNITS = {"ct": HU, "suv": SUV, "zscore": ""}
"""What a channel's values must be in (``channel_units``, which volseg alone reads)."""

FORMATS = {"ct": "hounsfield", "suv": "magnitude", "zscore": "magnitude"}
"""MONAI's words for what an input's values are."""

ZSCORE_RANGE = [-5.0, 5.0]
"""Where nearly all z-scores lie."""

REFERENCE = (
    "Isensee F, et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature Methods 18:203-211, 2021. doi:10.1038/s41592-020-01008-z"
)


def metadata(plan: Plan, name: str) -> dict[str, Any]:
    """What the bundle is; fields a person has to fill in say so."""
    labels = {str(value): label for value, label in plan.fingerprint.labels.items()}
    structures = ", ".join(label for value, label in labels.items() if value != "0")
    modalities = " and ".join(dict.fromkeys(channel.name for channel in plan.channels))
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "planned by volseg, not trained"},
        **_versions(),
        "supported_apps": {},
        "name": name,
        "task": f"Segmentation of {structures} on {modalities}",
        "description": f"Segments {structures} on {modalities} with a 3D U-Net (DynUNet), planned by volseg for the dataset {plan.fingerprint.dataset}.",
        "authors": "to be filled in",
        "copyright": "to be filled in",
        "data_source": f"{plan.fingerprint.dataset}: {len(plan.fingerprint.cases)} cases; source and licence to be filled in",
        "data_type": "nifti",
        "image_classes": f"{len(plan.channels)} channel(s): {modalities}",
        "label_classes": "single channel label map: " + ", ".join(f"{value} {label}" for value, label in labels.items()),
        "pred_classes": f"{len(labels)} channels: " + ", ".join(f"{value} {label}" for value, label in labels.items()),
        "eval_metrics": {},
        "intended_use": "Research. Not a medical device; not for diagnosis or treatment planning.",
        "references": [REFERENCE],
        "mirror_axes": list(plan.variation.mirror),
        "channel_units": [UNITS[channel.kind] for channel in plan.channels],
        "network_data_format": {"inputs": {"image": _image(plan)}, "outputs": {"pred": _prediction(plan, labels)}},
    }


def _versions() -> dict[str, Any]:
    found = {package: version.partition("+")[0] for package, version in software_versions(("monai", "torch", "numpy", "nibabel", "pytorch-ignite", "tensorboard")).items()}
    return {
        "monai_version": found["monai"],
        "pytorch_version": found["torch"],
        "numpy_version": found["numpy"],
        "required_packages_version": {package: found[package] for package in ("nibabel", "pytorch-ignite", "tensorboard") if package in found},
    }


def _image(plan: Plan) -> dict[str, Any]:
    first = plan.channels[0]
    tops = [ZSCORE_RANGE[1] if channel.kind == "zscore" else channel.top for channel in plan.channels]
    lows = [ZSCORE_RANGE[0] if channel.kind == "zscore" else 0.0 for channel in plan.channels]
    return {
        "type": "image",
        "format": FORMATS[first.kind],
        "modality": first.modality,
        "num_channels": len(plan.channels),
        "spatial_shape": list(plan.patch),
        "dtype": "float32",
        "value_range": [min(lows), round(max(tops), 4)],
        "is_patch_data": True,
        "channel_def": {str(number): channel.name for number, channel in enumerate(plan.channels)},
    }


def _prediction(plan: Plan, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": plan.classes,
        "spatial_shape": list(plan.patch),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": labels,
    }
