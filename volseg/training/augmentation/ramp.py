"""Augmentation that grows with the training: little in the first passes over the cases, all of it later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import RandAxisFlipd, RandFlipd, RandomizableTransform, RandRotate90d

KEPT = (RandFlipd, RandAxisFlipd, RandRotate90d)
"""Transforms that do not take part: a mirrored patch is as sharp as the patch, and no harder to learn."""


def grows(transform: Any) -> bool:
    """Whether a transform takes part: it comes with a probability, and is no mirror."""
    return isinstance(transform, RandomizableTransform) and not isinstance(transform, KEPT)


class AugmentationRamp:
    """Probabilities of random transforms as a function of how often the training cases were seen.

    A network that has seen a case a few times does not know it by heart: to vary it then costs accuracy, and saves none. What was planned for hundreds of passes over the cases is
    reached in a straight line (the progressive learning of Tan and Le, "EfficientNetV2: smaller models and faster training", ICML 2021).

    Parameters
    ----------
    transforms : sequence of monai transforms
        Those of a training; the ones that come with a probability, mirrors aside, are changed in place.
    passes : float
        Passes over the cases until they are what they were given as; more than 0.
    passes_per_epoch : float
        How often an epoch shows each case, in the mean.
    """

    def __init__(self, transforms: Sequence[Any], passes: float, passes_per_epoch: float) -> None:
        self._full = [(transform, float(transform.prob)) for transform in transforms if grows(transform)]
        self._passes, self._per_epoch = passes, passes_per_epoch

    def share(self, epoch: int) -> float:
        """Share of the full probabilities in an epoch (1 is the first), 0 to 1: what the epoch's middle has come to."""
        return min(1.0, (epoch - 0.5) * self._per_epoch / self._passes)

    def start_epoch(self, epoch: int) -> None:
        """Set the probabilities for an epoch."""
        share = self.share(epoch)
        for transform, probability in self._full:
            transform.prob = share * probability
