"""Channels on several grids: brought together as SimpleITK does it, named and checked; 4D files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import GeometryError, InputError
from volseg.geometry import Grid
from volseg.io import Volume, load
from volseg.io.alignment import align, covered_share, voxels_on
from volseg.io.channels import combine, in_order, load_channels, with_names
from volseg.io.modality import expected_modality
from volseg.io.volume import Source

FLOAT32_OF_VALUES = 0.01
"""Voxels are up to 2000 apart, of which float32 and a few sums keep better than this."""


def grid(shape=(20, 18, 12), spacing=(1.0, 1.2, 3.0), matrix=None, centre=(3.0, -40.0, 20.0)) -> Grid:
    """A grid around a place."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if matrix is None else np.asarray(matrix)) * np.array(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def volume(where: Grid, *, modality: str | None = None, channel: str | None = None, seed: int = 0, dtype: str = "int16", low: int = -1000) -> Volume:
    array = np.random.default_rng(seed).integers(low, 1000, where.shape).astype(dtype)
    return Volume(array, where, Source(Path(f"{channel or 'scan'}.nii.gz"), "nifti", channel or "scan", modality=modality, channel=channel))


def itk(array: np.ndarray, where: Grid) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    lps = where.lps_affine
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(where.spacing)
    image.SetDirection((lps[:3, :3] / np.array(where.spacing)).ravel().tolist())
    return image


FIRST = grid()
TURN = euler2mat(0.2, -0.3, 0.5)
OTHERS = {
    "coarser, larger": grid((14, 11, 15), (2.3, 2.9, 3.1), centre=(3.7, -41.3, 21.1)),
    "finer, inside": grid((13, 12, 17), (0.7, 0.8, 0.9), centre=(4.1, -40.53, 20.3)),
    "flipped": grid((9, 8, 10), (2.7, 2.9, 4.1), np.diag([-1, -1, 1]), centre=(5.1, -38.6, 23.3)),
    "axes swapped": grid((10, 9, 8), (2.7, 3.9, 4.1), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]], centre=(5.1, -38.6, 23.3)),
    "one slice": grid((30, 30, 1), (1.3, 1.1, 7.0), centre=(3.3, -40.2, 20.4)),
    "turned": grid((12, 11, 9), (2.1, 1.9, 3.3), TURN, centre=(4.4, -39.1, 19.0)),
    "half outside": grid((12, 11, 9), (1.5, 1.9, 3.3), centre=(12.4, -39.1, 30.0)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_channel_is_interpolated_as_simpleitk_does_it(name):
    other = volume(OTHERS[name], seed=1)
    found = voxels_on(other, FIRST, threads=2)
    expected = SimpleITK.Resample(itk(other.array.astype(np.float32), other.grid), itk(np.zeros(FIRST.shape, np.float32), FIRST), SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
    expected = SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0)
    assert found.dtype == np.float32
    assert found.shape == FIRST.shape
    assert 0.02 < (expected != 0).mean() <= 1
    # Where an edge meets a voxel centre, rounding decides whether it is still inside.
    at = other.grid.to_voxel(FIRST.to_world(np.stack(np.meshgrid(*map(np.arange, FIRST.shape), indexing="ij"), axis=-1)))
    edge = (np.abs(np.abs(at - (np.array(other.grid.shape) - 1) / 2) - np.array(other.grid.shape) / 2) < 2e-3).any(axis=-1)
    assert edge.mean() < 0.1
    np.testing.assert_allclose(found[~edge], expected[~edge], atol=FLOAT32_OF_VALUES)


def test_oblique_grids_of_parallel_axes_are_resampled_axis_by_axis(monkeypatch):
    """And a general one is not; both give the same."""
    first, other = grid(matrix=TURN), volume(grid((12, 11, 9), (2.1, 1.9, 3.3), TURN @ np.diag([-1, 1, -1]), centre=(4.4, -39.1, 19.0)))
    monkeypatch.setattr("volseg.io.alignment.PARALLEL_TOLERANCE", -1.0)
    general = voxels_on(other, first)
    monkeypatch.undo()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("not needed for parallel axes")

    monkeypatch.setattr("scipy.ndimage.affine_transform", fail)
    np.testing.assert_allclose(voxels_on(other, first), general, atol=FLOAT32_OF_VALUES)


ANGLES = st.floats(-3.0, 3.0)


@settings(max_examples=30)
@given(
    angles=st.tuples(ANGLES, ANGLES, ANGLES),
    own=st.tuples(ANGLES, ANGLES, ANGLES),
    spacing=st.tuples(*[st.floats(0.8, 4.0)] * 3),
    shape=st.tuples(*[st.integers(2, 12)] * 3),
    centre=st.tuples(*[st.floats(-15.0, 15.0)] * 3),
)
def test_what_lies_between_voxels_is_found_where_it_is_in_the_patient(angles, own, spacing, shape, centre):
    """A field that is linear in space is reproduced exactly between voxel centres, whatever the grids; far outside there is the constant."""
    first, other = grid((9, 8, 7), (1.5, 2.0, 2.5), euler2mat(*own), (0, 0, 0)), grid(shape, spacing, euler2mat(*angles), centre)

    def field(where: Grid) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, where.shape), indexing="ij"), axis=-1)
        return where.to_world(index) @ np.array([1.0, -2.0, 3.0]) + 500

    found = voxels_on(Volume(field(other).astype(np.float32), other, Source(Path("x"), "nifti", "x")), first)
    at = other.to_voxel(first.to_world(np.stack(np.meshgrid(*map(np.arange, first.shape), indexing="ij"), axis=-1)))
    between = ((at >= 0) & (at <= np.array(shape) - 1)).all(axis=-1)
    beyond = ((at < -0.6) | (at > np.array(shape) - 0.4)).any(axis=-1)
    np.testing.assert_allclose(found[between], field(first)[between], atol=FLOAT32_OF_VALUES)
    assert (found[beyond] == 0).all()


def test_same_grid_keeps_the_array_and_rounded_affines_are_the_same_grid():
    rounded = Grid(FIRST.shape, FIRST.affine + np.pad(np.full((3, 1), 4e-3), ((0, 1), (3, 0))))
    for where in (FIRST, rounded):
        channel = volume(where)
        assert voxels_on(channel, FIRST) is channel.array


def test_nan_counts_as_the_lowest_finite_value():
    channel = volume(OTHERS["coarser, larger"], dtype="float32")
    channel.array[4:7, 4:7, 4:7] = np.nan
    channel.array[0, 0, 0] = np.inf
    lowest = np.nanmin(channel.array)
    mended = np.where(np.isfinite(channel.array), channel.array, lowest)
    assert np.array_equal(voxels_on(channel, FIRST), voxels_on(Volume(mended, channel.grid, channel.source), FIRST))
    assert np.array_equal(voxels_on(channel, channel.grid), mended)


@pytest.mark.parametrize(
    ("modality", "channel", "outside"),
    [("CT", None, "lowest"), (None, "CT", "lowest"), ("PT", None, 0), (None, "PET", 0), (None, None, 0), ("CT", "PET", 0), ("MR", "ct", "lowest"), (None, "T2_FLAIR", 0)],
)
def test_outside_its_field_of_view_a_ct_is_air_and_anything_else_nothing(modality, channel, outside):
    other = volume(OTHERS["half outside"], modality=modality, channel=channel)
    found = voxels_on(other, FIRST)
    assert found[0, 0, 0] == (other.array.min() if outside == "lowest" else 0)
    away = volume(grid(centre=(500, 0, 0)), modality=modality, channel=channel)
    assert (voxels_on(away, FIRST) == (away.array.min() if outside == "lowest" else 0)).all()


def test_align_brings_all_to_the_first_grid():
    first, second, third = align([volume(FIRST), volume(OTHERS["turned"], seed=1), volume(FIRST, seed=2)])
    assert {v.grid for v in (first, second, third)} == {FIRST}
    assert np.array_equal(second.array, voxels_on(volume(OTHERS["turned"], seed=1), FIRST))
    assert third.array.dtype == np.int16


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "CT"),
        ("ct", "CT"),
        ("PET", "PT"),
        ("FDG-PET (SUV)", "PT"),
        ("T1w", "MR"),
        ("T1gd", "MR"),
        ("mri", "MR"),
        ("image", None),
        ("channel 0", None),
        ("PETROUS", None),
        (None, None),
    ],
)
def test_what_a_channel_name_says(name, modality):
    assert expected_modality(name) == modality


def test_channels_are_put_into_the_bundles_order():
    assert list(in_order([("pet", 2), (" CT ", 1)], ("CT", "PET")).items()) == [("CT", 1), ("PET", 2)]


@pytest.mark.parametrize(
    ("given", "words"),
    [([("CT", 1)], "channel PET: is missing"), ([("CT", 1), ("PET", 2), ("ct", 3)], "'ct': is given twice"), ([("CT", 1), ("MR", 2)], "'MR': the bundle has no such input")],
)
def test_wrong_names_are_told(given, words):
    with pytest.raises(InputError, match=words) as caught:
        in_order(given, ("CT", "PET"))
    assert "CT, PET" in str(caught.value)


def test_share_of_a_field_of_view():
    # 20 voxels of 1 mm and 10 of 2 mm, moved by half of their 20 mm: half of the voxels' centres lie inside.
    assert covered_share(grid((20, 5, 5), (1, 1, 1), centre=(0, 0, 0)), grid((10, 5, 5), (2, 1, 1), centre=(10, 0, 0))) == 0.5
    assert covered_share(FIRST, FIRST) == 1
    assert covered_share(FIRST, grid(centre=(500, 0, 0))) == 0


def test_combined_channels_keep_their_grids_and_tell_what_is_doubtful():
    ct, pet = volume(FIRST, modality="CT"), replace(volume(OTHERS["half outside"], modality="PT"), warnings=("is odd",))
    image = combine({"CT": ct, "PET": pet})
    assert image.grid == FIRST
    assert [channel.source.channel for channel in image.channels] == ["CT", "PET"]
    assert image.channels[1].grid == pet.grid
    share = covered_share(FIRST, pet.grid)
    assert 0.1 < share < 0.9
    assert image.warnings == ("PET: is odd", f"channel PET covers {100 * share:.1f} % of the field of view of channel CT; the rest of it is taken as 0")
    assert combine({"CT": ct, "PET": volume(OTHERS["coarser, larger"])}).warnings == ()


def test_one_scan_for_two_channels_is_told(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp(4, 5, 6), np.eye(4)), tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(ramp(4, 5, 6) + np.int16(1), np.eye(4)), tmp_path / "b.nii")
    twice = load_channels([("CT", tmp_path / "a.nii"), ("PET", tmp_path / "a.nii")], ["CT", "PET"])
    assert twice.warnings == (f"channels CT and PET are one and the same scan ({tmp_path / 'a.nii'})",)
    assert load_channels([("CT", tmp_path / "a.nii"), ("PET", tmp_path / "b.nii")], ["CT", "PET"]).warnings == ()


def test_channels_that_do_not_overlap_are_refused():
    with pytest.raises(GeometryError, match=r"PET.nii.gz: channel PET does not overlap channel CT .* 300 mm apart"):
        combine({"CT": volume(FIRST), "PET": volume(grid(centre=(303, -40, 20)), channel="PET")})


def test_an_image_of_several_channels_is_no_single_channel():
    several = replace(volume(FIRST), further=(volume(FIRST),))
    with pytest.raises(InputError, match="holds 2 channels"):
        combine({"CT": several, "PET": volume(FIRST)})


def series(folder: Path, modality: str, frame: str, **more: object) -> Path:
    return write(Scan(ramp(6, 8, 10), tags={"Modality": modality, "FrameOfReferenceUID": frame, **more}).datasets(), folder)


def test_dicom_channels_of_another_frame_of_reference_are_refused(tmp_path):
    ct, pet = series(tmp_path / "ct", "CT", "1.2.3"), series(tmp_path / "pet", "PT", "1.2.4")
    with pytest.raises(GeometryError, match=r"frame of reference \(1\.2\.4\).*1\.2\.3") as caught:
        load_channels([("CT", ct), ("PET", pet)], ("CT", "PET"))
    assert str(pet) in str(caught.value)
    assert load_channels([("CT", ct), ("PET", series(tmp_path / "pet2", "PT", "1.2.3"))], ("CT", "PET")).channels[1].source.modality == "PT"


def test_each_channel_takes_its_modality_from_a_folder_of_both(tmp_path):
    series(tmp_path / "both" / "a", "CT", "1.2.3")
    series(tmp_path / "both" / "b", "PT", "1.2.3")
    image = load_channels([("PET", tmp_path / "both"), ("CT", tmp_path / "both")], ("CT", "PET"))
    assert [channel.source.modality for channel in image.channels] == ["CT", "PT"]


def test_suv_is_of_pet_channels_only(tmp_path):
    with pytest.raises(InputError, match="--suv: none of the channels T1, T2 is a PET"):
        load_channels([("T1", volume(FIRST)), ("T2", volume(FIRST))], ("T1", "T2"), suv=True)
    ct, pet = series(tmp_path / "ct", "CT", "1.2.3"), series(tmp_path / "pet", "PT", "1.2.3", Units="GML")
    image = load_channels([("CT", ct), ("PET", pet)], ("CT", "PET"), suv=True)
    assert image.channels[1].source.details["units"] == "SUVbw"
    assert "units" not in image.source.details or image.source.details["units"] != "SUVbw"


def four_dimensional(path: Path, shape: tuple[int, ...], slope: float | None = None) -> np.ndarray:
    array = np.random.default_rng(5).integers(-500, 500, shape).astype(np.int16)
    image = nibabel.Nifti1Image(array, np.diag([2.0, 1.5, 3.0, 1.0]))
    if slope is not None:
        image.header.set_slope_inter(slope, 10)
    nibabel.save(image, path)
    return nibabel.load(path).get_fdata()


@pytest.mark.parametrize("slope", [None, 0.5])
@pytest.mark.parametrize("channels", [3, None])
def test_volumes_of_a_4d_file_are_channels(tmp_path, slope, channels):
    expected = four_dimensional(tmp_path / "mr.nii.gz", (6, 5, 4, 3), slope)
    image = load(tmp_path / "mr.nii.gz", channels=channels)
    assert len(image.channels) == 3
    for number, channel in enumerate(image.channels):
        np.testing.assert_allclose(channel.array, expected[..., number], rtol=1e-6)
        assert channel.grid == image.grid
    named = with_names(image, ("T1", "T2", "FLAIR"))
    assert [channel.source.channel for channel in named.channels] == ["T1", "T2", "FLAIR"]


@pytest.mark.parametrize(("shape", "channels", "words"), [((6, 5, 4, 3), 1, "holds 3 volumes"), ((6, 5, 4, 3), 2, "has 2 volumes"), ((6, 5, 4, 1, 3), 3, "on its fourth axis")])
def test_4d_files_that_are_no_such_image_are_refused(tmp_path, shape, channels, words):
    four_dimensional(tmp_path / "mr.nii", shape)
    with pytest.raises(InputError, match=words):
        load(tmp_path / "mr.nii", channels=channels)


def test_a_3d_file_stays_one_channel(tmp_path):
    four_dimensional(tmp_path / "mr.nii", (6, 5, 4))
    assert load(tmp_path / "mr.nii", channels=None).further == ()
    assert load(tmp_path / "mr.nii", channels=2).further == ()
