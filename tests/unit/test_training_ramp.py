from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandCropByLabelClassesd, RandFlipd, RandGaussianNoised

from volseg.training.augmentation import AugmentedBatch
from volseg.training.augmentation.ramp import AugmentationRamp
from volseg.training.randomness import SharedRandomness

BOTH = ["image", "label"]


def transforms():
    return [
        RandCropByLabelClassesd(BOTH, "label", (8, 8, 8), num_classes=2, num_samples=1),
        RandAffined(BOTH, prob=0.4, rotate_range=[0.5, 0.5, 0.5], mode=["bilinear", "nearest"]),
        RandFlipd(BOTH, prob=0.5, spatial_axis=0),
        RandGaussianNoised("image", prob=0.8, std=1.0),
        RandAdjustContrastd("image", prob=1.0, gamma=(0.5, 2.0)),
    ]


def test_probabilities_grow_in_a_straight_line_and_stay():
    """Two passes an epoch, ten until all is full: the middle of epoch n has seen 2 n - 1 of them."""
    listed = transforms()
    ramp = AugmentationRamp(listed, passes=10, passes_per_epoch=2)
    _, affine, flip, noise, gamma = listed
    for epoch, share in ((1, 0.1), (2, 0.3), (5, 0.9), (6, 1.0), (400, 1.0), (3, 0.5)):
        ramp.start_epoch(epoch)
        assert (affine.prob, noise.prob, gamma.prob) == pytest.approx((0.4 * share, 0.8 * share, share))
        assert flip.prob == 0.5


@pytest.mark.parametrize("on_batches", [True, False])
def test_patches_are_left_alone_that_often(on_batches):
    """Noise alone, on a thousand patches: of the share of them that the ramp says (binomial, five standard deviations)."""
    noise = RandGaussianNoised("image", prob=0.8, std=1.0)
    ramp = AugmentationRamp([noise], passes=10, passes_per_epoch=1)
    count, image, label = 1000, torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    for epoch, probability in ((3, 0.8 * 0.25), (20, 0.8)):
        ramp.start_epoch(epoch)
        if on_batches:
            batch = {"image": image.expand(count, 1, 2, 2, 2).clone(), "label": label.expand(count, 1, 2, 2, 2).clone(), "seed": torch.arange(count)}
            images, _ = AugmentedBatch([noise])(batch)
        else:
            randomness, compose = SharedRandomness([noise]), Compose([noise])
            drawn = []
            for seed in range(count):
                randomness.seed(seed)
                drawn.append(torch.as_tensor(compose({"image": image.clone(), "label": label.clone()})["image"]))
            images = torch.stack(drawn)
        changed = int((images.flatten(1) != 0).any(1).sum())
        assert abs(changed - count * probability) < 5 * (count * probability * (1 - probability)) ** 0.5
