"""Labels that do not say everything: cases annotated for some classes only, and voxels to be ignored."""

from __future__ import annotations

from volseg.training.partial.codes import LabelCodes, encode_cases, label_codes
from volseg.training.partial.config import use_codes

__all__ = ["LabelCodes", "encode_cases", "label_codes", "use_codes"]
