"""Which corrections of the label map help, decided on cases that no model was trained on.

The rule is nnU-Net's (``remove_connected_components.py``): a correction is taken when the mean Dice over classes rises and no class gets worse. It is tried first for all of the
foreground together, then for single classes; here for the largest piece, for a smallest size, and for holes, in this order, each on top of what was taken before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from volseg.inference.refine import HOLES, LARGEST, SMALL, Refinement, refine
from volseg.training.folds.held_out import HeldOut, read_all

SIZES_MM3 = (20, 100, 500, 2000)
"""Smallest volumes (mm3) that are tried: pieces of 3 to 16 mm across."""

Means = Mapping[int, float]


@dataclass(frozen=True)
class Choice:
    """What was taken, and what it did.

    Attributes
    ----------
    refinements : tuple of Refinement
        In order; empty when nothing helps.
    before, after : mapping of int to float
        Mean Dice over cases of each label without and with them.
    tried : tuple of str
        A line for each correction that was tried.
    """

    refinements: tuple[Refinement, ...]
    before: Means
    after: Means
    tried: tuple[str, ...]


def choose_refinements(held: Sequence[HeldOut], labels: Sequence[int]) -> Choice:
    """Try corrections on held-out predictions.

    Parameters
    ----------
    held : sequence of HeldOut
        Predictions by the bundle's inference as it is; what is chosen comes on top of corrections it already has.
    labels : sequence of int
        Label values, background left out.
    """
    taken: list[Refinement] = []
    tried: list[str] = []
    before = now = _score(held, labels, [()])[0]
    for stage in _stages(labels):
        scores = _score(held, labels, [(*taken, candidate) for candidate in stage])
        better = [candidate for candidate, means in zip(stage, scores, strict=True) if helps(now, means)]
        for candidate, means in zip(stage, scores, strict=True):
            tried.append(f"{_describe(candidate)}: mean Dice {_mean(now):.4f} -> {_mean(means):.4f}, {'helps' if candidate in better else 'not taken'}")
        if stage[0].name == SMALL and better:
            better = [max(better, key=lambda candidate: _mean(scores[stage.index(candidate)]))]
        if better:
            together = _score(held, labels, [(*taken, *better)])[0]
            if helps(now, together):
                taken += better
                now = together
    return Choice(tuple(taken), before, now, tuple(tried))


def helps(before: Means, after: Means) -> bool:
    """nnU-Net's rule: the mean over classes rises, and no class falls."""
    return _mean(after) > _mean(before) and all(after.get(label, 0.0) >= mean for label, mean in before.items())


def _stages(labels: Sequence[int]) -> list[list[Refinement]]:
    each = [list(labels)] if len(labels) == 1 else [[label] for label in labels]
    whole = [Refinement(LARGEST, {"independent": False})]
    single = [] if len(labels) == 1 else [[Refinement(LARGEST, {"applied_labels": group}) for group in each]]
    sizes = [Refinement(SMALL, {"min_size": size, "by_measure": True, "independent_channels": False, "connectivity": 3}) for size in SIZES_MM3]
    return [whole, *single, sizes, [Refinement(HOLES, {"applied_labels": group}) for group in each]]


def _score(held: Sequence[HeldOut], labels: Sequence[int], candidates: Sequence[Sequence[Refinement]]) -> list[Means]:
    """Mean Dice over cases of each label, for each list of corrections; every case is read once."""
    found: list[dict[int, list[float]]] = [{label: [] for label in labels} for _ in candidates]
    for _, pair in read_all(held):
        for scores, refinements in zip(found, candidates, strict=True):
            corrected = refine(pair.prediction.copy(), refinements, pair.grid.spacing)
            for label, dice in pair.dice(corrected).items():
                if dice is not None and label in scores:
                    scores[label].append(dice)
    return [{label: float(np.mean(values)) for label, values in scores.items() if values} for scores in found]


def _mean(means: Means) -> float:
    return float(np.mean(list(means.values()))) if means else 0.0


def _describe(refinement: Refinement) -> str:
    what = {LARGEST: "largest piece", SMALL: f"pieces of at least {refinement.arguments.get('min_size')} mm3", HOLES: "holes filled"}[refinement.name]
    return f"{what} of {'all labels together' if refinement.labels is None else 'label ' + ', '.join(map(str, refinement.labels))}"
