"""What running a scan gives, on whichever path, and what both paths ask of its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.inference.forecast import Forecast

WindowProgress = Callable[[int, int], None]
"""Called with the windows done and the windows in all."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A label and how it came to be.

    Parameters
    ----------
    label : ndarray of unsigned integers, (i, j, k)
        On the scan's own grid.
    engine : mapping
        Facts for the report.
    seconds : mapping of str to float
        Per stage.
    notes : tuple of str
        Warnings of the run.
    probabilities : mapping of int to ndarray, or None
        Probability of each label but the background (axes of ``label``; float32, or uint8 in steps of 1/255), where they were asked for.
    forecast : Forecast or None
        What was foretold.
    """

    label: npt.NDArray[np.unsignedinteger[Any]]
    engine: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    probabilities: Mapping[int, npt.NDArray[Any]] | None = None
    forecast: Forecast | None = None
