from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)

from volseg.training.augmentation import AugmentedBatch, recognise
from volseg.training.augmentation.spatial import normalised, sampling_grid
from volseg.training.randomness import SharedRandomness

BOTH = ["image", "label"]
SHAPE = (24, 20, 16)
AFFINE = {"rotate_range": [0.5, 0.5, 0.5], "scale_range": [[-0.3, 0.4]] * 3, "translate_range": [3, 3, 3], "mode": ["bilinear", "nearest"]}

STEPS = {
    "affine": lambda prob: RandAffined(BOTH, prob=prob, padding_mode="zeros", **AFFINE),
    "affine to another size": lambda prob: RandAffined(BOTH, prob=prob, spatial_size=(16, 18, 16), padding_mode="border", **AFFINE),
    "affine to an odd size": lambda prob: RandAffined(BOTH, prob=prob, spatial_size=(17, 20, 15), **AFFINE),
    "affine to a larger size": lambda prob: RandAffined(BOTH, prob=prob, spatial_size=(26, 20, 16), **AFFINE),
    "affine, reflected": lambda prob: RandAffined(BOTH, prob=prob, padding_mode=["reflection", "zeros"], shear_range=[0.1] * 6, **AFFINE),
    "affine about one axis": lambda prob: RandAffined(BOTH, prob=prob, rotate_range=[0, 0, 3.1], scale_range=[[-0.3, 0.4], [-0.3, 0.4], 0], mode=["bilinear", "nearest"]),
    "flip": lambda prob: RandFlipd(BOTH, prob=prob, spatial_axis=1),
    "flip of all axes": lambda prob: RandFlipd(BOTH, prob=prob),
    "flip of two axes": lambda prob: RandFlipd(BOTH, prob=prob, spatial_axis=[0, -1]),
    "low resolution": lambda prob: RandSimulateLowResolutiond("image", prob=prob, zoom_range=[0.5, 1.0]),
    "smooth": lambda prob: RandGaussianSmoothd("image", prob=prob, sigma_x=[0.3, 1.2], sigma_y=[0.3, 0.8], sigma_z=[0.3, 0.8]),
    "scale": lambda prob: RandScaleIntensityd("image", prob=prob, factors=0.3),
    "scale by channel": lambda prob: RandScaleIntensityd("image", prob=prob, factors=[-0.2, 0.5], channel_wise=True),
    "contrast": lambda prob: RandScaleIntensityFixedMeand("image", prob=prob, factors=0.25, preserve_range=True),
    "contrast by channel": lambda prob: RandScaleIntensityFixedMeand("image", prob=prob, factors=0.25, fixed_mean=False, channel_wise=True),
    "shift": lambda prob: RandShiftIntensityd("image", prob=prob, offsets=0.1),
    "shift by channel": lambda prob: RandShiftIntensityd("image", prob=prob, offsets=[-0.2, 0.1], channel_wise=True),
    "gamma": lambda prob: RandAdjustContrastd("image", prob=prob, gamma=[0.7, 1.5]),
    "gamma of the negative": lambda prob: RandAdjustContrastd("image", prob=prob, gamma=[0.7, 1.5], invert_image=True, retain_stats=True),
}


def make_batch(count: int = 4, channels: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, channels, *SHAPE, generator=generator)
    label = torch.zeros(count, 1, *SHAPE)
    label[:, :, 6:15, 4:12, 3:9] = 1
    label[:, :, 12:20, 10:16, 6:14] = 2
    return {"image": image, "label": label, "seed": torch.arange(count) + 10}


def stock_batch(transforms: list, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each patch by stock MONAI, from the same seed."""
    compose = Compose(transforms)
    images, labels = [], []
    for image, label, seed in zip(batch["image"], batch["label"], batch["seed"].tolist(), strict=True):
        SharedRandomness(transforms).seed(seed)
        item = compose({"image": image.clone(), "label": label.clone()})
        images.append(torch.as_tensor(item["image"]))
        labels.append(torch.as_tensor(item["label"]))
    return torch.stack(images), torch.stack(labels)


def copy(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in batch.items()}


@pytest.mark.parametrize("prob", [1.0, 0.5])
@pytest.mark.parametrize("name", STEPS)
def test_each_step_is_stock_monais_own(name, prob):
    """The same seed gives the same parameters and, up to rounding, the same voxels."""
    batch = make_batch()
    image, label = stock_batch([STEPS[name](prob)], batch)
    got_image, got_label = AugmentedBatch([STEPS[name](prob)])(copy(batch))
    assert got_image.shape == image.shape
    # Sampling points are reached by another order of float32 operations.
    torch.testing.assert_close(got_image, image, rtol=1e-3, atol=2e-4)
    # A nearest voxel may fall to the other side of a tie; a patch that is not turned but cut to an odd size lies between voxels everywhere.
    assert (got_label == label).float().mean() > (0.9 if "odd" in name else 0.9995)
    if prob == 1.0:
        assert not torch.equal(image, batch["image"]) or image.shape != batch["image"].shape


def test_a_whole_list_is_stock_monais_own():
    def transforms() -> list:
        return [make(0.5) for name, make in STEPS.items() if name in ("affine to another size", "flip", "low resolution", "smooth", "scale", "contrast", "shift", "gamma")]

    batch = make_batch(6)
    image, label = stock_batch(transforms(), batch)
    got_image, got_label = AugmentedBatch(transforms())(copy(batch))
    torch.testing.assert_close(got_image, image, rtol=1e-3, atol=1e-3)
    assert (got_label == label).float().mean() > 0.9995


@pytest.mark.parametrize("sample_std", [True, False])
def test_noise_has_the_deviation_that_stock_draws(sample_std):
    """Only the noise itself is drawn elsewhere; its deviation is the transform's own."""

    def noise() -> RandGaussianNoised:
        return RandGaussianNoised("image", prob=1.0, mean=0.5, std=0.2, sample_std=sample_std)

    batch = make_batch(5, channels=1)
    batch["image"] = torch.zeros_like(batch["image"])
    expected, _ = stock_batch([noise()], batch)
    got, _ = AugmentedBatch([noise()])(copy(batch))
    for ours, theirs in zip(got, expected, strict=True):
        # 7680 voxels: the standard deviation is known to 0.8 %, the mean to sigma / 88.
        assert ours.std() == pytest.approx(float(theirs.std()), rel=0.06)
        assert float(ours.mean()) == pytest.approx(0.5, abs=5 * 0.2 / 88)
    assert not torch.equal(got[0], got[1])


def test_a_patch_does_not_depend_on_the_others_of_its_batch():
    transforms = [RandAffined(BOTH, prob=0.7, spatial_size=(16, 16, 16), **AFFINE), RandFlipd(BOTH, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=1.0)]
    batch = make_batch(4)
    together, _ = AugmentedBatch(transforms)(copy(batch))
    for number in (3, 0):
        alone, _ = AugmentedBatch(transforms)({key: value[number : number + 1].clone() for key, value in batch.items()})
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-6)


def test_probabilities_are_kept():
    flips = AugmentedBatch([RandFlipd(BOTH, prob=0.3, spatial_axis=0)])
    image = torch.arange(2.0).reshape(1, 1, 2, 1, 1).repeat(2000, 1, 1, 1, 1)
    got, _ = flips({"image": image, "label": image.clone(), "seed": torch.arange(2000)})
    # Binomial: 0.3 with a standard error of 0.0102.
    assert float((got[:, 0, 0, 0, 0] == 1).float().mean()) == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    "transform",
    [
        RandCoarseDropoutd("image", holes=1, spatial_size=2),
        RandAffined(["image"], **{**AFFINE, "mode": "bilinear"}),
        RandAffined(BOTH, **{**AFFINE, "mode": [3, 0]}),
        RandFlipd("image"),
        RandGaussianNoised(BOTH),
        RandShiftIntensityd("image", offsets=0.1, factor_key="factor"),
        RandSimulateLowResolutiond("image", upsample_mode="nearest"),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_is_not_known_is_left_to_stock_monai(transform):
    assert recognise([transform]) is None
    with pytest.raises(ValueError, match=type(transform).__name__):
        AugmentedBatch([transform])


def test_the_shipped_bundles_list_is_known():
    import json

    from monai.bundle import ConfigParser

    from tests.bundle_factory import SHIPPED

    config = json.loads((SHIPPED / "configs" / "train.json").read_text())
    steps = recognise(ConfigParser(config).get_parsed_content("train#random_transforms")[1:])
    assert steps is not None
    assert len(steps) == len(config["train"]["random_transforms"]) - 1


def test_sampling_points_are_those_of_torch():
    theta = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampling_grid(theta, (6, 5, 4)), torch.nn.functional.affine_grid(theta, [3, 1, 6, 5, 4], align_corners=False))


def test_sampling_points_are_exact():
    """A shift by whole voxels and a turn by 90 degrees move voxels and change none."""
    image = torch.rand(1, 1, 6, 5, 4)
    shift = torch.tensor([[[1.0, 0, 0, 2], [0, 1, 0, -1], [0, 0, 1, 0]]])
    grid = sampling_grid(normalised(shift, (6, 5, 4), (6, 5, 4)), (6, 5, 4))
    moved = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    np.testing.assert_allclose(moved[0, 0, :4, 1:], image[0, 0, 2:, :4], atol=1e-5)
    turn = torch.tensor([[[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0]]])
    grid = sampling_grid(normalised(turn, (6, 5, 4), (5, 6, 4)), (5, 6, 4))
    turned = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    # Output (a, b) takes input (b, -a) about the centre.
    np.testing.assert_allclose(turned[0, 0], np.rot90(image[0, 0].numpy(), k=1, axes=(0, 1)), atol=1e-5)
