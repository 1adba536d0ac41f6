"""Random transforms for batches: from a list of stock transforms, and in place of a trainer's ``prepare_batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.engines.utils import default_prepare_batch
from torch import Tensor

from volseg.training.augmentation.intensity import STEPS, ImageStep
from volseg.training.augmentation.spatial import Affine, Flip
from volseg.training.augmentation.step import Step
from volseg.training.randomness import SharedRandomness

SEED = "seed"
"""Key of the number in each item of a batch from which everything follows that is done to it."""


class AugmentedBatch:
    """Moves a batch to the device and transforms it there.

    Parameters
    ----------
    transforms : sequence of monai transforms
        The random transforms after the crop; all of them known (:func:`recognise`).

    Raises
    ------
    ValueError
        When one is not known.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        steps = recognise(transforms)
        if steps is None:
            msg = f"not all of these transforms run on batches: {[type(transform).__name__ for transform in transforms]}"
            raise ValueError(msg)
        self._steps = steps
        self._randomness = SharedRandomness(transforms)

    def __call__(self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **options: Any) -> tuple[Tensor, Tensor]:
        """Image (B, C, x, y, z) and label (B, 1, x, y, z) of a batch; the signature is ignite's for ``prepare_batch``."""
        image, label = default_prepare_batch({key: batchdata[key] for key in ("image", "label")}, device, non_blocking, **options)
        drawn = [self._draw(int(seed), image.shape[1:]) for seed in batchdata[SEED]]
        batch = {"image": image.float(), "label": label.float()}
        for number, step in enumerate(self._steps):
            batch = step.apply(batch, [parameters[number] for parameters in drawn])
        return batch["image"], batch["label"]

    def _draw(self, seed: int, shape: torch.Size) -> list[Any]:
        self._randomness.seed(seed)
        patch = torch.zeros(1).expand(shape)
        return [step.draw(patch) for step in self._steps]


def recognise(transforms: Sequence[Any]) -> list[Step] | None:
    """Steps for batches that do what stock transforms do, or None where one of these is not known."""
    kinds: tuple[type[Affine] | type[Flip] | type[ImageStep], ...] = (Affine, Flip, *STEPS)
    steps: list[Step] = []
    for transform in transforms:
        kind = next((kind for kind in kinds if kind.knows(transform)), None)
        if kind is None:
            return None
        steps.append(kind(transform))
    return steps
