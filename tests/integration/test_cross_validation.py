"""A whole cross-validation by the command line, and corrections of the label in a bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import dice, edit_config, threshold_bundle, tiny_bundle, write_scan
from volseg import Segmenter
from volseg.bundle import read_bundle
from volseg.dataset import read_datalist, split_fold
from volseg.geometry import Grid
from volseg.inference.refine import Refinement
from volseg.training.distributed import ALONE
from volseg.training.export import with_refinements
from volseg.training.folds.held_out import predict_fold
from volseg.training.options import Options
from volseg.training.progress import SilentReporter
from volseg.training.result import TrainingResult, finished_run


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "volseg", *arguments], capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four scans of a bright ball, two in each of two folds."""
    folder = tmp_path_factory.mktemp("balls")
    items = []
    for number, signs in enumerate([(1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, -1, -1)]):
        grid = Grid((23, 21, 15), np.diag([*np.multiply(signs, (4.0, 4.0, 6.0)), 1.0]))
        centre = tuple(grid.to_world([11, 10, 7]))
        write_scan(folder / f"imagesTr/case{number}.nii.gz", grid, centre=centre, radius=26)
        write_scan(folder / f"labelsTr/case{number}.nii.gz", grid, centre=centre, radius=26, inside=1, outside=0)
        items.append({"image": f"./imagesTr/case{number}.nii.gz", "label": f"./labelsTr/case{number}.nii.gz", "fold": number % 2})
    (folder / "dataset.json").write_text(json.dumps({"name": "balls", "labels": {"0": "background", "1": "tumor"}, "training": items}))
    return folder


@pytest.fixture(scope="module")
def cross_validated(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    bundle = tiny_bundle(folder)
    command = ["train", str(bundle), "--data", str(dataset), "--fold", "all", "--epochs", "2", "--device", "cpu", "--precision", "fp32", "-o", str(folder / "run")]
    done = run_cli(*command, "--into-bundle", "--fold-weights", "--json")
    assert done.returncode == 0, done.stderr
    return bundle, folder / "run", command, json.loads(done.stdout)


def test_every_case_is_scored_by_the_fold_that_did_not_see_it(cross_validated, dataset):
    _, run, _, document = cross_validated
    summary = json.loads((run / "summary.json").read_text())
    assert document["cross_validation"] == summary
    assert document["folds"] == [0, 1]
    assert [(case["fold"], case["case"]) for case in summary["cases"]] == [(0, "case0"), (0, "case2"), (1, "case1"), (1, "case3")]
    for case in summary["cases"]:
        trained_on = json.loads((run / f"fold{case['fold']}" / "provenance.json").read_text())["training_cases"]
        assert case["case"] not in trained_on
        prediction, reference = nib.load(run / f"fold{case['fold']}/validation/{case['case']}_seg.nii.gz"), nib.load(dataset / "labelsTr" / f"{case['case']}.nii.gz")
        assert np.allclose(prediction.affine, reference.affine)
        found, truth = (np.asarray(image.dataobj) > 0 for image in (prediction, reference))
        assert case["labels"]["tumor"]["without_postprocessing"] == pytest.approx(dice(found, truth))
    # All balls lie in the very middle of their scans, and so does what the others vote for.
    assert summary["baseline"]["mean_dice"] == 1.0


def test_bundle_is_brought_up_to_date(cross_validated):
    bundle, run, _, _ = cross_validated
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads((run / "all_cases" / "provenance.json").read_text())["training_cases"] == [f"case{number}" for number in range(4)]
    for name, source in (("model", "all_cases/model"), ("model_fold0", "fold0/final"), ("model_fold1", "fold1/final")):
        state, trained = torch.load(bundle / "models" / f"{name}.pt", weights_only=True), torch.load(run / f"{source}.pt", weights_only=True)
        assert all(torch.equal(state[key], trained[key].half()) for key in state)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "0.2.0"
    assert "2-fold cross-validation" in metadata["changelog"]["0.2.0"]
    assert metadata["eval_metrics"]["cross_validation_mean_dice"] == pytest.approx(summary["mean_dice"], abs=1e-4)
    assert metadata["eval_metrics"]["cross_validation_cases"] == 4
    assert "| tumor |" in (bundle / "docs" / "README.md").read_text()
    steps = json.loads((bundle / "configs" / "inference.json").read_text())["postprocessing"]["transforms"]
    assert [step for step in steps if step in summary["postprocessing"]["chosen"]] == summary["postprocessing"]["chosen"]
    assert read_bundle(bundle).weights == bundle / "models" / "model.pt"


def test_finished_folds_are_not_trained_again(cross_validated):
    _, run, command, _ = cross_validated
    before = (run / "fold1" / "last.pt").stat().st_mtime_ns
    done = run_cli(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished before") == 2
    assert (run / "fold1" / "last.pt").stat().st_mtime_ns == before
    assert "Cross-validation" in done.stdout
    assert "segmenting" not in done.stderr


ASKED = Options(0, 2, None, None, True, "cpu", "fp32", 0, {}, True, None, (), False, ALONE, True)


def finished(run: Path, bundle: Path, dataset: Path, **change: object) -> TrainingResult | None:
    return finished_run(run, read_bundle(bundle), split_fold(read_datalist(dataset).cases, 0)[0], replace(ASKED, **change))


def test_a_fold_trained_in_another_way_or_on_other_cases_is_not_finished(cross_validated, dataset, tmp_path):
    """A case that moved to the validation of a fold was trained on by the model of before: its score would be no score."""
    bundle, run, command, _ = cross_validated
    found = finished(run / "fold0", bundle, dataset)
    assert found is not None
    assert found.epochs == 2
    for change in ({"epochs": 3}, {"time_limit_s": 60.0}, {"seed": 1}, {"settings": {"optimizer#lr": 0.5}}, {"average": False}, {"cache": False}, {"freeze": ("*",)}):
        assert finished(run / "fold0", bundle, dataset, **change) is None, change
    content = json.loads((dataset / "dataset.json").read_text())
    content["training"][1]["fold"] = 0
    moved = dataset / "moved.json"
    moved.write_text(json.dumps(content))
    assert finished(run / "fold0", bundle, moved) is None
    other = shutil.copytree(bundle, tmp_path / bundle.name)
    edit_config(other, "train", val_interval=7)
    assert finished(run / "fold0", other, dataset) is None
    done = run_cli(*command, "--resume", "--seed", "1")
    assert done.returncode == 2
    assert "made with seed 0, but this run has 1" in done.stderr


def test_predictions_are_made_again_when_inference_changes(cross_validated, dataset, tmp_path):
    bundle, run, _, _ = cross_validated
    own, folder = shutil.copytree(bundle, tmp_path / bundle.name), shutil.copytree(run / "fold0" / "validation", tmp_path / "validation")
    cases = split_fold(read_datalist(dataset).cases, 0)[1]

    def segmented() -> int:
        lines: list[str] = []
        reporter = SilentReporter()
        reporter.message = lines.append
        predict_fold(read_bundle(own), run / "fold0" / "model.pt", cases, folder, device="cpu", precision="fp32", reporter=reporter)
        return len(lines)

    assert segmented() == 0
    config = json.loads((own / "configs" / "inference.json").read_text())
    edit_config(own, "inference", inferer={**config["inferer"], "overlap": 0.625})
    assert segmented() == len(cases) == 2
    assert segmented() == 0


def test_fold_weights_without_a_cross_validation_are_refused(dataset, tmp_path):
    done = run_cli("train", str(tiny_bundle(tmp_path)), "--data", str(dataset), "--fold-weights")
    assert done.returncode == 2
    assert "--fold all --into-bundle" in done.stderr


REFINEMENTS = [
    Refinement("KeepLargestConnectedComponent", {"applied_labels": [1]}),
    Refinement("RemoveSmallObjects", {"min_size": 100, "by_measure": True, "independent_channels": False, "connectivity": 3}),
    Refinement("FillHoles", {"applied_labels": [1]}),
]


def test_corrections_give_the_same_label_in_the_engine_and_in_monai(tmp_path):
    bundle = threshold_bundle(tmp_path)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    assert with_refinements(config, REFINEMENTS, bundle)
    edit_config(bundle, "inference", postprocessing=config["postprocessing"])
    grid = Grid((40, 36, 30), np.diag([-2.0, -2.5, 3.0, 1.0]))
    scan = tmp_path / "scan.nii.gz"
    centre = np.asarray(grid.to_world([14, 16, 15]))
    ball = write_scan(scan, grid, centre=tuple(centre), radius=22)
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj).copy()
    voxels[13:16, 15:18, 14:17] = -50
    voxels[33:37, 28:33, 22:27] = 150
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), scan)
    found = {engine: Segmenter(bundle, engine=engine, device="cpu", precision="fp32").segment(scan) for engine in ("torch", "monai")}
    assert found["torch"].engine["engine"] == "torch"
    assert np.array_equal(found["torch"].label, found["monai"].label)
    # The far block is gone and the hole is filled: what is left is the ball.
    assert not found["torch"].label[33:37, 28:33, 22:27].any()
    assert found["torch"].label[13:16, 15:18, 14:17].all()
    assert dice(found["torch"].label > 0, ball) > 0.97


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_components": 2}, "num_components=2"),
        ({"is_onehot": True}, "is_onehot=True"),
        ({"applied_labels": [0]}, r"applied_labels=\[0\]"),
        ({"connectivity": 4}, "connectivity=4"),
    ],
)
def test_other_corrections_run_in_stock_monai(tmp_path, arguments, words):
    from volseg.bundle import read_config
    from volseg.inference.plan import UnrecognisedError, read_plan

    bundle = threshold_bundle(tmp_path)
    config = read_config(bundle / "configs" / "inference.json")
    with_refinements(config, [Refinement("KeepLargestConnectedComponent", arguments)], bundle)
    with pytest.raises(UnrecognisedError, match=words):
        read_plan(read_bundle(bundle), config)
