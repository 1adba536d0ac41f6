from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import THRESHOLD_HU, dice, edit_config, threshold_bundle, tiny_bundle, write_scan
from volseg.cli import main
from volseg.errors import BundleError, InputError
from volseg.geometry import Grid
from volseg.inference import Segmenter

BALL_CENTRE = (5.0, -12.0, 20.0)
BALL_RADIUS = 22.0
BALL_ML = 4 / 3 * np.pi * BALL_RADIUS**3 / 1000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return threshold_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def segmenter(bundle):
    return Segmenter(bundle, device="cpu")


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    angle = np.radians(degrees)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def grid_around_ball(shape, spacing, matrix) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = matrix * np.array(spacing)
    affine[:3, 3] = np.array(BALL_CENTRE) - affine[:3, :3] @ ((np.array(shape) - 1) / 2 + (1.3, -0.7, 0.4))
    return Grid(shape, affine)


GRIDS = {
    "isotropic RAS": grid_around_ball((40, 40, 40), (2, 2, 2), np.eye(3)),
    "LPS anisotropic": grid_around_ball((60, 64, 21), (1, 1, 5), np.diag([-1, -1, 1])),
    "left-handed": grid_around_ball((40, 41, 42), (2, 1.7, 2.2), np.diag([-1, 1, 1])),
    "sagittal": grid_around_ball((50, 52, 30), (1.5, 1.5, 3), np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]])),
    "oblique": grid_around_ball((50, 50, 30), (1.5, 1.5, 2.5), rotation(25, (1, 0.5, 0.25))),
    "smaller than a window": grid_around_ball((30, 28, 10), (2, 2, 5), np.diag([-1, -1, 1])),
}


@pytest.mark.parametrize("name", GRIDS)
def test_label_lies_on_the_scan_in_world_space(name, segmenter, tmp_path):
    grid = GRIDS[name]
    mask = write_scan(tmp_path / "scan.nii.gz", grid, centre=BALL_CENTRE, radius=BALL_RADIUS)
    result = segmenter.segment(tmp_path / "scan.nii.gz")
    assert result.label.shape == grid.shape
    assert result.label.dtype == np.uint8
    # Linear resampling of a step edge moves the threshold by less than a voxel: the mask agrees but for its surface.
    assert dice(result.label == 1, mask) > 0.9
    where = grid.to_world(np.argwhere(result.label == 1)).mean(axis=0)
    truth = grid.to_world(np.argwhere(mask)).mean(axis=0)
    assert np.linalg.norm(where - truth) < 0.5 * min(grid.spacing) + 0.3


def test_same_world_same_volume_on_every_grid(segmenter, tmp_path):
    volumes = []
    for number, grid in enumerate(GRIDS.values()):
        write_scan(tmp_path / f"{number}.nii.gz", grid, centre=BALL_CENTRE, radius=BALL_RADIUS)
        volumes.append(segmenter.segment(tmp_path / f"{number}.nii.gz").statistics()[0]["volume_ml"])
    # The threshold sits at (60 + 50) / 200 = 55 % of the edge's height, so the ball shrinks by a small part of a voxel.
    assert volumes == pytest.approx([BALL_ML] * len(volumes), rel=0.08)


def test_equals_the_plain_monai_bundle(tmp_path):
    """The same bundle through MONAI's own workflow, reading and writing files itself, gives the same voxels."""
    bundle = tiny_bundle(tmp_path, weights=True)
    rng = np.random.default_rng(0)
    grid = grid_around_ball((50, 44, 24), (3, 3, 6), rotation(12, (0, 1, 1)) @ np.diag([-1, -1, 1]))
    scans = tmp_path / "data" / "imagesTs"
    scans.mkdir(parents=True)
    nib.save(nib.Nifti1Image(rng.normal(40, 120, grid.shape).astype(np.int16), grid.affine), scans / "scan.nii.gz")
    code = (
        "from monai.bundle import ConfigWorkflow;"
        f"w = ConfigWorkflow(config_file={str(bundle / 'configs' / 'inference.json')!r}, meta_file={str(bundle / 'configs' / 'metadata.json')!r}, workflow_type='infer',"
        f" bundle_root={str(bundle)!r}, dataset_dir={str(tmp_path / 'data')!r}, output_dir={str(tmp_path / 'monai')!r});"
        "w.initialize(); w.run(); w.finalize()"
    )
    # volseg must not be importable there: a bundle is plain MONAI.
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.modules['volseg'] = None; {code}"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    plain = nib.load(tmp_path / "monai" / "scan_seg.nii.gz")
    ours = Segmenter(bundle, device="cpu", precision="fp32").segment(scans / "scan.nii.gz")
    expected = np.asarray(plain.dataobj).squeeze()
    assert 0 < (expected == 1).mean() < 1
    assert np.allclose(plain.affine, grid.affine, atol=1e-3)
    assert (ours.label == expected).mean() >= 0.9999


def test_report_traces_the_result(segmenter, bundle, tmp_path):
    import hashlib

    grid = GRIDS["LPS anisotropic"]
    write_scan(tmp_path / "scan.nii.gz", grid, centre=BALL_CENTRE, radius=BALL_RADIUS)
    result = segmenter.segment(tmp_path / "scan.nii.gz")
    report = result.report()
    json.dumps(report, allow_nan=False)
    voxels = int((result.label == 1).sum())
    assert report["labels"] == [{"value": 1, "name": "tumor", "voxels": voxels, "volume_ml": pytest.approx(voxels * 1 * 1 * 5 / 1000)}]
    assert report["input"]["sha256"] == hashlib.sha256((tmp_path / "scan.nii.gz").read_bytes()).hexdigest()
    assert report["bundle"]["weights_sha256"] == hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert report["engine"]["precision"] == "fp32"
    assert {"read", "preprocess", "network", "restore"} <= set(report["timings_s"])


def test_nan_voxels_are_filled_with_the_lowest_value_and_told(segmenter, tmp_path):
    grid = GRIDS["isotropic RAS"]
    mask = write_scan(tmp_path / "scan.nii.gz", grid, centre=BALL_CENTRE, radius=BALL_RADIUS)
    array = np.asarray(nib.load(tmp_path / "scan.nii.gz").dataobj).astype(np.float32)
    array[:3] = np.nan
    nib.save(nib.Nifti1Image(array, grid.affine), tmp_path / "nan.nii.gz")
    result = segmenter.segment(tmp_path / "nan.nii.gz")
    assert dice(result.label == 1, mask) > 0.9
    assert any("NaN" in warning or "finite" in warning for warning in result.warnings)


def test_values_that_are_no_hounsfield_units_are_told(segmenter, tmp_path):
    write_scan(tmp_path / "scan.nii.gz", GRIDS["isotropic RAS"], centre=BALL_CENTRE, radius=BALL_RADIUS, inside=1174, outside=974)
    assert any("Hounsfield" in warning for warning in segmenter.segment(tmp_path / "scan.nii.gz").warnings)


def test_bundle_that_does_not_invert_is_brought_back_to_the_grid(tmp_path):
    bundle = threshold_bundle(tmp_path)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    steps = [step for step in config["postprocessing"]["transforms"] if step["_target_"] != "Invertd"]
    edit_config(bundle, "inference", postprocessing={"_target_": "Compose", "transforms": steps})
    grid = GRIDS["LPS anisotropic"]
    mask = write_scan(tmp_path / "scan.nii.gz", grid, centre=BALL_CENTRE, radius=BALL_RADIUS)
    result = Segmenter(bundle, device="cpu").segment(tmp_path / "scan.nii.gz")
    assert dice(result.label == 1, mask) > 0.9
    assert any("another grid" in warning for warning in result.warnings)


def test_nan_weights_are_named(tmp_path):
    bundle = threshold_bundle(tmp_path)
    path = bundle / "models" / "model.pt"
    torch.save({name: tensor * float("nan") for name, tensor in torch.load(path, weights_only=True).items()}, path)
    write_scan(tmp_path / "scan.nii.gz", GRIDS["isotropic RAS"], centre=BALL_CENTRE, radius=BALL_RADIUS)
    with pytest.raises(BundleError, match="not finite"):
        Segmenter(bundle, device="cpu").segment(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "norm": "batch"},
        {"_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    ],
    ids=["UNet", "SegResNet"],
)
def test_other_networks_of_the_zoo(network, tmp_path):
    import monai.networks.nets as nets

    bundle = tiny_bundle(tmp_path)
    edit_config(bundle, "inference", network_def=network)
    torch.manual_seed(0)
    built = getattr(nets, network["_target_"])(**{key: value for key, value in network.items() if key != "_target_"})
    torch.save({"model": built.state_dict()}, bundle / "models" / "model.pt")
    write_scan(tmp_path / "scan.nii.gz", GRIDS["LPS anisotropic"], centre=BALL_CENTRE, radius=BALL_RADIUS)
    assert Segmenter(bundle, device="cpu").segment(tmp_path / "scan.nii.gz").label.shape == GRIDS["LPS anisotropic"].shape


# The command line


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "in" / "scan.nii.gz"
    write_scan(path, GRIDS["LPS anisotropic"], centre=BALL_CENTRE, radius=BALL_RADIUS)
    return path


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; returns exit status, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def infer(capsys, bundle, scans, out, *more: object) -> tuple[int, str, str]:
    return call(capsys, "infer", *scans, "-b", bundle, "-o", out, "--device", "cpu", *more)


def test_outputs_of_one_scan(capsys, bundle, scan, tmp_path):
    before = scan.read_bytes()
    code, out, _ = infer(capsys, bundle, [scan], tmp_path / "out")
    assert code == 0
    assert "tumor" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"scan_seg.{ending}" for ending in ("csv", "html", "json", "nii.gz", "png")]
    image, label = nib.load(scan), nib.load(tmp_path / "out" / "scan_seg.nii.gz")
    assert label.shape == image.shape
    assert np.array_equal(label.affine, image.affine)
    assert (int(label.header["sform_code"]), int(label.header["qform_code"])) == (int(image.header["sform_code"]), int(image.header["qform_code"]))
    assert label.get_data_dtype() == np.uint8
    assert scan.read_bytes() == before
    # A second run replaces its own results.
    assert infer(capsys, bundle, [scan], tmp_path / "out")[0] == 0


def test_several_scans_one_of_them_bad(capsys, bundle, scan, tmp_path):
    other = tmp_path / "other" / "scan.nii.gz"
    other.parent.mkdir()
    shutil.copy(scan, other)
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("no image")
    code, out, err = infer(capsys, bundle, [scan, bad, other], tmp_path / "out", "--json", "--no-preview", "--no-report", "-q")
    assert code == 2
    results = json.loads(out)["results"]
    assert ["error" in result for result in results] == [False, True, False]
    assert str(bad) in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in_scan_seg.json", "in_scan_seg.nii.gz", "other_scan_seg.json", "other_scan_seg.nii.gz"]


def test_folder_of_scans_and_formats(capsys, bundle, scan, tmp_path):
    shutil.copy(scan, scan.with_name("second.nii.gz"))
    code, _, _ = infer(capsys, bundle, [scan.parent], tmp_path / "out", "--no-preview", "--no-report", "--format", "nrrd", "--format", "nifti")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("second*")) == ["second_seg.json", "second_seg.nii.gz", "second_seg.nrrd"]
    from volseg.io import load

    nrrd, nifti = load(tmp_path / "out" / "second_seg.nrrd"), load(tmp_path / "out" / "second_seg.nii.gz")
    assert nrrd.grid.isclose(nifti.grid)
    assert np.array_equal(nrrd.array, nifti.array)


def test_failure_while_writing_keeps_the_earlier_result(capsys, bundle, scan, tmp_path, monkeypatch):
    out = tmp_path / "out"
    infer(capsys, bundle, [scan], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("volseg.report.write_preview", interrupted)
    assert infer(capsys, bundle, [scan], out)[0] == 130
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert infer(capsys, bundle, [scan], tmp_path / "new")[0] == 130
    assert not (tmp_path / "new").exists()


def test_absurd_field_of_view_is_refused_and_a_tiny_one_doubted(capsys, bundle, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((48, 40, 20), np.int16), np.diag([100.0, 100.0, 100.0, 1.0])), tmp_path / "huge.nii.gz")
    assert "4800 x 4000 x 2000 mm" in refused(capsys, tmp_path, tmp_path / "huge.nii.gz", "-b", bundle, "--device", "cpu")
    nib.save(nib.Nifti1Image(np.full((48, 40, 20), -5, np.int16), np.diag([0.01, 0.01, 0.01, 1.0])), tmp_path / "dot.nii.gz")
    code, _, err = infer(capsys, bundle, [tmp_path / "dot.nii.gz"], tmp_path / "out", "--dry-run")
    assert code == 0
    assert "0.48 x 0.4 x 0.2 mm" in err


def test_dry_run_goes_on_after_an_unusable_scan(capsys, bundle, scan, tmp_path):
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii.gz")
    code, out, _ = infer(capsys, bundle, [tmp_path / "nan.nii.gz", scan], tmp_path / "out", "--dry-run", "--json")
    assert code == 2
    assert ["error" in result for result in json.loads(out)["results"]] == [True, False]


def test_dry_run_writes_nothing(capsys, bundle, scan, tmp_path):
    code, out, _ = infer(capsys, bundle, [scan], tmp_path / "out", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)["results"][0]
    # 60 x 64 x 21 voxels of 1 x 1 x 5 mm at 2 mm; the windows are 32 voxels with half overlap. MONAI counts voxels from centre to centre.
    assert plan["network_shape"] == [30, 32, 51]
    assert plan["windows"] == 1 * 1 * 3
    assert not (tmp_path / "out").exists()


def refused(capsys, tmp_path, *arguments: object, code: int = 2) -> str:
    """The command fails with one line on stderr, and leaves no output folder behind."""
    got, out, err = call(capsys, "infer", *arguments, "-o", tmp_path / "out", "-q")
    assert got == code, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("volseg: error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    return err


def test_missing_file(capsys, tmp_path, bundle):
    assert "gone.nii.gz" in refused(capsys, tmp_path, tmp_path / "gone.nii.gz", "-b", bundle)


def test_truncated_nifti(capsys, tmp_path, bundle, scan):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(scan.read_bytes()[:-200])
    assert "cut.nii.gz" in refused(capsys, tmp_path, cut, "-b", bundle)


def test_text_renamed(capsys, tmp_path, bundle):
    path = tmp_path / "text.nii.gz"
    path.write_text("hello")
    assert "text.nii.gz" in refused(capsys, tmp_path, path, "-b", bundle)


def test_two_dimensional_image(capsys, tmp_path, bundle):
    path = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((20, 20), np.int16), np.eye(4)), path)
    assert "flat.nii.gz" in refused(capsys, tmp_path, path, "-b", bundle)


def test_empty_folder(capsys, tmp_path, bundle):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, tmp_path, tmp_path / "empty", "-b", bundle)


def test_folder_with_two_series(capsys, tmp_path, bundle):
    from volseg.synthetic import make_ct, write_series

    for seed in (1, 2):
        write_series(make_ct(seed, shape=(40, 36, 12), spacing=(4, 4, 6)), tmp_path / "series" / str(seed))
    for path in list((tmp_path / "series").glob("*/*")):
        shutil.move(path, tmp_path / "series" / f"{path.parent.name}_{path.name}")
    for seed in (1, 2):
        (tmp_path / "series" / str(seed)).rmdir()
    message = refused(capsys, tmp_path, tmp_path / "series", "-b", bundle)
    assert "--series" in message


def test_unwritable_output(capsys, tmp_path, bundle, scan):
    blocker = tmp_path / "file"
    blocker.write_text("here already")
    code, _, err = call(capsys, "infer", scan, "-b", bundle, "-o", blocker / "out", "-q")
    assert code == 2
    assert err.count("\n") == 1
    assert "output folder" in err
    assert blocker.read_text() == "here already"


def test_unknown_bundle(capsys, tmp_path, scan):
    assert "nosuch" in refused(capsys, tmp_path, scan, "-b", "nosuch")


def test_missing_weights(capsys, tmp_path, scan):
    bundle = tiny_bundle(tmp_path / "b")
    assert "model.pt" in refused(capsys, tmp_path, scan, "-b", bundle, "--device", "cpu")


def test_mismatched_weights(capsys, tmp_path, scan):
    bundle = tiny_bundle(tmp_path / "b", weights=True)
    torch.save({"weight": torch.zeros(3)}, bundle / "models" / "model.pt")
    message = refused(capsys, tmp_path, scan, "-b", bundle, "--device", "cpu")
    assert "missing" in message
    assert "unexpected" in message


def test_wrong_number_of_channels(capsys, tmp_path, scan):
    bundle = threshold_bundle(tmp_path / "b")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"] |= {"num_channels": 2, "channel_def": {"0": "CT", "1": "PET"}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 2, "out_channels": 2, "kernel_size": 1}
    edit_config(bundle, "inference", network_def=network)
    torch.save({"weight": torch.zeros(2, 2, 1, 1, 1), "bias": torch.zeros(2)}, bundle / "models" / "model.pt")
    assert "takes 2 channels (CT, PET)" in refused(capsys, tmp_path, scan, "-b", bundle, "--device", "cpu")


def test_foreign_files_are_not_replaced(capsys, tmp_path, bundle, scan):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "scan_seg.nii.gz").write_text("a radiologist's afternoon")
    code, _, err = call(capsys, "infer", scan, "-b", bundle, "-o", out, "-q")
    assert code == 2
    assert "--overwrite" in err
    assert (out / "scan_seg.nii.gz").read_text() == "a radiologist's afternoon"
    assert [path.name for path in out.iterdir()] == ["scan_seg.nii.gz"]


@pytest.mark.parametrize("arguments", [[""], ["scan.nii.gz", "-o", ""]])
def test_an_empty_path_is_not_this_folder(capsys, tmp_path, monkeypatch, scan, arguments):
    """As ``volseg infer "$UNSET"`` gives it: everything in the current folder was segmented."""
    monkeypatch.chdir(scan.parent)
    code, _, err = call(capsys, "infer", *arguments)
    assert code == 2
    assert "the path is empty" in err
    assert list(scan.parent.iterdir()) == [scan]


def test_results_left_from_an_earlier_run_are_told(capsys, tmp_path, bundle, scan):
    out, quick = tmp_path / "out", ["-q", "--no-preview", "--no-report", "--engine", "torch"]
    assert infer(capsys, bundle, [scan], out, *quick, "--probabilities")[::2] == (0, "")
    name = next(path.name for path in out.iterdir() if "_prob_" in path.name)
    code, _, err = infer(capsys, bundle, [scan], out, *quick)
    assert code == 0
    assert err == f"volseg: warning: {scan}: {name}: left from an earlier run, whose record is replaced; remove what should not lie beside this result\n"
    assert err.strip().endswith(json.loads((out / "scan_seg.json").read_text())["warnings"][-1])
    assert (out / name).exists()
    # With nothing left over, the same call again says nothing.
    (out / name).unlink()
    assert infer(capsys, bundle, [scan], out, *quick)[::2] == (0, "")


def test_a_home_that_cannot_be_written_to_is_no_news(tmp_path):
    """As in a container whose user has none: matplotlib says so on import, twice."""
    code = "from volseg.inference.quiet import quiet_libraries\nwith quiet_libraries():\n import matplotlib.figure"
    (tmp_path / "file").touch()
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "below")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100, check=True)
    assert done.stderr == ""
    loud = subprocess.run([sys.executable, "-c", "import matplotlib.figure"], capture_output=True, text=True, env=environment, timeout=100, check=True)
    assert loud.stderr != ""


def test_a_folder_where_a_result_goes_is_told_before_the_work(capsys, tmp_path, bundle, scan):
    """With --overwrite too, and even where the folder is the last thing to be written."""
    (tmp_path / "out" / "scan_seg.json").mkdir(parents=True)
    code, _, err = call(capsys, "infer", scan, "-b", bundle, "-o", tmp_path / "out", "-q", "--overwrite")
    assert code == 2
    assert err == f"volseg: error: {tmp_path / 'out' / 'scan_seg.json'}: is a folder where a result would go; move it away, or choose another folder with -o\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan_seg.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX file-size limits")
def test_full_disk(bundle, tmp_path):
    """A file-size limit stands in for a full disk: both fail in the middle of a write. Noise does not compress, so the label exceeds the limit."""
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.normal(THRESHOLD_HU, 200, (48, 48, 48)).astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); from volseg.cli import main; main()"
    command = [sys.executable, "-c", code, "infer", str(tmp_path / "scan.nii.gz"), "-b", str(bundle), "-o", str(tmp_path / "out"), "--device", "cpu", "-q", "--no-preview"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "scan_seg.nii.gz" in done.stderr
    assert not (tmp_path / "out").exists()


def test_overlap_is_checked(bundle):
    with pytest.raises(InputError, match="overlap"):
        Segmenter(bundle, device="cpu", overlap=1.0)


def test_help_and_version_import_no_torch():
    code = "import sys\nfrom volseg.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\nassert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "infer" in done.stdout
