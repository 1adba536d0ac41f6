"""Holds a bundle against the contracts of MONAI's bundle specification, the Model Zoo's checks and MONAI Label, offline."""

from __future__ import annotations

from volseg.conformance.registry import CHECKS, Check, Outcome, Result, Status
from volseg.conformance.run import run_checks

__all__ = ["CHECKS", "Check", "Outcome", "Result", "Status", "run_checks"]
