"""Noise, blur, brightness, contrast, gamma and low resolution of batches; the image alone changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)
from torch import Tensor
from torch.nn import functional

from volseg.training.augmentation.step import Batch, chosen

SIGMAS = 4.0
"""Kernels reach so many standard deviations, as in MONAI's ``GaussianFilter``."""

GAMMA_EPSILON, STATS_EPSILON = 1e-7, 1e-8
"""Of MONAI's ``AdjustContrast``: what keeps it from dividing by a range or a deviation of 0."""


class ImageStep:
    """Base of the steps: a stock transform of the image alone, drawn from for each patch.

    Parameters
    ----------
    transform : monai transform
        One that :meth:`knows` knows.
    """

    kind: type[Any]

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    @classmethod
    def knows(cls, transform: Any) -> bool:
        """Whether this is the transform, and works on the image alone."""
        return type(transform) is cls.kind and tuple(transform.keys) == ("image",)

    def draw(self, patch: Tensor) -> Any:
        """Parameters, or None where chance leaves the patch as it is."""
        self._transform.randomize(None)
        return self._parameters(patch) if self._transform._do_transform else None

    def apply(self, batch: Batch, drawn: list[Any]) -> Batch:
        """Change the images that were drawn."""
        which = chosen(drawn)
        if which:
            image = batch["image"]
            parameters = [drawn[number] for number in which]
            if len(which) == len(drawn):
                batch["image"] = self._change(image, parameters)
            else:
                image[which] = self._change(image[which], parameters)
        return batch

    def _parameters(self, patch: Tensor) -> Any:
        raise NotImplementedError

    def _change(self, image: Tensor, parameters: list[Any]) -> Tensor:
        raise NotImplementedError


class Scale(ImageStep):
    """``RandScaleIntensityd``: x (1 + f)."""

    kind = RandScaleIntensityd

    def _parameters(self, patch: Tensor) -> Any:
        self._transform.scaler.randomize(patch)
        return self._transform.scaler.factor

    def _change(self, image: Tensor, parameters: list[Any]) -> Tensor:
        return image * (1 + _per_channel(parameters, image))


class ScaleFixedMean(ImageStep):
    """``RandScaleIntensityFixedMeand``: contrast about the mean."""

    kind = RandScaleIntensityFixedMeand

    def _parameters(self, patch: Tensor) -> Any:
        self._transform.scaler.randomize(patch)
        return self._transform.scaler.factor

    def _change(self, image: Tensor, parameters: list[Any]) -> Tensor:
        scaler = self._transform.scaler
        axes = (2, 3, 4) if scaler.channel_wise else (1, 2, 3, 4)
        mean = image.mean(axes, keepdim=True) if scaler.fixed_mean else torch.zeros((), device=image.device)
        changed = (image - mean) * (1 + _per_channel(parameters, image)) + mean
        return torch.clamp(changed, image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)) if scaler.preserve_range else changed


class Shift(ImageStep):
    """``RandShiftIntensityd``: x + b."""

    kind = RandShiftIntensityd

    @classmethod
    def knows(cls, transform: Any) -> bool:
        """Whether it shifts the image alone, by an offset that nothing in the image's metadata multiplies."""
        return super().knows(transform) and transform.factor_key == (None,) and not transform.shifter._shifter.safe

    def _parameters(self, patch: Tensor) -> Any:
        self._transform.shifter.randomize(patch)
        return self._transform.shifter._offset

    def _change(self, image: Tensor, parameters: list[Any]) -> Tensor:
        return image + _per_channel(parameters, image)


class Gamma(ImageStep):
    """``RandAdjustContrastd``: the range of a patch to the power of gamma, on the image or its negative, with or without its mean and deviation kept."""

    kind = RandAdjustContrastd

    def _parameters(self, patch: Tensor) -> float:
        self._transform.adjuster.randomize(None)
        return float(self._transform.adjuster.gamma_value)

    def _change(self, image: Tensor, parameters: list[float]) -> Tensor:
        adjuster, axes = self._transform.adjuster, (1, 2, 3, 4)
        source = -image if adjuster.invert_image else image
        low, high = source.amin(axes, keepdim=True), source.amax(axes, keepdim=True)
        changed = ((source - low) / (high - low + GAMMA_EPSILON)) ** _per_channel(parameters, image) * (high - low) + low
        if adjuster.retain_stats:
            changed = changed - changed.mean(axes, keepdim=True)
            changed = changed / (changed.std(axes, keepdim=True) + STATS_EPSILON) * source.std(axes, keepdim=True) + source.mean(axes, keepdim=True)
        return -changed if adjuster.invert_image else changed


class Noise(ImageStep):
    """``RandGaussianNoised``; the noise itself is torch's, from a seed that the transform draws."""

    kind = RandGaussianNoised

    def _parameters(self, patch: Tensor) -> tuple[float, int]:
        source = self._transform.rand_gaussian_noise
        RandomizableTransform.randomize(source, None)
        deviation = source.R.uniform(0, source.std) if source.sample_std else source.std
        return float(deviation), int(source.R.randint(2**31 - 1))

    def _change(self, image: Tensor, parameters: list[tuple[float, int]]) -> Tensor:
        source = self._transform.rand_gaussian_noise
        generators = [torch.Generator(image.device).manual_seed(seed) for _, seed in parameters]
        noise: Tensor = torch.stack([torch.randn(image.shape[1:], generator=generator, device=image.device) for generator in generators])
        deviations = _per_channel([deviation for deviation, _ in parameters], image)
        return image + noise * deviations + float(source.mean)


class Smooth(ImageStep):
    """``RandGaussianSmoothd``: a separable blur, of another width for each patch and axis."""

    kind = RandGaussianSmoothd

    def _parameters(self, patch: Tensor) -> tuple[float, ...]:
        smooth = self._transform.rand_smooth
        smooth.randomize(None)
        return (smooth.x, smooth.y, smooth.z)

    def _change(self, image: Tensor, parameters: list[tuple[float, ...]]) -> Tensor:
        approximation = self._transform.rand_smooth.approx
        return torch.cat(
            [
                separable_filtering(image[number : number + 1], [gaussian_1d(torch.tensor(sigma), SIGMAS, approximation) for sigma in sigmas])
                for number, sigmas in enumerate(parameters)
            ]
        )


class LowResolution(ImageStep):
    """``RandSimulateLowResolutiond``: each patch made smaller and large again."""

    kind = RandSimulateLowResolutiond

    @classmethod
    def knows(cls, transform: Any) -> bool:
        """Whether it works on the image alone, with the interpolations it has when nothing is said."""
        return super().knows(transform) and str(transform.downsample_mode) == "nearest" and str(transform.upsample_mode) == "trilinear" and not transform.align_corners

    def _parameters(self, patch: Tensor) -> float:
        self._transform.sim_lowres_tfm.randomize(None)
        return float(self._transform.sim_lowres_tfm.zoom_factor)

    def _change(self, image: Tensor, parameters: list[float]) -> Tensor:
        size = image.shape[2:]
        changed = []
        for number, zoom in enumerate(parameters):
            small = functional.interpolate(image[number : number + 1], size=[max(1, round(n * zoom)) for n in size], mode="nearest")
            changed.append(functional.interpolate(small, size=size, mode="trilinear", align_corners=False))
        return torch.cat(changed)


STEPS: tuple[type[ImageStep], ...] = (Scale, ScaleFixedMean, Shift, Gamma, Noise, Smooth, LowResolution)


def _per_channel(values: Sequence[Any], image: Tensor) -> Tensor:
    """One number a patch, or one a patch and channel, to be broadcast over the image (B, C, x, y, z)."""
    numbers: Tensor = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return numbers.reshape(len(values), -1, 1, 1, 1).to(image.device)
