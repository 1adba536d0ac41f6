"""nnU-Net v2's side of the comparison; run by a Python that has nnunetv2, so it imports nothing of this project.

    python nnunet_peer.py make MODEL_FOLDER --filters 32,64,128,256,320 --roi 96 --spacing 2 --classes 3 --low -160 --high 240
    python nnunet_peer.py predict MODEL_FOLDER SCAN_0000.nii.gz OUT_PREFIX --overlap 0.5 --workers 3
    python nnunet_peer.py versions

``make`` writes plans.json, dataset.json and a checkpoint of random weights, so that the stock nnUNetPredictor loads it as if it had been trained.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

CONFIGURATION = "3d_fullres"


def architecture(filters: list[int]) -> dict[str, Any]:
    """PlainConvUNet as nnU-Net's planner writes it, two convolutions a stage; no bias in them, as in MONAI's DynUNet."""
    stages = len(filters)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": filters,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": False,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(options: argparse.Namespace) -> dict[str, Any]:
    """Plans with nnU-Net's default resampling (image order 3, probabilities order 1) and a CT normalisation equal to the bundle's: clip to the window, scale to 0..1."""
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "bench",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [options.roi] * 3,
        "median_image_size_in_voxels": [options.roi] * 3,
        "spacing": [options.spacing] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture([int(n) for n in options.filters.split(",")]),
        "batch_dice": False,
    }
    intensities = {"mean": options.low, "std": options.high - options.low, "percentile_00_5": options.low, "percentile_99_5": options.high}
    return {
        "dataset_name": "Dataset001_bench",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [options.spacing] * 3,
        "original_median_shape_after_transp": [options.roi] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def make(options: argparse.Namespace) -> dict[str, Any]:
    """Write the model folder; returns its number of weights that inference uses."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    folder, written = Path(options.model), plans(options)
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    labels = {"background" if n == 0 else f"class{n}": n for n in range(options.classes)}
    (folder / "plans.json").write_text(json.dumps(written))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}))
    wanted = written["configurations"][CONFIGURATION]["architecture"]
    torch.manual_seed(0)
    network = get_network_from_plans(wanted["network_class_name"], wanted["arch_kwargs"], wanted["_kw_requires_import"], 1, options.classes, deep_supervision=False)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    # The heads of deep supervision exist in every checkpoint and are not run.
    unused = sum(p.numel() for layer in network.decoder.seg_layers[:-1] for p in layer.parameters())
    return {"weights": sum(p.numel() for p in network.parameters()) - unused}


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """Segment one scan with nnUNetPredictor as nnUNetv2_predict sets it up on a CPU, without mirroring."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(os.cpu_count() or 1)
    predictor = nnUNetPredictor(
        tile_step_size=1 - options.overlap, use_gaussian=True, use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(options.model, use_folds=(0,), checkpoint_name="checkpoint_final.pth")
    if options.workers:
        predictor.predict_from_files(
            [[options.scan]], [options.output], num_processes_preprocessing=options.workers, num_processes_segmentation_export=options.workers, save_probabilities=False
        )
    else:
        predictor.predict_from_files_sequential([[options.scan]], [options.output], save_probabilities=False)
    return {}


def versions(_: argparse.Namespace) -> dict[str, Any]:
    """Versions of what nnU-Net runs on."""
    from importlib import metadata

    return {name: metadata.version(name) for name in ("nnunetv2", "torch", "numpy", "scipy", "scikit-image")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make")
    command.add_argument("model")
    command.add_argument("--filters", required=True)
    command.add_argument("--roi", type=int, required=True)
    command.add_argument("--spacing", type=float, required=True)
    command.add_argument("--classes", type=int, required=True)
    command.add_argument("--low", type=float, required=True)
    command.add_argument("--high", type=float, required=True)
    command.set_defaults(run=make)
    command = commands.add_parser("predict")
    command.add_argument("model")
    command.add_argument("scan")
    command.add_argument("output")
    command.add_argument("--overlap", type=float, default=0.5)
    command.add_argument("--workers", type=int, default=3, help="0 runs everything in one process")
    command.set_defaults(run=predict)
    commands.add_parser("versions").set_defaults(run=versions)
    options = parser.parse_args()
    print(json.dumps(options.run(options)))


if __name__ == "__main__":
    main()
