from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose

from tests.bundle_factory import edit_config, tiny_bundle, write_scan
from volseg.bundle import read_bundle
from volseg.bundle.read import read_config
from volseg.dataset import Case, read_datalist
from volseg.dataset.cache import open_cache
from volseg.errors import BundleError, DatasetError
from volseg.geometry import Grid
from volseg.training import preprocess as preprocessing
from volseg.training.chain import read_chain
from volseg.training.preprocess import preprocess

CASES = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three scans of a bright ball, on grids of different orientation; the last is larger than the 20 voxels at 8 mm to which training pads."""
    folder = tmp_path_factory.mktemp("balls")
    items = []
    for number, signs in enumerate([(1, 1, 1), (-1, -1, 1), (-1, 1, 1)]):
        grid = Grid((30, 28, 20) if number < 2 else (50, 28, 20), np.diag([*np.multiply(signs, (4.0, 4.0, 6.0)), 1.0]))
        centre = tuple(grid.to_world([13 + number, 14, 10]))
        write_scan(folder / f"imagesTr/case{number}.nii.gz", grid, centre=centre, radius=26)
        write_scan(folder / f"labelsTr/case{number}.nii.gz", grid, centre=centre, radius=26, inside=1, outside=0)
        items.append({"image": f"./imagesTr/case{number}.nii.gz", "label": f"./labelsTr/case{number}.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({"name": "balls", "labels": {"0": "background", "1": "tumor"}, "training": items}))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles"))


def chain_of(bundle: Path):
    path = read_bundle(bundle).train_config
    return read_chain(read_config(path) | {"bundle_root": str(bundle)}, path)


@pytest.fixture(scope="module")
def made(bundle, dataset, tmp_path_factory):
    return preprocess(read_datalist(dataset).cases, chain_of(bundle), read_bundle(bundle), cache=tmp_path_factory.mktemp("cache"), workers=1)


def stock(bundle: Path, identifier: str, item):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    return Compose(parser.get_parsed_content(identifier))(item)


def test_voxels_are_those_of_the_bundles_own_transforms(made, bundle, dataset):
    for case, source in zip(made.cases, read_datalist(dataset).cases, strict=True):
        expected = stock(bundle, "train#deterministic_transforms", source.as_item())
        assert case.name == source.name
        # Half precision: 11 significant bits.
        np.testing.assert_allclose(case.read("image"), np.asarray(expected["image"]), rtol=2**-11, atol=1e-6)
        np.testing.assert_array_equal(case.read("label"), np.asarray(expected["label"]))


def test_validation_sees_what_its_own_transforms_give(made, bundle, dataset):
    from volseg.training.patches import CachedVolumes

    volumes = CachedVolumes([case.folder for case in made.cases], Compose([]))
    for got, case, source in zip((volumes[index] for index in range(CASES)), made.cases, read_datalist(dataset).cases, strict=True):
        expected = stock(bundle, "validate#preprocessing#transforms", source.as_item())
        assert case.interior is not None
        np.testing.assert_allclose(got["image"].numpy(), expected["image"].numpy(), rtol=2**-11, atol=1e-6)
        np.testing.assert_array_equal(got["label"].numpy(), expected["label"].numpy())
        np.testing.assert_allclose(got["image"].affine, expected["image"].affine, atol=1e-9)
        assert got["image"].meta["filename_or_obj"] == str(source.images[0])


def test_what_is_there_is_kept_and_what_changed_is_made_again(made, bundle, dataset, tmp_path):
    data = shutil.copytree(dataset, tmp_path / "data")
    cache = tmp_path / "cache"
    cases = read_datalist(data).cases
    told: list[tuple[int, int, str]] = []
    assert preprocess(cases[:2], chain_of(bundle), read_bundle(bundle), cache=cache, workers=1).made == 2
    whole = preprocess(cases, chain_of(bundle), read_bundle(bundle), cache=cache, workers=1, progress=lambda *step: told.append(step))
    assert (whole.made, whole.reused) == (1, 2)
    assert told == [(3, 3, "case2")]
    os.utime(cases[1].label)
    assert preprocess(cases, chain_of(bundle), read_bundle(bundle), cache=cache).made == 1
    shutil.rmtree(whole.cases[0].folder)
    assert preprocess(cases, chain_of(bundle), read_bundle(bundle), cache=cache).made == 1
    own = shutil.copytree(bundle, tmp_path / "own")
    edit_config(own, "train", spacing=[9.0, 9.0, 9.0])
    other = preprocess(cases, chain_of(own), read_bundle(own), cache=cache)
    assert other.made == CASES
    assert other.folder != whole.folder
    assert other.folder.parent == whole.folder.parent == cache


def test_one_case_twice_is_made_once(made, bundle, dataset, tmp_path):
    case = read_datalist(dataset).cases[0]
    found = preprocess([case, case], chain_of(bundle), read_bundle(bundle), cache=tmp_path, workers=1)
    assert (found.made, len(found.cases)) == (1, 2)


def broken(dataset: Path, folder: Path) -> Path:
    """The dataset with an image that is none."""
    shutil.copytree(dataset, folder)
    (folder / "imagesTr" / "case1.nii.gz").write_bytes(b"this is no image")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_case_that_fails_is_named_and_the_others_are_kept(workers, made, bundle, dataset, tmp_path):
    """In this process or in others, which make the same files."""
    data = broken(dataset, tmp_path / "data")
    with pytest.raises(DatasetError, match=r"case case1: the transforms of `train#deterministic_transforms` fail on .*case1\.nii\.gz") as caught:
        preprocess(read_datalist(data).cases, chain_of(bundle), read_bundle(bundle), cache=tmp_path / "cache", workers=workers)
    assert "\n" not in str(caught.value)
    (folder,) = (tmp_path / "cache").iterdir()
    assert not list(folder.glob(".new*"))
    kept = {case.name: case for case in open_cache(folder).values()}
    assert sorted(kept) == ["case0", "case2"]
    for theirs in made.cases[::2]:
        np.testing.assert_array_equal(kept[theirs.name].read("image"), theirs.read("image"))
        np.testing.assert_array_equal(kept[theirs.name].read("label"), theirs.read("label"))


def test_all_cases_that_fail_are_told_of(bundle, dataset, tmp_path):
    data = broken(dataset, tmp_path / "data")
    (data / "imagesTr" / "case2.nii.gz").write_bytes(b"nor is this")
    with pytest.raises(DatasetError, match=r"\(and 1 more of 3 cases\)") as caught:
        preprocess(read_datalist(data).cases, chain_of(bundle), read_bundle(bundle), cache=tmp_path / "cache", workers=1)
    assert sorted(problem.split(":")[0] for problem in caught.value.problems) == ["case case1", "case case2"]


def test_a_process_that_dies_is_told_of(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["deterministic_transforms"].insert(2, {"_target_": "os._exit", "status": 7})
    (own / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(DatasetError, match=r"case case\d: the process that preprocessed .* ended with status 7"):
        preprocess(read_datalist(dataset).cases, chain_of(own), read_bundle(own), cache=tmp_path / "cache", workers=2)


def test_transforms_that_cannot_be_built(bundle, dataset, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    config = json.loads((own / "configs" / "train.json").read_text())
    config["train"]["deterministic_transforms"][3]["_target_"] = "NoSuchTransform"
    (own / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="could not be set up"):
        preprocess(read_datalist(dataset).cases, chain_of(own), read_bundle(own), cache=tmp_path / "cache", workers=1)


@pytest.mark.parametrize(("worth_s", "expected"), [(0.0, [CASES - 1]), (1e9, [])])
def test_long_work_goes_on_in_processes_of_its_own(worth_s, expected, bundle, dataset, tmp_path, monkeypatch):
    """The first case, the largest, is made here: it tells how much memory and time each case needs."""
    monkeypatch.setattr(preprocessing, "TRIED", 1)
    monkeypatch.setattr(preprocessing, "WORTH_S", worth_s)
    elsewhere: list[int] = []

    def record(jobs, chain, count, teller):
        elsewhere.append(len(jobs))
        preprocessing._make_here(jobs, chain, float("inf"), teller)

    monkeypatch.setattr(preprocessing, "make_elsewhere", record)
    monkeypatch.setattr(preprocessing, "_affordable", lambda jobs: 2)
    assert preprocess(read_datalist(dataset).cases, chain_of(bundle), read_bundle(bundle), cache=tmp_path / "a").made == CASES
    assert elsewhere == expected


def test_processes_are_as_many_as_memory_allows(monkeypatch):
    monkeypatch.setattr(preprocessing, "usable_threads", lambda: 16)
    monkeypatch.setattr(preprocessing, "peak_memory_bytes", lambda: 10**9)
    monkeypatch.setattr(preprocessing, "_free_bytes", lambda: 5 * 10**9)
    # 80 % of 5 GB hold four processes of 1 GB.
    assert preprocessing._affordable(100) == 4
    assert preprocessing._affordable(3) == 3
    monkeypatch.setattr(preprocessing, "_free_bytes", lambda: 10**8)
    assert preprocessing._affordable(100) == 1


def test_a_killed_run_continues(bundle, dataset, tmp_path):
    """Killed after its first case: that one is kept, nothing half-written is taken for a case, and the next run ends with all of them."""
    code = (
        "import os, sys; from pathlib import Path; from tests.integration.test_preprocess import chain_of; from volseg.bundle import read_bundle; "
        "from volseg.dataset import read_datalist; from volseg.training.preprocess import preprocess; bundle, data, cache = map(Path, sys.argv[1:]); "
        "preprocess(read_datalist(data).cases, chain_of(bundle), read_bundle(bundle), cache=cache, workers=1, progress=lambda *_: os.kill(os.getpid(), 9))"
    )
    cache = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", code, str(bundle), str(dataset), str(cache)], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == -9, done.stderr
    (folder,) = cache.iterdir()
    assert len(open_cache(folder)) == 1
    found = preprocess(read_datalist(dataset).cases, chain_of(bundle), read_bundle(bundle), cache=cache, workers=1)
    assert (found.made, found.reused) == (CASES - 1, 1)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "volseg", "preprocess", *arguments], capture_output=True, text=True, timeout=120)


def test_command(bundle, dataset, tmp_path):
    first = run_cli(str(dataset), "-b", str(bundle), "-o", str(tmp_path / "cache"))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("3 cases (3 made in ")
    assert [line for line in first.stderr.splitlines() if line.startswith("preprocessed")][-1].startswith("preprocessed 3/3: case")
    second = run_cli(str(dataset), "-b", str(bundle), "-o", str(tmp_path / "cache"), "--json", "-q")
    facts = json.loads(second.stdout)
    assert (facts["cases"], facts["made"], facts["reused"]) == (3, 0, 3)
    assert facts["bytes"] == sum(path.stat().st_size for path in Path(facts["folder"]).glob("*/*"))
    # The label of a ball of 26 mm radius at 8 mm: 4/3 pi r^3 / 8^3 voxels.
    (ball,) = (entry for entry in facts["entries"].values() if entry["name"] == "case0")
    assert ball["voxels"]["1"] == pytest.approx(4 / 3 * np.pi * 26**3 / 8**3, rel=0.2)
    assert ball["shape"] == [20, 20, 20]


def test_command_refuses_in_one_line(bundle, dataset, tmp_path):
    gone = run_cli(str(tmp_path / "nothing"), "-b", str(bundle))
    assert gone.returncode == 2
    assert "no such dataset" in gone.stderr
    own = shutil.copytree(bundle, tmp_path / "own")
    (own / "configs" / "train.json").unlink()
    bare = run_cli(str(dataset), "-b", str(own))
    assert bare.returncode == 2
    assert len(bare.stderr.splitlines()) == 1
    assert "nothing that its training would do" in bare.stderr
    file = tmp_path / "file"
    file.touch()
    blocked = run_cli(str(dataset), "-b", str(bundle), "-o", str(file / "cache"))
    assert blocked.returncode == 2
    assert "cannot be written" in blocked.stderr


def ramp(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """0.5 x + y - 0.25 z in mm (RAS+), which linear interpolation gives back exactly."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return ((index @ affine[:3, :3].T + affine[:3, 3]) @ [0.5, 1.0, -0.25]).astype(np.float32)


def test_channels_on_other_grids_are_brought_to_the_first(bundle, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "two")
    metadata = json.loads((own / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"] |= {"num_channels": 2, "channel_def": {"0": "CT", "1": "PET"}}
    (own / "configs" / "metadata.json").write_text(json.dumps(metadata))
    ct, pet = np.diag([4.0, 4.0, 6.0, 1.0]), np.array([[-5.0, 0, 0, 130], [0, 5, 0, -10], [0, 0, 7, -12], [0, 0, 0, 1]])
    for name, affine, shape in (("ct", ct, (30, 28, 20)), ("pet", pet, (29, 27, 21))):
        nib.save(nib.Nifti1Image(ramp(affine, shape), affine), tmp_path / f"{name}.nii.gz")
    label = np.zeros((30, 28, 20), np.uint8)
    label[10:20, 10:20, 5:15] = 1
    nib.save(nib.Nifti1Image(label, ct), tmp_path / "label.nii.gz")
    case = Case((tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz"), tmp_path / "label.nii.gz")
    (made,) = preprocess([case], chain_of(own), read_bundle(own), cache=tmp_path / "cache", workers=1).cases
    assert made.channels == 2
    assert made.interior is not None
    image = made.read("image", [slice(start, stop) for start, stop in made.interior])
    # The bundle maps -160..240 to 0..1; both channels hold the same function of place. One voxel in from every side neither resampling reaches past its data.
    expected = (np.clip(ramp(np.array(made.affine), image.shape[1:]), -160, 240) + 160) / 400
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(image[0][inner], expected[inner], atol=1e-3)
    np.testing.assert_allclose(image[1][inner], expected[inner], atol=1e-3)


def test_dicom_cases_are_read_as_volseg_reads_them(bundle, tmp_path):
    """A DICOM series gives the voxels that the same scan gives as NIfTI."""
    from volseg.synthetic import make_ct, write_sample

    files = write_sample(make_ct(0, shape=(48, 40, 12), spacing=(3.0, 3.0, 6.0)), tmp_path / "sample")["files"]
    scan, label, series = (tmp_path / "sample" / files[name] for name in ("image", "label", "dicom"))
    first, second = preprocess([Case((series,), label), Case((scan,), label)], chain_of(bundle), read_bundle(bundle), cache=tmp_path / "cache", workers=1).cases
    assert first.folder != second.folder
    np.testing.assert_allclose(first.read("image"), second.read("image"), atol=2e-3)
    np.testing.assert_array_equal(first.read("label"), second.read("label"))
