"""Labelled scans: datalists, their checks, and folds."""

from __future__ import annotations

from volseg.dataset.checks import check_cases
from volseg.dataset.convert import convert_dicom
from volseg.dataset.datalist import Case, Datalist, read_datalist
from volseg.dataset.folds import split_fold

__all__ = ["Case", "Datalist", "check_cases", "convert_dicom", "read_datalist", "split_fold"]
