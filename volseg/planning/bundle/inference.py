"""``configs/inference.json`` of a planned bundle, and the parts it shares with the training."""

from __future__ import annotations

from typing import Any

from volseg.planning.bundle.transforms import inference_transforms
from volseg.planning.planner import Plan

Config = dict[str, Any]

WINDOWS_AT_ONCE = 4

OVERLAP = 0.5
"""nnU-Net's tile step size."""


def network_def(plan: Plan) -> Config:
    """MONAI's DynUNet without deep supervision, whose heads TorchScript cannot compile."""
    topology = plan.topology
    return {
        "_target_": "DynUNet",
        "spatial_dims": 3,
        "in_channels": len(plan.channels),
        "out_channels": plan.classes,
        "kernel_size": [list(kernel) for kernel in topology.kernels],
        "strides": [list(stride) for stride in topology.strides],
        "upsample_kernel_size": [list(stride) for stride in topology.strides[1:]],
        "filters": list(plan.filters),
        "norm_name": ["INSTANCE", {"affine": True}],
        "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
        "deep_supervision": False,
    }


def sliding_window() -> Config:
    """Half-overlapping windows with Gaussian weights, padded with 0 as the training pads.

    As large as the training's patches: instance norm takes its statistics from the window, so that a larger one is another input. Hippocampus, fold 1, trained with 24 x 32 x 24
    voxels: mean Dice 0.887, with windows of 32 x 48 x 32 voxels (``patch_size`` of the inference config) 0.873, of 40 x 56 x 40 voxels 0.842.
    """
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@patch_size",
        "sw_batch_size": WINDOWS_AT_ONCE,
        "overlap": OVERLAP,
        "mode": "gaussian",
        "padding_mode": "constant",
        "cval": 0.0,
    }


def inference_config(plan: Plan) -> Config:
    """From the scans in ``dataset_dir/imagesTs`` to label maps on their own grids."""
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "./data",
        "datalist": _datalist(len(plan.channels)),
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "spacing": [round(value, 6) for value in plan.spacing],
        "patch_size": list(plan.patch),
        "network_def": network_def(plan),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": inference_transforms(plan)},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': path} for path in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": sliding_window(),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "_disabled_": "$not os.path.exists(@bundle_root + '/models/model.pt')",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": "$torch.cuda.is_available()",
        },
        "run": ["$@evaluator.run()"],
    }


def _datalist(channels: int) -> str:
    """One file a case; several channels are files of one grid named ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ... as nnU-Net names them."""
    if channels == 1:
        return "$sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz'))"
    return f"$[[first.replace('_0000.nii.gz', '_%04d.nii.gz' % k) for k in range({channels})] for first in sorted(glob.glob(@dataset_dir + '/imagesTs/*_0000.nii.gz'))]"


def _postprocessing() -> list[Config]:
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "CastToTyped", "keys": "pred", "dtype": "$torch.uint8"},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$torch.uint8",
            "resample": False,
            "separate_folder": False,
        },
    ]
