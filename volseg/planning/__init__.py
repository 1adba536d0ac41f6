"""A dataset's fingerprint, and a MONAI bundle planned for it."""

from __future__ import annotations

from volseg.planning.bundle import write_bundle
from volseg.planning.fingerprint import Fingerprint, take_fingerprint
from volseg.planning.planner import Plan, make_plan
from volseg.planning.run import plan, prepare

__all__ = ["Fingerprint", "Plan", "make_plan", "plan", "prepare", "take_fingerprint", "write_bundle"]
