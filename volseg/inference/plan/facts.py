"""What the engine has to know of a bundle's inference config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.inference.refine import Refinement
from volseg.inference.streaming.restore import Decision
from volseg.inference.streaming.sliding import SlidingWindow


class UnrecognisedError(Exception):
    """Why a config cannot be planned; the message names the part."""


@dataclass(frozen=True)
class IntensityStep:
    """A recognised intensity transform.

    Parameters
    ----------
    name : str
        Of its MONAI class, without the ``d``.
    arguments : mapping
        Its arguments.
    channel : int or None
        The one channel it changes (of a ``SplitDimd`` ... ``ConcatItemsd`` stretch); None changes the whole image.
    """

    name: str
    arguments: Mapping[str, Any]
    channel: int | None = None


@dataclass(frozen=True)
class InferencePlan:
    """Everything the engine needs to know of a bundle's inference config.

    Parameters
    ----------
    orientation : str or None
        Axis codes the network wants, e.g. ``"RAS"``; None keeps the scan's own.
    spacing : tuple of 3 float or None
        Voxel size the network wants (mm); None keeps the scan's own.
    interpolation : str
        ``"bilinear"`` or ``"nearest"``, of the image.
    before, after : tuple of IntensityStep
        Intensity steps before and after the resampling, in order.
    window : SlidingWindow
        How windows are laid and blended.
    decision : Decision
        How scores become a label.
    refinements : tuple of Refinement
        Corrections of the finished label, in order.
    """

    orientation: str | None
    spacing: tuple[float, float, float] | None
    interpolation: str
    before: tuple[IntensityStep, ...]
    after: tuple[IntensityStep, ...]
    window: SlidingWindow
    decision: Decision
    refinements: tuple[Refinement, ...] = ()
