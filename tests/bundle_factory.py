"""Small bundles and scans for tests: a threshold whose answer is known in advance, and a tiny U-Net that trains in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from volseg.geometry import Grid

SHIPPED = Path(__file__).resolve().parent.parent / "bundles" / "ct_tumor"

THRESHOLD_HU = 60.0
"""The threshold bundle calls everything above this tumour."""

WINDOW_HU = (-160.0, 240.0)
"""Intensity window of ct_tumor's config: maps to 0..1."""


def copy_bundle(folder: Path, name: str = "tiny") -> Path:
    """The shipped bundle's configs without its weights, under another name."""
    target = folder / name
    shutil.copytree(SHIPPED / "configs", target / "configs")
    shutil.copy(SHIPPED / "LICENSE", target / "LICENSE")
    (target / "models").mkdir()
    return target


def edit_config(bundle: Path, stem: str, **changes: Any) -> None:
    """Replace ids of a config; nested ids are written ``train__trainer__max_epochs``; None removes the id."""
    path = bundle / "configs" / f"{stem}.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    path.write_text(json.dumps(config))


def threshold_bundle(folder: Path, *, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), patch: int = 32) -> Path:
    """A bundle whose network is one 1x1x1 convolution: label 1 wherever the resampled scan is above ``THRESHOLD_HU``."""
    import torch

    bundle = copy_bundle(folder, "threshold")
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    edit_config(bundle, "inference", network_def=network, spacing=list(spacing), patch_size=[patch] * 3)
    low, high = WINDOW_HU
    steepness = 1000.0
    weight = torch.tensor([0.0, steepness]).reshape(2, 1, 1, 1, 1)
    bias = torch.tensor([0.0, -steepness * (THRESHOLD_HU - low) / (high - low)])
    torch.save({"weight": weight, "bias": bias}, bundle / "models" / "model.pt")
    return bundle


TINY_NETWORK = {
    "_target_": "DynUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [4, 8, 8, 8],
    "norm_name": ["INSTANCE", {"affine": True}],
}

DEEP_SUPERVISION = {"deep_supervision": True, "deep_supr_num": 2}


def tiny_bundle(folder: Path, *, weights: bool = False, name: str = "tiny", ramp: float = 0) -> Path:
    """ct_tumor with a U-Net of a few thousand weights, 16-voxel patches at 8 mm, two epochs, and augmentation that grows over so many passes, if any."""
    bundle = copy_bundle(folder, name)
    small = {"spacing": [8.0, 8.0, 8.0], "patch_size": [16, 16, 16]}
    edit_config(bundle, "inference", network_def=TINY_NETWORK, **small)
    edit_config(bundle, "train", network_def=TINY_NETWORK | DEEP_SUPERVISION, **small, crop_size=[20, 20, 20], val_interval=1, train__trainer__max_epochs=2)
    if ramp:
        edit_config(bundle, "train", augmentation_ramp=ramp)
    if weights:
        import torch
        from monai.networks.nets import DynUNet

        torch.manual_seed(0)
        torch.save(DynUNet(**{key: value for key, value in TINY_NETWORK.items() if key != "_target_"}).state_dict(), bundle / "models" / "model.pt")
    return bundle


CHANNELS = ("CT", "PET")
"""Of :func:`two_channel_bundle`."""

SUV_WINDOW = (0.0, 10.0)
"""What its PET channel is scaled from, to 0..1; the CT from ``WINDOW_HU``."""


def each_channel(*steps: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Intensity transforms of single channels, each (channel, transform without keys), as a bundle writes them."""
    keys = [f"image_{name}" for name in CHANNELS]
    split = {"_target_": "SplitDimd", "keys": "image", "dim": 0, "keepdim": True, "output_postfixes": list(CHANNELS)}
    join = [{"_target_": "ConcatItemsd", "keys": keys, "name": "image"}, {"_target_": "DeleteItemsd", "keys": keys}]
    return [split, *({**step, "keys": keys[channel]} for channel, step in steps), *join]


def scaled(low: float, high: float) -> dict[str, Any]:
    """A window to 0..1."""
    return {"_target_": "ScaleIntensityRanged", "a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}


def with_two_channels(bundle: Path, intensity: list[dict[str, Any]] | None = None) -> Path:
    """Make a bundle that came from ct_tumor one for CT and PET on one grid, weights apart; with intensity transforms of each channel's own unless others are given."""
    steps = intensity if intensity is not None else each_channel((0, scaled(*WINDOW_HU)), (1, scaled(*SUV_WINDOW)))
    for stem in ("inference", "train"):
        path = bundle / "configs" / f"{stem}.json"
        path.write_text(json.dumps(_with_intensity(json.loads(path.read_text()), steps)))
        edit_config(bundle, stem, network_def__in_channels=len(CHANNELS))
    image = {"num_channels": len(CHANNELS), "channel_def": {str(number): channel for number, channel in enumerate(CHANNELS)}, "modality": "CT, PET"}
    edit_config(bundle, "metadata", **{f"network_data_format__inputs__image__{key}": value for key, value in image.items()})
    return bundle


def two_channel_bundle(folder: Path, *, weights: bool = False, name: str = "petct", intensity: list[dict[str, Any]] | None = None) -> Path:
    """:func:`tiny_bundle` :func:`with_two_channels`."""
    bundle = with_two_channels(tiny_bundle(folder, name=name), intensity)
    if weights:
        import torch
        from monai.networks.nets import DynUNet

        torch.manual_seed(0)
        network = {key: value for key, value in TINY_NETWORK.items() if key != "_target_"} | {"in_channels": len(CHANNELS)}
        torch.save(DynUNet(**network).state_dict(), bundle / "models" / "model.pt")
    return bundle


def _with_intensity(value: Any, steps: list[dict[str, Any]]) -> Any:
    """A config in which the steps stand wherever the image was scaled."""
    if isinstance(value, dict):
        return {key: _with_intensity(item, steps) for key, item in value.items()}
    if isinstance(value, list):
        scales = [isinstance(item, dict) and item.get("_target_") == "ScaleIntensityRanged" for item in value]
        return [new for item, is_scale in zip(value, scales, strict=True) for new in (steps if is_scale else [_with_intensity(item, steps)])]
    return value


def write_scan(path: Path, grid: Grid, *, centre: tuple[float, float, float], radius: float, inside: float = 150.0, outside: float = -50.0) -> np.ndarray:
    """A ball of ``inside`` HU at ``centre`` (RAS mm) in ``outside`` HU; returns the mask of voxels whose centre lies in it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    mask = np.linalg.norm(grid.to_world(index) - np.array(centre), axis=-1) <= radius
    image = nib.Nifti1Image(np.where(mask, inside, outside).astype(np.int16), grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return mask


def write_balls(folder: Path, grids: Sequence[Grid], centres: Sequence[Sequence[float]]) -> Path:
    """A data set of one bright ball (tumor) a case, its centre given in voxels; case n is in fold n."""
    items = []
    for number, (grid, centre) in enumerate(zip(grids, centres, strict=True)):
        image, label, (x, y, z) = f"imagesTr/case{number}.nii.gz", f"labelsTr/case{number}.nii.gz", grid.to_world(np.array(centre))
        assert write_scan(folder / image, grid, centre=(x, y, z), radius=26).any()
        write_scan(folder / label, grid, centre=(x, y, z), radius=26, inside=1, outside=0)
        items.append({"image": f"./{image}", "label": f"./{label}", "fold": number})
    (folder / "dataset.json").write_text(json.dumps({"name": "balls", "labels": {"0": "background", "1": "tumor"}, "training": items}))
    return folder


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks."""
    return float(2 * np.logical_and(first, second).sum() / (first.sum() + second.sum()))
