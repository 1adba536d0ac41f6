"""`volseg plan` from the command line to bundles that MONAI, the engine and the conformance checks accept."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import volseg
from tests.plan_factory import edit, fingerprint, save, write_boxes
from volseg.bundle import read_bundle, read_config
from volseg.cli.main import main
from volseg.cli.plan import plan as command
from volseg.conformance import Status, run_checks
from volseg.errors import DatasetError, InputError, OutputError
from volseg.inference.plan import read_plan
from volseg.planning import make_plan, write_bundle
from volseg.planning.fingerprint import Intensities
from volseg.planning.reasons import explain
from volseg.planning.rules.budget import GB, Budget
from volseg.synthetic import write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

SUV = Intensities(6.0, 4.0, 5.0, 0.5, 20.0)


@pytest.fixture(scope="module", name="dataset")
def dataset_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic thighs of a few thousand voxels."""
    return write_dataset(tmp_path_factory.mktemp("data") / "thighs", 5, shape=(32, 28, 16), spacing=(4.0, 4.0, 8.0))


def program(*arguments: object) -> int:
    """Exit status of the command line."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def write(folder: Path, name: str = "planned", device: str = "cpu", preset: str = "default", gflops: float = 90.0, **facts) -> Path:
    """A bundle for a made-up fingerprint."""
    shape, spacing = facts.pop("shape", (36, 50, 35)), facts.pop("spacing", (1, 1, 1))
    return write_bundle(make_plan(fingerprint(shape, spacing, **facts), Budget(device, 8 * GB, preset, gflops)), folder / name)


KINDS = {
    "ct": {},
    "thick slices": {"shape": (200, 200, 20), "spacing": (1, 1, 6)},
    "mr, two labels": {"channels": ("T1w",), "labels": ("Anterior", "Posterior")},
    "skull-stripped mr, two channels": {"channels": ("T1", "T2"), "nonzero": (20, 20, 20)},
    "pet/ct": {"channels": ("CT", "PET"), "intensities": SUV},
    "for a gpu": {"device": "cuda"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bundle_is_planned_by_the_engine_and_conforms(tmp_path, kind):
    folder = write(tmp_path, **KINDS[kind])
    bundle = read_bundle(folder)
    engine = read_plan(bundle, read_config(bundle.inference_config))
    assert engine.orientation == "RAS"
    assert engine.interpolation == "bilinear"
    assert list(engine.window.roi) == read_config(bundle.train_config)["patch_size"]
    assert engine.decision.activation == "softmax"
    results = {result.identifier: result for result in run_checks(folder, fast=True)}
    assert {name: result.detail for name, result in results.items() if result.status in (Status.FAIL, Status.WARN)}.keys() == {"weights"}, results
    assert "the bundle has no weights; train it" in results["weights"].detail


@pytest.mark.parametrize("kind", ["mr, two labels", "pet/ct", "skull-stripped mr, two channels"])
def test_plain_monai_trains_evaluates_and_segments_with_it(tmp_path, kind):
    # At 2 GFLOP/s a patch has a few thousand voxels, and at 5 mm the phantom has few of them.
    folder = write(tmp_path, gflops=2.0, spacing=(5, 5, 5), **KINDS[kind])
    statuses = {result.identifier: (result.status, result.detail) for result in run_checks(folder)}
    assert {name for name, (status, _) in statuses.items() if status is Status.FAIL} == {"weights"}, statuses
    for name in ("train-run", "evaluate-run", "infer-run", "geometry", "net-in-out"):
        assert statuses[name][0] is Status.PASS, statuses[name]


def test_ids_that_training_and_preprocessing_count_on(tmp_path):
    train = read_config(write(tmp_path) / "configs" / "train.json")
    assert list(train)[:12] == [
        "imports",
        "bundle_root",
        "ckpt_dir",
        "output_dir",
        "dataset_dir",
        "fold",
        "num_folds",
        "seed",
        "iterations_per_epoch",
        "batch_size",
        "val_interval",
        "spacing",
    ]
    assert train["augmentation_ramp"] > 0
    assert train["train"]["random_transforms"][0]["_target_"] == "RandCropByPosNegLabeld"
    assert train["train"]["preprocessing"]["transforms"] == "$@train#deterministic_transforms + @train#random_transforms"
    assert train["train"]["dataset"]["_target_"] == "CacheDataset"
    # Threads that share MONAI's transforms lose channels.
    assert train["train"]["dataset"]["num_workers"] == train["validate"]["dataset"]["num_workers"] == 1
    assert train["train"]["sampler"] == {
        "_target_": "torch.utils.data.RandomSampler",
        "data_source": "@train#dataset",
        "replacement": True,
        "num_samples": "$@iterations_per_epoch * @batch_size",
    }
    assert train["network_def"]["deep_supervision"] is True
    assert read_config(tmp_path / "planned" / "configs" / "inference.json")["network_def"]["deep_supervision"] is False


def test_several_labels_are_drawn_equally_often(tmp_path):
    train = read_config(write(tmp_path, labels=("a", "b", "c"), channels=("MRI",)) / "configs" / "train.json")
    crop = train["train"]["random_transforms"][0]
    assert crop["_target_"] == "RandCropByLabelClassesd"
    assert crop["num_classes"] == 4
    assert crop["ratios"][0] == pytest.approx(0.5)
    assert crop["ratios"][1:] == pytest.approx([0.5 / 3] * 3, rel=1e-5)


def test_each_channel_is_normalised_by_its_rule(tmp_path):
    from monai.bundle import ConfigParser
    from monai.transforms import Compose

    steps = read_config(write(tmp_path, channels=("CT", "PET"), intensities=SUV) / "configs" / "inference.json")["preprocessing"]["transforms"]
    first = next(number for number, step in enumerate(steps) if step["_target_"] == "SplitDimd")
    parser = ConfigParser({"steps": steps[first:]})
    image = np.array([[0.5, 6.0, 100.0], [-1.0, 5.0, 100.0]], np.float32)[:, None, None]
    found = Compose(parser.get_parsed_content("steps"))({"image": image})
    # CT: 0.5 to 20, PET: 0 to 20, both in units of their SD, 4.
    np.testing.assert_allclose(np.asarray(found["image"])[:, 0, 0], [[0, 5.5 / 4, 19.5 / 4], [0, 5 / 4, 20 / 4]], rtol=1e-5)
    assert set(found) == {"image"}


def test_the_command_writes_a_bundle_and_says_what_next(dataset, tmp_path, capsys):
    out = tmp_path / "bundles" / "thigh"
    assert program("plan", dataset, "-o", out, "--device", "cpu", "--gflops", 20, "--workers", 1) == 0
    told = capsys.readouterr()
    assert f"next: volseg train {out} --data {dataset} --fold 0" in told.out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "LICENSE",
        "configs/evaluate.json",
        "configs/inference.json",
        "configs/logging.conf",
        "configs/metadata.json",
        "configs/multi_gpu_train.json",
        "configs/train.json",
        "docs/README.md",
        "docs/fingerprint.html",
        "docs/fingerprint.json",
        "docs/plan.md",
    ]
    assert (out / "models").is_dir()
    measured = json.loads((out / "docs" / "fingerprint.json").read_text())
    assert measured["number_of_cases"] == 5
    assert measured["cases"][0]["shape"] == [32, 28, 16]
    # Nothing in a bundle says where the data lay.
    for path in out.rglob("*.*"):
        assert str(dataset) not in path.read_text(errors="ignore")
    # Untrained: one line that says so.
    scan = next((dataset / "imagesTr").glob("*.nii.gz"))
    assert program("infer", scan, "-b", out, "-o", tmp_path / "seg") == 2
    assert "the bundle has no weights; train it (`volseg train thigh`)" in capsys.readouterr().err
    # A second plan goes nowhere, unless it is meant.
    assert program("plan", dataset, "-o", out, "--device", "cpu") == 2
    assert "--overwrite" in capsys.readouterr().err
    (out / "models" / "model.pt").touch()
    assert program("plan", dataset, "-o", out, "--device", "cpu", "--overwrite", "-q", "--workers", 1) == 0
    assert not (out / "models" / "model.pt").exists()


def test_dry_run_and_json(dataset, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert program("plan", dataset, "--dry-run", "--json", "--device", "cpu", "--workers", 1) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == before
    assert found["bundle"] is None
    assert found["cases"] == 5
    assert found["channels"][0]["kind"] == "ct"
    assert {choice["what"] for choice in found["choices"]} >= {"spacing (mm)", "patch (voxels)", "batch", "loss", "optimiser"}
    assert program("plan", dataset, "--dry-run", "-v", "--device", "cuda", "--workers", 1) == 0
    assert "PlainConvUNet" not in (table := capsys.readouterr().out)
    assert "nnU-Net's, for long trainings" in table


def test_every_example_of_the_help(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [line.split() for line in (command.help or "").splitlines() if line.strip().startswith("volseg plan")]
    assert len(examples) == 4
    for _, *words in examples:
        assert program(*[str(dataset) if word == "DATASET" else word for word in words], "--workers", 1) == 0
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {"liver", "liver_fast"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "b", "--memory", "100M"], "not enough for any training"),
        (["-o", "b", "--memory", "lots"], "--memory 'lots': not an amount"),
        (["-o", "b", "--preset", "huge"], "there is no preset 'huge'; choose default, fast, fullres, lowres"),
        (["-o", "b", "--gflops", "0"], "0 GFLOP/s is not possible"),
        (["-o", "my bundle"], "is no name for a bundle"),
        ([], "use -o bundles/NAME"),
    ],
)
def test_arguments_that_cannot_be_used(dataset, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert program("plan", dataset, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_comes_next_can_be_pasted(dataset, tmp_path, capsys):
    data, out = shutil.copytree(dataset, tmp_path / "my data"), tmp_path / "bundles" / "b"
    assert program("plan", data, "-o", out, "--device", "cpu", "--gflops", 20, "--workers", 1) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[1:] == ["volseg", "train", str(out), "--data", str(data), "--fold", "0"]


def test_a_place_that_cannot_be_written_to_is_refused_before_a_case_is_read(dataset, tmp_path):
    (tmp_path / "file").touch()

    def read(names):
        raise AssertionError

    with pytest.raises(OutputError, match="cannot be written, not a folder"):
        volseg.plan(dataset, tmp_path / "file" / "bundle", device="cpu", track=read)


def test_folders_that_cannot_be_used(dataset, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    for name, message in (("file", "is a file"), ("other", "--overwrite does not apply")):
        with pytest.raises(OutputError, match=message):
            volseg.plan(dataset, tmp_path / name, device="cpu", overwrite=True)
    assert (tmp_path / "other" / "thesis.doc").exists()
    with pytest.raises(InputError, match="not for 'tpu'"):
        volseg.plan(dataset, tmp_path / "b", device="tpu")


def test_everything_that_is_wrong_is_printed_line_by_line(tmp_path, capsys):
    folder = write_boxes(tmp_path / "set", 4)
    wrong = np.full((24, 20, 16), 9, np.uint8)
    for case in (1, 3):
        save(folder / "labelsTr" / f"case_{case}.nii.gz", wrong, (1, 1, 2))
    assert program("plan", folder, "-o", tmp_path / "b", "--workers", 1, "-q") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("  - ") for line in lines] == [True, True, False]
    assert all("holds the values 9" in line for line in lines)
    assert not (tmp_path / "b").exists()
    with pytest.raises(DatasetError):
        volseg.plan(folder, tmp_path / "b", device="cpu")


def test_names_from_outside_are_escaped_in_the_page(tmp_path):
    folder = write_boxes(tmp_path / "set", 3)
    edit(folder, labels={"0": "background", "1": "<script>alert(1)</script>"}, name="a | <b>")
    assert program("plan", folder, "-o", tmp_path / "b", "--workers", 1, "-q", "--device", "cpu") == 0
    page = (tmp_path / "b" / "docs" / "fingerprint.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert page.count("<svg") >= 4 + 9
    assert "a \\| <b>" not in (tmp_path / "b" / "docs" / "plan.md").read_text().split("| what |")[0]


def test_nothing_heavy_is_imported_for_a_plan(dataset, tmp_path):
    program = """if True:
        import sys, volseg
        volseg.plan(sys.argv[1], sys.argv[2], device="cpu")
        print([name for name in ("torch", "monai", "matplotlib", "openvino") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", program, str(dataset), str(tmp_path / "b")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_choice_has_a_reason_and_a_peer(tmp_path):
    for device in ("cpu", "cuda"):
        made = make_plan(fingerprint((512, 512, 90), (0.98, 0.98, 3.27), channels=("CT", "PET"), intensities=SUV), Budget(device, 8 * GB, "default", 90.0))
        choices = explain(made)
        assert len({choice.what for choice in choices}) == len(choices) > 20
        assert all(choice.value and choice.why and choice.nnunet for choice in choices)
        document = (write_bundle(made, tmp_path / device) / "docs" / "plan.md").read_text()
        assert all(f"| {choice.what} | " in document for choice in choices)
        assert ("made coarser" in document) == (device == "cpu")


def test_the_commands_of_the_card_name_every_channel(tmp_path):
    for options, scan in (({"channels": ("CT", "PET"), "intensities": SUV}, "--input CT=ct.nii.gz --input PET=pet.nii.gz"), ({}, "scan.nii.gz")):
        folder = write(tmp_path / f"{len(scan)}", **options)
        for document in ("README.md", "plan.md"):
            assert f"volseg infer {scan} -b {folder.name} -o out\n```" in (folder / "docs" / document).read_text()


def test_units_are_kept_for_those_who_give_scans(tmp_path):
    for number, (options, units) in enumerate([({"channels": ("CT", "PET"), "intensities": SUV}, ("HU", "SUVbw")), ({"channels": ("T1", "T2")}, ("", ""))]):
        assert read_bundle(write(tmp_path / str(number), **options)).channel_units == units


def test_results_of_a_training_take_their_place_in_the_model_card(tmp_path):
    from volseg.training.export import with_table

    card = (write(tmp_path) / "docs" / "README.md").read_text()
    assert card.count("Not trained yet.") == 1
    filled = with_table(card, "| Dice | 0.9 |")
    assert "Not trained yet." not in filled
    assert filled.index("## Results") < filled.index("| Dice | 0.9 |") < filled.index("## Limits")


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    made = make_plan(fingerprint((36, 50, 35), (1, 1, 1)), Budget("cpu", 8 * GB, "default", 90.0))
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(volseg.errors.WriteError):
        write_bundle(made, tmp_path / "b")
    assert not list(tmp_path.iterdir())
