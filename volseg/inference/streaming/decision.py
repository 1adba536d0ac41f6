"""How class scores become a label: what is interpolated of them, and which class wins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.unsignedinteger]

BYTE_VALUES = 256
"""Values a uint8 can take."""


@dataclass(frozen=True)
class Decision:
    """How scores become a label.

    Parameters
    ----------
    activation : str
        ``"softmax"``, ``"sigmoid"`` or ``"none"``: what is interpolated.
    threshold : float or None
        Of a single channel: label 1 from it on. None takes the class with the largest score.
    nearest : bool
        Scores of the nearest network voxel rather than interpolated ones.
    """

    activation: str = "softmax"
    threshold: float | None = None
    nearest: bool = False


def decide(scores: Floats, decision: Decision) -> Labels:
    """Best class of each voxel of scores (classes, ...)."""
    if decision.threshold is not None:
        above: Labels = (activate(scores[:1], decision)[0] >= decision.threshold).astype(np.uint8)
        return above
    top = scores[0].copy(order="K")
    best = np.zeros_like(top, dtype=label_type(len(scores)))
    better = np.empty_like(top, dtype=bool)
    number_of = np.empty_like(best)
    # A few passes for each class over a piece that stays in the cache; argmax over the first axis takes ten times as long.
    for number in range(1, len(scores)):
        take_better(scores[number], number, top, best, better, number_of)
    return best


def label_type(classes: int) -> type[np.unsignedinteger]:
    """The smallest type that holds the numbers of so many classes."""
    return np.uint8 if classes <= BYTE_VALUES else np.uint16


def take_better(share: Floats, number: int, top: Floats, best: Labels, better: npt.NDArray[np.bool_], number_of: Labels) -> None:
    """Put a class wherever it is above every class before it; classes come with rising numbers.

    Parameters
    ----------
    share : ndarray, float32
        Of the class.
    number : int
        Of the class.
    top, best : ndarray
        Largest share so far, and whose it is; changed.
    better, number_of : ndarray
        Work space: bool, and of the labels' type.
    """
    np.greater(share, top, out=better)
    # The class that was put last has the highest number, so that a product and a maximum do what a masked copy does, several times faster.
    np.multiply(better.view(np.uint8), best.dtype.type(number), out=number_of, dtype=best.dtype)
    np.maximum(best, number_of, out=best)
    np.maximum(top, share, out=top)


def activate(scores: Floats, decision: Decision) -> Floats:
    """What is interpolated, of scores (classes, ...): a new array, but for no activation."""
    if decision.activation == "softmax":
        shares: Floats = np.subtract(scores, scores.max(axis=0))
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=0)
        return shares
    if decision.activation == "sigmoid":
        with np.errstate(over="ignore"):
            np.exp(-scores, out=(shares := np.empty_like(scores)))
        shares += 1
        return np.reciprocal(shares, out=shares)
    return scores
