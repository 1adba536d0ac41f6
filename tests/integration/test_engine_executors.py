"""Executors through the whole engine: ONNX Runtime gives what PyTorch gives, int8 is calibrated by the first scan, and both say what they did."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.bundle_factory import copy_bundle, dice, edit_config, threshold_bundle
from volseg.errors import DeviceError
from volseg.geometry import Grid
from volseg.inference import Segmenter
from volseg.io.volume import Source, Volume

CLASSES = 4
ROI = (16, 16, 16)

COMMON = {"spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES}
NETWORKS = {
    "UNet": {"_target_": "UNet", **COMMON, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "norm": "INSTANCE"},
    "SegResNet": {"_target_": "SegResNet", **COMMON, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "DynUNet": {"_target_": "DynUNet", **COMMON, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 16], "norm_name": "INSTANCE"},
}


def volume(array: np.ndarray, spacing: float) -> Volume:
    return Volume(array.astype(np.int16), Grid(array.shape, np.diag([spacing, spacing, spacing, 1.0])), Source(Path("scan.nii.gz"), "nifti", "scan"))


def random_bundle(folder: Path, name: str) -> Path:
    import monai.networks.nets as nets

    bundle = copy_bundle(folder, name)
    edit_config(bundle, "inference", network_def=NETWORKS[name], spacing=[2.0, 2.0, 2.0], patch_size=list(ROI))
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"] |= {"num_channels": CLASSES, "channel_def": {str(n): f"label {n}" if n else "background" for n in range(CLASSES)}}
    metadata.pop("dicom_segments", None)
    path.write_text(json.dumps(metadata))
    torch.manual_seed(0)
    built = getattr(nets, name)(**{key: value for key, value in NETWORKS[name].items() if key != "_target_"})
    torch.save(built.state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript")), reason="onnxruntime and onnxscript are not installed (pip install 'volseg[onnxruntime]')"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_what_torch_gives(name, tmp_path):
    bundle = random_bundle(tmp_path, name)
    scan = volume(gaussian_filter(np.random.default_rng(1).normal(size=(34, 30, 27)), 1.5) * 900, 2.2)
    expected = Segmenter(bundle, device="cpu", precision="fp32", engine="torch").segment(scan)
    found = Segmenter(bundle, device="cpu", engine="onnxruntime").segment(scan)
    assert (found.engine["engine"], found.engine["precision"], found.engine["cached_network"]) == ("onnxruntime", "fp32", False)
    assert len(np.unique(expected.label)) > 1
    assert (found.label != expected.label).mean() <= 1e-4


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed (pip install 'volseg[int8]')")
def test_int8_is_calibrated_by_the_first_scan_and_used_for_the_next(tmp_path):
    bundle = threshold_bundle(tmp_path, patch=16)
    at = np.stack(np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij"))
    balls = [np.where(np.linalg.norm(at, axis=0) < radius, 150, -50) for radius in (15, 12)]
    first = Segmenter(bundle, device="cpu", precision="int8").segment(volume(balls[0], 2.0))
    assert (first.engine["engine"], first.engine["precision"], first.engine["cached_network"]) == ("openvino", "int8", False)
    told = [note for note in first.warnings if "int8 was calibrated on" in note and "1.0000 for label 1" in note]
    assert len(told) == 1
    # Another patient's report may hold it too.
    assert "scan.nii" not in told[0]
    assert dice(first.label == 1, balls[0] > 60) == 1.0
    second = Segmenter(bundle, device="cpu", precision="int8").segment(volume(balls[1], 2.0))
    assert second.engine["cached_network"] is True
    assert told[0] in second.warnings
    assert dice(second.label == 1, balls[1] > 60) == 1.0


def test_int8_of_a_bundle_that_monai_has_to_run_is_refused(tmp_path):
    bundle = threshold_bundle(tmp_path, patch=16)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    steps = [*config["preprocessing"]["transforms"], {"_target_": "GaussianSmoothd", "keys": "image", "sigma": 1.0}]
    edit_config(bundle, "inference", preprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(DeviceError, match=r"inference\.json: --precision int8 is for volseg's own engine.*GaussianSmoothd"):
        Segmenter(bundle, device="cpu", precision="int8")


def test_int8_of_a_sheared_scan_is_refused(tmp_path):
    sheared = np.diag([2.0, 2.0, 2.0, 1.0])
    sheared[0, 1] = 0.2
    scan = Volume(np.zeros((30, 30, 30), np.int16), Grid((30, 30, 30), sheared), Source(Path("scan.nii.gz"), "nifti", "scan"))
    segmenter = Segmenter(threshold_bundle(tmp_path, patch=16), device="cpu", precision="int8")
    with pytest.raises(DeviceError, match="--precision int8 is for volseg's own engine"):
        segmenter.segment(scan)
