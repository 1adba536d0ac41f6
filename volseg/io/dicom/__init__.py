"""DICOM series to volumes, with geometry that is checked and never guessed."""

from __future__ import annotations

from volseg.io.dicom.read import find_series, read_series
from volseg.io.dicom.series import Series

__all__ = ["Series", "find_series", "read_series"]
