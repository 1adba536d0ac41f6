"""PET in DICOM, stored in Bq/ml: planned, trained and segmented in SUV, without being told to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import volseg
from tests.bundle_factory import edit_config, threshold_bundle
from tests.dicom_factory import Scan, write
from volseg.bundle import read_bundle
from volseg.cli import main
from volseg.dataset import convert_cases, read_datalist
from volseg.errors import BundleError, DatasetError
from volseg.inference import Segmenter
from volseg.io import save_label, save_volume
from volseg.io.channels import load_channels
from volseg.planning import plan
from volseg.training import train
from volseg.training.sources import in_units_of

BACKGROUND, LESION = 2500, 20000
"""Bq/ml."""

FACTOR = 80_000 / 2e8
"""SUV is activity over dose by weight (g); the images are corrected for decay to the injection, so the dose is as injected."""


def pet(folder: Path, *, seed: int = 0, **tags: object) -> Path:
    """A PET series in Bq/ml of a hot ball."""
    k, j, i = np.meshgrid(np.arange(20), np.arange(24), np.arange(24), indexing="ij")
    centre = np.random.default_rng(seed).uniform(-2, 2, 3) + np.array([10, 12, 12])
    ball = (k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 < 6**2
    drug = Dataset()
    drug.RadionuclideTotalDose = "2e8"
    given = {"Modality": "PT", "Units": "BQML", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "ADMIN", "PatientWeight": "80"} | tags
    known = {name: value for name, value in given.items() if value is not None}
    uid = f"2.25.{1000 + seed}"
    stored = np.where(ball, LESION, BACKGROUND).astype(np.int16)
    tags = {"RadiopharmaceuticalInformationSequence": Sequence([drug]), "SeriesDescription": "pet", **known}
    return write(Scan(stored, spacing=(3.0, 3.0), step=3.0, uid=uid, tags=tags).datasets(), folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Four PETs in DICOM with the ball as label."""
    folder = tmp_path_factory.mktemp("pets")
    items = []
    for number in range(4):
        scan = volseg.load(pet(folder / f"case{number}" / "PET", seed=number))
        save_label((scan.array > 10_000).astype(np.uint8), scan, folder / f"case{number}.nii.gz")
        items.append({"image": f"case{number}/PET", "label": f"case{number}.nii.gz", "fold": number % 2})
    listing = folder / "dataset.json"
    listing.write_text(json.dumps({"name": "pets", "modality": {"0": "PET"}, "labels": {"0": "background", "1": "lesion"}, "training": items}))
    return listing


@pytest.fixture(scope="module")
def planned(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planned") / "pet_lesion"
    plan(dataset, folder, device="cpu", preset="fast")
    return folder


def test_the_plan_is_in_suv(planned):
    bundle = read_bundle(planned)
    assert bundle.channel_units == ("SUVbw",)
    assert bundle.wants_suv
    intensities = json.loads((planned / "docs" / "fingerprint.json").read_text())["intensities_of_foreground"]
    # The foreground holds the lesion's activity alone.
    assert intensities[0]["percentile_99_5"] == pytest.approx(LESION * FACTOR, rel=1e-5)


def test_training_reads_suv(planned, dataset, tmp_path):
    bundle = read_bundle(planned)
    cases = in_units_of(bundle, read_datalist(dataset).cases)
    for case, now in zip(cases, convert_cases(cases, tmp_path / "converted"), strict=True):
        np.testing.assert_allclose(volseg.load(now.images[0]).array, volseg.load(case.images[0]).array * FACTOR, rtol=1e-6)
    result = train(planned, dataset, tmp_path / "run", device="cpu", epochs=1, settings={"iterations_per_epoch": 1}, cache=tmp_path / "cache")
    assert result.epochs == 1
    converted = sorted((tmp_path / "run" / "converted").glob("*_0000.nii.gz"))
    assert len(converted) == 4
    assert max(float(volseg.load(path).array.max()) for path in converted) == pytest.approx(LESION * FACTOR, rel=1e-5)


def bundle_for_suv(folder: Path, *units: str) -> Path:
    """A bundle whose label is what lies above the threshold of :func:`threshold_bundle`, with units said."""
    bundle = threshold_bundle(folder)
    edit_config(bundle, "metadata", channel_units=list(units))
    return bundle


def test_a_pet_in_dicom_is_segmented_in_suv(tmp_path):
    series, bundle = pet(tmp_path / "PET"), bundle_for_suv(tmp_path, "SUVbw")
    expected = volseg.load(series).array * FACTOR
    with Segmenter(bundle, device="cpu") as segmenter:
        found = segmenter.segment(series)
    np.testing.assert_allclose(found.volume.array, expected, rtol=1e-6)
    assert found.volume.source.details["units"] == "SUVbw"
    assert not [note for note in found.warnings if "SUV" in note]
    with pytest.raises(SystemExit) as ended:
        main(["infer", str(series), "-b", str(bundle), "-o", str(tmp_path / "out"), "--device", "cpu", "--no-preview", "--no-report"])
    assert ended.value.code == 0
    assert json.loads(next((tmp_path / "out").glob("*_seg.json")).read_text())["input"]["details"]["units"] == "SUVbw"


def test_activity_where_suv_is_wanted_is_told(tmp_path):
    scan = volseg.load(pet(tmp_path / "PET"))
    save_volume(scan.array, scan.grid, tmp_path / "activity.nii.gz")
    save_volume(scan.array * np.float32(FACTOR), scan.grid, tmp_path / "suv.nii.gz")
    with Segmenter(bundle_for_suv(tmp_path, "SUVbw"), device="cpu") as segmenter:
        assert [note for note in segmenter.segment(tmp_path / "activity.nii.gz").warnings if "cannot be in SUV" in note]
        assert not [note for note in segmenter.segment(tmp_path / "suv.nii.gz").warnings if "SUV" in note]


def test_without_units_a_pet_stays_as_it_is(tmp_path):
    series = pet(tmp_path / "PET")
    with Segmenter(bundle_for_suv(tmp_path), device="cpu") as segmenter:
        np.testing.assert_array_equal(segmenter.segment(series).volume.array, volseg.load(series).array)


def test_only_pets_in_dicom_are_turned(tmp_path):
    series = pet(tmp_path / "PET")
    ct = pet(tmp_path / "CT", seed=1, Modality="CT", Units=None, PatientWeight=None)
    image = load_channels([("CT", ct), ("PET", series)], ("CT", "PET"), suv="pet")
    np.testing.assert_array_equal(image.channels[0].array, volseg.load(ct).array)
    np.testing.assert_allclose(image.channels[1].array, volseg.load(series).array * FACTOR, rtol=1e-6)


def test_a_pet_without_weight_cannot_be_planned_with(dataset, tmp_path):
    content = json.loads(dataset.read_text())
    for item in content["training"]:
        item["image"], item["label"] = (str(dataset.parent / item[key]) for key in ("image", "label"))
    content["training"][2]["image"] = str(pet(tmp_path / "light", seed=2, PatientWeight=None))
    listing = tmp_path / "dataset.json"
    listing.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="PatientWeight"):
        plan(listing, tmp_path / "bundle", device="cpu")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("units", [["HU", "SUVbw"], "SUVbw", [1]])
def test_units_that_do_not_fit_the_channels_are_refused(units, tmp_path):
    bundle = threshold_bundle(tmp_path)
    edit_config(bundle, "metadata", channel_units=units)
    with pytest.raises(BundleError, match="channel_units"):
        read_bundle(bundle)
