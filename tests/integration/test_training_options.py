"""Transfer, partial labels, averaging, clipping and compilation, each in a training of seconds."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import edit_config, tiny_bundle, write_balls
from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.training import train
from volseg.training.loop import CLIP_NORM
from volseg.training.progress import SilentReporter

RUN = {"device": "cpu", "precision": "fp32", "epochs": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three scans of a bright ball."""
    return write_balls(tmp_path_factory.mktemp("balls"), [Grid((24, 22, 16), np.diag([4.0, 4.0, 6.0, 1.0]))] * 3, [(10 + number, 11, 8) for number in range(3)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles"))


class Lines(SilentReporter):
    def __init__(self):
        self.lines = []
        self.losses = []

    def message(self, text):
        self.lines.append(text)

    def step(self, epoch, step, loss):
        self.losses.append(loss)


def last(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)


def test_the_average_is_what_is_kept(bundle, dataset, tmp_path):
    averaged = train(bundle, dataset, tmp_path / "average", **RUN | {"epochs": 3})
    states = last(averaged.run_dir)
    weights = torch.load(averaged.weights, weights_only=True)
    assert set(weights) < set(states["model"])
    assert any(not torch.equal(weights[name], states["model"][name]) for name in weights)
    plain = train(bundle, dataset, tmp_path / "plain", average=False, fold=None, **RUN)
    states = last(plain.run_dir)
    weights = torch.load(plain.weights, weights_only=True)
    assert "average" not in states
    assert all(torch.equal(weights[name], states["model"][name]) for name in weights)
    with pytest.raises(InputError, match="averaged weights"):
        train(bundle, dataset, plain.run_dir, fold=None, resume=True, **RUN)


def test_gradients_are_clipped(bundle, dataset, tmp_path, monkeypatch):
    norms = []
    original = torch.nn.utils.clip_grad_norm_

    def measure(parameters, largest):
        parameters = list(parameters)
        before = original(parameters, largest)
        after = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]))
        norms.append((float(before), float(after)))
        return before

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", measure)
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["deep_supervision_loss"]["loss"]["lambda_ce"] = 1e4
    (own / "configs" / "train.json").write_text(json.dumps(config))
    train(own, dataset, tmp_path / "run", **RUN)
    assert norms
    assert max(before for before, _ in norms) > 10 * CLIP_NORM
    assert max(after for _, after in norms) <= CLIP_NORM * (1 + 1e-4)


def test_transfer_from_a_bundle_with_other_classes(bundle, dataset, tmp_path):
    source = tiny_bundle(tmp_path, weights=True, name="source")
    state = torch.load(source / "models" / "model.pt", weights_only=True)
    heads = [name for name in state if name.startswith("output_block")]
    assert heads
    state |= {name: torch.cat([state[name]] * 2) for name in heads}
    torch.save(state, source / "models" / "model.pt")
    reporter = Lines()
    result = train(bundle, dataset, tmp_path / "run", pretrained=source, freeze=["input_block.*"], reporter=reporter, **RUN)
    record = json.loads((result.run_dir / "provenance.json").read_text())
    assert record["pretrained"]["source"].endswith("source/models/model.pt")
    assert set(record["pretrained"]["reshaped"]) == set(heads)
    assert "input_block.conv1.conv.weight" in record["pretrained"]["loaded"]
    assert any("tensors loaded" in line for line in reporter.lines)
    after = last(result.run_dir)["model"]
    assert torch.equal(after["input_block.conv1.conv.weight"], state["input_block.conv1.conv.weight"])
    assert not torch.equal(after["bottleneck.conv1.conv.weight"], state["bottleneck.conv1.conv.weight"])
    assert "input_block.conv1.conv.weight" in record["frozen"]


@pytest.fixture
def ignoring(dataset, tmp_path):
    """The set with the upper half of every label unknown."""
    folder = shutil.copytree(dataset, tmp_path / "ignoring")
    for path in sorted((folder / "labelsTr").iterdir()):
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy().astype(np.uint8)
        array[:, :, 8:] = 255
        nib.save(nib.Nifti1Image(array, image.affine), path)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"ignore_label": 255}))
    return folder


def test_ignored_voxels_train_and_validate(bundle, ignoring, tmp_path):
    reporter = Lines()
    result = train(bundle, ignoring, tmp_path / "run", reporter=reporter, **RUN)
    assert 0 <= result.best_metric <= 1
    assert np.isfinite(reporter.losses).all()
    assert any("partial labels" in line for line in reporter.lines)
    assert json.loads((result.run_dir / "provenance.json").read_text())["label_sets"] == {"255": [0, 1]}
    # The bundle itself knows nothing of it.
    assert "volseg" not in (bundle / "configs" / "train.json").read_text()


def test_partly_annotated_cases_train(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    network = json.loads((own / "configs" / "train.json").read_text())["network_def"] | {"out_channels": 3}
    edit_config(own, "train", network_def=network)
    steps = json.loads((own / "configs" / "train.json").read_text())["validate"]["postprocessing"]
    steps["transforms"][1]["to_onehot"] = 3
    edit_config(own, "train", validate__postprocessing=steps)
    edit_config(own, "inference", network_def={key: value for key, value in network.items() if not key.startswith("deep")})
    outputs = json.loads((own / "configs" / "metadata.json").read_text())["network_data_format"]
    outputs["outputs"]["pred"] |= {"num_channels": 3, "channel_def": {"0": "background", "1": "tumor", "2": "node"}}
    edit_config(own, "metadata", network_data_format=outputs)
    content = json.loads((dataset / "dataset.json").read_text())
    for item in content["training"]:
        item |= {"image": str(dataset / item["image"]), "label": str(dataset / item["label"]), "annotated": ["tumor"]}
    (tmp_path / "partial.json").write_text(json.dumps(content))
    result = train(own, tmp_path / "partial.json", tmp_path / "run", **RUN)
    assert json.loads((result.run_dir / "provenance.json").read_text())["label_sets"] == {"3": [0, 2]}
    header = (result.run_dir / "metrics.csv").read_text().splitlines()[0]
    assert "val_mean_dice_tumor" in header
    assert "val_mean_dice_node" not in header
    assert len(list((result.run_dir / "converted").glob("*_partial.nii.gz"))) == 3


def test_a_compiled_network_trains_and_keeps_its_names(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["trainer"]["compile_kwargs"] = {"backend": "eager"}
    (own / "configs" / "train.json").write_text(json.dumps(config))
    source = tiny_bundle(tmp_path, weights=True, name="source")
    compiled = train(own, dataset, tmp_path / "compiled", compiled=True, pretrained=source, **RUN)
    plain = train(own, dataset, tmp_path / "plain", pretrained=source, **RUN)
    first, second = last(compiled.run_dir)["model"], last(plain.run_dir)["model"]
    assert set(first) == set(second)
    # The eager backend runs the same operations, so this also shows that nothing else changed.
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_an_absent_mlflow_is_told_before_anything_runs(bundle, dataset, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="pip install mlflow"):
        train(bundle, dataset, tmp_path / "run", mlflow="file:/nowhere", **RUN)
    assert not (tmp_path / "run").exists()


def test_a_schedule_of_iterations_is_stepped_every_iteration(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["handlers"][0]["epoch_level"] = False
    config["train"]["dataloader"]["batch_size"] = 1
    config["lr_scheduler"] |= {"total_iters": 8, "power": 1.0}
    (own / "configs" / "train.json").write_text(json.dumps(config))
    result = train(own, dataset, tmp_path / "run", **RUN | {"epochs": 4})
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").open()))
    # Two cases train, one a step: the rate an epoch begins with has gone down by two of eight steps each time.
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
