"""From a bundle's inference config to a frozen plan the streaming engine can run, or the reason why stock MONAI has to run it.

Transforms are recognised by class and arguments, read from the config as data: nothing is instantiated and MONAI is not imported. Whatever is not recognised is never guessed.
"""

from __future__ import annotations

from volseg.inference.plan.facts import InferencePlan, IntensityStep, UnrecognisedError
from volseg.inference.plan.postprocessing import refuse_overlapping_regions
from volseg.inference.plan.reading import read_plan
from volseg.inference.plan.steps import POSTPROCESSING, PREPROCESSING

__all__ = ["POSTPROCESSING", "PREPROCESSING", "InferencePlan", "IntensityStep", "UnrecognisedError", "read_plan", "refuse_overlapping_regions"]
