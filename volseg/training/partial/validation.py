"""Validate on labels that do not say everything: only what they say counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

PREDICTION, LABEL = "pred", "label"


class KnownOnly:
    """A bundle's validation post-processing, with the voxels and classes left out that a case says nothing about.

    Codes in the label become background before the bundle's own transforms. After them, prediction and label (one-hot, (C, x, y, z)) are emptied where the label says nothing, and
    the classes a case is not annotated for are emptied in both, which makes their Dice undefined: MONAI's metrics leave undefined values out of means.

    Parameters
    ----------
    transform : callable
        The bundle's own post-processing, of a dictionary.
    sets : sequence of (int, sequence of int)
        Label values and the classes each may be (:class:`volseg.training.partial.LabelCodes`).
    classes : int
        Number of classes, background included.
    """

    def __init__(self, transform: Callable[[Any], Any], sets: Sequence[tuple[int, Sequence[int]]], classes: int) -> None:
        self._transform, self._classes = transform, classes
        self._sets = [(int(value), tuple(members)) for value, members in sets]

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Transform one decollated item with ``pred`` and ``label``."""
        codes = data[LABEL].clone()
        for value, _ in self._sets:
            data[LABEL] = data[LABEL] * (data[LABEL] != value)
        data = dict(self._transform(data))
        for value, members in self._sets:
            here = (codes == value)[0]
            if len(members) == self._classes:
                for key in (PREDICTION, LABEL):
                    data[key] = data[key] * ~here
            elif bool(here.any()):
                for key in (PREDICTION, LABEL):
                    data[key][[member for member in members if member]] = 0
        return data
