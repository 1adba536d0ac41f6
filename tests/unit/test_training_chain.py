from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.bundle_factory import SHIPPED
from volseg.errors import BundleError
from volseg.training.chain import raw_steps, read_chain

WHERE = Path("configs/train.json")


@pytest.fixture
def config():
    return json.loads((SHIPPED / "configs" / "train.json").read_text())


def names(steps) -> list[str]:
    return [step["_target_"] for step in steps]


def test_the_shipped_bundle_is_cut_where_chance_begins(config):
    chain = read_chain(config, WHERE)
    assert names(chain.steps) == ["LoadImaged", "EnsureChannelFirstd", "Orientationd", "Spacingd", "ScaleIntensityRanged", "SpatialPadd", "EnsureTyped"]
    # Validation reads, turns, resamples and scales alike, but does not pad.
    assert chain.shared == 5
    assert names(chain.rest_of_validation) == ["EnsureTyped"]


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        (("spacing",), [3.0, 4.0, 4.0], False),
        (("crop_size",), [80, 80, 80], False),
        (("train", "deterministic_transforms", 4, "a_min"), -200, False),
        (("validate", "preprocessing", "transforms", 4, "a_min"), -200, False),
        (("optimizer", "lr"), 1.0, True),
        (("patch_size",), [32, 32, 32], True),
        (("train", "random_transforms", 1, "prob"), 0.1, True),
        (("train", "dataset", "data"), ["a", "b"], True),
    ],
)
def test_the_digest_follows_what_the_voxels_depend_on(config, path, value, same):
    before = read_chain(config, WHERE).digest
    place = config
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert (read_chain(config, WHERE).digest == before) is same


def test_the_digest_follows_references_of_references_and_versions(config, monkeypatch):
    config["spacing"] = "$[@edge, @edge, @edge]"
    config["edge"] = 4.0
    before = read_chain(config, WHERE).digest
    config["edge"] = 5.0
    assert read_chain(config, WHERE).digest != before
    now = read_chain(config, WHERE).digest
    monkeypatch.setattr("volseg.training.chain.software_versions", lambda packages: {"monai": "9.9"})
    assert read_chain(config, WHERE).digest != now


def test_the_digest_follows_a_bundles_own_code(config, tmp_path):
    (tmp_path / "scripts").mkdir()
    code = tmp_path / "scripts" / "steps.py"
    code.write_text("a = 1")
    config["bundle_root"] = str(tmp_path)
    unused = read_chain(config, WHERE).digest
    config["train"]["deterministic_transforms"].append({"_target_": "scripts.steps.Mine"})
    before = read_chain(config, WHERE).digest
    code.write_text("a = 2")
    assert len({unused, before, read_chain(config, WHERE).digest}) == 3


def test_validation_with_another_beginning_shares_nothing(config):
    config["validate"]["preprocessing"]["transforms"][0] = {"_target_": "LoadImaged", "keys": ["image"]}
    chain = read_chain(config, WHERE)
    assert chain.shared == 0
    assert len(chain.rest_of_validation) == 6


def test_validation_that_must_know_how_a_case_was_read_keeps_its_own_dataset(config):
    config["validate"]["postprocessing"]["transforms"].append({"_target_": "Invertd", "keys": "pred"})
    assert read_chain(config, WHERE).rest_of_validation is None


def without(config, *path):
    place = config
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: without(c, "train", "random_transforms"), "there are no `train#deterministic_transforms` and"),
        (lambda c: c["train"]["preprocessing"].update(transforms="$@train#random_transforms + @train#deterministic_transforms"), "followed by"),
        (lambda c: c["train"]["preprocessing"].update(transforms="$[t for t in @train#random_transforms]"), "followed by"),
        (lambda c: c["train"]["preprocessing"].update(lazy=True), "followed by"),
        (lambda c: c["train"]["random_transforms"][1].update(keys=["image", "weight"]), "uses weight"),
        (lambda c: c["train"]["random_transforms"][0].update(image_key="body"), "uses body"),
        (lambda c: c["train"]["trainer"].update(prepare_batch="$lambda b: b"), "prepare_batch of its own"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(config, change, words):
    config = copy.deepcopy(config)
    change(config)
    with pytest.raises(BundleError) as caught:
        read_chain(config, WHERE)
    assert words in str(caught.value)
    assert str(WHERE) in str(caught.value)


def test_sums_and_references_are_read(config):
    assert names(raw_steps({"a": [{"_target_": "A"}], "b": {"_target_": "Compose", "transforms": ["@c"]}, "c": {"_target_": "C"}}, "$@a + @b")) == ["A", "C"]
    assert raw_steps({"a": [{"_target_": "A"}]}, "$@a + @gone") is None
