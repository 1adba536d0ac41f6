"""``configs/metadata.json``: the fields that the Model Zoo's schema requires, version and changelog, names and shapes of the tensors.

The zoo's schema file (meta_schema_20240725.json) is on the network only and part of no package, so the fields it requires are checked directly here; `python -m monai.bundle
verify_metadata` remains the check against the schema itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from volseg.bundle import lookup
from volseg.conformance.registry import Outcome, check, judged
from volseg.conformance.subject import Subject
from volseg.errors import BundleError
from volseg.io.dicom.objects.segments import METADATA_KEY, describe_segments

REQUIRED_TEXT = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright")
"""Required by meta_schema_20240725.json, each a string."""

PACKAGES_FIELDS = ("required_packages_version", "optional_packages_version")
"""The first since meta_schema_20240725.json, the second in meta_schema_20220324.json."""

TENSOR_FIELDS: Mapping[str, type | tuple[type, ...]] = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
"""Required of every input and output by the schema."""

SHAPE_TEXT = re.compile(r"[0-9pn*+\- ()]+")
"""A size given as text: numbers, ``p`` and ``n`` in an expression, or ``*``."""

SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
"""Semantic versioning 2.0.0, item 2, 9 and 10."""


@check("readable", "metadata and inference config can be read", after=())
def check_readable(subject: Subject) -> Outcome:
    """All that volseg needs to run the bundle."""
    bundle = subject.bundle
    labels = ", ".join(f"{value} {name}" for value, name in bundle.labels.items())
    return judged([], f"{bundle.name} {bundle.version}: {bundle.input_channels} input channel(s), labels {labels}")


@check("metadata", "metadata has the fields the zoo's schema requires")
def check_metadata(subject: Subject) -> Outcome:
    """Presence and type of each required field, and of the optional ones that are often wrong."""
    metadata = subject.bundle.metadata
    problems = [f"`{name}` is missing or not text" for name in REQUIRED_TEXT if not _is_text(metadata.get(name))]
    packages = [name for name in PACKAGES_FIELDS if name in metadata]
    if not packages:
        problems.append("`required_packages_version` is missing")
    problems += [f"`{name}` must be an object" for name in (*packages, "supported_apps", "eval_metrics") if name in metadata and not isinstance(metadata[name], dict)]
    references = metadata.get("references", [])
    if not isinstance(references, list) or not all(isinstance(entry, str) for entry in references):
        problems.append("`references` must be a list of text")
    for side in ("inputs", "outputs"):
        for name, tensor in lookup(metadata, f"network_data_format#{side}").items():
            problems += _tensor_problems(f"network_data_format.{side}.{name}", tensor)
    return judged(problems, "all required fields are there (checked field by field, the schema file itself is not shipped)")


@check("version", "semantic version with an entry in the changelog")
def check_version(subject: Subject) -> Outcome:
    """The Model Zoo demands both."""
    version = subject.bundle.version
    changelog = subject.bundle.metadata.get("changelog")
    problems = [] if SEMANTIC_VERSION.fullmatch(version) else [f"`version` {version!r} is not of the form 1.2.3"]
    if not isinstance(changelog, dict):
        problems.append("`changelog` is missing; add an object of version to text")
    elif version not in changelog:
        problems.append(f"`changelog` has no entry {version!r} (it has {', '.join(changelog) or 'none'})")
    return judged(problems, f"version {version} is in the changelog")


@check("tensors", "image and pred come first, channels and labels agree")
def check_tensors(subject: Subject) -> Outcome:
    """MONAI Label uses the first input and output, feeds ``image`` and reads ``pred``, and lower-cases label names."""
    problems = []
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        first = next(iter(lookup(subject.bundle.metadata, f"network_data_format#{side}")))
        if first != name:
            problems.append(f"network_data_format.{side}: {first!r} comes before {name!r}; MONAI Label uses the first")
    channels = lookup(subject.bundle.metadata, "network_data_format#outputs#pred#num_channels")
    labels = subject.bundle.labels
    if channels != len(labels):
        problems.append(f"outputs.pred has num_channels {channels} but channel_def names {len(labels)}")
    lowered = [name.lower() for name in labels.values()]
    twice = sorted({name for name in lowered if lowered.count(name) > 1})
    if twice:
        problems.append(f"labels {', '.join(twice)} occur twice when lower-cased, as MONAI Label does")
    return judged(problems, f"{subject.bundle.input_channels} in, {channels} out")


@check("segments", "DICOM codes of the labels, where given, are well-formed")
def check_segments(subject: Subject) -> Outcome:
    """The key is ours: what a label stands for in a DICOM Segmentation, RT Structure Set or measurement report."""
    metadata, labels = subject.bundle.metadata, subject.bundle.labels
    try:
        segments = describe_segments(labels, metadata)
    except BundleError as error:
        return judged([str(error)], "")
    given = metadata.get(METADATA_KEY, {})
    problems = [f"`{METADATA_KEY}` describes {value}, which is no label" for value in given if value not in {str(label) for label in labels if label}]
    return judged(problems, "; ".join(f"{segment.name}: {segment.type.meaning}" for segment in segments.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _tensor_problems(where: str, tensor: Any) -> list[str]:
    if not isinstance(tensor, dict):
        return [f"`{where}` must be an object"]
    problems = [f"`{where}.{name}` is missing or of the wrong type" for name, kind in TENSOR_FIELDS.items() if not isinstance(tensor.get(name), kind)]
    shape = tensor.get("spatial_shape")
    if isinstance(shape, list) and not all(isinstance(size, int) or (isinstance(size, str) and SHAPE_TEXT.fullmatch(size)) for size in shape):
        problems.append(f"`{where}.spatial_shape` {shape} must hold whole numbers, or text in p, n and *")
    limits = tensor.get("value_range")
    if isinstance(limits, list) and not all(isinstance(limit, (int, float)) for limit in limits):
        problems.append(f"`{where}.value_range` {limits} must hold numbers")
    return problems
