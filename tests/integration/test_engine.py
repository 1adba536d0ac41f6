"""The engine gives what stock MONAI gives, on every grid and by every executor, and a run from the cache imports neither torch nor MONAI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.bundle_factory import SHIPPED, copy_bundle, edit_config, tiny_bundle
from volseg.errors import BundleError
from volseg.geometry import Grid
from volseg.inference import Segmenter
from volseg.io.volume import Source, Volume

CLASSES = 4
ROI = (16, 16, 16)

NEAR_TIE = 1e-3
"""Where engines disagree, the probabilities of their two classes differ by less."""

COMMON = {"spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES}
NETWORKS = {
    "UNet": {"_target_": "UNet", **COMMON, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "norm": "INSTANCE"},
    "SegResNet": {"_target_": "SegResNet", **COMMON, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "DynUNet": {"_target_": "DynUNet", **COMMON, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 16], "norm_name": "INSTANCE"},
}


def turned(degrees: float) -> np.ndarray:
    """A turn about an axis between all others."""
    x, y, z = np.array((1, 0.5, 0.25)) / np.linalg.norm((1, 0.5, 0.25))
    angle, skew = np.radians(degrees), np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def grid(shape, spacing, matrix=None) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if matrix is None else matrix) * np.array(spacing)
    affine[:3, 3] = (13.3, -170.1, 40.7)
    return Grid(shape, affine)


def rounded(exact: Grid) -> Grid:
    """As a NIfTI file keeps it: no longer quite at right angles, which MONAI answers by aligning centres instead of corners."""
    return Grid(exact.shape, exact.affine.astype(np.float32).astype(np.float64))


GRIDS = {
    "isotropic": grid((30, 33, 28), (2, 2, 2)),
    "flipped, anisotropic": grid((40, 44, 12), (1.1, 1.1, 5), np.diag([-1, -1, 1])),
    "left-handed": grid((25, 23, 31), (2.6, 2, 2), np.diag([-1, 1, 1])),
    "oblique": grid((34, 30, 22), (1.7, 1.9, 2.5), turned(22)),
    "oblique in float32": rounded(grid((34, 30, 22), (1.7, 1.9, 2.5), turned(22) @ np.diag([-1, -1, 1]))),
    "sagittal": grid((20, 34, 36), (3.1, 1.3, 1.2), np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]])),
    "almost the wanted spacing": grid((30, 30, 20), (2.0004, 1.9996, 3)),
    "smaller than a window": grid((11, 9, 4), (2, 2, 5)),
    "one slice": grid((40, 38, 1), (1.5, 1.5, 5)),
}


def scan(where: Grid) -> Volume:
    """Smooth noise, and air in a part of it."""
    array = (gaussian_filter(np.random.default_rng(1).normal(size=where.shape), 1.5, mode="nearest") * 900).astype(np.int16)
    array[: where.shape[0] // 4] = -1000
    return Volume(array, where, Source(Path("scan.nii.gz"), "nifti", "scan"))


def random_bundle(folder: Path, network: dict, name: str) -> Path:
    """A bundle with random weights, large enough in the last layer for every class to win somewhere."""
    import monai.networks.nets as nets

    bundle = copy_bundle(folder, name)
    edit_config(bundle, "inference", network_def=network, spacing=[2.0, 2.0, 2.0], patch_size=list(ROI))
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"] |= {"num_channels": CLASSES, "channel_def": {str(n): f"label {n}" if n else "background" for n in range(CLASSES)}}
    metadata.pop("dicom_segments", None)
    path.write_text(json.dumps(metadata))
    torch.manual_seed(0)
    built = getattr(nets, network["_target_"])(**{key: value for key, value in network.items() if key != "_target_"})
    torch.save(built.state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.fixture(scope="module", params=NETWORKS)
def bundle(request, tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundles"), NETWORKS[request.param], request.param)


@pytest.fixture(scope="module")
def reference(bundle):
    """Stock MONAI's label and probabilities on every grid."""
    segmenter = Segmenter(bundle, device="cpu", precision="fp32", engine="monai")
    results = {name: segmenter.segment(scan(where), probabilities=True) for name, where in GRIDS.items()}
    assert {result.engine["engine"] for result in results.values()} == {"monai"}
    return results


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_same_answer_as_stock_monai(engine, bundle, reference):
    segmenter = Segmenter(bundle, device="cpu", precision="fp32", engine=engine)
    seen = set()
    for name, where in GRIDS.items():
        result, expected = segmenter.segment(scan(where)), reference[name]
        assert result.engine["engine"] == engine, name
        for fact in ("network_shape", "network_spacing_mm", "patch", "overlap", "windows", "precision"):
            assert result.engine[fact] == expected.engine[fact], (name, fact)
        assert result.label.dtype == expected.label.dtype
        seen |= set(np.unique(result.label))
        differing = result.label != expected.label
        assert differing.mean() <= 1e-4 or differing.sum() <= 1, (name, int(differing.sum()))
        shares = np.stack([1 - sum(expected.probabilities.values()), *(expected.probabilities[n] for n in range(1, CLASSES))])
        at = np.nonzero(differing)
        gap = shares[(expected.label[differing], *at)] - shares[(result.label[differing], *at)]
        assert np.abs(gap).max(initial=0) < NEAR_TIE, name
    assert len(seen) > 1


def test_bf16_is_taken_where_it_is_asked_for(bundle, reference):
    result = Segmenter(bundle, device="cpu", precision="bf16", engine="torch").segment(scan(GRIDS["isotropic"]))
    assert result.engine["precision"] == "bf16"
    # Random networks have near ties everywhere; only gross errors show here, trained weights are tested on real scans.
    assert (result.label == reference["isotropic"].label).mean() > 0.9


def test_repeated_windows_are_counted(bundle):
    where = grid((96, 30, 30), (2, 2, 2))
    volume = scan(where)
    volume.array[:60] = -1000
    result = Segmenter(bundle, device="cpu", precision="fp32", engine="torch").segment(volume)
    assert result.engine["windows"] == 11 * 3 * 3
    # Along the first axis windows start every 8 voxels; those at 0 to 40 end before voxel 60: six rows of nine, one of which is computed.
    assert result.engine["repeated_windows"] == 6 * 9 - 1


def test_unknown_parts_run_through_monai_and_say_why(tmp_path):
    bundle = tiny_bundle(tmp_path, weights=True)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    steps = [*config["preprocessing"]["transforms"], {"_target_": "GaussianSmoothd", "keys": "image", "sigma": 1.0}]
    edit_config(bundle, "inference", preprocessing={"_target_": "Compose", "transforms": steps})
    segmenter = Segmenter(bundle, device="cpu")
    engine = segmenter.segment(scan(GRIDS["isotropic"])).engine
    assert engine["engine"] == "monai"
    assert "GaussianSmoothd" in engine["reason"]
    assert not segmenter.should_convert_later()


def test_sheared_scan_runs_through_monai(tmp_path):
    sheared = np.eye(4)
    sheared[:3, :3] = np.diag([2.0, 2.0, 2.0]) @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])
    engine = Segmenter(tiny_bundle(tmp_path, weights=True), device="cpu").segment(scan(Grid((30, 30, 30), sheared))).engine
    assert engine["engine"] == "monai"
    assert "orthogonal" in engine["reason"]


def test_network_with_another_output_runs_through_monai(tmp_path):
    """A network whose scores are half the window's size: MONAI enlarges them, the engine does not know how."""
    bundle = tiny_bundle(tmp_path)
    edit_config(bundle, "inference", network_def={"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 2, "stride": 2})
    torch.manual_seed(0)
    torch.save(torch.nn.Conv3d(1, 2, 2, 2).state_dict(), bundle / "models" / "model.pt")
    engine = Segmenter(bundle, device="cpu", precision="fp32", engine="torch").segment(scan(GRIDS["isotropic"])).engine
    assert engine["engine"] == "monai"
    assert "scores of the window's size" in engine["reason"]


def test_openvino_that_fails_while_running_gives_way_to_torch(bundle, reference, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory for a primitive")

    monkeypatch.setattr("volseg.inference.executors.openvino_executor.OpenVINOExecutor.__call__", fail)
    segmenter = Segmenter(bundle, device="cpu", precision="fp32")
    segmenter.convert_later()
    result = segmenter.segment(scan(GRIDS["isotropic"]))
    assert result.engine["engine"] == "torch"
    assert any("no memory for a primitive" in note for note in result.warnings)
    assert (result.label == reference["isotropic"].label).mean() >= 0.9999


def test_window_that_the_network_cannot_take_is_told(tmp_path):
    bundle = tiny_bundle(tmp_path, weights=True)
    edit_config(bundle, "inference", patch_size=[17, 17, 17])
    with pytest.raises(BundleError, match=r"inference\.json"):
        Segmenter(bundle, device="cpu").segment(scan(GRIDS["isotropic"]))


def test_run_from_the_cache_imports_neither_torch_nor_monai(tmp_path):
    bundle = tiny_bundle(tmp_path, weights=True)
    where = GRIDS["flipped, anisotropic"]
    nib.save(nib.Nifti1Image(scan(where).array, where.affine), tmp_path / "scan.nii.gz")
    code = "import atexit, sys\nfrom volseg.cli import main\natexit.register(lambda: print(sorted({'torch', 'monai'} & set(sys.modules)), file=sys.stderr))\nmain()"
    command = [sys.executable, "-c", code, "infer", str(tmp_path / "scan.nii.gz"), "-b", str(bundle), "--device", "cpu", "--precision", "fp32", "-v", "-o"]

    def run(out: str) -> tuple[dict, str]:
        environment = {**os.environ, "VOLSEG_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([*command, str(tmp_path / out)], capture_output=True, text=True, timeout=300, env=environment, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / out / "scan_seg.json").read_text()), done.stdout + done.stderr

    first, told = run("first")
    assert first["engine"]["engine"] == "torch"
    assert "converting the network" in told
    assert "['monai', 'torch']" in told
    second, told = run("second")
    assert second["engine"]["engine"] == "openvino"
    assert second["engine"]["cached_network"] is True
    assert "[]" in told
    labels = [np.asarray(nib.load(tmp_path / out / "scan_seg.nii.gz").dataobj) for out in ("first", "second")]
    assert (labels[0] == labels[1]).mean() >= 0.9999


def test_trained_weights_on_a_real_scan(real_data):
    """Dice of each engine and precision against stock MONAI in fp32."""
    path = real_data / "sts" / json.loads((real_data / "sts" / "dataset.json").read_text())["training"][0]["image"]
    expected = Segmenter(SHIPPED, device="cpu", precision="fp32", engine="monai").segment(path).label
    for engine, precision in (("torch", "fp32"), ("openvino", "fp32"), ("torch", "bf16")):
        found = Segmenter(SHIPPED, device="cpu", precision=precision, engine=engine).segment(path).label
        if precision == "fp32":
            assert (found == expected).mean() >= 0.9999
        assert 2 * np.logical_and(found, expected).sum() / (found.sum() + expected.sum()) >= 0.999
