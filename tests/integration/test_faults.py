"""What goes wrong around a run: the right answer by another way, or one line that says what to do; nothing half-written, and the scan as it was."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import THRESHOLD_HU, threshold_bundle, tiny_bundle, write_scan
from volseg.cli import main
from volseg.geometry import Grid

resource = pytest.importorskip("resource", reason="needs POSIX limits of a file's size")

OPTIONS = ("--device", "cpu", "--precision", "fp32", "--no-preview", "--no-report", "-q")
GRID = Grid((48, 48, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
BALL = {"centre": (48.0, 48.0, 40.0), "radius": 20.0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return threshold_bundle(tmp_path / "bundles")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scans" / "ball.nii.gz"
    write_scan(path, GRID, **BALL)
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before


def infer(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["infer", *OPTIONS, *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def told(capsys, out: Path, code: int, *arguments: object) -> str:
    """The error of a run that fails: one line, and nothing left in the output folder."""
    got, printed, err = infer(capsys, *arguments, "-o", out)
    assert got == code, err
    assert printed == ""
    assert err.count("\n") == 1, err
    assert err.startswith("volseg: error: ")
    assert not out.exists()
    return err


def label_of(out: Path) -> np.ndarray:
    return np.asarray(nib.load(out / "ball_seg.nii.gz").dataobj)


def record_of(out: Path) -> dict:
    return json.loads((out / "ball_seg.json").read_text())


def damage_weights(bundle: Path, change) -> Path:
    path = bundle / "models" / "model.pt"
    torch.save({name: change(tensor) for name, tensor in torch.load(path, weights_only=True).items()}, path)
    return path


# Weights


@pytest.mark.parametrize("engine", ["auto", "openvino", "monai"])
def test_weights_that_are_not_finite_are_named(capsys, bundle, scan, tmp_path, engine):
    path = damage_weights(bundle, lambda tensor: tensor * float("nan"))
    message = told(capsys, tmp_path / "out", 2, scan, "-b", bundle, "--engine", engine)
    assert f"{path}: the weights are not finite" in message and "train or fetch them again" in message


def test_statistics_that_are_not_finite_count_as_weights(capsys, scan, tmp_path):
    """A batch normalisation whose running mean is NaN: no parameter, and yet every score is NaN."""
    from tests.bundle_factory import edit_config

    bundle = threshold_bundle(tmp_path / "bundles")
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2], "norm": "batch"}
    edit_config(bundle, "inference", network_def=network)
    from monai.networks.nets import UNet

    state = UNet(**{key: value for key, value in network.items() if key != "_target_"}).state_dict()
    name = next(name for name in state if name.endswith("running_mean"))
    state[name][0] = float("nan")
    torch.save(state, bundle / "models" / "model.pt")
    assert f"`{name}` holds NaN" in told(capsys, tmp_path / "out", 2, scan, "-b", bundle)


@pytest.mark.parametrize("engine", ["torch", "monai"])
def test_scores_that_overflow_are_told(capsys, bundle, scan, tmp_path, engine):
    """Every weight is finite, their products with the image are not."""
    path = damage_weights(bundle, lambda tensor: torch.full_like(tensor, 3e38))
    message = told(capsys, tmp_path / "out", 2, scan, "-b", bundle, "--engine", engine)
    assert f"{path}: the network's scores are not finite" in message and "--precision fp32" in message


# Voxels


@pytest.mark.parametrize("engine", ["torch", "openvino", "monai"])
def test_voxels_that_are_not_finite_count_as_the_lowest(capsys, bundle, tmp_path, engine):
    """A row of NaN, +inf and -inf through the ball gives the label of the scan whose row holds the lowest value."""
    image = np.full(GRID.shape, -50, np.float32)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"), axis=-1)
    image[np.linalg.norm(GRID.to_world(index) - np.array(BALL["centre"]), axis=-1) <= BALL["radius"]] = 150
    image[0, 0, 0] = -300
    labels = {}
    for name, values in (("damaged", (np.nan, np.inf, -np.inf)), ("clean", (-300, -300, -300))):
        path = tmp_path / name / "ball.nii.gz"
        path.parent.mkdir()
        image[18:28, 24, 18], image[18:28, 24, 20], image[18:28, 24, 22] = values
        nib.save(nib.Nifti1Image(image, GRID.affine), path)
        before = path.read_bytes()
        code, _, err = infer(capsys, path, "-b", bundle, "-o", tmp_path / f"out-{name}", "--engine", engine)
        assert code == 0, err
        assert ("not finite" in err or "NaN" in err) == (name == "damaged")
        assert path.read_bytes() == before
        labels[name] = label_of(tmp_path / f"out-{name}")
    assert np.array_equal(labels["damaged"], labels["clean"])
    assert labels["clean"][24, 24, 10:12].all() and not labels["clean"][18:28, 24, 20].any()


def test_a_scan_without_a_finite_voxel_is_refused(capsys, bundle, tmp_path):
    path = tmp_path / "nothing.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), np.nan, np.float32), GRID.affine), path)
    message = told(capsys, tmp_path / "out", 2, path, "-b", bundle)
    assert f"{path}: " in message and "finite" in message


def test_a_scan_of_one_slice_is_refused(capsys, bundle, tmp_path):
    path = tmp_path / "ball.nii.gz"
    write_scan(path, Grid((48, 48, 1), np.diag([2.0, 2.0, 5.0, 1.0])), centre=(48.0, 48.0, 0.0), radius=20.0)
    message = told(capsys, tmp_path / "out", 2, path, "-b", bundle)
    assert f"{path}: is a 2D image (48x48x1 voxels)" in message and "give the whole volume" in message


@pytest.mark.parametrize("engine", ["torch", "openvino", "monai"])
def test_a_scan_of_two_slices(capsys, bundle, tmp_path, engine):
    """Two equal discs, far fewer slices than a window has: in the plane nothing is interpolated, and between the slices nothing changes."""
    path = tmp_path / "ball.nii.gz"
    mask = write_scan(path, Grid((48, 48, 2), np.diag([2.0, 2.0, 5.0, 1.0])), centre=(48.0, 48.0, 2.5), radius=20.0)
    code, _, err = infer(capsys, path, "-b", bundle, "-o", tmp_path / "out", "--engine", engine)
    assert code == 0, err
    assert np.array_equal(label_of(tmp_path / "out"), mask)


# Disks


@contextmanager
def disk_of(size: int):
    """No file may grow beyond so many bytes: writing more fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["ball_seg.nii.gz", "ball_seg.json", "ball_seg.html"])
def test_a_full_disk_leaves_what_was_there(capsys, bundle, scan, tmp_path, name):
    """The disk has room for every result smaller than one of them: that one fails, none appears, and those of an earlier run stay."""
    more = ["--report", "--preview"] if name.endswith("html") else []
    out, new = tmp_path / "out", tmp_path / "new"
    code, _, err = infer(capsys, scan, "-b", bundle, *more, "-o", out)
    assert code == 0, err
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for folder in (out, new):
        with disk_of(len(before[name]) - 200):
            code, printed, err = infer(capsys, scan, "-b", bundle, *more, "-o", folder)
        assert code == 1, err
        assert printed == ""
        assert err.count("\n") == 1 and "writing failed" in err and "then run again" in err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not new.exists()


def test_a_disk_without_room_for_the_converted_network_gives_the_label_all_the_same(capsys, scan, tmp_path, cache):
    bundle = tiny_bundle(tmp_path / "bundles", weights=True)
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "plain", "--engine", "torch")
    assert code == 0, err
    largest = max(path.stat().st_size for path in (tmp_path / "plain").iterdir())
    weights = (bundle / "models" / "model.pt").stat().st_size
    assert largest + 2000 < weights // 2
    with disk_of(largest + 2000):
        code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "ball", "--engine", "auto")
    assert code == 0, err
    assert np.array_equal(label_of(tmp_path / "ball"), label_of(tmp_path / "plain"))
    networks = cache / "networks"
    assert not networks.exists() or list(networks.iterdir()) == []


# The cache


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def junk(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize(("file", "damage"), [("network.bin", cut), ("network.bin", flip), ("network.xml", flip), ("manifest.json", junk), ("network.bin", Path.unlink)])
def test_a_damaged_cache_is_made_again(capsys, bundle, scan, tmp_path, cache, file, damage):
    arguments = (scan, "-b", bundle, "--engine", "openvino")
    assert infer(capsys, *arguments, "-o", tmp_path / "first")[0] == 0
    (entry,) = (cache / "networks").iterdir()
    damage(entry / file)
    code, _, err = infer(capsys, *arguments, "-o", tmp_path / "second")
    assert code == 0, err
    assert record_of(tmp_path / "second")["engine"]["cached_network"] is False
    assert infer(capsys, *arguments, "-o", tmp_path / "third")[0] == 0
    assert record_of(tmp_path / "third")["engine"]["cached_network"] is True
    for name in ("second", "third"):
        assert np.array_equal(label_of(tmp_path / name), label_of(tmp_path / "first"))


def test_a_network_that_openvino_cannot_read_gives_way_to_torch(capsys, bundle, scan, tmp_path, cache):
    """An entry that is what its manifest says, and yet no network."""
    from volseg.provenance import sha256_of

    arguments = (scan, "-b", bundle)
    assert infer(capsys, *arguments, "--engine", "openvino", "-o", tmp_path / "first")[0] == 0
    (entry,) = (cache / "networks").iterdir()
    (entry / "network.xml").write_text("<net>")
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["files"]["network.xml"] = sha256_of(entry / "network.xml")
    (entry / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = infer(capsys, *arguments, "-o", tmp_path / "second")
    assert code == 0, err
    assert record_of(tmp_path / "second")["engine"]["engine"] == "torch"
    assert np.array_equal(label_of(tmp_path / "second"), label_of(tmp_path / "first"))


def test_a_cache_that_cannot_be_written_is_no_error(capsys, bundle, scan, tmp_path, cache):
    cache.write_text("a file where the folder should be")
    code, _, err = infer(capsys, scan, "-b", bundle, "--engine", "openvino", "-o", tmp_path / "out")
    assert code == 0, err
    assert label_of(tmp_path / "out").any()
    assert cache.read_text() == "a file where the folder should be"


# Libraries


def test_without_openvino_torch_runs_and_asking_for_it_says_how_to_get_it(capsys, bundle, scan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "out")
    assert code == 0, err
    assert record_of(tmp_path / "out")["engine"]["engine"] == "torch"
    message = told(capsys, tmp_path / "none", 2, scan, "-b", bundle, "--engine", "openvino")
    assert "OpenVINO is not installed (pip install openvino)" in message and "--engine auto or torch" in message


def test_an_openvino_that_does_not_load_gives_way_to_torch(capsys, bundle, scan, tmp_path, monkeypatch):
    """Installed, and its library is missing: what a broken installation says."""
    assert infer(capsys, scan, "-b", bundle, "--engine", "openvino", "-o", tmp_path / "first")[0] == 0

    def broken(*_, **__):
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr("volseg.inference.executors.openvino_executor.OpenVINOExecutor.__init__", broken)
    code, _, err = infer(capsys, scan, "-b", bundle, "-o", tmp_path / "second")
    assert code == 0, err
    assert record_of(tmp_path / "second")["engine"]["engine"] == "torch"
    assert np.array_equal(label_of(tmp_path / "second"), label_of(tmp_path / "first"))


# Memory


@pytest.mark.parametrize("where", ["volseg.inference.engine.resample", "volseg.inference.engine.Restorer"])
def test_memory_that_ends_is_told_in_one_line_with_a_way_out(capsys, bundle, tmp_path, monkeypatch, where):
    path = tmp_path / "ball.nii.gz"
    write_scan(path, Grid((40, 40, 40), np.diag([2.5, 2.5, 2.5, 1.0])), centre=(48.0, 48.0, 48.0), radius=20.0, inside=THRESHOLD_HU + 90)

    def full(*_, **__):
        raise MemoryError("Unable to allocate 9.31 GiB for an array with shape (25, 1000, 1000, 100) and data type float32")

    monkeypatch.setattr(where, full)
    message = told(capsys, tmp_path / "out", 1, path, "-b", bundle)
    assert "memory" in message and "9.31 GiB" in message and "--max-memory" in message


def test_a_disk_without_room_for_probabilities_is_told(capsys, bundle, scan, tmp_path):
    """They lie in a file while the network runs: 48 x 48 x 40 bytes for the one label."""
    with disk_of(48 * 48 * 40 - 1):
        message = told(capsys, tmp_path / "out", 1, scan, "-b", bundle, "--probabilities", "--engine", "torch")
    assert "no room for" in message and "of probabilities" in message and "leave them out" in message
