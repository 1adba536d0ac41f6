"""What a dataset is like: checked, measured, and kept for the next time."""

from __future__ import annotations

from volseg.planning.fingerprint.facts import CaseFacts, ClassFacts, Fingerprint, Intensities, LabelFacts
from volseg.planning.fingerprint.take import take_fingerprint

__all__ = ["CaseFacts", "ClassFacts", "Fingerprint", "Intensities", "LabelFacts", "take_fingerprint"]
