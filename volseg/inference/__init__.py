"""Segment scans with a bundle: read its pipeline, run it on a volume, bring the label back to the scan's own grid."""

from __future__ import annotations

from volseg.inference.segmentation import Segmentation
from volseg.inference.segmenter import Segmenter

__all__ = ["Segmentation", "Segmenter"]
