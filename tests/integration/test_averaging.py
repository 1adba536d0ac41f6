"""Flips and ensembles: the engine with each executor gives what stock MONAI gives with the same average, which is the average of single runs; what is averaged is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundle_factory import edit_config, tiny_bundle
from volseg.cli import main
from volseg.errors import BundleError, InputError
from volseg.geometry import Grid
from volseg.inference import Segmenter
from volseg.io.volume import Source, Volume

GRID = Grid((44, 40, 36), np.diag([-4.0, -4.0, 5.0, 1.0]))

MEMBERS = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The tiny U-Net with a last layer that prefers no class, so that members disagree."""
    return tiny_bundle(tmp_path_factory.mktemp("averaging"), weights=True)


@pytest.fixture(scope="module")
def weights(bundle) -> list[Path]:
    """Weights of three other random networks, as folds would leave them."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    paths = []
    for seed in range(MEMBERS):
        generator = torch.Generator().manual_seed(seed)
        changed = {key: tensor + 0.3 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator) for key, tensor in state.items()}
        paths.append(bundle / "models" / f"model_fold{seed}.pt")
        torch.save(changed, paths[-1])
    return paths


@pytest.fixture(scope="module")
def volume() -> Volume:
    rng = np.random.default_rng(3)
    array = np.kron(rng.normal(40, 160, (11, 10, 9)), np.ones((4, 4, 4))).astype(np.int16)
    array[:8] = -1000
    return Volume(array, GRID, Source(Path("scan.nii.gz"), "nifti", "scan"))


def near_ties(found, expected) -> None:
    """Labels are equal but where MONAI's probabilities of the two are within rounding."""
    differing = found.label != expected.label
    assert differing.mean() <= 1e-4 or differing.sum() <= 1
    assert np.abs(expected.probabilities[1][differing] - 0.5).max(initial=0) < 1e-3


@pytest.mark.parametrize("tta", [False, True], ids=["", "tta"])
@pytest.mark.parametrize("several", [False, True], ids=["", "ensemble"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_engine_gives_stock_monais_average(engine, several, tta, bundle, weights, volume):
    options = {"device": "cpu", "precision": "fp32", "tta": tta, "weights": weights if several else None}
    expected = Segmenter(bundle, engine="monai", **options).segment(volume, probabilities=True)
    found = Segmenter(bundle, engine=engine, **options).segment(volume, probabilities=True)
    assert (expected.engine["engine"], found.engine["engine"]) == ("monai", engine)
    assert 0.01 < (expected.label == 1).mean() < 0.99
    near_ties(found, expected)
    np.testing.assert_allclose(found.probabilities[1], expected.probabilities[1], atol=1e-3)
    for fact in ("windows", "ensemble", "flips", "runs_per_window", "average"):
        assert found.engine.get(fact) == expected.engine.get(fact), fact
    runs = (MEMBERS if several else 1) * (8 if tta else 1)
    assert found.engine.get("runs_per_window", 1) == runs


def test_the_average_is_that_of_the_members_scores(bundle, weights, volume):
    """The mean of logits of two classes is the logit of the geometric mean of the odds: derived here from the members' own probabilities on the network's grid."""
    edit_config(bundle, "inference", spacing=[4.0, 4.0, 5.0], patch_size=[48, 48, 48])
    try:
        each = [Segmenter(bundle, engine="torch", precision="fp32", device="cpu", weights=path).segment(volume, probabilities=True).probabilities[1] for path in weights]
        found = Segmenter(bundle, engine="torch", precision="fp32", device="cpu", weights=weights).segment(volume, probabilities=True)
    finally:
        edit_config(bundle, "inference", spacing=[8.0, 8.0, 8.0], patch_size=[16, 16, 16])
    shares = np.clip(np.stack(each).astype(np.float64), 1e-6, 1 - 1e-6)
    logit = np.log(shares / (1 - shares)).mean(axis=0)
    np.testing.assert_allclose(found.probabilities[1], 1 / (1 + np.exp(-logit)), atol=1e-4)


def test_flips_make_the_answer_turn_with_the_scan(bundle, volume):
    """With all flips averaged, a mirrored scan has the mirrored probabilities, which it has not without them."""
    flipped = Volume(np.ascontiguousarray(volume.array[:, ::-1]), volume.grid, volume.source)

    def difference(tta: bool) -> float:
        segmenter = Segmenter(bundle, engine="torch", precision="fp32", device="cpu", tta=tta)
        one, other = (segmenter.segment(scan, probabilities=True).probabilities[1] for scan in (volume, flipped))
        return float(np.abs(one - other[:, ::-1]).mean())

    edit_config(bundle, "inference", spacing=[4.0, 4.0, 5.0], patch_size=[48, 48, 48])
    try:
        assert difference(True) < 1e-4
        assert difference(False) > 1e-3
    finally:
        edit_config(bundle, "inference", spacing=[8.0, 8.0, 8.0], patch_size=[16, 16, 16])


def test_progress_counts_windows_on_both_paths(bundle, weights, volume):
    for engine in ("torch", "monai"):
        told: list[tuple[int, int]] = []
        segmenter = Segmenter(bundle, engine=engine, precision="fp32", device="cpu", weights=weights, tta=True)
        windows = segmenter.segment(volume, progress=lambda done, total, told=told: told.append((done, total))).engine["windows"]
        assert told[-1] == (windows, windows)
        assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_weights_are_told_with_their_digests(bundle, weights, volume):
    with Segmenter(bundle, engine="torch", device="cpu", weights=weights) as segmenter:
        result = segmenter.segment(volume)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    assert result.report()["bundle"]["weights"] == [str(path) for path in weights]
    assert result.report()["bundle"]["weights_sha256"] == digests
    assert result.algorithm.weights_sha256 == ", ".join(digests)
    json.dumps(result.report(), allow_nan=False)


def test_each_member_is_converted_and_found_again(bundle, weights, volume, tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    first = Segmenter(bundle, precision="fp32", device="cpu", weights=weights[:2])
    # Few windows: PyTorch runs them, and the conversion is left for later.
    small = Volume(volume.array[:20, :20, :16], Grid((20, 20, 16), volume.grid.affine), volume.source)
    assert first.segment(small).engine["engine"] == "torch"
    assert first.should_convert_later()
    assert first.convert_later() is not None
    assert len([path for path in (tmp_path / "cache" / "networks").iterdir() if not path.name.startswith(".")]) == 2
    engine = Segmenter(bundle, precision="fp32", device="cpu", weights=weights[:2]).segment(small).engine
    assert (engine["engine"], engine["cached_network"]) == ("openvino", True)
    # A member that is not there yet runs in PyTorch beside the others.
    engine = Segmenter(bundle, precision="fp32", device="cpu", weights=weights).segment(small).engine
    assert (engine["engine"], engine["cached_network"]) == ("openvino+torch", False)


def test_a_member_that_openvino_cannot_run_gives_way_to_torch(bundle, weights, volume, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory for a primitive")

    expected = Segmenter(bundle, device="cpu", precision="fp32", engine="torch", weights=weights).segment(volume)
    assert Segmenter(bundle, device="cpu", precision="fp32", weights=weights).convert_later() is not None
    segmenter = Segmenter(bundle, device="cpu", precision="fp32", weights=weights)
    monkeypatch.setattr("volseg.inference.executors.openvino_executor.OpenVINOExecutor.__call__", fail)
    result = segmenter.segment(volume)
    assert result.engine["engine"] == "torch"
    assert sum("no memory for a primitive" in note for note in result.warnings) == 1
    assert np.array_equal(result.label, expected.label)


def test_weights_that_cannot_be_averaged_are_refused(bundle, weights, tmp_path):
    with pytest.raises(InputError, match="given twice"):
        Segmenter(bundle, device="cpu", weights=[weights[0], bundle / "models" / ".." / "models" / weights[0].name])
    with pytest.raises(BundleError, match="no such weights file"):
        Segmenter(bundle, device="cpu", weights=[weights[0], tmp_path / "gone.pt"])


@pytest.mark.parametrize("engine", ["torch", "monai"])
def test_a_member_of_another_network_is_named(engine, bundle, weights, volume, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(BundleError, match=r"other\.pt"):
        Segmenter(bundle, engine=engine, device="cpu", weights=[weights[0], tmp_path / "other.pt"]).segment(volume)


# The command line


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def scan(tmp_path, volume) -> Path:
    nib.save(nib.Nifti1Image(volume.array, volume.grid.affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_dry_run_and_run_say_what_is_averaged(capsys, bundle, weights, scan, tmp_path):
    given = ["infer", scan, "-b", bundle, "-o", tmp_path / "out", "--device", "cpu", "--engine", "torch", "--precision", "fp32", "--tta"]
    given += [part for path in weights for part in ("--weights", path)]
    code, out, _ = call(capsys, *given, "--dry-run")
    assert code == 0
    assert "mean of 3 networks in 8 flips: each window is run 24 times" in out
    code, out, err = call(capsys, *given, "--json", "-v", "--no-preview", "--no-report")
    assert code == 0
    assert "each window is run 24 times" in err
    result = json.loads(out)["results"][0]
    assert result["engine"]["runs_per_window"] == 24
    assert len(result["bundle"]["weights_sha256"]) == 3
    assert result["forecast"]["windows"] == result["engine"]["windows"]


def test_foretold_seconds_are_those_of_all_runs(bundle, weights, volume, monkeypatch):
    """Each of 24 runs of a window is made to take so long that the network's own time does not count."""
    from time import sleep

    from volseg.inference.executors.torch_executor import TorchExecutor

    fast = TorchExecutor.__call__

    def slow(self, windows):
        sleep(0.004 * len(windows))
        return fast(self, windows)

    monkeypatch.setattr(TorchExecutor, "__call__", slow)
    told = {}
    for runs, options in ((1, {}), (24, {"weights": weights, "tta": True})):
        told[runs] = Segmenter(bundle, engine="torch", precision="fp32", device="cpu", **options).plan(volume)["forecast"]
    assert told[24]["windows"] == told[1]["windows"]
    computed = told[1]["windows"] - told[1]["repeated_windows"]
    assert told[24]["stages_s"]["network"] >= 24 * 0.004 * computed


def test_page_names_every_member(bundle, weights, volume):
    from volseg.report.case_tables import provenance

    report = Segmenter(bundle, engine="torch", device="cpu", weights=weights[:2]).segment(volume).report()
    rows = dict(dict(provenance(report))["Bundle"])
    assert rows["Weights"] == "model_fold0.pt, model_fold1.pt"
    assert rows["Weights SHA-256"] == ", ".join(report["bundle"]["weights_sha256"])


@pytest.mark.parametrize("engine", ["torch", "monai"])
def test_only_the_flips_of_training_are_averaged(engine, bundle, volume, tmp_path):
    """A scan mirrored along an axis of `mirror_axes` gives the mirrored answer; along another axis it need not, and with a network that is not symmetric does not."""
    own = tmp_path / "mirrored"
    shutil.copytree(bundle, own)
    edit_config(own, "metadata", mirror_axes=[0])
    edit_config(own, "inference", spacing=[4.0, 4.0, 5.0], patch_size=[48, 48, 48])
    segmenter = Segmenter(own, engine=engine, precision="fp32", device="cpu", tta=True)
    found = segmenter.segment(volume, probabilities=True)
    assert (found.engine["flips"], found.engine["runs_per_window"]) == (2, 2)
    differences = []
    for axis in (0, 1):
        turned = segmenter.segment(Volume(np.flip(volume.array, axis).copy(order="F"), GRID, volume.source), probabilities=True)
        differences.append(float(np.abs(np.flip(turned.probabilities[1], axis) - found.probabilities[1]).max()))
    assert differences[0] < 1e-3 < 0.01 < differences[1]


def test_flips_of_a_bundle_trained_without_are_refused(bundle, tmp_path):
    own = tmp_path / "unmirrored"
    shutil.copytree(bundle, own)
    edit_config(own, "metadata", mirror_axes=[])
    with pytest.raises(InputError, match="trained without mirroring"):
        Segmenter(own, tta=True)
    edit_config(own, "metadata", mirror_axes=[0, 3])
    with pytest.raises(BundleError, match="mirror_axes"):
        Segmenter(own)
