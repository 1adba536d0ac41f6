"""``--probabilities``: a map for each label on exactly the scan's grid, readable by others, that agrees with the label and with stock MONAI; nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundle_factory import edit_config, tiny_bundle
from tests.dicom_factory import Scan, write
from volseg.cli import main
from volseg.cli.job import probability_endings
from volseg.errors import GeometryError, InputError
from volseg.geometry import Grid
from volseg.inference import Segmenter
from volseg.io import load, save_probability
from volseg.io.volume import Source, Volume

STEP = 1 / 255

AFFINE = np.array([[-3.0, 0.2, 0, 60], [0.2, 3.0, 0, -50], [0, 0, 4.0, 11], [0, 0, 0, 1.0]])
"""Not quite along the axes of the scanner, and in another direction than the network's."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Three classes of a random network, the names of whose labels are no file names."""
    import torch
    from monai.networks.nets import DynUNet

    from tests.bundle_factory import TINY_NETWORK

    folder = tiny_bundle(tmp_path_factory.mktemp("bundles"))
    network = TINY_NETWORK | {"out_channels": 4}
    edit_config(folder, "inference", network_def=network)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    names = {"0": "background", "1": "Left kidney", "2": "tumour/edema", "3": "left_Kidney"}
    metadata["network_data_format"]["outputs"]["pred"] |= {"num_channels": 4, "channel_def": names}
    metadata.pop("dicom_segments", None)
    path.write_text(json.dumps(metadata))
    torch.manual_seed(1)
    state = DynUNet(**{key: value for key, value in network.items() if key != "_target_"}).state_dict()
    torch.save({key: 3 * tensor if "output_block" in key else tensor for key, tensor in state.items()}, folder / "models" / "model.pt")
    return folder


PROBABILITIES = {1: "scan_prob_Left_kidney_1.nii.gz", 2: "scan_prob_tumour_edema.nii.gz", 3: "scan_prob_left_Kidney_3.nii.gz"}


def array() -> np.ndarray:
    blocks = np.random.default_rng(7).normal(40, 160, (11, 12, 9))
    return np.kron(blocks, np.ones((4, 4, 4))).astype(np.int16)


@pytest.fixture
def scan(tmp_path) -> Path:
    image = nib.Nifti1Image(array(), AFFINE)
    image.set_sform(AFFINE, 2)
    image.set_qform(AFFINE, 1)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "scan.nii.gz")
    return tmp_path / "in" / "scan.nii.gz"


def infer(capsys, bundle: Path, scan: Path, out: Path, *more: object) -> tuple[int, str, str]:
    arguments = ["infer", scan, "-b", bundle, "-o", out, "--device", "cpu", "--precision", "fp32", "--no-preview", "--no-report", "--probabilities", *more]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    stdout, stderr = capsys.readouterr()
    return int(ended.value.code or 0), stdout, stderr


@pytest.mark.parametrize("engine", ["torch", "openvino", "monai"])
def test_maps_lie_on_the_scan_and_agree_with_the_label(engine, capsys, bundle, scan, tmp_path):
    code, out, err = infer(capsys, bundle, scan, tmp_path / "out", "--engine", engine, "--json")
    assert code == 0, err
    result = json.loads(out)["results"][0]
    assert result["engine"]["engine"] == engine
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["scan_seg.json", "scan_seg.nii.gz", *PROBABILITIES.values()])
    assert (
        {Path(path).name for path in result["probabilities"].values()}
        == set(PROBABILITIES.values())
        == {Path(path).name for path in result["outputs"]} & set(PROBABILITIES.values())
    )
    given, label = nib.load(scan), np.asarray(nib.load(tmp_path / "out" / "scan_seg.nii.gz").dataobj)
    maps = {value: nib.load(tmp_path / "out" / name) for value, name in PROBABILITIES.items()}
    for image in maps.values():
        assert image.get_data_dtype() == np.uint8
        assert np.array_equal(image.affine, given.affine)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (2, 1)
    shares = np.stack([image.get_fdata() for image in maps.values()])
    shares = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
    assert shares[1:].min() >= 0
    assert shares[1:].max() <= 1
    # The background's share carries the rounding of the three others.
    assert shares[0].min() >= -1.5 * STEP - 1e-6
    best, chosen = shares.max(axis=0), np.take_along_axis(shares, label[None].astype(np.intp), 0)[0]
    assert (best - chosen).max() <= 2 * STEP + 1e-3
    assert len(np.unique(label)) >= 3


def test_other_readers_see_the_same_numbers(capsys, bundle, scan, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    assert infer(capsys, bundle, scan, tmp_path / "out")[0] == 0
    path = tmp_path / "out" / PROBABILITIES[1]
    expected = nib.load(path).get_fdata()
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, expected, atol=1e-6)
    np.testing.assert_allclose(load(path).array, expected, atol=1e-6)
    assert expected.max() > 0.5


def test_engine_and_stock_monai_agree(bundle, scan):
    results = {engine: Segmenter(bundle, engine=engine, device="cpu", precision="fp32").segment(scan, probabilities=True) for engine in ("torch", "monai")}
    for value in (1, 2, 3):
        np.testing.assert_allclose(results["torch"].probabilities[value], results["monai"].probabilities[value], atol=1e-3)
    assert results["torch"].probabilities[1].dtype == np.float32


def test_a_bundle_that_activates_after_the_inversion_runs_through_monai(bundle, scan, tmp_path):
    import shutil

    other = shutil.copytree(bundle, tmp_path / "later")
    config = json.loads((other / "configs" / "inference.json").read_text())
    steps = config["postprocessing"]["transforms"]
    steps[0], steps[1] = steps[1], steps[0]
    assert [step["_target_"] for step in steps[:2]] == ["Invertd", "Activationsd"]
    edit_config(other, "inference", postprocessing=config["postprocessing"])
    segmenter = Segmenter(other, engine="torch", device="cpu", precision="fp32")
    assert segmenter.segment(scan).engine["engine"] == "torch"
    result = segmenter.segment(scan, probabilities=True)
    assert (result.engine["engine"], "after its scores are interpolated" in result.engine["reason"]) == ("monai", True)
    total = sum(result.probabilities.values())
    assert total.max() <= 1 + 1e-5


def test_fractional_dicom_and_maps_hold_the_same(capsys, bundle, tmp_path):
    from volseg.io.dicom.objects.seg import read_seg

    stored = np.transpose(array(), (2, 1, 0))
    series = write(Scan(stored, spacing=(3.0, 3.0), step=4.0, tags={"Modality": "CT", "PatientBirthDate": "19700101", "PatientSex": "O"}).datasets(), tmp_path / "scan")
    code, _, err = infer(capsys, bundle, series, tmp_path / "out", "--format", "dicom-seg", "--seg-type", "fractional")
    assert code == 0, err
    import pydicom

    dataset = pydicom.dcmread(tmp_path / "out" / "scan_seg.dcm")
    total = sum(np.asarray(nib.load(tmp_path / "out" / name).dataobj.get_unscaled()).sum(dtype=np.int64) for name in PROBABILITIES.values())
    assert int(dataset.pixel_array.sum(dtype=np.int64)) == total > 0
    assert read_seg(tmp_path / "out" / "scan_seg.dcm").segments


def test_dry_run_foretells_their_files_time_and_memory(capsys, bundle, scan, tmp_path):
    code, out, _ = infer(capsys, bundle, scan, tmp_path / "out", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)["results"][0]
    assert {str(tmp_path / "out" / name) for name in PROBABILITIES.values()} <= set(plan["outputs"])
    assert plan["forecast"]["memory_bytes"]["probabilities"] > 0
    assert plan["forecast"]["stages_s"]["probabilities"] > 0
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_nothing(capsys, bundle, scan, tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments, **_):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save_probability(*arguments)

    monkeypatch.setattr("volseg.inference.segmentation.save_probability", interrupted)
    assert infer(capsys, bundle, scan, tmp_path / "out")[0] == 130
    assert len(calls) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs POSIX file-size limits")
@pytest.mark.parametrize("limit", [30_000, 70_000], ids=["of the room", "of a map"])
def test_a_full_disk_leaves_nothing(bundle, scan, tmp_path, limit):
    """A file-size limit stands in for a full disk: 76 000 voxels and three labels need 228 kB of room; the maps of noise hardly compress."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); from volseg.cli import main; main()"
    if limit > 60_000:
        # The room is found elsewhere, so that writing is what fails.
        code = (
            "import volseg.inference.probability_store as s, mmap; s.scratch_file = lambda length, folder: mmap.mmap(-1, length);"
            "import volseg.io.save as w; w._write_packed = lambda file, start, *rest: file.write(bytes(100_000)) if b'probability' in start else file.write(start);" + code
        )
    arguments = [str(scan), "-b", str(bundle), "-o", str(tmp_path / "out"), "--device", "cpu", "-q", "--no-preview", "--no-report", "--probabilities", "--engine", "torch"]
    done = subprocess.run([sys.executable, "-c", code, "infer", *arguments], capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert ("no room for" if limit < 60_000 else "_prob_") in done.stderr
    assert not (tmp_path / "out").exists()


def test_names_of_labels_become_names_of_files():
    assert probability_endings({0: "background", 2: "a b", 1: "A_B", 5: "..", 7: "Tumör (edema)"}) == (
        (1, "_prob_A_B_1.nii.gz"),
        (2, "_prob_a_b_2.nii.gz"),
        (5, "_prob_label_5.nii.gz"),
        (7, "_prob_Tumör_edema.nii.gz"),
    )
    # Two labels in one file would lose the first.
    assert [name for _, name in probability_endings({1: "a b", 2: "a_b", 3: "a_b_2"})] == ["_prob_a_b_1.nii.gz", "_prob_a_b_2.nii.gz", "_prob_a_b_2_3.nii.gz"]


def test_only_probabilities_are_written(tmp_path):
    grid = Grid((4, 5, 6), np.eye(4))
    like = Volume(np.zeros(grid.shape, np.int16), grid, Source(tmp_path / "x.nii", "nifti", "x"))
    good = np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6)
    found = nib.load(save_probability(good, like, tmp_path / "p.nii.gz")).get_fdata()
    np.testing.assert_allclose(found, good, atol=0.5 * STEP + 1e-6)
    assert (found.min(), found.max() <= 1) == (0, True)
    for wrong, message in ((good * 1.01, "floats from 0 to 1"), (good - 0.1, "floats from 0 to 1"), ((good > 0.5).astype(np.int16), "int16"), (good * np.nan, "from nan")):
        with pytest.raises(InputError, match=message):
            save_probability(wrong, like, tmp_path / "q.nii.gz")
    with pytest.raises(InputError, match=r"end the name in \.nii\.gz"):
        save_probability(good, like, tmp_path / "q.nrrd")
    with pytest.raises(GeometryError, match="shape"):
        save_probability(good[1:], like, tmp_path / "q.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["p.nii.gz"]


def test_probabilities_that_were_not_asked_for_cannot_be_saved(bundle, scan, tmp_path):
    result = Segmenter(bundle, engine="torch", device="cpu").segment(scan)
    with pytest.raises(InputError, match="probabilities=True"):
        result.save_probability(1, tmp_path / "p.nii.gz")
