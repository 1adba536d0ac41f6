"""Images of two channels on two grids: the engine gives what stock MONAI gives, MONAI alone gives what volseg gives, and the command line takes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from scipy.ndimage import gaussian_filter

from tests.bundle_factory import CHANNELS, SUV_WINDOW, WINDOW_HU, each_channel, edit_config, scaled, tiny_bundle, two_channel_bundle, with_two_channels
from tests.dicom_factory import Scan, write
from tests.integration.test_engine import CLASSES, GRIDS, NEAR_TIE, NETWORKS, random_bundle, scan, turned
from volseg.cli import main
from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.inference import Segmenter
from volseg.io import Volume, save_volume
from volseg.io.alignment import align
from volseg.io.channels import combine
from volseg.io.volume import Source

PET_SPACING_MM = 4.3


def pet_of(ct: Volume, matrix: np.ndarray | None = None) -> Volume:
    """Smooth activity on coarse voxels of its own that leave a part of the CT uncovered."""
    matrix = np.eye(3) if matrix is None else matrix
    corners = ct.grid.corners() @ matrix
    low, high = corners.min(axis=0) - 6.1, corners.max(axis=0) - np.array((5.3, 0, 0))
    shape = np.maximum(np.round((high - low) / PET_SPACING_MM), 2).astype(int)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix * PET_SPACING_MM, matrix @ low
    array = np.abs(gaussian_filter(np.random.default_rng(2).normal(size=shape), 1, mode="nearest") * 20).astype(np.float32)
    return Volume(array, Grid(tuple(shape), affine), Source(Path("pet.nii.gz"), "nifti", "pet"))


def image_on(where: Grid) -> Volume:
    ct = scan(where)
    return combine({"CT": ct, "PET": pet_of(ct)})


GRIDS_OF = {"UNet": tuple(GRIDS), "DynUNet": ("flipped, anisotropic", "oblique", "smaller than a window", "one slice")}
"""The network makes no difference to resampling; every grid with one of them is enough."""


@pytest.fixture(scope="module", params=GRIDS_OF)
def bundle(request, tmp_path_factory):
    network = NETWORKS[request.param] | {"in_channels": 2}
    steps = each_channel((0, scaled(*WINDOW_HU)), (1, scaled(*SUV_WINDOW)), (1, {"_target_": "NormalizeIntensityd"}))
    return with_two_channels(random_bundle(tmp_path_factory.mktemp("bundles"), network, request.param), steps)


@pytest.fixture(scope="module")
def reference(bundle):
    segmenter = Segmenter(bundle, device="cpu", precision="fp32", engine="monai")
    results = {name: segmenter.segment(image_on(GRIDS[name]), probabilities=True) for name in GRIDS_OF[bundle.name]}
    assert {result.engine["engine"] for result in results.values()} == {"monai"}
    return results


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_same_answer_as_stock_monai(engine, bundle, reference):
    segmenter = Segmenter(bundle, device="cpu", precision="fp32", engine=engine)
    for name, expected in reference.items():
        where = GRIDS[name]
        result = segmenter.segment(image_on(where))
        assert result.engine["engine"] == engine, name
        assert result.label.shape == where.shape
        differing = result.label != expected.label
        assert differing.mean() <= 1e-4 or differing.sum() <= 1, (name, int(differing.sum()))
        shares = np.stack([1 - sum(expected.probabilities.values()), *(expected.probabilities[n] for n in range(1, CLASSES))])
        at = np.nonzero(differing)
        assert np.abs(shares[(expected.label[differing], *at)] - shares[(result.label[differing], *at)]).max(initial=0) < NEAR_TIE, name


def test_the_second_channel_counts(bundle, reference):
    """Else the comparison above would show nothing of it."""
    image = image_on(GRIDS["oblique"])
    without = replace(image, further=(replace(image.further[0], array=np.zeros_like(image.further[0].array)),))
    label = Segmenter(bundle, device="cpu", precision="fp32", engine="torch").segment(without).label
    assert (label != reference["oblique"].label).mean() > 0.01


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return two_channel_bundle(tmp_path_factory.mktemp("bundles"), weights=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A CT and an oblique PET as files, the PET brought to the CT's grid, and both in one 4D file."""
    folder = tmp_path_factory.mktemp("files")
    ct = scan(Grid((40, 44, 22), np.array([[-2.1, 0, 0, 60], [0, -2.1, 0, 50], [0, 0, 5.0, -30], [0, 0, 0, 1]])))
    pet = pet_of(ct, turned(20))
    save_volume(ct.array, ct.grid, folder / "ct.nii.gz")
    save_volume(pet.array, pet.grid, folder / "pet.nii.gz")
    aligned = align(combine({"CT": ct, "PET": pet}).channels)[1]
    save_volume(aligned.array, ct.grid, folder / "aligned.nii.gz")
    stacked = np.stack([ct.array.astype(np.float32), aligned.array], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stacked, nibabel.load(folder / "ct.nii.gz").affine), folder / "both.nii.gz")
    return folder


def test_plain_monai_on_aligned_files_sees_the_same(tiny, files, tmp_path):
    """The bundle's own workflow, reading and writing files itself."""
    data = [{"image": [str(files / "ct.nii.gz"), str(files / "aligned.nii.gz")]}]
    where = {"bundle_root": str(tiny), "output_dir": str(tmp_path), "device": "$torch.device('cpu')", "dataset#data": data}
    workflow = ConfigWorkflow(str(tiny / "configs" / "inference.json"), meta_file=str(tiny / "configs" / "metadata.json"), logging_file=False, workflow_type="infer", **where)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    (written,) = tmp_path.glob("*.nii.gz")
    plain = np.asarray(nibabel.load(written).dataobj).squeeze()
    assert 0.01 < (plain == 1).mean() < 0.99
    segmenter = Segmenter(tiny, device="cpu", precision="fp32", engine="torch")
    for given in ({"PET": files / "pet.nii.gz", "ct": files / "ct.nii.gz"}, files / "both.nii.gz"):
        result = segmenter.segment(given)
        assert result.engine["engine"] == "torch"
        assert (result.label == plain).mean() >= 0.9999
        assert [channel.source.channel for channel in result.volume.channels] == list(CHANNELS)


def test_loader_that_puts_the_channel_first_runs_through_monai_too(files, tiny, tmp_path):
    """``LoadImaged(ensure_channel_first=True)`` instead of ``EnsureChannelFirstd``, as many bundles of the Model Zoo have it."""
    expected = Segmenter(tiny, device="cpu", precision="fp32", engine="monai").segment(files / "both.nii.gz").label
    for name, old in (("two", two_channel_bundle(tmp_path, weights=True, name="two")), ("one", tiny_bundle(tmp_path, weights=True, name="one"))):
        steps = json.loads((old / "configs" / "inference.json").read_text())["preprocessing"]["transforms"]
        changed = [step | {"ensure_channel_first": True} if step["_target_"] == "LoadImaged" else step for step in steps if step["_target_"] != "EnsureChannelFirstd"]
        edit_config(old, "inference", preprocessing={"_target_": "Compose", "transforms": changed})
        segmenter = Segmenter(old, device="cpu", precision="fp32", engine="monai")
        label = segmenter.segment(files / ("both.nii.gz" if name == "two" else "ct.nii.gz")).label
        assert name == "one" or np.array_equal(label, expected)


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_inputs_on_the_command_line(capsys, tiny, files, tmp_path):
    inputs = ("--input", f"pet={files / 'pet.nii.gz'}", "--input", f"CT={files / 'ct.nii.gz'}")
    code, out, err = call(capsys, "infer", *inputs, "-b", tiny, "-o", tmp_path, "--device", "cpu", "--precision", "fp32", "--engine", "torch")
    assert code == 0, err
    assert "tumor" in out
    assert "channel PET covers" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"ct_seg.{ending}" for ending in ("csv", "html", "json", "nii.gz", "png")]
    report = json.loads((tmp_path / "ct_seg.json").read_text())
    assert [one["channel"] for one in report["input"]] == ["CT", "PET"]
    assert [one["sha256"] for one in report["input"]] == [hashlib.sha256((files / name).read_bytes()).hexdigest() for name in ("ct.nii.gz", "pet.nii.gz")]
    assert report["input"][1]["shape"] != report["input"][0]["shape"]
    assert "Channel PET" in (tmp_path / "ct_seg.html").read_text()
    label = nibabel.load(tmp_path / "ct_seg.nii.gz")
    assert np.array_equal(label.affine, nibabel.load(files / "ct.nii.gz").affine)
    expected = Segmenter(tiny, device="cpu", precision="fp32", engine="torch").segment({"CT": files / "ct.nii.gz", "PET": files / "pet.nii.gz"}).label
    assert np.array_equal(np.asarray(label.dataobj), expected)


def test_a_4d_scan_on_the_command_line(capsys, tiny, files, tmp_path):
    code, out, err = call(capsys, "infer", files / "both.nii.gz", "-b", tiny, "-o", tmp_path, "--device", "cpu", "--no-preview", "--no-report", "--json")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    assert [one["channel"] for one in result["input"]] == ["CT", "PET"]
    assert nibabel.load(tmp_path / "both_seg.nii.gz").shape == (40, 44, 22)


def test_dry_run_counts_the_channels(capsys, tiny, files, tmp_path):
    inputs = ("--input", f"CT={files / 'ct.nii.gz'}", "--input", f"PET={files / 'pet.nii.gz'}")
    code, out, _ = call(capsys, "infer", *inputs, "-b", tiny, "-o", tmp_path / "out", "--device", "cpu", "--engine", "torch", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)["results"][0]
    assert plan["input"] == [str(files / "ct.nii.gz"), str(files / "pet.nii.gz")]
    assert plan["network_input"] == [2, *plan["network_shape"]]
    assert plan["forecast"]["memory_bytes"]["network input"] == 2 * 4 * np.prod(plan["network_shape"])
    assert not (tmp_path / "out").exists()


def refused(capsys, tmp_path: Path, *arguments: object) -> str:
    code, out, err = call(capsys, "infer", *arguments, "-o", tmp_path / "out", "--device", "cpu", "-q")
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("volseg: error: ")
    assert not (tmp_path / "out").exists()
    return err


def test_wrong_inputs_are_told_in_one_line(capsys, tiny, files, tmp_path):
    ct, pet = f"CT={files / 'ct.nii.gz'}", f"PET={files / 'pet.nii.gz'}"
    for inputs, words in (
        ([ct], "channel PET: is missing"),
        ([ct, pet, pet], "given twice"),
        ([ct, "MR=x.nii.gz"], "'MR': the bundle has no such input; it takes CT, PET"),
        ([ct, "PET"], "write it as NAME=PATH"),
        ([ct, f"PET={tmp_path / 'gone.nii.gz'}"], "gone.nii.gz"),
        ([ct, f"PET={files / 'both.nii.gz'}"], "holds 2 volumes"),
    ):
        options = [option for given in inputs for option in ("--input", given)]
        assert words in refused(capsys, tmp_path, *options, "-b", tiny)
    both = ("--input", ct, "--input", pet)
    assert "do not go together" in refused(capsys, tmp_path, files / "ct.nii.gz", *both, "-b", tiny)
    assert "--series 1.2" in refused(capsys, tmp_path, *both, "--series", "1.2", "-b", tiny)
    assert "no scan is given" in refused(capsys, tmp_path, "-b", tiny)
    assert "takes 2 channels (CT, PET); give each channel's scan by --input CT=PATH --input PET=PATH" in refused(capsys, tmp_path, files / "ct.nii.gz", "-b", tiny)
    one = tiny_bundle(tmp_path / "b", weights=True)
    assert "holds 2 volumes" in refused(capsys, tmp_path, files / "both.nii.gz", "-b", one)


def test_an_input_is_not_overwritten(capsys, tiny, files, tmp_path):
    pet = tmp_path / "ct_seg.nii.gz"
    pet.write_bytes((files / "pet.nii.gz").read_bytes())
    code, _, err = call(capsys, "infer", "--input", f"CT={files / 'ct.nii.gz'}", "--input", f"PET={pet}", "-b", tiny, "-o", tmp_path, "--device", "cpu", "--overwrite")
    assert code == 2
    assert "would replace an input scan" in err


def test_wrong_number_of_channels_is_told(tiny, tmp_path):
    three = combine({"CT": scan(GRIDS["isotropic"]), "PET": scan(GRIDS["isotropic"]), "MR": scan(GRIDS["isotropic"])})
    with pytest.raises(InputError, match=r"3 channels, but bundle petct takes 2 channels"):
        Segmenter(tiny, device="cpu").segment(three)
    with pytest.raises(InputError, match=r"3 channels, but bundle tiny takes one"):
        Segmenter(tiny_bundle(tmp_path, weights=True), device="cpu").segment(three)


def test_a_channel_without_a_finite_voxel_is_refused(tiny):
    image = image_on(GRIDS["isotropic"])
    empty = replace(image.further[0], array=np.full_like(image.further[0].array, np.nan))
    with pytest.raises(InputError, match=r"pet\.nii\.gz: no voxel has a finite value"):
        Segmenter(tiny, device="cpu").segment(replace(image, further=(empty,)))


def test_dicom_channels_give_dicom_results_on_the_first(capsys, tiny, tmp_path):
    """And a PET given as the CT is doubted."""
    rng = np.random.default_rng(0)
    plain = {"spacing": (4.0, 4.0), "step": 5.0}
    ct = write(
        Scan(rng.integers(-200, 300, (12, 30, 32)).astype(np.int16), tags={"Modality": "CT", "PatientBirthDate": "", "PatientSex": "O"}, **plain).datasets(), tmp_path / "ct"
    )
    pet = write(Scan(rng.integers(0, 20, (8, 20, 20)).astype(np.int16), tags={"Modality": "PT"}, spacing=(6.0, 6.0), step=7.0).datasets(), tmp_path / "pet")
    arguments = ("-b", tiny, "--device", "cpu", "--no-preview", "--no-report", "--format", "nifti", "--format", "dicom-seg")
    code, _, err = call(capsys, "infer", "--input", f"CT={ct}", "--input", f"PET={pet}", *arguments, "-o", tmp_path / "out")
    assert code == 0, err
    assert "but this series says" not in err
    assert nibabel.load(tmp_path / "out" / "ct_seg.nii.gz").shape == (32, 30, 12)
    report = json.loads((tmp_path / "out" / "ct_seg.json").read_text())
    assert [one["modality"] for one in report["input"]] == ["CT", "PT"]
    code, _, err = call(capsys, "infer", "--input", f"CT={pet}", "--input", f"PET={ct}", *arguments[:-4], "-o", tmp_path / "swapped")
    assert code == 0, err
    assert "channel CT wants CT, but this series says PT" in err
    assert "channel PET wants PT, but this series says CT" in err
