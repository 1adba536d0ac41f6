"""A small analytic scan whose geometry catches every wrong turn: rotated, flipped, permuted and anisotropic, with an off-centre lesion."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid

LEAST_SHAPE = (22, 44, 52)
MARGIN = 1.1
"""How much larger than the network's patch the scan is, so that a crop of that size fits."""

SPACING_MM = (5.0, 2.5, 2.0)
"""Thick slices first: the axes are permuted as well."""

ROTATION_DEGREES = (15.0, -10.0, 8.0)
"""About x, y, z: oblique enough that a dropped rotation moves the lesion by centimetres."""

LESION_CENTRE = (0.38, 0.60, 0.56)
"""As fractions of the box; no axis is symmetric, so that a flip is seen."""

LESION_SEMIAXES_MM = (25.0, 22.0, 29.0)

INTENSITIES = (0.0, 150.0)
"""Around and inside the lesion (HU for a CT): both inside the usual soft-tissue windows."""


@dataclass(frozen=True)
class Phantom:
    """A written phantom: a Decathlon folder with one labelled scan used twice.

    Parameters
    ----------
    folder : Path
        Holds ``dataset.json`` and the files.
    images : tuple of Path
        One NIfTI per channel.
    label : Path
        Label map on the same grid.
    grid : Grid
        Where both lie.
    lesion : ndarray of bool
        (i, j, k) inside the lesion.
    """

    folder: Path
    images: tuple[Path, ...]
    label: Path
    grid: Grid
    lesion: npt.NDArray[np.bool_]

    @property
    def item(self) -> dict[str, Any]:
        """Image and label as MONAI data: a path, or a list of paths when there are several channels."""
        images = [str(path) for path in self.images]
        return {"image": images[0] if len(images) == 1 else images, "label": str(self.label)}


def phantom_shape(patch: Sequence[int], spacing: Sequence[float] | None) -> tuple[int, int, int]:
    """Voxels along i, j, k of a phantom into which the network's patch fits whatever the orientation.

    Parameters
    ----------
    patch : sequence of int
        Voxels of the patch; may be empty when unknown.
    spacing : sequence of float or None
        Spacing (mm) the bundle resamples to; None when it does not.
    """
    longest = max(patch, default=0) * MARGIN
    scale = [max(spacing) / own if spacing else 1.0 for own in SPACING_MM]
    i, j, k = (max(least, math.ceil(longest * factor)) for least, factor in zip(LEAST_SHAPE, scale, strict=True))
    return i, j, k


def write_phantom(folder: Path, channels: int, labels: list[int], shape: tuple[int, int, int] = LEAST_SHAPE) -> Phantom:
    """Write the phantom.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    channels : int
        Number of images; all alike.
    labels : list of int
        Values to put into the lesion, as slabs along its longest array axis.
    shape : tuple of int
        Voxels along i, j, k.
    """
    import nibabel

    grid = phantom_grid(shape)
    inside = lesion_mask(grid)
    folder.mkdir(parents=True, exist_ok=True)
    image = np.where(inside, INTENSITIES[1], INTENSITIES[0]).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 1, image.shape).astype(np.float32)
    images = tuple(folder / f"image_{channel:04d}.nii.gz" for channel in range(channels))
    for path in images:
        nibabel.save(nibabel.Nifti1Image(np.round(image).astype(np.int16), grid.affine), path)
    label = folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(_label_map(inside, labels), grid.affine), label)
    phantom = Phantom(folder, images, label, grid, inside)
    (folder / "dataset.json").write_text(json.dumps({"training": [phantom.item] * 10, "test": [phantom.item["image"]]}), encoding="utf-8")
    return phantom


def phantom_grid(shape: tuple[int, int, int] = LEAST_SHAPE) -> Grid:
    """The phantom's grid: array axes point towards inferior, right and posterior before an oblique rotation; a left-handed frame."""
    affine = np.eye(4)
    turned = _rotation(ROTATION_DEGREES) @ np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    turned[:, 1] *= -1
    affine[:3, :3] = turned * np.array(SPACING_MM)
    affine[:3, 3] = (31.0, -17.0, 240.0)
    return Grid(shape, affine)


def lesion_mask(grid: Grid) -> npt.NDArray[np.bool_]:
    """Voxels of an ellipsoid whose axes follow the array axes (semi-axes in mm along i, j, k)."""
    position = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    centre = (np.array(grid.shape) - 1) * np.array(LESION_CENTRE)
    scaled = (position - centre) * np.array(grid.spacing) / np.array(LESION_SEMIAXES_MM)
    mask: npt.NDArray[np.bool_] = (scaled**2).sum(axis=-1) <= 1
    return mask


def _label_map(inside: npt.NDArray[np.bool_], labels: list[int]) -> npt.NDArray[np.uint8]:
    first, last = np.flatnonzero(inside.any(axis=(0, 1)))[[0, -1]]
    slab = np.clip((np.arange(inside.shape[2]) - first) * len(labels) // (last - first + 1), 0, len(labels) - 1)
    values: npt.NDArray[np.uint8] = np.where(inside, np.array(labels, dtype=np.uint8)[slab], 0).astype(np.uint8)
    return values


def _rotation(degrees: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = [other for other in range(3) if other != axis]
        matrix = np.eye(3)
        matrix[[first, second], [first, second]] = np.cos(angle)
        matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
        turned = matrix @ turned
    return turned
