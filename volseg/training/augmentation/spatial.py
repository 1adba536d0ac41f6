"""Rotation, scaling, shift and mirroring of batches."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import RandAffined, RandFlipd
from monai.utils import fall_back_tuple
from torch import Tensor
from torch.nn import functional

from volseg.training.augmentation.step import Batch, chosen

KEYS = ("image", "label")
MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection")


class Affine:
    """``RandAffined`` of image and label: one sampling for the whole batch.

    Parameters
    ----------
    transform : monai.transforms.RandAffined
        Draws the matrices.
    """

    def __init__(self, transform: RandAffined) -> None:
        self._transform = transform
        self._modes = {key: (_text(mode), _text(padding)) for key, mode, padding in zip(transform.keys, transform.mode, transform.padding_mode, strict=True)}

    @staticmethod
    def knows(transform: Any) -> bool:
        """Whether this is an affine of both image and label, with interpolations that torch has."""
        if type(transform) is not RandAffined or set(transform.keys) != set(KEYS) or transform.lazy:
            return False
        return all(_text(mode) in MODES for mode in transform.mode) and all(_text(padding) in PADDINGS for padding in transform.padding_mode)

    def draw(self, patch: Tensor) -> Tensor | None:
        """Matrix (3, 4) from output to input, in voxels from the centre; None for the identity."""
        transform, before = self._transform, patch.shape[1:]
        size, matrix = self._size(before), None
        transform.randomize(None)
        transform.rand_affine.randomize()
        if transform._do_transform:
            grid = transform.rand_affine.rand_affine_grid
            grid(size, lazy=True)
            matrix = torch.as_tensor(grid.get_transformation_matrix(), dtype=torch.float32)[:3]
        if matrix is not None or size != tuple(before):
            # Stock MONAI draws once more for each key and does not use it; so do we, for the transforms that come after to draw the same as theirs.
            for _ in KEYS:
                transform.rand_affine.randomize()
        return matrix

    def apply(self, batch: Batch, drawn: list[Tensor | None]) -> Batch:
        """Sample the patches that are turned; of the others the middle is taken, or they are sampled too where the middle lies between voxels."""
        before = batch["image"].shape[2:]
        size = self._size(before)
        margins = [n - m for n, m in zip(before, size, strict=True)]
        whole = all(margin >= 0 and margin % 2 == 0 for margin in margins)
        which = chosen(drawn) if whole else list(range(len(drawn)))
        middle = (slice(None), slice(None), *(slice(margin // 2, margin // 2 + m) for margin, m in zip(margins, size, strict=True)))
        if not which:
            return {key: tensor[middle] for key, tensor in batch.items()}
        matrices = torch.stack([torch.eye(3, 4) if (matrix := drawn[number]) is None else matrix for number in which])
        theta = normalised(matrices, before, size).to(batch["image"].device)
        grid = sampling_grid(theta, size)
        result = {}
        for key, (mode, padding) in self._modes.items():
            everything = len(which) == len(drawn)
            sampled = functional.grid_sample(batch[key] if everything else batch[key][which], grid, mode=mode, padding_mode=padding, align_corners=False)
            if not everything:
                kept = batch[key][middle].clone()
                kept[which] = sampled
                sampled = kept
            result[key] = sampled
        return result

    def _size(self, before: Any) -> tuple[int, ...]:
        size: tuple[int, ...] = fall_back_tuple(self._transform.rand_affine.spatial_size, tuple(before))
        return size


class Flip:
    """``RandFlipd`` of image and label.

    Parameters
    ----------
    transform : monai.transforms.RandFlipd
        Draws which patches are mirrored.
    """

    def __init__(self, transform: RandFlipd) -> None:
        self._transform = transform
        axes = transform.flipper.spatial_axis
        self._axes = tuple(range(3)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)

    @staticmethod
    def knows(transform: Any) -> bool:
        """Whether this mirrors both image and label."""
        return type(transform) is RandFlipd and set(transform.keys) == set(KEYS) and not transform.lazy

    def draw(self, patch: Tensor) -> bool | None:
        """True or None."""
        self._transform.randomize(None)
        return True if self._transform._do_transform else None

    def apply(self, batch: Batch, drawn: list[bool | None]) -> Batch:
        """Mirror the patches that were drawn."""
        axes = [axis + 1 if axis >= 0 else axis for axis in self._axes]
        for number in chosen(drawn):
            for tensor in batch.values():
                tensor[number] = tensor[number].flip(axes)
        return batch


def normalised(matrices: Tensor, before: Any, after: Any) -> Tensor:
    """Matrices from output to input in voxels from the centre, as ``torch.nn.functional.grid_sample`` wants them (axes reversed, edges of a volume at -1 and 1)."""
    source = torch.tensor([2 / max(2, n) for n in reversed(before)], dtype=matrices.dtype)
    target = torch.tensor([n / 2 for n in reversed(after)] + [1.0], dtype=matrices.dtype)
    return matrices[:, [2, 1, 0]][:, :, [2, 1, 0, 3]] * source[:, None] * target


def sampling_grid(theta: Tensor, size: Any) -> Tensor:
    """Sampling points (B, x, y, z, 3) of matrices (B, 3, 4), as ``torch.nn.functional.affine_grid`` without ``align_corners``; adding along the axes is faster."""
    shares = []
    for axis, n in enumerate(size):
        centres = (2 * torch.arange(n, device=theta.device, dtype=theta.dtype) + 1) / n - 1
        along = centres[None, :, None] * theta[:, None, :, 2 - axis]
        shares.append(along.reshape(len(theta), *(n if other == axis else 1 for other in range(3)), 3))
    points: Tensor = shares[0] + (shares[1] + (shares[2] + theta[:, None, None, None, :, 3]))
    return points


def _text(mode: Any) -> str:
    return str(getattr(mode, "value", mode))
