"""MONAI bundles: find them, read what they say about themselves, load their weights. Imports neither torch nor MONAI until weights are loaded."""

from __future__ import annotations

from volseg.bundle.config import Step, follow, lookup, read_steps
from volseg.bundle.describe import describe
from volseg.bundle.find import bundle_folders, find_bundle, list_bundles
from volseg.bundle.read import Bundle, find_config, read_bundle, read_config
from volseg.bundle.weights import is_training_only, load_state, load_weights, mismatch, read_state_dict, weights_path, weights_sha256

__all__ = [
    "Bundle",
    "Step",
    "bundle_folders",
    "describe",
    "find_bundle",
    "find_config",
    "follow",
    "is_training_only",
    "list_bundles",
    "load_state",
    "load_weights",
    "lookup",
    "mismatch",
    "read_bundle",
    "read_config",
    "read_state_dict",
    "read_steps",
    "weights_path",
    "weights_sha256",
]
