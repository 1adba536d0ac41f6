"""Labelled scans: datalists, their checks, and folds."""

from __future__ import annotations

from volseg.dataset.checks import check_cases
from volseg.dataset.convert import convert_cases, count_channels
from volseg.dataset.datalist import Case, Datalist, read_datalist
from volseg.dataset.folds import split_fold
from volseg.dataset.listing import Listing, check_listing
from volseg.dataset.names import name_cases

__all__ = ["Case", "Datalist", "Listing", "check_cases", "check_listing", "convert_cases", "count_channels", "name_cases", "read_datalist", "split_fold"]
