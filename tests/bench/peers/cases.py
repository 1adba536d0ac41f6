"""What the peers are given: a CT-like phantom, and a MONAI bundle with random weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY))

from tests.bundle_factory import WINDOW_HU, copy_bundle, edit_config  # noqa: E402
from volseg.geometry import Grid, reorient  # noqa: E402
from volseg.inference.streaming import Axis, match_monai, resample  # noqa: E402
from volseg.inference.windows import count_windows, window_starts  # noqa: E402


@dataclass(frozen=True)
class Size:
    """Voxels and voxel size (mm) of a phantom."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        """Voxels of the scan."""
        return int(np.prod(self.shape))


SIZES = {
    "100": Size((512, 512, 100), (0.9765625, 0.9765625, 3.0)),
    "300": Size((512, 512, 300), (0.7, 0.7, 1.0)),
    "1000": Size((512, 512, 1000), (0.8, 0.8, 1.0)),
    "quick": Size((96, 96, 40), (4.0, 4.0, 5.0)),
}
"""500 mm field of view in 3 mm slices (a PET/CT's CT), a thin-slice chest, a long thin-slice scan, and one of seconds."""


@dataclass(frozen=True)
class Network:
    """A plain U-Net and how it is run: features a stage, window (voxels, a cube), voxel size (mm, isotropic), overlap of the windows."""

    filters: tuple[int, ...]
    roi: int
    spacing: float
    overlap: float = 0.5


NETWORKS = {
    "full": Network((32, 64, 128, 256, 320), 96, 2.0),
    "small": Network((8, 16, 32), 64, 2.0),
    "quick": Network((8, 16, 32), 32, 8.0),
}
"""nnU-Net's default features in 5 stages; a network that leaves everything but itself to be measured; one of seconds."""


def write_phantom(path: Path, size: Size) -> npt.NDArray[np.int16]:
    """Write a torso as CT shows it (LPS, int16 HU): lungs, spine, fat, muscle, noise of 20 HU, a table, and air around, clipped at -1024 as scanners do.

    Returns
    -------
    ndarray, int16, (i, j, k)
    """
    image, affine = make_phantom(size), affine_of(size)
    out = nib.Nifti1Image(image, affine)
    out.set_qform(affine, 1)
    out.set_sform(affine, 1)
    nib.save(out, path)
    return image


def make_phantom(size: Size) -> npt.NDArray[np.int16]:
    """What :func:`write_phantom` writes."""
    rng = np.random.default_rng(0)
    x, y = (np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in size.shape[:2])
    x, y = (x * size.spacing[0])[:, None], (y * size.spacing[1])[None, :]
    image = np.empty(size.shape, np.int16, order="F")
    for k in range(size.shape[2]):
        slab = _slice(x, y, k * size.spacing[2])
        noise = rng.standard_normal(slab.shape, dtype=np.float32)
        # Neighbours correlate, as after a reconstruction kernel.
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) * np.float32(20 / 3**0.5)
        image[:, :, k] = np.clip(slab + noise, -1024, 3071)
    return image


def affine_of(size: Size) -> npt.NDArray[np.float64]:
    """Voxel to world (RAS+ mm) of a phantom: axes to the left, back and head, its middle at the scanner's."""
    affine = np.diag([-size.spacing[0], -size.spacing[1], size.spacing[2], 1.0])
    affine[:2, 3] = [(n - 1) / 2 * step for n, step in zip(size.shape[:2], size.spacing[:2], strict=True)]
    return affine


def _slice(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: float) -> npt.NDArray[np.float32]:
    """HU of one slice at height z (mm); widths follow an adult's torso."""
    breath = np.float32(np.sin(z / 60))
    wide, deep = 170 + 12 * breath, 115 + 8 * breath
    body = (x / wide) ** 2 + (y / deep) ** 2
    hu = np.full(body.shape, -1000, np.float32)
    hu[np.broadcast_to(np.abs(y - 150) < 6, hu.shape) & (np.abs(x) < 210)] = -700
    hu[body < 1] = -100
    inside = body < 0.8
    hu[inside] = (50 + 25 * np.sin(x / 17) * np.sin(y / 13 + z / 19))[inside]
    for side in (-1, 1):
        hu[((x - side * 75) / 55) ** 2 + ((y + 10) / (70 + 10 * breath)) ** 2 < 1] = -860
    spine = np.hypot(x, y - 65)
    hu[spine < 20] = 350 if z % 30 < 24 else 90
    return hu


def constant_share(image: npt.NDArray[np.int16], size: Size, network: Network) -> tuple[int, float]:
    """Windows of a scan, and the share of them in which the network sees one value: every voxel lies at or below the intensity window's low end.

    Counted on what the network gets: the scan turned to RAS, as the bundle's config turns it, and resampled by MONAI's rule. volseg computes one of them and repeats it for all
    others, so that the repeated windows of a run are one fewer.
    """
    oriented, grid = reorient(image, Grid(size.shape, affine_of(size)), "RAS")
    spacing = match_monai(grid, [network.spacing] * 3)
    assert spacing is not None
    axes = [Axis.linear(n, m, step, shift) for n, m, step, shift in zip(grid.shape, spacing.grid.shape, spacing.steps, spacing.shifts, strict=True)]
    empty = (oriented if spacing.is_identity else resample(oriented, axes)) <= WINDOW_HU[0]
    shape, roi = spacing.grid.shape, network.roi
    windows = count_windows(shape, [roi] * 3, [network.overlap] * 3)
    starts = [window_starts(n, roi, network.overlap) for n in shape]
    constant = sum(bool(empty[i : i + roi, j : j + roi, k : k + roi].all()) for i in starts[0] for j in starts[1] for k in starts[2])
    return windows, constant / windows


def write_bundle(folder: Path, network: Network, classes: int, name: str) -> Path:
    """A copy of the shipped bundle's inference config with another network, random weights, window, voxel size and number of classes.

    Parameters
    ----------
    classes : int
        Output channels, background among them.
    """
    # A folder that is used again has one already, which may be of another checkout.
    shutil.rmtree(folder / name, ignore_errors=True)
    bundle = copy_bundle(folder, name)
    definition = definition_of(network, classes)
    edit_config(
        bundle,
        "inference",
        network_def=definition,
        spacing=[network.spacing] * 3,
        patch_size=[network.roi] * 3,
        inferer__overlap=network.overlap,
        inferer__sw_batch_size=1,
    )
    metadata_file = bundle / "configs" / "metadata.json"
    metadata = json.loads(metadata_file.read_text())
    metadata.pop("dicom_segments", None)
    output = metadata["network_data_format"]["outputs"]["pred"]
    output["num_channels"], output["channel_def"] = classes, {str(n): f"class{n}" if n else "background" for n in range(classes)}
    metadata_file.write_text(json.dumps(metadata))
    write_weights(definition, bundle / "models" / "model.pt")
    return bundle


def definition_of(network: Network, classes: int) -> dict[str, Any]:
    """The network as a MONAI config names it."""
    stages = len(network.filters)
    return {
        "_target_": "DynUNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": classes,
        "kernel_size": [3] * stages,
        "strides": [1] + [2] * (stages - 1),
        "upsample_kernel_size": [2] * (stages - 1),
        "filters": list(network.filters),
        "norm_name": ["INSTANCE", {"affine": True}],
        "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
    }


def build(definition: dict[str, Any]) -> Any:
    """The network of :func:`definition_of` in PyTorch, with random weights (seed 0)."""
    import torch
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    return DynUNet(**{key: value for key, value in definition.items() if key != "_target_"}).eval()


def write_weights(definition: dict[str, Any], path: Path) -> None:
    """Random weights of a network."""
    import torch

    torch.save(build(definition).state_dict(), path)


def agreement(first: Path, second: Path, classes: int) -> dict[str, float]:
    """Share of equal voxels of two label files (``equal``), the lowest Dice of a class that either holds (``lowest_dice``), and the classes in the first (``classes_present``).

    Raises
    ------
    ValueError
        When they lie on different grids.
    """
    images = [nib.load(path) for path in (first, second)]
    if images[0].shape != images[1].shape or not np.allclose(images[0].affine, images[1].affine, atol=1e-3):
        msg = f"{first} and {second} lie on different grids"
        raise ValueError(msg)
    one, two = (np.asanyarray(image.dataobj).astype(np.uint8) for image in images)
    counts: Sequence[npt.NDArray[np.int64]] = [np.bincount(labels.reshape(-1), minlength=classes) for labels in (one, two, one[one == two])]
    dice = [2 * both / (a + b) for a, b, both in zip(*counts, strict=True) if a + b]
    return {"equal": float(counts[2].sum() / one.size), "lowest_dice": float(min(dice)), "classes_present": int((counts[0] > 0).sum())}
