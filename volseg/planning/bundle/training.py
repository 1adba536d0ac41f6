"""``configs/train.json`` of a planned bundle, and what overlays it: ``evaluate.json`` and ``multi_gpu_train.json``."""

from __future__ import annotations

from typing import Any

from volseg.dataset.folds import FOLD_SEED, NUM_FOLDS
from volseg.planning.bundle.inference import network_def, sliding_window
from volseg.planning.bundle.transforms import deterministic_transforms, random_transforms, validation_transforms
from volseg.planning.planner import Plan

Config = dict[str, Any]

CUDA_WORKERS = 8
"""Processes that augment for a GPU; on a CPU they would take the processors from the network."""

CACHE_THREADS = 1
"""More threads share one chain of transforms, and MONAI 1.6 then loses a channel of two now and then (2 of 40 starts with two threads, none with one)."""


def train_config(plan: Plan) -> Config:
    """The training, with the numbers a reader may want to change first."""
    spacing = [round(value, 6) for value in plan.spacing]
    return {
        "imports": ["$import monai", "$import os", "$import torch", "$import types"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "./data",
        "fold": 0,
        "num_folds": NUM_FOLDS,
        "seed": FOLD_SEED,
        "iterations_per_epoch": plan.iterations_per_epoch,
        "batch_size": plan.batch_size,
        "val_interval": plan.val_interval,
        "spacing": spacing,
        "patch_size": list(plan.patch),
        "crop_size": list(plan.variation.crop),
        "augmentation_ramp": plan.variation.ramp,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$monai.data.load_decathlon_datalist(@dataset_dir + '/dataset.json', True, 'training')",
        "partitions": "$monai.data.partition_dataset(@datalist, num_partitions=@num_folds, shuffle=True, seed=@seed)",
        "network_def": network_def(plan) | {"deep_supervision": True, "deep_supr_num": plan.heads},
        "network": "$@network_def.to(@device)",
        "inference_weights": "$types.SimpleNamespace(state_dict=lambda: {k: v for k, v in @network_def.state_dict().items() "
        "if not ('deep_supervision_heads' in k or 'super_head' in k)})",
        **_loss(plan),
        **_optimiser(plan),
        "train": _train(plan),
        "validate": _validate(plan),
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@train#trainer.run()"],
    }


def _loss(plan: Plan) -> Config:
    """Dice and cross-entropy, weighted by 1, 1/2, 1/4, ... from the output down the deep-supervision heads; the weights add up to 1 (nnU-Net)."""
    weights = [0.5**level for level in range(plan.heads + 1)]
    loss = {
        "_target_": "DiceCELoss",
        "include_background": False,
        "to_onehot_y": True,
        "softmax": True,
        "batch": plan.batch_dice,
        "smooth_nr": 1e-05,
        "smooth_dr": 1e-05,
    }
    return {
        "deep_supervision_loss": {"_target_": "DeepSupervisionLoss", "loss": loss, "weights": [round(weight / sum(weights), 6) for weight in weights]},
        "loss": "$lambda pred, label: @deep_supervision_loss(list(torch.unbind(pred, 1)) if pred.ndim == label.ndim + 1 else pred, label)",
    }


def _optimiser(plan: Plan) -> Config:
    """nnU-Net's SGD for the long trainings of a GPU; AdamW for the short ones of a CPU, where momentum 0.99 would still be finding its way."""
    sgd = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-05}
    adamw = {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": 0.001, "weight_decay": 0.01}
    return {
        "optimizer": sgd if plan.budget.device == "cuda" else adamw,
        "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.PolynomialLR", "optimizer": "@optimizer", "total_iters": "@train#trainer#max_epochs", "power": 0.9},
    }


def _dataset(data: str, transform: str, rate: float) -> Config:
    return {"_target_": "CacheDataset", "data": data, "transform": transform, "cache_rate": rate, "num_workers": CACHE_THREADS, "progress": False}


def _train(plan: Plan) -> Config:
    workers = CUDA_WORKERS if plan.budget.device == "cuda" else 0
    others = "$monai.data.select_cross_validation_folds(@partitions, folds=[k for k in range(@num_folds) if k != @fold])"
    return {
        "deterministic_transforms": deterministic_transforms(plan),
        "random_transforms": random_transforms(plan),
        "preprocessing": {"_target_": "Compose", "transforms": "$@train#deterministic_transforms + @train#random_transforms"},
        "dataset": _dataset(others, "@train#preprocessing", plan.cache_rate),
        "sampler": {"_target_": "torch.utils.data.RandomSampler", "data_source": "@train#dataset", "replacement": True, "num_samples": "$@iterations_per_epoch * @batch_size"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": "@batch_size", "sampler": "@train#sampler", "num_workers": workers},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "epoch_level": True, "interval": "@val_interval"},
            {"_target_": "StatsHandler", "tag_name": "train_loss", "output_transform": "$lambda output: output['loss']"},
            {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "tag_name": "train_loss", "output_transform": "$lambda output: output['loss']"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": plan.max_epochs,
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
            "decollate": False,
            "amp": "$torch.cuda.is_available()",
        },
    }


def _validate(plan: Plan) -> Config:
    return {
        "preprocessing": {"_target_": "Compose", "transforms": validation_transforms(plan)},
        "dataset": _dataset("$monai.data.select_cross_validation_folds(@partitions, folds=@fold)", "@validate#preprocessing", plan.cache_rate),
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": sliding_window(),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": plan.classes},
            ],
        },
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@inference_weights"},
                "save_key_metric": True,
                "key_metric_filename": "model.pt",
            },
        ],
        "key_metric": {"val_mean_dice": {"_target_": "MeanDice", "include_background": False, "output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
            "amp": "$torch.cuda.is_available()",
        },
    }


def evaluate_config(plan: Plan) -> Config:
    """Overlay that validates ``models/model.pt`` on the scans' own grids and writes a table of Dice for each case."""
    invert = {
        "_target_": "Invertd",
        "keys": ["pred", "label"],
        "transform": "@validate#preprocessing",
        "orig_keys": ["image", "label"],
        "nearest_interp": [False, True],
        "to_tensor": True,
    }
    return {
        "network_def#deep_supervision": False,
        "validate#postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                invert,
                {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": plan.classes},
            ],
        },
        "validate#handlers": [
            {"_target_": "CheckpointLoader", "load_path": "$@ckpt_dir + '/model.pt'", "load_dict": {"model": "@network"}, "map_location": "@device"},
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": ["val_mean_dice"],
                "metric_details": ["val_mean_dice"],
                "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
                "summary_ops": "*",
            },
        ],
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@validate#evaluator.run()"],
    }


def multi_gpu_config() -> Config:
    """Overlay for ``torchrun``: each process draws its own patches, with its own seed; a step then has ``batch_size`` patches for each process."""
    return {
        "device": "$torch.device('cuda:' + os.environ['LOCAL_RANK']) if torch.cuda.is_available() else torch.device('cpu')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": "$@network_def.to(@device)",
            "device_ids": "$[@device] if torch.cuda.is_available() else None",
        },
        "train#sampler#generator": "$torch.Generator().manual_seed(@seed + torch.distributed.get_rank())",
        "train#trainer#train_handlers": "$@train#handlers[: -2 if torch.distributed.get_rank() > 0 else None]",
        "validate#sampler": {"_target_": "DistributedSampler", "dataset": "@validate#dataset", "even_divisible": False, "shuffle": False},
        "validate#dataloader#sampler": "@validate#sampler",
        "validate#evaluator#val_handlers": "$None if torch.distributed.get_rank() > 0 else @validate#handlers",
        "initialize": [
            "$torch.distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
            "$monai.utils.set_determinism(seed=@seed + torch.distributed.get_rank())",
        ],
        "run": ["$@train#trainer.run()"],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }
