"""Runs in an interpreter that has nnunetv2: plans made-up datasets with nnU-Net's own planner, from fingerprints alone.

    PYTHON nnunet_planner.py '[{"shape": [x, y, z], "spacing": [x, y, z], "cases": n, "gb": 8}, ...]'

Prints a JSON list of patch, strides, kernels, batch size and spacing (axes x, y, z) of the 3d_fullres and 3d_lowres configurations.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Plan every dataset asked for."""
    with tempfile.TemporaryDirectory() as work:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(work, name))
        found = [plan(Path(work), number, one) for number, one in enumerate(json.loads(sys.argv[1]), start=1)]
    print(json.dumps(found))


def plan(work: Path, number: int, asked: dict) -> dict:
    """One dataset of equal cases."""
    import nibabel
    import numpy
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    name = f"Dataset{number:03d}_made"
    raw, preprocessed = work / "nnUNet_raw" / name, work / "nnUNet_preprocessed" / name
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    for path in (raw / "imagesTr" / "case_0000.nii.gz", raw / "labelsTr" / "case.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(numpy.zeros((4, 4, 4), numpy.uint8), numpy.eye(4)), path)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumor": 1}, "numTraining": asked["cases"], "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    fingerprint = {
        "spacings": [asked["spacing"][::-1]] * asked["cases"],
        "shapes_after_crop": [asked["shape"][::-1]] * asked["cases"],
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with contextlib.redirect_stdout(io.StringIO()):
        made = ExperimentPlanner(name, gpu_memory_target_in_gb=asked["gb"]).plan_experiment()
    back = made["transpose_backward"]

    def turned(values: list) -> list:
        """From transposed z, y, x to x, y, z."""
        return [values[axis] for axis in back][::-1]

    configurations = {}
    for stage in ("3d_fullres", "3d_lowres"):
        if stage in made["configurations"]:
            full = made["configurations"][stage]
            network = full["architecture"]["arch_kwargs"]
            configurations[stage] = {
                "patch": [int(edge) for edge in turned(full["patch_size"])],
                "strides": [[int(n) for n in turned(stride)] for stride in network["strides"]],
                "kernels": [[int(n) for n in turned(kernel)] for kernel in network["kernel_sizes"]],
                "batch": int(full["batch_size"]),
                "spacing": [float(value) for value in turned(full["spacing"])],
            }
    return configurations


if __name__ == "__main__":
    main()
