"""The transform chains of a planned bundle, as stock MONAI dictionaries."""

from __future__ import annotations

from typing import Any

from volseg.planning.planner import Plan
from volseg.planning.rules.intensity import Channel

Transform = dict[str, Any]

AXES = [["L", "R"], ["P", "A"], ["I", "S"]]
"""Names of the ends of the axes; MONAI 1.6 wants them said."""

ORIENTATION = "RAS"

DIGITS = 6


def significant(value: float) -> float:
    """A number to six significant digits, as it is written into configs."""
    return float(f"{value:.{DIGITS}g}")


def spatial_transforms(plan: Plan, keys: list[str]) -> list[Transform]:
    """Orientation, crop and resampling of ``image`` (linear) and ``label`` (nearest)."""
    one = keys if len(keys) > 1 else keys[0]
    mode: Any = ["bilinear", "nearest"] if len(keys) > 1 else "bilinear"
    chain: list[Transform] = [{"_target_": "Orientationd", "keys": one, "axcodes": ORIENTATION, "labels": AXES}]
    if plan.nonzero:
        chain.append({"_target_": "CropForegroundd", "keys": one, "source_key": "image"})
    return [*chain, {"_target_": "Spacingd", "keys": one, "pixdim": "@spacing", "mode": mode, "padding_mode": "border", "dtype": "$torch.float32"}]


def intensity_transforms(plan: Plan) -> list[Transform]:
    """Normalisation; channels with rules of their own are split, normalised and put together again."""
    channels = plan.channels
    if all(channel.kind == "zscore" for channel in channels):
        return [{"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": plan.nonzero, "channel_wise": True}]
    if len(channels) == 1:
        return [_normalise(channels[0], "image", nonzero=False)]
    keys = [f"image_{channel.name}" for channel in channels]
    return [
        {"_target_": "SplitDimd", "keys": "image", "dim": 0, "keepdim": True, "output_postfixes": [channel.name for channel in channels]},
        *(_normalise(channel, key, nonzero=False) for channel, key in zip(channels, keys, strict=True)),
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
        {"_target_": "DeleteItemsd", "keys": keys},
    ]


def _normalise(channel: Channel, key: str, *, nonzero: bool) -> Transform:
    if channel.kind == "zscore":
        return {"_target_": "NormalizeIntensityd", "keys": key, "nonzero": nonzero, "channel_wise": True}
    limits = {"a_min": significant(channel.low), "a_max": significant(channel.high), "b_min": 0.0, "b_max": significant(channel.top)}
    return {"_target_": "ScaleIntensityRanged", "keys": key, **limits, "clip": True}


def inference_transforms(plan: Plan) -> list[Transform]:
    """From a file to the network's input.

    MONAI Label puts the text ``image_path`` beside the image, and MONAI 1.6 Spacingd stumbles over any key that begins so; it is moved aside meanwhile.
    """
    orientation, *rest = spatial_transforms(plan, ["image"])
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "CopyItemsd", "keys": "image_path", "names": "path_of_image", "allow_missing_keys": True},
        {"_target_": "DeleteItemsd", "keys": "image_path"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        orientation,
        *rest,
        {"_target_": "CopyItemsd", "keys": "path_of_image", "names": "image_path", "allow_missing_keys": True},
        {"_target_": "DeleteItemsd", "keys": "path_of_image"},
        *intensity_transforms(plan),
    ]


def deterministic_transforms(plan: Plan) -> list[Transform]:
    """From files to a normalised case at least as large as a crop: what is the same in every epoch, and can be cached."""
    keys = ["image", "label"]
    return [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        *spatial_transforms(plan, keys),
        *intensity_transforms(plan),
        {"_target_": "SpatialPadd", "keys": keys, "spatial_size": "@crop_size", "mode": "constant", "constant_values": 0},
        {"_target_": "EnsureTyped", "keys": keys, "track_meta": False},
    ]


def validation_transforms(plan: Plan) -> list[Transform]:
    """As :func:`deterministic_transforms` without padding, with the place in space kept."""
    keys = ["image", "label"]
    return [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        *spatial_transforms(plan, keys),
        *intensity_transforms(plan),
        {"_target_": "EnsureTyped", "keys": keys},
    ]


def random_transforms(plan: Plan) -> list[Transform]:
    """Crop, rotation, scaling, mirroring, and nnU-Net's list of changes of intensity with its probabilities.

    nnU-Net draws some of them for each channel with probability a half; MONAI draws once for all channels, so that half is in the probability here.
    """
    variation, keys = plan.variation, ["image", "label"]
    about = [variation.rotation if variation.plane_axis in (None, axis) else 0.0 for axis in range(3)]
    scales = [[0.0, 0.0] if axis == variation.plane_axis else [-0.3, 0.4] for axis in range(3)]
    affine = {
        "_target_": "RandAffined",
        "keys": keys,
        "prob": variation.probability,
        "spatial_size": "@patch_size",
        "rotate_range": [significant(angle) for angle in about],
        "scale_range": scales,
        "mode": ["bilinear", "nearest"],
        "padding_mode": "zeros",
    }
    sigma = [0.5, 1.0]
    return [
        _crop(plan),
        affine,
        *({"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": axis} for axis in variation.mirror),
        {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.1, "mean": 0.0, "std": 0.316},
        {"_target_": "RandGaussianSmoothd", "keys": "image", "prob": 0.1, "sigma_x": sigma, "sigma_y": sigma, "sigma_z": sigma},
        {"_target_": "RandScaleIntensityd", "keys": "image", "prob": 0.15, "factors": 0.25},
        {"_target_": "RandScaleIntensityFixedMeand", "keys": "image", "prob": 0.15, "factors": 0.25, "preserve_range": True},
        {"_target_": "RandSimulateLowResolutiond", "keys": "image", "prob": 0.125, "zoom_range": [0.5, 1.0]},
        {"_target_": "RandAdjustContrastd", "keys": "image", "prob": 0.1, "gamma": [0.7, 1.5], "invert_image": True, "retain_stats": True},
        {"_target_": "RandAdjustContrastd", "keys": "image", "prob": 0.3, "gamma": [0.7, 1.5], "retain_stats": True},
    ]


def _crop(plan: Plan) -> Transform:
    """A patch centred on foreground (each label equally often) with the plan's probability, else on background."""
    share = plan.variation.foreground
    crop: Transform = {"keys": ["image", "label"], "label_key": "label", "spatial_size": "@crop_size", "num_samples": 1}
    if plan.classes == 2:
        return {"_target_": "RandCropByPosNegLabeld", **crop, "pos": significant(share), "neg": significant(1 - share)}
    ratios = [significant(1 - share), *[significant(share / (plan.classes - 1))] * (plan.classes - 1)]
    return {"_target_": "RandCropByLabelClassesd", **crop, "ratios": ratios, "num_classes": plan.classes, "warn": False}
