from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.bundle_factory import edit_config, tiny_bundle, write_balls
from volseg.errors import BundleError, DatasetError, InputError
from volseg.geometry import Grid
from volseg.training import train
from volseg.training.progress import EpochReport, SilentReporter

EPOCHS = 4
STEPS_PER_EPOCH = 2
"""Four cases train, two a step."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five scans of a bright ball, on grids of different orientation."""
    signs = [(1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)]
    grids = [Grid((30, 28, 20), np.diag([*np.multiply(sign, (4.0, 4.0, 6.0)), 1.0])) for sign in signs]
    return write_balls(tmp_path_factory.mktemp("balls"), grids, [(13 + number, 14, 10 - number % 2) for number in range(5)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Its augmentation still grows when the tests' four epochs end, so that what stops and goes on does so on the way up."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles"), ramp=6)


class Collector(SilentReporter):
    def __init__(self, stop_in_epoch: int | None = None) -> None:
        self.reports: list[EpochReport] = []
        self._stop = stop_in_epoch

    def step(self, epoch: int, step: int, loss: float) -> None:
        if epoch == self._stop:
            raise KeyboardInterrupt

    def epoch(self, report: EpochReport) -> None:
        self.reports.append(report)


@pytest.fixture(scope="module")
def uninterrupted(bundle, dataset, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run") / "whole"
    collector = Collector()
    result = train(bundle, dataset, run_dir, epochs=EPOCHS, device="cpu", reporter=collector)
    return result, collector


def test_run_folder_holds_what_is_promised(uninterrupted, bundle):
    result, collector = uninterrupted
    assert result.epochs == EPOCHS
    assert result.stopped_by == "epochs"
    names = {path.name for path in result.run_dir.iterdir()}
    assert {"model.pt", "final.pt", "last.pt", "metrics.csv", "training.html", "curves.png", "config.json", "provenance.json", "tensorboard"} <= names
    assert any(result.run_dir.glob("tensorboard/**/events.out.tfevents.*"))
    events = EventAccumulator(str(result.run_dir / "tensorboard")).Reload()
    assert len(events.Scalars("train_loss")) == EPOCHS * STEPS_PER_EPOCH
    assert [event.step for event in events.Scalars("val_mean_dice")] == list(range(1, EPOCHS + 1))
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert all(0 <= float(row["val_mean_dice"]) <= 1 for row in rows)
    assert max(float(row["val_mean_dice"]) for row in rows) == pytest.approx(result.best_metric, rel=1e-4)
    record = json.loads((result.run_dir / "provenance.json").read_text())
    assert record["validation_cases"] == ["case0"]
    assert record["epochs"] == EPOCHS
    assert len(record["files"]) == 10
    assert not (bundle / "models" / "model.pt").exists(), "training wrote into the bundle unasked"
    assert collector.reports[-1].remaining_s == 0


def test_loss_goes_down(bundle, dataset, tmp_path):
    collector = Collector()
    train(bundle, dataset, tmp_path / "run", fold=None, epochs=20, device="cpu", precision="fp32", reporter=collector, settings={"optimizer#lr": 0.01})
    losses = [report.loss for report in collector.reports]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_weights_are_a_plain_state_dict_that_fits_the_inference_config(uninterrupted, bundle):
    from volseg.bundle import is_training_only, mismatch, read_bundle, read_state_dict
    from volseg.inference.pipeline import build_pipeline

    result, _ = uninterrupted
    state = torch.load(result.weights, weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    pipeline = build_pipeline(read_bundle(bundle), torch.device("cpu"), weights=[result.run_dir / "last.pt"])
    assert mismatch(read_state_dict(result.weights), pipeline.network) == ""
    heads = [name for name in read_state_dict(result.run_dir / "last.pt") if is_training_only(name)]
    assert heads, "last.pt keeps the deep-supervision heads, which a resumed training needs"


def test_stopped_and_resumed_equals_uninterrupted(uninterrupted, bundle, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.training.loop.CHECKPOINT_INTERVAL_S", 0.0)
    run_dir = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        train(bundle, dataset, run_dir, epochs=EPOCHS, device="cpu", reporter=Collector(stop_in_epoch=3))
    assert torch.load(run_dir / "last.pt", weights_only=True)["position"]["epoch"] == 2
    result = train(bundle, dataset, run_dir, epochs=EPOCHS, device="cpu", resume=True)
    whole = torch.load(uninterrupted[0].run_dir / "last.pt", weights_only=True)
    parts = torch.load(run_dir / "last.pt", weights_only=True)
    assert result.epochs == EPOCHS
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    assert [row["epoch"] for row in csv.DictReader((run_dir / "metrics.csv").open())] == ["1", "2", "3", "4"]


def test_time_limit_ends_the_run_and_the_schedule(bundle, dataset, tmp_path):
    collector = Collector()
    result = train(bundle, dataset, tmp_path / "run", epochs=100_000, time_limit_s=4, device="cpu", reporter=collector)
    assert result.stopped_by == "time limit"
    assert 0 < result.epochs < 100_000
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["position"]["schedule_steps"] == 100_000
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_patience_stops(bundle, dataset, tmp_path):
    result = train(bundle, dataset, tmp_path / "run", epochs=50, patience=1, device="cpu", settings={"optimizer#lr": 0.0})
    assert result.stopped_by == "patience"
    assert result.epochs <= 3


def test_every_case_trains_without_validation_and_goes_into_the_bundle(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    result = train(own, dataset, tmp_path / "run", fold=None, epochs=1, device="cpu", into=True)
    assert result.best_metric is None
    assert json.loads((own / "configs" / "metadata.json").read_text())["eval_metrics"] == {}
    shipped = torch.load(own / "models" / "model.pt", weights_only=True)
    trained = torch.load(result.weights, weights_only=True)
    assert all(tensor.dtype == torch.float16 for tensor in shipped.values())
    assert trained.keys() == shipped.keys()
    for name, tensor in trained.items():
        assert torch.equal(tensor.half(), shipped[name])
    # DynUNet names every block twice; on disk each tensor is there once.
    unique = {tensor.data_ptr(): tensor.numel() for tensor in shipped.values()}
    assert sum(unique.values()) < 0.6 * sum(tensor.numel() for tensor in shipped.values())


def test_a_fold_goes_into_the_bundle_with_its_scores(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    before = json.loads((own / "configs" / "metadata.json").read_text())
    result = train(own, dataset, tmp_path / "run", fold=1, epochs=1, device="cpu", into=True)
    after = json.loads((own / "configs" / "metadata.json").read_text())
    assert after["eval_metrics"]["fold_1_mean_dice"] == pytest.approx(result.best_metric, abs=1e-5)
    assert after["eval_metrics"]["fold_1_cases"] == 1
    assert after["version"] != before["version"]
    assert "4 cases" in after["changelog"][after["version"]]
    card = (own / "docs" / "README.md").read_text()
    assert f"{result.best_metric:.4f}" in card
    assert after.keys() == before.keys() | {"eval_metrics", "changelog"}


def test_the_final_weights_are_chosen_by_no_validation(bundle, dataset, tmp_path, monkeypatch):
    """Every validation is made to find less than the one before: the best weights are those of the first, the final ones the average at the end."""
    from volseg.training.validation import Scores, Validator

    monkeypatch.setattr(Validator, "run", lambda self, epoch, network: Scores({"val_mean_dice": 1 / epoch}, 1 / epoch, 0.01))
    result = train(bundle, dataset, tmp_path / "run", fold=0, epochs=3, device="cpu", precision="fp32")
    assert result.best_epoch == 1
    best, final = (torch.load(path, weights_only=True) for path in (result.weights, result.final))
    average = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["average"]
    assert best.keys() == final.keys()
    assert all(torch.equal(final[name], average[f"module.{name}"]) for name in final)
    assert any(not torch.equal(final[name], best[name]) for name in final)


def test_bf16_trains(bundle, dataset, tmp_path):
    collector = Collector()
    train(bundle, dataset, tmp_path / "run", fold=None, epochs=1, device="cpu", precision="bf16", reporter=collector)
    assert np.isfinite(collector.reports[0].loss)


def test_refusals(bundle, dataset, uninterrupted, tmp_path):
    used = uninterrupted[0].run_dir
    with pytest.raises(InputError, match="--resume"):
        train(bundle, dataset, used)
    with pytest.raises(InputError, match="nothing to resume"):
        train(bundle, dataset, tmp_path / "empty", resume=True)
    with pytest.raises(InputError, match="made with fold 0"):
        train(bundle, dataset, used, fold=1, resume=True)
    with pytest.raises(InputError, match="no such id"):
        train(bundle, dataset, tmp_path / "a", settings={"optimiser#lr": 1})
    with pytest.raises(DatasetError, match="no such dataset"):
        train(bundle, tmp_path / "gone", tmp_path / "b")


def test_bundle_without_training_config(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    (own / "configs" / "train.json").unlink()
    with pytest.raises(BundleError, match=r"no configs/train\.json"):
        train(own, dataset, tmp_path / "run")


def test_finished_run_can_be_made_longer(bundle, dataset, tmp_path):
    """The rate of the extension follows the longer schedule; the shorter one had ended at 0."""
    run_dir = tmp_path / "run"
    train(bundle, dataset, run_dir, epochs=2, device="cpu")
    collector = Collector()
    train(bundle, dataset, run_dir, epochs=4, device="cpu", resume=True, reporter=collector)
    # PolynomialLR of power 0.9 from 1e-3 over 4 epochs: the third epoch runs at (1 - 2/4) ** 0.9 of it.
    assert [report.epoch for report in collector.reports] == [3, 4]
    assert collector.reports[0].learning_rate == pytest.approx(1e-3 * 0.5**0.9)
    parts = json.loads((run_dir / "provenance.json").read_text())["earlier_parts"]
    assert [part["epochs"] for part in parts] == [2]


@pytest.mark.parametrize("limit", [{"time_limit_s": 6.0}, {"epochs": 30, "patience": 1, "settings": {"optimizer#lr": 0.0}}, {"epochs": 1}], ids=["time", "patience", "epochs"])
def test_a_run_that_ended_as_asked_is_left_as_it_is(limit, bundle, dataset, tmp_path):
    """A time limit leaves a little of its time unused: not a reason to train on with it."""
    run_dir = tmp_path / "run"
    first = train(bundle, dataset, run_dir, device="cpu", **limit)
    before = {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    again = train(bundle, dataset, run_dir, device="cpu", resume=True, **limit)
    assert again == first
    assert {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()} == before
    own = shutil.copytree(bundle, tmp_path / bundle.name)
    train(own, dataset, run_dir, device="cpu", resume=True, into=True, **limit)
    state, trained = torch.load(own / "models" / "model.pt", weights_only=True), torch.load(first.weights, weights_only=True)
    assert all(torch.equal(state[key], trained[key].half()) for key in state)


def test_folds_dealt_anew_are_seen_where_files_are_named_alike(bundle, dataset, tmp_path):
    """Cases moved between training and validation are another training, though all of them are called imaging.nii.gz."""
    content = json.loads((dataset / "dataset.json").read_text())
    for number, item in enumerate(content["training"]):
        for key in ("image", "label"):
            target = tmp_path / key / f"case{number}" / "imaging.nii.gz"
            target.parent.mkdir(parents=True)
            shutil.copy(dataset / item[key], target)
            item[key] = str(target)
        item["fold"] = number % 2
    listing = tmp_path / "dataset.json"
    listing.write_text(json.dumps(content))
    train(bundle, listing, tmp_path / "run", epochs=1, device="cpu")
    content["training"][0]["fold"], content["training"][1]["fold"] = 1, 0
    listing.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"made with training cases .*case1"):
        train(bundle, listing, tmp_path / "run", epochs=1, device="cpu", resume=True)


def test_a_time_limit_ends_the_last_epoch_too(bundle, dataset, tmp_path):
    """An epoch may take longer than all the time there is."""

    class Slow(Collector):
        steps = 0

        def step(self, epoch: int, step: int, loss: float) -> None:
            self.steps += 1
            time.sleep(3)

    slow = Slow()
    result = train(bundle, dataset, tmp_path / "run", epochs=1, time_limit_s=2.0, device="cpu", reporter=slow)
    assert STEPS_PER_EPOCH > 1
    assert (result.epochs, result.stopped_by, slow.steps) == (1, "time limit", 1)
    # With more time the epoch that was cut is begun again.
    collector = Collector()
    longer = train(bundle, dataset, tmp_path / "run", epochs=1, device="cpu", resume=True, reporter=collector)
    assert (longer.epochs, longer.stopped_by, [report.epoch for report in collector.reports]) == (1, "epochs", [1])


def test_nothing_is_drawn_for_a_run_that_is_not_there(bundle, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        train(bundle, "synthetic", tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()


def test_a_run_in_half_precision_can_go_on_without_it(bundle, dataset, tmp_path):
    """A loss that became NaN is told to be trained in fp32: no gradient scaler then, though the checkpoint has one."""
    run_dir = tmp_path / "run"
    train(bundle, dataset, run_dir, epochs=1, device="cpu")
    last = torch.load(run_dir / "last.pt", weights_only=True)
    torch.save(last | {"scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}}, run_dir / "last.pt")
    assert train(bundle, dataset, run_dir, epochs=2, device="cpu", precision="fp32", resume=True).epochs == 2


def test_patience_waits_for_validations(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    edit_config(own, "train", val_interval=3)
    result = train(own, dataset, tmp_path / "run", epochs=30, patience=1, device="cpu", settings={"optimizer#lr": 0.0})
    # Validated in epochs 3 (sets the best) and 6 (no better): only then can patience end the run.
    assert result.epochs == 6


@pytest.mark.parametrize(("name", "flag"), [("seed", "--seed"), ("device", "--device"), ("fold", "--fold"), ("train#dataset#data", "--data")])
def test_ids_that_volseg_fills_in_cannot_be_set(name, flag, bundle, dataset, tmp_path):
    with pytest.raises(InputError, match=flag):
        train(bundle, dataset, tmp_path / "run", settings={name: 1})


def broken_label(dataset: Path, folder: Path, change) -> Path:
    """The dataset with the label of case 3 changed."""
    import nibabel as nib

    shutil.copytree(dataset, folder)
    path = folder / "labelsTr" / "case3.nii.gz"
    image = nib.load(path)
    array, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)
    return folder


def shifted(array, affine):
    affine[0, 3] += 30
    return array, affine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shifted, "the label lies on"),
        (lambda array, affine: (array[:-1], affine), "the label lies on"),
        (lambda array, affine: (np.where(array == 1, 2, 0).astype(np.uint8), affine), "holds the values 2"),
        (lambda array, affine: ((array * 0.5).astype(np.float32), affine), "holds the values 0.5"),
    ],
    ids=["shifted", "other shape", "unknown value", "fractions"],
)
def test_labels_that_do_not_fit_are_refused_by_name_before_anything_runs(change, words, bundle, dataset, tmp_path):
    data = broken_label(dataset, tmp_path / "data", change)
    with pytest.raises(DatasetError, match=words) as caught:
        train(bundle, data, tmp_path / "run")
    assert "case3.nii.gz" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_labels_that_are_all_empty_are_refused(bundle, dataset, tmp_path):
    import nibabel as nib

    data = shutil.copytree(dataset, tmp_path / "data")
    for path in (data / "labelsTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    with pytest.raises(DatasetError, match="every label map is empty"):
        train(bundle, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_scan_on_both_sides_of_the_split_is_refused(bundle, dataset, tmp_path):
    """Through a link of another name, too; with one fold for both, or where all cases train, nothing leaks."""
    data = shutil.copytree(dataset, tmp_path / "data")
    (data / "imagesTr" / "again.nii.gz").symlink_to("case0.nii.gz")
    content = json.loads((data / "dataset.json").read_text())
    content["training"].append({"image": "imagesTr/again.nii.gz", "label": "labelsTr/case0.nii.gz", "fold": 1})
    (data / "dataset.json").write_text(json.dumps(content))
    for fold in (0, 1):
        with pytest.raises(DatasetError, match="trained on and validated with at once"):
            train(bundle, data, tmp_path / "run", fold=fold)
    assert not (tmp_path / "run").exists()
    assert train(bundle, data, tmp_path / "all", fold=None, epochs=1, device="cpu").epochs == 1
    assert train(bundle, data, tmp_path / "other", fold=2, epochs=1, device="cpu").epochs == 1


def test_damaged_scan_is_named(bundle, dataset, tmp_path):
    data = shutil.copytree(dataset, tmp_path / "data")
    path = data / "imagesTr" / "case2.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"case2\.nii\.gz"):
        train(bundle, data, tmp_path / "run")


def test_scheduler_must_be_named_by_reference(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["handlers"][0] = {
        "_target_": "monai.handlers.LrScheduleHandler",
        "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer"},
    }
    (own / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="by reference"):
        train(own, dataset, tmp_path / "run")


def test_config_that_cannot_be_built(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    edit_config(own, "train", optimizer={"_target_": "torch.optim.NoSuchOptimizer", "params": "$@network.parameters()"})
    with pytest.raises(BundleError, match="could not be set up") as caught:
        train(own, dataset, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_number_of_channels_must_fit(bundle, dataset, tmp_path):
    content = json.loads((dataset / "dataset.json").read_text())
    for item in content["training"]:
        item["image"] = [str(dataset / item["image"])] * 2
        item["label"] = str(dataset / item["label"])
    path = tmp_path / "two.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"2 images, but bundle tiny takes 1"):
        train(bundle, path, tmp_path / "run")


def run_cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "volseg", *arguments], capture_output=True, text=True, timeout=300, **options)


def test_killed_training_resumes(bundle, dataset, tmp_path):
    run_dir = tmp_path / "run"
    command = ["train", str(bundle), "--data", str(dataset), "-o", str(run_dir), "--epochs", "400", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "volseg", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (run_dir / "metrics.csv").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = len(list(csv.DictReader((run_dir / "metrics.csv").open())))
    assert 0 < reached < 400
    epochs = torch.load(run_dir / "last.pt", weights_only=True)["position"]["epoch"]
    # The run's identity holds its settings, not its length, so a run can be cut shorter or made longer when it is resumed.
    finished = run_cli(*command[:-4], "--epochs", str(epochs + 1), "--device", "cpu", "--resume", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["runs"][0]["epochs"] == epochs + 1
    assert f"resuming after epoch {epochs}" in finished.stderr


def test_without_data_one_line_says_how_to_give_it(bundle):
    result = run_cli("train", str(bundle))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "--data" in result.stderr
    assert "synthetic" in result.stderr


def test_plain_monai_runs_the_training_config(dataset, tmp_path):
    own = tiny_bundle(tmp_path)
    config = own / "configs" / "train.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--bundle_root", str(own), "--dataset_dir", str(dataset)]
    done = subprocess.run([*command, "--train#trainer#max_epochs", "1", "--ckpt_dir", "runs/monai"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "monai" / "model.pt").is_file()
    assert not (own / "models" / "model.pt").exists(), "the README says that --ckpt_dir leaves the bundle's weights alone"
    shutil.copy(tmp_path / "runs" / "monai" / "model.pt", own / "models" / "model.pt")
    evaluate = f"['{config}','{own / 'configs' / 'evaluate.json'}']"
    done = subprocess.run([*command[:5], evaluate, *command[6:]], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (own / "eval" / "metrics.csv").is_file()
    (tmp_path / "data" / "imagesTs").mkdir(parents=True)
    shutil.copy(dataset / "imagesTr" / "case0.nii.gz", tmp_path / "data" / "imagesTs" / "case0.nii.gz")
    infer = [*command[:4], "--config_file", str(own / "configs" / "inference.json"), "--bundle_root", str(own), "--dataset_dir", str(tmp_path / "data")]
    done = subprocess.run(infer, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (own / "eval" / "case0_seg.nii.gz").is_file()


def test_two_processes_train_together(tmp_path):
    """multi_gpu_train.json over train.json, as torchrun starts it; without GPUs the processes talk through gloo."""
    from volseg.synthetic import write_dataset

    own = tiny_bundle(tmp_path)
    write_dataset(tmp_path / "data", 10, seed=3, shape=(48, 40, 20), spacing=(3, 3, 7))
    configs = f"['{own / 'configs' / 'train.json'}','{own / 'configs' / 'multi_gpu_train.json'}']"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run", "--config_file", configs]
    command += ["--bundle_root", str(own), "--dataset_dir", str(tmp_path / "data"), "--device", "$torch.device('cpu')"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    state = torch.load(own / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)


def test_synthetic_data(bundle, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("volseg.training.sources.SYNTHETIC_CASES", 5)
    result = train(bundle, "synthetic", tmp_path / "run", epochs=1, device="cpu")
    assert result.weights.is_file()
    assert json.loads((tmp_path / "run" / "synthetic_data" / "dataset.json").read_text())["synthetic"] is True
