"""What a metric needs to be told: tolerances and the rule of detection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from volseg.errors import InputError

DEFAULT_TOLERANCE_MM = 2.0
"""Tolerance of the normalised surface distance (mm).

It should be how far experts disagree (Nikolov et al., 2021, took the 95th percentile between radiographers: 1 to 3 mm for most head and neck organs); 2 mm is what the FLARE
challenges ask of tumours (organs: 1 mm), TotalSegmentator reports 3 mm. Where experts were compared, their number belongs here.
"""

DEFAULT_LESION_IOU = 0.1
"""Overlap from which a lesion counts as found, as in the PI-CAI challenge (Saha et al., 2024): low, so that it asks whether a lesion was found and not how well it was outlined."""


@dataclass(frozen=True)
class Settings:
    """What the metrics need to be told.

    Parameters
    ----------
    tolerance_mm : float
        Tolerance of the normalised surface distance (mm), at least 0.
    label_tolerances_mm : mapping of int to float
        Other tolerances, by label value.
    lesion_iou : float
        Least intersection over union (0 to 1) at which a predicted lesion finds one of the reference; at 0 a common voxel suffices.

    Raises
    ------
    InputError
        If a number is out of its range.
    """

    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    label_tolerances_mm: Mapping[int, float] = field(default_factory=dict)
    lesion_iou: float = DEFAULT_LESION_IOU

    def __post_init__(self) -> None:
        for value in (self.tolerance_mm, *self.label_tolerances_mm.values()):
            if not (math.isfinite(value) and value >= 0):
                msg = f"a surface tolerance is a number of mm of at least 0, got {value:g}; choose about how far two experts' outlines lie apart"
                raise InputError(msg)
        if not 0 <= self.lesion_iou <= 1:
            msg = f"the overlap from which a lesion is found lies between 0 and 1, got {self.lesion_iou:g}; 0 asks for a common voxel, 0.1 is usual"
            raise InputError(msg)

    def tolerance_of(self, label: int) -> float:
        """Tolerance of one label (mm)."""
        return self.label_tolerances_mm.get(label, self.tolerance_mm)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "tolerance_mm": self.tolerance_mm,
            "label_tolerances_mm": {str(label): value for label, value in sorted(self.label_tolerances_mm.items())},
            "lesion_iou": self.lesion_iou,
            "lesion_connectivity": 26,
        }
