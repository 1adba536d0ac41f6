"""VolsegReader in MONAI's own loaders: by class, by instance and by name, held against NibabelReader."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset, NibabelReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import GeometryError, InputError
from volseg.io.alignment import voxels_on
from volseg.io.dicom import read_series
from volseg.io.monai_reader import VolsegReader

NAME = "volseg.io.monai_reader.VolsegReader"
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, 0.8)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    return write(Scan(ramp(), cosines=OBLIQUE, spacing=(0.5, 1.25)).datasets(), tmp_path / "scan")


@pytest.fixture(name="nifti")
def nifti_fixture(folder: Path, tmp_path: Path) -> Path:
    volume = read_series(folder)
    nib.save(nib.Nifti1Image(volume.array, volume.grid.affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("reader", [VolsegReader, VolsegReader(), NAME], ids=["class", "instance", "name"])
def test_dicom_equals_nibabel_on_the_same_volume(folder: Path, nifti: Path, reader: object) -> None:
    expected = LoadImage(reader=NibabelReader)(nifti)
    image = LoadImage(reader=reader)(folder)
    np.testing.assert_array_equal(image.numpy(), expected.numpy())
    # NIfTI keeps its sform as float32.
    np.testing.assert_allclose(image.affine.numpy(), expected.affine.numpy(), atol=1e-5)
    np.testing.assert_allclose(image.meta["original_affine"], expected.meta["original_affine"], atol=1e-5)
    assert tuple(image.meta["spatial_shape"]) == tuple(expected.meta["spatial_shape"])
    assert np.isnan(image.meta["original_channel_dim"]) and np.isnan(expected.meta["original_channel_dim"])
    assert image.meta["space"] == expected.meta["space"]
    assert image.meta["filename_or_obj"] == str(folder)
    assert image.meta["modality"] == "CT"


def test_nifti_equals_nibabel_bit_for_bit(nifti: Path) -> None:
    image, expected = LoadImage(reader=VolsegReader)(nifti), LoadImage(reader=NibabelReader)(nifti)
    np.testing.assert_array_equal(image.numpy(), expected.numpy())
    np.testing.assert_allclose(image.affine.numpy(), expected.affine.numpy(), atol=1e-6)


def test_in_a_pipeline_with_batches(folder: Path, nifti: Path) -> None:
    steps = [LoadImaged("image", reader=NAME), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))]
    data = Dataset([{"image": str(folder)}, {"image": str(nifti)}], Compose(steps))
    (batch,) = DataLoader(data, batch_size=2, num_workers=0)
    assert batch["image"].shape[:2] == (2, 1)
    np.testing.assert_array_equal(batch["image"][0].numpy(), batch["image"][1].numpy())


def test_several_paths_become_channels(folder: Path, nifti: Path) -> None:
    image = LoadImage(reader=VolsegReader, ensure_channel_first=True)([folder, nifti])
    assert image.shape == (2, 6, 4, 5)
    np.testing.assert_array_equal(image[0].numpy(), image[1].numpy())


def test_channels_on_two_grids_are_brought_to_the_first(folder: Path, tmp_path: Path) -> None:
    other = write(Scan(ramp(4, 6, 5), cosines=OBLIQUE, spacing=(1.0, 1.0)).datasets(), tmp_path / "other")
    image = LoadImage(reader=VolsegReader, ensure_channel_first=True)([folder, other])
    assert image.shape == (2, 6, 4, 5)
    first, second = read_series(folder), read_series(other)
    np.testing.assert_array_equal(image[0].numpy(), first.array)
    np.testing.assert_array_equal(image[1].numpy(), voxels_on(second, first.grid))
    named = LoadImage(reader=VolsegReader, channels=("PET", "CT"))([folder, other])
    assert named[1].min() == second.array.min()


def test_channels_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    away = write(Scan(ramp(), cosines=OBLIQUE, origin=(900.0, 0.0, 0.0)).datasets(), tmp_path / "away")
    with pytest.raises(GeometryError, match="does not overlap"):
        LoadImage(reader=VolsegReader)([folder, away])
    with pytest.raises(InputError, match="2 files are to become the channels CT, PET, MR"):
        LoadImage(reader=VolsegReader, channels=("CT", "PET", "MR"))([folder, folder])


def test_volumes_of_a_4d_file_become_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (6, 5, 4, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "mr.nii.gz")
    image, expected = (LoadImage(reader=reader, ensure_channel_first=True)(tmp_path / "mr.nii.gz") for reader in (VolsegReader, NibabelReader))
    np.testing.assert_array_equal(image.numpy(), expected.numpy())


def test_a_refused_series_is_not_handed_to_the_next_reader(tmp_path: Path) -> None:
    # MONAI tries its own readers when one fails in read(); its PydicomReader reads this tilted series as a straight one.
    positions = np.arange(5)[:, None] * np.array([0, 1.0, 4.0])
    folder = write(Scan(ramp(), positions=positions).datasets(), tmp_path)
    assert LoadImage(reader="PydicomReader")(folder).shape == (6, 4, 5)
    with pytest.raises(GeometryError, match="gantry tilt"):
        LoadImage(reader=VolsegReader)(folder)
    with pytest.raises(Exception, match="gantry tilt"):
        LoadImaged("image", reader=NAME)({"image": str(folder)})


def test_series_is_chosen_by_uid(tmp_path: Path) -> None:
    write(Scan(ramp(3), uid="1.2.3.1").datasets(), tmp_path / "a")
    write(Scan(ramp(4), uid="1.2.3.2").datasets(), tmp_path / "b")
    assert LoadImage(reader=NAME, series="1.2.3.2")(tmp_path).shape == (6, 4, 4)
