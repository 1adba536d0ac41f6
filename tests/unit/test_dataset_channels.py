"""Cases whose channels lie on several grids become NIfTI files of one grid, the same voxels that inference makes of them; and real PET/CT trains."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK
from monai.transforms import EnsureChannelFirstd, LoadImaged

from tests.bundle_factory import two_channel_bundle
from tests.dicom_factory import Scan, ramp, write
from volseg.dataset import Case, check_cases, convert_cases, count_channels, read_datalist
from volseg.errors import DatasetError
from volseg.geometry import Grid
from volseg.io import load, save_volume
from volseg.io.alignment import voxels_on
from volseg.io.channels import load_channels

CT_GRID = Grid((20, 18, 9), np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 21], [0, 0, 4.0, -10], [0, 0, 0, 1]]))
PET_GRID = Grid((9, 8, 8), np.array([[4.1, 0, 0, -5], [0, 4.2, 0, -16], [0, 0, 4.3, -9], [0, 0, 0, 1.0]]))
NAMES = ("CT", "PET")


def voxels(where: Grid, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, where.shape).astype(np.int16)


@pytest.fixture
def case(tmp_path):
    """A CT, a PET on coarser voxels that does not cover all of it, and a label on the CT's."""
    save_volume(voxels(CT_GRID, 0), CT_GRID, tmp_path / "in" / "ct.nii.gz")
    save_volume(voxels(PET_GRID, 1), PET_GRID, tmp_path / "in" / "pet.nii.gz")
    save_volume((voxels(CT_GRID, 0) > 0).astype(np.uint8), CT_GRID, tmp_path / "in" / "label.nii.gz")
    return Case((tmp_path / "in" / "ct.nii.gz", tmp_path / "in" / "pet.nii.gz"), tmp_path / "in" / "label.nii.gz", fold=2, channels=NAMES)


def loaded_by_monai(case: Case) -> np.ndarray:
    data = EnsureChannelFirstd("image")(LoadImaged("image")({"image": case.as_item()["image"]}))
    return data["image"].numpy()


def test_a_second_grid_is_brought_to_the_first(case, tmp_path):
    told = []
    (converted,) = convert_cases([case], tmp_path / "out", progress=told.append)
    assert told == [f"converting {case.images[0]}"]
    assert converted.images == (case.images[0], tmp_path / "out" / "ct_0001.nii.gz")
    assert (converted.label, converted.fold) == (case.label, 2)
    seen = loaded_by_monai(converted)
    image = load_channels(zip(NAMES, case.images, strict=True), NAMES)
    assert np.array_equal(seen[0], image.array)
    assert np.array_equal(seen[1], voxels_on(image.further[0], CT_GRID))
    assert (seen[1] == 0).any()


def test_a_resumed_run_keeps_what_is_there(case, tmp_path):
    (first,) = convert_cases([case], tmp_path / "out")
    written = first.images[1].stat().st_mtime_ns
    assert convert_cases([case], tmp_path / "out", reuse=True) == [first]
    assert first.images[1].stat().st_mtime_ns == written
    first.images[1].unlink()
    assert convert_cases([case], tmp_path / "out", reuse=True) == [first]
    assert first.images[1].exists()


def test_channels_of_one_grid_are_left_alone(case, tmp_path):
    save_volume(voxels(CT_GRID, 3), CT_GRID, case.images[1])
    assert convert_cases([case], tmp_path / "out")[0] is case
    assert not (tmp_path / "out").exists()


def test_affines_that_differ_by_rounding_are_made_equal_without_interpolation(case, tmp_path):
    """MONAI refuses to stack them as they are."""
    moved = Grid(CT_GRID.shape, CT_GRID.affine + np.pad([[0.004]], ((0, 3), (3, 0))))
    save_volume(voxels(CT_GRID, 3), moved, case.images[1])
    with pytest.raises(RuntimeError):
        loaded_by_monai(case)
    (converted,) = convert_cases([case], tmp_path / "out")
    assert np.array_equal(loaded_by_monai(converted)[1], voxels(CT_GRID, 3))
    assert nibabel.load(converted.images[1]).get_data_dtype() == np.int16


def test_a_ct_that_comes_second_is_air_outside(case, tmp_path):
    swapped = Case(case.images, case.label, channels=("PET", "CT"))
    (converted,) = convert_cases([swapped], tmp_path / "out")
    assert loaded_by_monai(converted)[1][0, 0, 0] == voxels(PET_GRID, 1).min()
    # The bundle's names win: inference knows no others.
    (converted,) = convert_cases([swapped], tmp_path / "other", channels=NAMES)
    assert loaded_by_monai(converted)[1][0, 0, 0] == 0


def test_a_first_channel_that_monai_would_place_elsewhere_is_written_too(case, tmp_path):
    """A shear that volseg mends, and a format that MONAI reads with another reader than the rest."""
    sheared = CT_GRID.affine.copy()
    sheared[0, 1] = 5e-4
    image = nibabel.Nifti1Image(voxels(CT_GRID, 0), sheared)
    nibabel.save(image, case.images[0])
    (converted,) = convert_cases([case], tmp_path / "out")
    assert converted.images[0] == tmp_path / "out" / "ct_0000.nii.gz"
    assert np.allclose(nibabel.load(converted.images[0]).affine, load(case.images[0]).grid.affine, atol=1e-5)
    nrrd = tmp_path / "in" / "ct.nrrd"
    save_volume(voxels(CT_GRID, 0), CT_GRID, nrrd)
    (converted,) = convert_cases([Case((nrrd, case.images[1]), case.label)], tmp_path / "nrrd")
    assert np.array_equal(loaded_by_monai(converted)[0], voxels(CT_GRID, 0))


def test_dicom_and_nifti_channels_of_one_case(case, tmp_path):
    folder = write(Scan(ramp(8, 9, 10), spacing=(4.0, 4.0), step=4.0, origin=(-10, -20, -8)).datasets(), tmp_path / "in" / "series")
    (converted,) = convert_cases([Case((folder, case.images[1]), case.label, channels=NAMES)], tmp_path / "out")
    seen = loaded_by_monai(converted)
    image = load_channels([("CT", folder), ("PET", case.images[1])], NAMES)
    assert np.array_equal(seen[0], image.array)
    assert np.array_equal(seen[1], voxels_on(image.further[0], image.grid))


def test_what_cannot_be_put_together_is_told_of_every_case(case, tmp_path):
    away = tmp_path / "in" / "away.nii.gz"
    save_volume(voxels(PET_GRID, 1), Grid(PET_GRID.shape, PET_GRID.affine + np.pad([[900.0]], ((0, 3), (3, 0)))), away)
    broken = tmp_path / "in" / "broken.nii.gz"
    broken.write_text("no image")
    bad = [Case((case.images[0], image), case.label, channels=NAMES) for image in (away, broken)]
    with pytest.raises(DatasetError) as caught:
        convert_cases([case, *bad], tmp_path / "out")
    problems = caught.value.problems
    assert len(problems) == 2
    assert any("away.nii.gz: channel PET does not overlap" in problem for problem in problems)
    assert any("broken.nii.gz" in problem for problem in problems)


def test_a_header_that_places_no_voxel_is_told(case, tmp_path):
    flat = nibabel.Nifti1Image(voxels(PET_GRID, 1), None)
    flat.header.set_sform(np.diag([0.0, 1.0, 1.0, 1.0]), 1)
    nibabel.save(flat, case.images[1])
    with pytest.raises(DatasetError, match=r"pet\.nii\.gz: .*singular"):
        convert_cases([case], tmp_path / "out")


def test_channels_of_one_4d_file(case, tmp_path):
    both = tmp_path / "in" / "both.nii.gz"
    stacked = np.stack([voxels(CT_GRID, 0), voxels(CT_GRID, 1)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stacked, CT_GRID.affine), both)
    one = Case((both,), case.label, channels=NAMES)
    assert [count_channels(c) for c in (one, case, Case(case.images[:1], case.label))] == [2, 2, 1]
    assert convert_cases([one], tmp_path / "out") == [one]
    check_cases([one], {0, 1})
    assert np.array_equal(loaded_by_monai(one), stacked.transpose(3, 0, 1, 2))


def test_decathlon_names_the_channels(case, tmp_path):
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"modality": {"0": "CT", "1": "PET"}, "training": [{"image": ["ct.nii.gz", "pet.nii.gz"], "label": "label.nii.gz"}]}))
    assert read_datalist(tmp_path / "in").cases[0].channels == NAMES


def test_real_pet_and_ct_become_one_image_and_train_a_step(real_data, tmp_path):
    """Two patients of the soft-tissue sarcoma set: CT and PET on two grids in one frame."""
    from volseg.training import train

    source = real_data / "sts" / "dataset_petct.json"
    content = json.loads(source.read_text())
    items = content["training"][:2]
    for number, item in enumerate(items):
        item |= {"image": [str(source.parent / path) for path in item["image"]], "label": str(source.parent / item["label"]), "fold": number}
    (tmp_path / "petct.json").write_text(json.dumps(content | {"training": items}))
    cases = read_datalist(tmp_path / "petct.json").cases
    for case, converted in zip(cases, convert_cases(cases, tmp_path / "converted"), strict=True):
        seen = loaded_by_monai(converted)
        ct, pet = (load(path) for path in case.images)
        assert pet.grid.shape != ct.grid.shape
        assert seen.shape == (2, *ct.grid.shape)
        reader = SimpleITK.ReadImage(str(case.images[1]), SimpleITK.sitkFloat32)
        expected = SimpleITK.Resample(reader, SimpleITK.ReadImage(str(case.images[0])), SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
        # Where the PET's edge meets centres of CT voxels, rounding decides whether they are still inside.
        at = pet.grid.to_voxel(ct.grid.to_world(np.stack(np.meshgrid(*map(np.arange, ct.grid.shape), indexing="ij"), axis=-1)))
        edge = (np.abs(np.abs(at - (np.array(pet.grid.shape) - 1) / 2) - np.array(pet.grid.shape) / 2) < 2e-3).any(axis=-1)
        assert edge.mean() < 0.05
        np.testing.assert_allclose(seen[1][~edge], SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0)[~edge], atol=1e-3)
    result = train(two_channel_bundle(tmp_path), tmp_path / "petct.json", tmp_path / "run", epochs=1, device="cpu", precision="fp32")
    assert result.epochs == 1
    assert result.best_metric is not None
    assert sorted(path.name for path in (tmp_path / "run" / "converted").glob("*_0001.nii.gz"))
