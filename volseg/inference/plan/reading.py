"""The whole of a bundle's inference config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from volseg.bundle import Bundle
from volseg.bundle.config import lookup
from volseg.inference.cropping import STEP
from volseg.inference.plan.facts import InferencePlan, UnrecognisedError
from volseg.inference.plan.inferer import read_inferer
from volseg.inference.plan.postprocessing import read_postprocessing, refuse_overlapping_regions
from volseg.inference.plan.preprocessing import read_preprocessing


def read_plan(bundle: Bundle, config: Mapping[str, Any], overlap: float | None = None) -> InferencePlan:
    """Plan a bundle's inference.

    Parameters
    ----------
    bundle : Bundle
        The bundle.
    config : mapping
        Its inference config as read.
    overlap : float, optional
        Overrides the overlap of the sliding window.

    Raises
    ------
    UnrecognisedError
        When a part of the config is none the engine knows.
    BundleError
        When its result is no label map.
    """
    refuse_overlapping_regions(bundle, config)
    image = read_preprocessing(config, bundle.input_channels)
    decision, refinements = read_postprocessing(config)
    if image.interpolation == "nearest":
        # Without nearest_interp the inversion takes the mode of the image's own resampling.
        decision = replace(decision, nearest=True)
    channels = lookup(bundle.metadata, "network_data_format#outputs#pred#num_channels")
    if decision.threshold is not None and channels != 1:
        msg = f"a threshold on {channels} channels"
        raise UnrecognisedError(msg)
    if decision.threshold is not None and (decision.threshold <= 0 or image.spacing) and any(step.name == STEP for step in image.after):
        msg = "a threshold on what was cropped after Spacingd"
        raise UnrecognisedError(msg)
    window = read_inferer(config, overlap)
    return InferencePlan(image.orientation, image.spacing, image.interpolation, tuple(image.before), tuple(image.after), window, decision, refinements)
