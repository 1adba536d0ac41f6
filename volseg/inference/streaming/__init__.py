"""The streaming engine: resample, windows, blending and the way back, slab by slab, in numpy alone."""

from __future__ import annotations

from volseg.inference.streaming.restore import Restorer
from volseg.inference.streaming.sliding import Slab, SlidingWindow, stream
from volseg.inference.streaming.spacing import match_monai
from volseg.io.resample import Axis, resample

__all__ = ["Axis", "Restorer", "Slab", "SlidingWindow", "match_monai", "resample", "stream"]
