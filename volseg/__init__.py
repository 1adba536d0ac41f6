"""CT and MRI from the scanner to a segmentation a clinic can use, and labelled scans to a MONAI bundle.

Importing this package imports neither torch nor MONAI; the names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "Grid": "volseg.geometry",
    "Volume": "volseg.io",
    "load": "volseg.io",
    "Segmenter": "volseg.inference",
    "Segmentation": "volseg.inference",
    "plan": "volseg.planning",
    "train": "volseg.training",
}

if TYPE_CHECKING:
    from volseg.geometry import Grid
    from volseg.inference import Segmentation, Segmenter
    from volseg.io import Volume
    from volseg.io.load import load
    from volseg.planning import plan
    from volseg.training import train

__all__ = ["Grid", "Segmentation", "Segmenter", "Volume", "__version__", "load", "plan", "train"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    msg = f"module 'volseg' has no attribute {name!r}"
    raise AttributeError(msg)
