"""Each check of ``volseg bundle check`` passes on a good bundle and fails on one broken in just that way."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundle_factory import each_channel, scaled, with_two_channels
from volseg.bundle import find_bundle
from volseg.conformance import CHECKS, Outcome, Status, run_checks
from volseg.conformance.phantom import LESION_SEMIAXES_MM, lesion_mask, phantom_grid, phantom_shape, write_phantom
from volseg.conformance.subject import Subject

Edit = Callable[[Path], None]


pytestmark = pytest.mark.usefixtures("one_thread")


def make_tiny(folder: Path) -> Path:
    """ct_tumor with a network of a few thousand parameters and small patches, with random weights."""
    shutil.copytree(find_bundle("ct_tumor"), folder, ignore=shutil.ignore_patterns("*.pt", "*.ts", "eval"))
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "README.md").write_text("card")
    small = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8], "deep_supervision": True, "deep_supr_num": 1}

    def shrink(config: dict[str, Any]) -> None:
        config["network_def"].update(small)
        config.update({"patch_size": [32, 32, 32], "spacing": [4.0, 4.0, 4.0]})
        if "crop_size" in config:
            config["crop_size"] = [32, 32, 32]

    edit_json(folder, "inference", shrink)
    edit_json(folder, "train", shrink)
    edit_json(folder, "metadata", lambda metadata: [tensor.update(spatial_shape=[32, 32, 32]) for tensor in tensors(metadata)])
    return folder


def tensors(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    data_format = metadata["network_data_format"]
    return [data_format["inputs"]["image"], data_format["outputs"]["pred"]]


def edit_json(folder: Path, stem: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "configs" / f"{stem}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def add_weights(folder: Path) -> Path:
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    torch.manual_seed(0)
    (folder / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    return folder


def outcome(identifier: str, bundle: Path, work: Path) -> Outcome:
    work.mkdir(exist_ok=True)
    check = next(check for check in CHECKS if check.identifier == identifier)
    return check.run(Subject(bundle, work))


@pytest.fixture(scope="module", name="good")
def good_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_weights(make_tiny(tmp_path_factory.mktemp("good") / "tiny"))


@pytest.fixture(name="bundle")
def bundle_fixture(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "tiny"))


def test_good_bundle_fails_nothing_and_is_not_touched(good: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*")}
    results = {result.identifier: result for result in run_checks(good)}
    assert [result for result in results.values() if result.status is Status.FAIL] == []
    assert list(results) == [check.identifier for check in CHECKS]
    for identifier in ("weights", "net-in-out", "infer-run", "geometry", "train-run", "evaluate-run", "infer-ids", "train-ids", "evaluate-ids"):
        assert results[identifier].status is Status.PASS, results[identifier]
    assert {path: path.stat().st_mtime_ns for path in good.rglob("*")} == before


def test_good_bundle_of_two_channels_passes(tmp_path: Path) -> None:
    """Each with transforms of its own; the second's values are on quite another scale than the first's, on which the stand-in decides."""
    steps = each_channel((0, scaled(-160, 240)), (1, {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 1, "b_min": 0, "b_max": 5}))
    bundle = add_weights(with_two_channels(make_tiny(tmp_path / "petct"), steps))
    results = {result.identifier: result for result in run_checks(bundle)}
    assert [result for result in results.values() if result.status is Status.FAIL] == []
    for identifier in ("net-in-out", "infer-run", "geometry", "train-run", "evaluate-run"):
        assert results[identifier].status is Status.PASS, results[identifier]


def metadata_edit(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda bundle: edit_json(bundle, "metadata", edit)


def inference_edit(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda bundle: edit_json(bundle, "inference", edit)


def train_edit(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda bundle: edit_json(bundle, "train", edit)


def post(config: dict[str, Any]) -> list[dict[str, Any]]:
    return config["postprocessing"]["transforms"]  # type: ignore[no-any-return]


def drop(steps: list[dict[str, Any]], target: str) -> None:
    steps[:] = [step for step in steps if step["_target_"] != target]


def rename_licence(bundle: Path) -> None:
    (bundle / "LICENSE").rename(bundle / "license.txt")


def image_second(metadata: dict[str, Any]) -> None:
    inputs = metadata["network_data_format"]["inputs"]
    metadata["network_data_format"]["inputs"] = {"other": inputs["image"], **inputs}


def to_yml(bundle: Path) -> None:
    path = bundle / "configs" / "inference.json"
    path.rename(path.with_suffix(".yml"))


BROKEN: list[tuple[str, Edit, str]] = [
    ("layout", rename_licence, r"LICENSE is missing \(rename license.txt\)"),
    ("weights-name", lambda bundle: (bundle / "models" / "best.pt").write_bytes(b""), "models/best.pt"),
    ("weights-name", lambda bundle: (bundle / "models" / "final.pt").write_bytes(b""), "models/final.pt"),
    ("metadata", metadata_edit(lambda metadata: metadata.pop("copyright")), "`copyright`"),
    ("metadata", metadata_edit(lambda metadata: metadata.update(authors=["a", "b"])), "`authors`"),
    ("metadata", metadata_edit(lambda metadata: metadata.pop("required_packages_version")), "required_packages_version"),
    ("metadata", metadata_edit(lambda metadata: metadata.update(supported_apps=[])), "`supported_apps` must be an object"),
    ("metadata", metadata_edit(lambda metadata: tensors(metadata)[0].pop("dtype")), r"inputs.image.dtype"),
    ("metadata", metadata_edit(lambda metadata: tensors(metadata)[1].update(spatial_shape=["any", 3, 3])), "spatial_shape"),
    ("metadata", metadata_edit(lambda metadata: tensors(metadata)[1].update(value_range=["a"])), "value_range"),
    ("version", metadata_edit(lambda metadata: metadata.update(version="1.0")), "'1.0' is not of the form"),
    ("version", metadata_edit(lambda metadata: metadata.update(version="9.9.9")), "no entry '9.9.9'"),
    ("version", metadata_edit(lambda metadata: metadata.pop("changelog")), "`changelog` is missing"),
    ("tensors", metadata_edit(image_second), "'other' comes before 'image'"),
    ("tensors", metadata_edit(lambda metadata: tensors(metadata)[1].update(channel_def={"0": "a", "1": "Tumor", "2": "tumor"})), "num_channels 2.*names 3.*tumor occur twice"),
    ("json", to_yml, "does not read .yml"),
    ("device", inference_edit(lambda config: config["evaluator"].update(amp="$@device.type == 'cuda'")), r"evaluator#amp looks inside @device"),
    ("device", train_edit(lambda config: config["train"]["trainer"].update(amp="$@device .type")), r"train#trainer#amp"),
    ("transforms", inference_edit(lambda config: drop(post(config), "Invertd")), "no Invertd although preprocessing has Orientationd, Spacingd"),
    ("transforms", inference_edit(lambda config: post(config).insert(0, post(config).pop())), "Invertd comes after SaveImaged.*SaveImaged must be last"),
    ("image-path", inference_edit(lambda config: config["preprocessing"]["transforms"].pop(-3)), "does not put it back"),
    ("label-training", train_edit(lambda config: config["train"].update(handlers="$[1]")), "written out as a list"),
    ("label-training", train_edit(lambda config: config["train"]["dataset"].pop("data")), "train#dataset#data"),
]


@pytest.mark.parametrize(("identifier", "breaking", "says"), BROKEN, ids=[f"{entry[0]}-{number}" for number, entry in enumerate(BROKEN)])
def test_text_checks_notice(bundle: Path, tmp_path: Path, identifier: str, breaking: Edit, says: str) -> None:
    assert outcome(identifier, bundle, tmp_path / "before").status is Status.PASS
    breaking(bundle)
    found = outcome(identifier, bundle, tmp_path / "after")
    assert found.status is Status.FAIL
    assert re.search(says, found.detail), found.detail


def test_large_file_is_a_warning_unless_listed(bundle: Path, tmp_path: Path) -> None:
    with (bundle / "models" / "large_model.pt").open("wb") as file:
        file.truncate(26 * 1024 * 1024)
    found = outcome("file-sizes", bundle, tmp_path / "w")
    assert found.status is Status.WARN
    assert "models/large_model.pt has 26.0 MiB" in found.detail
    (bundle / "large_files.json").write_text(json.dumps({"large_files": [{"path": "models/large_model.pt", "url": "https://example.org"}]}))
    assert outcome("file-sizes", bundle, tmp_path / "w").status is Status.PASS


def test_missing_ids_are_named(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "inference", lambda config: config.pop("dataset_dir"))
    edit_json(bundle, "train", lambda config: config["train"].update(other=config["train"].pop("inferer")))
    edit_json(bundle, "train", lambda config: config["train"]["trainer"].update(inferer="@train#other"))
    for identifier, name in (("infer-ids", "dataset_dir"), ("train-ids", "train#inferer|train_inferer")):
        result = next(result for result in run_checks(bundle, fast=True) if result.identifier == identifier)
        assert result.status is Status.FAIL
        assert any(part in result.detail for part in name.split("|")), result.detail


def test_weights_of_another_network(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "inference", lambda config: config["network_def"].update(filters=[4, 8, 16]))
    results = {result.identifier: result for result in run_checks(bundle, fast=True)}
    assert results["weights"].status is Status.FAIL
    assert "of another shape" in results["weights"].detail


def test_wrong_number_of_channels(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "metadata", lambda metadata: tensors(metadata)[1].update(num_channels=3))
    with pytest.raises(ValueError, match="3"):
        outcome("net-in-out", bundle, tmp_path / "w")


def test_label_on_another_grid(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "inference", lambda config: drop(post(config), "Invertd"))
    found = outcome("infer-run", bundle, tmp_path / "w")
    assert found.status is Status.FAIL
    assert "the label lies on" in found.detail


def test_label_in_the_wrong_place_on_the_right_grid(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "inference", lambda config: post(config).insert(-1, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.flip(1)"}))
    assert outcome("infer-run", bundle, tmp_path / "a").status is Status.PASS
    found = outcome("geometry", bundle, tmp_path / "b")
    assert found.status is Status.FAIL
    assert "misplaced" in found.detail


def test_no_label_written(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "inference", lambda config: drop(post(config), "SaveImaged"))
    found = outcome("infer-run", bundle, tmp_path / "w")
    assert found.status is Status.FAIL
    assert "wrote 0 NIfTI labels" in found.detail


def test_training_that_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    edit_json(bundle, "train", lambda config: config["optimizer"].update(lr=0.0))
    found = outcome("train-run", bundle, tmp_path / "w")
    assert found.status is Status.FAIL
    assert "no parameter changed" in found.detail


def test_a_bundle_whose_code_raises_is_a_failure_not_a_crash(bundle: Path) -> None:
    edit_json(bundle, "inference", lambda config: config.update(network_def={"_target_": "NoSuchNetwork"}))
    results = {result.identifier: result for result in run_checks(bundle, fast=True)}
    assert results["infer-ids"].status is Status.FAIL
    assert "NoSuchNetwork" in results["infer-ids"].detail
    assert "\n" not in results["infer-ids"].detail


def test_checks_that_need_a_failed_one_are_skipped(bundle: Path) -> None:
    (bundle / "configs" / "inference.json").write_text("{")
    results = list(run_checks(bundle))
    assert {result.identifier for result in results if result.status is Status.FAIL} == {"readable"}
    assert all(result.status is Status.SKIP for result in results if result.identifier in ("infer-ids", "train-run", "weights", "geometry"))


@pytest.mark.parametrize(("patch", "spacing"), [((96, 96, 96), (1.5, 1.5, 2.0)), ((48, 48, 48), (4.0, 4.0, 4.0)), ((40, 56, 40), None), ((), None)])
def test_phantom_holds_a_patch_in_every_orientation(patch: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    shape = phantom_shape(patch, spacing)
    for voxels, own in zip(shape, phantom_grid().spacing, strict=True):
        available = voxels * own / max(spacing) if spacing else voxels
        assert available >= max(patch, default=1)


def test_phantom_is_oblique_flipped_and_measurable(tmp_path: Path) -> None:
    grid = phantom_grid()
    assert not grid.is_right_handed
    assert grid.orientation != "RAS"
    assert np.abs(np.abs(grid.direction).max(axis=0) - 1).min() > 1e-3
    assert grid.shear == pytest.approx(0, abs=1e-12)
    expected_ml = 4 / 3 * np.pi * np.prod(LESION_SEMIAXES_MM) / 1000
    assert lesion_mask(grid).sum() * grid.voxel_volume_ml == pytest.approx(expected_ml, rel=0.02)
    import nibabel

    phantom = write_phantom(tmp_path / "p", 2, [1, 3])
    assert set(np.unique(np.asanyarray(nibabel.load(phantom.label).dataobj))) == {0, 1, 3}
    assert len(phantom.item["image"]) == 2
    assert np.allclose(nibabel.load(phantom.images[1]).affine, grid.affine, atol=1e-4)
