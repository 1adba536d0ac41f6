"""Random grids written and read again: the same voxels at the same places, by our own readers and by nibabel and SimpleITK as oracles."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.quaternions import quat2mat

from volseg.geometry import Grid
from volseg.io import load, save_volume

FLOAT32_MM = 2e-4
"""A NIfTI sform keeps 24 bits: 6e-8 of a position of up to 1000 mm, a few roundings added up."""

light = settings(deadline=None, max_examples=15)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)))
    spacing = np.array(draw(st.tuples(*[st.floats(0.2, 8.0)] * 3)))
    mirror = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = quat2mat(quaternion / np.linalg.norm(quaternion)) @ mirror * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-700, 700)] * 3))
    return Grid(draw(st.tuples(*[st.integers(2, 7)] * 3)), affine)


def numbered(grid: Grid) -> np.ndarray:
    """Every voxel its own value, so that no flip or transposition goes unseen."""
    return (np.arange(np.prod(grid.shape), dtype=np.int16) - 100).reshape(grid.shape)


@light
@given(grids(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
def test_written_and_read_again(grid: Grid, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save_volume(numbered(grid), grid, Path(folder) / f"scan{suffix}")
        volume = load(path)
    np.testing.assert_array_equal(volume.array, numbered(grid))
    assert volume.grid.distance(grid) < (FLOAT32_MM if "nii" in suffix else 1e-9)
    assert volume.warnings == ()


@light
@given(grids(), st.sampled_from([".nii.gz", ".nrrd", ".mha"]))
def test_simpleitk_finds_what_we_wrote(grid: Grid, suffix: str) -> None:
    array = numbered(grid)
    with tempfile.TemporaryDirectory() as folder:
        image = SimpleITK.ReadImage(str(save_volume(array, grid, Path(folder) / f"scan{suffix}")))
    last = tuple(n - 1 for n in grid.shape)
    for index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), last]:
        assert image.GetPixel(index) == array[index]
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(grid.to_world(index), (-x, -y, z), atol=2e-3 if "nii" in suffix else 1e-6)


@light
@given(grids())
def test_nibabel_finds_what_we_wrote(grid: Grid) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = nibabel.load(save_volume(numbered(grid), grid, Path(folder) / "scan.nii"))
        np.testing.assert_array_equal(np.asarray(image.dataobj), numbered(grid))
    np.testing.assert_allclose(image.affine, grid.affine, atol=FLOAT32_MM)
    assert image.header["sform_code"] == image.header["qform_code"] == 1


@light
@given(grids(), st.sampled_from([".nrrd", ".nhdr", ".mha", ".mhd"]), st.booleans())
def test_we_find_what_simpleitk_wrote(grid: Grid, suffix: str, compressed: bool) -> None:
    array = numbered(grid)
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.lps_affine[:3, 3].tolist())
    image.SetDirection((np.diag([-1, -1, 1]) @ grid.direction).ravel().tolist())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan{suffix}"
        SimpleITK.WriteImage(image, str(path), compressed)
        volume = load(path)
    np.testing.assert_array_equal(volume.array, array)
    for index in [(0, 0, 0), tuple(n - 1 for n in grid.shape)]:
        x, y, z = image.TransformIndexToPhysicalPoint([int(n) for n in index])
        np.testing.assert_allclose(volume.grid.to_world(index), (-x, -y, z), atol=1e-6)
    assert volume.warnings == ()


@light
@given(grids(), st.booleans(), st.booleans())
def test_we_find_what_nibabel_wrote(grid: Grid, use_sform: bool, version_2: bool) -> None:
    image = (nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image)(numbered(grid), None)
    if use_sform:
        image.set_sform(grid.affine, 2)
        image.set_qform(None, 0)
    else:
        image.set_qform(grid.affine, 1)
        image.set_sform(None, 0)
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, Path(folder) / "scan.nii.gz")
        volume = load(Path(folder) / "scan.nii.gz")
    assert volume.source.details["form"] == ("sform" if use_sform else "qform")
    # A rotation near 180 degrees loses up to 7e-4 rad in a float32 quaternion, whoever reads it.
    assert volume.grid.distance(grid) < (FLOAT32_MM if use_sform else 7e-4 * np.linalg.norm(np.array(grid.shape) * grid.spacing) + FLOAT32_MM)
    np.testing.assert_array_equal(volume.array, numbered(grid))
    assert volume.warnings == ()


@light
@given(grids())
def test_the_two_forms_of_one_grid_never_disagree(grid: Grid) -> None:
    image = nibabel.Nifti1Image(numbered(grid), None)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, Path(folder) / "scan.nii")
        assert load(Path(folder) / "scan.nii").warnings == ()


@pytest.mark.parametrize("turn", [(0, 1, 1e-4, 0), (1e-4, 0.6, 0.8, 1e-4), (0, 0.26, 0.41, 0.87)])
def test_a_half_turn_stored_as_quaternion_is_no_disagreement(tmp_path: Path, turn: tuple[float, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = quat2mat(np.array(turn) / np.linalg.norm(turn))
    affine[:3, 3] = (-250, -250, 900)
    image = nibabel.Nifti1Image(np.zeros((2, 2, 600), np.uint8), None)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    assert load(tmp_path / "scan.nii.gz").warnings == ()
