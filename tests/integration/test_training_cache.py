from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundle_factory import tiny_bundle, write_balls
from volseg.errors import BundleError
from volseg.geometry import Grid
from volseg.training import train
from volseg.training.progress import SilentReporter

PATCHES, VOLUMES, BATCH = "volseg.training.patches.CachedPatches", "volseg.training.patches.CachedVolumes", "volseg.training.augmentation.AugmentedBatch"


class Words(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three scans of a bright ball; the first is validated in fold 0."""
    return write_balls(tmp_path_factory.mktemp("balls"), [Grid((30, 28, 20), np.diag([4.0, 4.0, 6.0, 1.0]))] * 3, [(13 + number, 14, 10) for number in range(3)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def cached(bundle, dataset, tmp_path_factory):
    words = Words()
    folder = tmp_path_factory.mktemp("cached")
    result = train(bundle, dataset, folder / "run", epochs=2, device="cpu", cache=folder / "cache", reporter=words)
    return result, words, folder / "cache"


def config_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "config.json").read_text())


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "last.pt", weights_only=True)["model"]


def test_training_and_validation_read_from_the_cache(cached):
    result, words, cache = cached
    config = config_of(result.run_dir)
    assert config["train"]["dataset"]["_target_"] == PATCHES
    assert config["validate"]["dataset"]["_target_"] == VOLUMES
    assert config["train"]["trainer"]["prepare_batch"]["_target_"] == BATCH
    assert len(config["train"]["dataset"]["entries"]) == 2
    (entry,) = config["validate"]["dataset"]["entries"]
    assert Path(entry).name.startswith("case0-")
    assert Path(entry).parent.parent == cache
    assert any("3 made, 0 reused" in line for line in words.lines)
    assert result.best_metric is not None


def test_another_training_finds_the_cases(cached, bundle, dataset, tmp_path):
    words = Words()
    train(bundle, dataset, tmp_path / "run", fold=1, epochs=1, device="cpu", cache=cached[2], reporter=words)
    assert any("0 made, 3 reused" in line for line in words.lines)


def test_the_same_with_a_process_that_loads(cached, bundle, dataset, tmp_path):
    """What is drawn follows from the seed and the place in the epoch, whichever process draws it."""
    result = train(bundle, dataset, tmp_path / "run", epochs=2, device="cpu", cache=cached[2], settings={"train#dataloader#num_workers": 1})
    for name, tensor in weights_of(cached[0].run_dir).items():
        assert torch.equal(tensor, weights_of(result.run_dir)[name]), name


def test_without_the_cache_the_bundle_reads_by_itself(bundle, dataset, tmp_path):
    result = train(bundle, dataset, tmp_path / "run", epochs=1, device="cpu", cache=False)
    config = config_of(result.run_dir)
    assert config["train"]["dataset"]["_target_"] == config["validate"]["dataset"]["_target_"] == "CacheDataset"
    assert "prepare_batch" not in config["train"]["trainer"]


def test_validation_scores_the_same_voxels(cached, bundle, dataset, tmp_path):
    """Networks that do not learn score the same on the case, read either way; half precision may turn a voxel on the boundary."""
    scores = []
    for number, cache in enumerate((False, cached[2])):
        result = train(bundle, dataset, tmp_path / f"run{number}", epochs=1, device="cpu", precision="fp32", cache=cache, settings={"optimizer#lr": 0.0})
        scores.append(float(next(csv.DictReader((result.run_dir / "metrics.csv").open()))["val_mean_dice"]))
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_a_config_that_cannot_be_cut_trains_as_it_is_and_says_so(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["preprocessing"] = {"_target_": "Compose", "transforms": [*config["train"].pop("deterministic_transforms"), *config["train"].pop("random_transforms")]}
    (own / "configs" / "train.json").write_text(json.dumps(config))
    words = Words()
    result = train(own, dataset, tmp_path / "run", epochs=1, device="cpu", reporter=words)
    assert config_of(result.run_dir)["train"]["dataset"]["_target_"] == "CacheDataset"
    (line,) = (line for line in words.lines if line.startswith("without the preprocessed cache"))
    assert "train#deterministic_transforms" in line


def test_random_transforms_that_cannot_be_built_are_the_bundles_fault(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["random_transforms"].append({"_target_": "RandFlipd", "keys": "image", "prob": 0.5, "no_such_argument": 1})
    (own / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=r"`train#random_transforms` could not be set up.*no_such_argument"):
        train(own, dataset, tmp_path / "run", epochs=1, device="cpu")


def test_transforms_that_do_not_run_on_batches_stay_stock(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["random_transforms"].append({"_target_": "RandCoarseDropoutd", "keys": "image", "holes": 1, "spatial_size": 2, "prob": 0.5})
    (own / "configs" / "train.json").write_text(json.dumps(config))
    result = train(own, dataset, tmp_path / "run", epochs=1, device="cpu")
    config = config_of(result.run_dir)
    assert config["train"]["dataset"]["_target_"] == PATCHES
    assert "prepare_batch" not in config["train"]["trainer"]


def with_ramp(bundle: Path, folder: Path, passes: object) -> Path:
    own = shutil.copytree(bundle, folder)
    config = json.loads((own / "configs" / "train.json").read_text())
    (own / "configs" / "train.json").write_text(json.dumps({**config, "augmentation_ramp": passes}))
    return own


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_grows_with_the_passes_over_the_cases(cached, bundle, dataset, tmp_path, workers):
    """At the foot of an endless ramp a training is one without augmentation, at the head of a short one it is the training without a ramp."""
    random = config_of(cached[0].run_dir)["train"]["random_transforms"]
    off = {f"train#random_transforms#{number}#prob": 0.0 for number, step in enumerate(random) if "prob" in step and step["_target_"] != "RandFlipd"}
    assert off
    loading = {"train#dataloader#num_workers": workers}
    words = Words()
    endless = train(with_ramp(bundle, tmp_path / "endless", 1e12), dataset, tmp_path / "a", epochs=2, device="cpu", cache=cached[2], settings=loading, reporter=words)
    plain = train(bundle, dataset, tmp_path / "b", epochs=2, device="cpu", cache=cached[2], settings=off)
    short = train(with_ramp(bundle, tmp_path / "short", 1e-9), dataset, tmp_path / "c", epochs=2, device="cpu", cache=cached[2], settings=loading)
    assert any("augmentation grows" in line for line in words.lines)
    for one, other in ((endless, plain), (short, cached[0])):
        for name, tensor in weights_of(one.run_dir).items():
            assert torch.equal(tensor, weights_of(other.run_dir)[name]), name
    assert any(not torch.equal(tensor, weights_of(short.run_dir)[name]) for name, tensor in weights_of(endless.run_dir).items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda listed, size: [*listed, {"_target_": "RandCoarseDropoutd", "keys": "image", "holes": 1, "spatial_size": 2, "prob": 0.5}], "in processes of the data loader"),
        (lambda listed, size: [{"_target_": "RandAffined", "keys": ["image", "label"], "prob": 0.3, "spatial_size": size}], "in processes of the data loader"),
        (lambda listed, size: [listed[0], {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5}], "nothing in `train#random_transforms` can grow"),
    ],
    ids=["no batch's", "the first one", "mirrors"],
)
def test_augmentation_that_cannot_grow_is_told(bundle, dataset, tmp_path, change, words):
    """What the loader's processes run has the probabilities it was copied with: all of it where a transform is not known for batches, and always the first one."""
    own = with_ramp(bundle, tmp_path / "own", 10)
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["random_transforms"] = change(config["train"]["random_transforms"], config["patch_size"])
    config["crop_size"] = config["patch_size"]
    (own / "configs" / "train.json").write_text(json.dumps(config))
    told = Words()
    train(own, dataset, tmp_path / "run", epochs=1, device="cpu", reporter=told, settings={"train#dataloader#num_workers": 1})
    (line,) = (line for line in told.lines if line.startswith("augmentation is full from the first step"))
    assert words in line


def test_augmentation_grows_without_the_cache_too(bundle, dataset, tmp_path):
    random = json.loads((bundle / "configs" / "train.json").read_text())["train"]["random_transforms"]
    off = {f"train#random_transforms#{number}#prob": 0.0 for number, step in enumerate(random) if "prob" in step and step["_target_"] != "RandFlipd"}
    endless = train(bundle, dataset, tmp_path / "a", epochs=1, device="cpu", cache=False, settings={"augmentation_ramp": 1e12})
    plain = train(bundle, dataset, tmp_path / "b", epochs=1, device="cpu", cache=False, settings=off)
    for name, tensor in weights_of(endless.run_dir).items():
        assert torch.equal(tensor, weights_of(plain.run_dir)[name]), name


@pytest.mark.parametrize("passes", [-1, "50", True, None])
def test_a_ramp_is_a_number(bundle, dataset, tmp_path, passes):
    with pytest.raises(BundleError, match="`augmentation_ramp` is"):
        train(with_ramp(bundle, tmp_path / "own", passes), dataset, tmp_path / "run", epochs=1, device="cpu")
