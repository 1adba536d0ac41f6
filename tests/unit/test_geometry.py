"""`Grid` and `reorient`: whatever is done to a grid, voxels stay where they are in the world."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from nibabel.quaternions import quat2mat

from volseg.errors import GeometryError
from volseg.geometry import Grid, reorient

light = settings(deadline=None, max_examples=30)
ORIENTATIONS = ["RAS", "LPS", "LAS", "SRA", "PIL", "AIR"]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Any rotation, either handedness, spacing from micro-CT to scout views, no shear."""
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)))
    spacing = np.array(draw(st.tuples(*[st.floats(0.1, 9.0)] * 3)))
    mirror = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = quat2mat(quaternion / np.linalg.norm(quaternion)) @ mirror * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-700, 700)] * 3))
    return Grid(draw(st.tuples(*[st.integers(1, 9)] * 3)), affine)


def names_its_axes(grid: Grid) -> bool:
    """Whether the letters survive the smallest of turns; at a tie of two axes they are a coin's toss, and reordering the axes may toss again."""
    turned = []
    for axis in (*np.eye(3), *-np.eye(3)):
        affine = grid.affine.copy()
        affine[:3, :3] = (np.eye(3) + 1e-5 * np.cross(np.eye(3), axis)) @ affine[:3, :3]
        turned.append(Grid(grid.shape, affine).orientation)
    return set(turned) == {grid.orientation}


def world_of_every_voxel(grid: Grid) -> np.ndarray:
    """(i, j, k, 3): positions worked out with a plain matrix product in homogeneous coordinates, not by Grid."""
    index = np.stack([*np.indices(grid.shape), np.ones(grid.shape)], axis=-1)
    return np.einsum("wa,ijka->ijkw", grid.affine, index)[..., :3]


@light
@given(grids(), st.sampled_from(ORIENTATIONS))
def test_reorient_keeps_each_value_at_its_place_in_the_world(grid: Grid, codes: str) -> None:
    positions = world_of_every_voxel(grid)
    moved, there = reorient(np.moveaxis(positions, -1, 0), grid, codes)
    assert there.orientation == codes or not names_its_axes(grid)
    np.testing.assert_allclose(np.moveaxis(moved, 0, -1), world_of_every_voxel(there), atol=1e-9)


@light
@given(grids(), st.sampled_from(ORIENTATIONS))
def test_reorient_there_and_back_changes_nothing(grid: Grid, codes: str) -> None:
    assume(names_its_axes(grid))
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    back, home = reorient(*reorient(array, grid, codes), grid.orientation)
    np.testing.assert_array_equal(back, array)
    assert home.isclose(grid, 1e-9)


@light
@given(grids())
def test_orientation_is_nibabels(grid: Grid) -> None:
    assume(names_its_axes(grid))
    assert grid.orientation == "".join(aff2axcodes(grid.affine))


def test_orientation_of_a_grid_that_follows_no_axis_well() -> None:
    """Found by hypothesis: two array axes are both nearest to y; the stronger one has it."""
    matrix = [[0.37527115, -0.72885033, -0.57266811], [-0.72885033, 0.14967462, -0.6681128], [-0.57266811, -0.6681128, 0.47505423]]
    affine = np.eye(4)
    affine[:3, :3] = matrix
    assert Grid((1, 1, 1), affine).orientation == "".join(aff2axcodes(affine)) == "PLS"


def test_orientation_of_an_affine_by_hand() -> None:
    affine = [[0, 0, -3, 5], [-1, 0, 0, 6], [0, 2, 0, 7], [0, 0, 0, 1]]
    grid = Grid((4, 5, 6), affine)
    assert grid.orientation == "PSL"
    assert grid.spacing == (1, 2, 3)
    assert grid.world_axes == (1, 2, 0)
    assert grid.origin == (5, 6, 7)
    assert grid.voxel_volume_ml == pytest.approx(0.006)


def test_every_axis_gets_another_letter_even_between_two_world_axes() -> None:
    turn = math.sqrt(0.5)
    affine = np.eye(4)
    affine[:3, :3] = [[turn, turn, 0], [turn, -turn, 0], [0, 0, 1]]
    letters = Grid((2, 2, 2), affine).orientation
    assert sorted("LR" if c in "LR" else "PA" if c in "PA" else "IS" for c in letters) == ["IS", "LR", "PA"]


@light
@given(grids(), st.tuples(*[st.floats(-20, 20)] * 3))
def test_world_and_voxel_are_inverse(grid: Grid, index: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(grid.to_voxel(grid.to_world(index)), index, atol=1e-6)
    many = np.array([[index, (0, 0, 0)]])
    np.testing.assert_allclose(grid.to_voxel(grid.to_world(many)), many, atol=1e-6)


@light
@given(grids(), st.tuples(*[st.integers(-3, 3)] * 3), st.tuples(*[st.integers(1, 5)] * 3))
def test_crop_shifts_indices_not_places(grid: Grid, start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    stop = [a + n for a, n in zip(start, size, strict=True)]
    part = grid.crop(start, stop)
    assert part.shape == size
    np.testing.assert_allclose(part.to_world((0, 0, 0)), (grid.affine @ [*start, 1])[:3], atol=1e-9)
    np.testing.assert_allclose(part.to_world((1, 2, 3)), (grid.affine @ [start[0] + 1, start[1] + 2, start[2] + 3, 1])[:3], atol=1e-9)


@light
@given(grids(), st.tuples(*[st.integers(0, 4)] * 3), st.tuples(*[st.integers(0, 4)] * 3))
def test_crop_undoes_pad(grid: Grid, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    padded = grid.pad(before, after)
    assert padded.shape == tuple(b + n + a for b, n, a in zip(before, grid.shape, after, strict=True))
    stop = [b + n for b, n in zip(before, grid.shape, strict=True)]
    assert padded.crop(before, stop).isclose(grid, 1e-9)


@light
@given(grids(), st.tuples(*[st.floats(0.2, 5)] * 3))
def test_resampled_has_the_spacing_the_axes_and_the_centre(grid: Grid, spacing: tuple[float, float, float]) -> None:
    other = grid.resampled(spacing)
    np.testing.assert_allclose(other.spacing, spacing, rtol=1e-9)
    np.testing.assert_allclose(other.direction, grid.direction, atol=1e-9)
    np.testing.assert_allclose(other.to_world((np.array(other.shape) - 1) / 2), grid.to_world((np.array(grid.shape) - 1) / 2), atol=1e-9)
    extent, covered = np.array(grid.shape) * grid.spacing, np.array(other.shape) * spacing
    enough = np.maximum(np.abs(extent - covered) <= 0.5 * np.array(spacing) + 1e-9, np.array(other.shape) == 1)
    assert enough.all()


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1), (1, math.nan, 1)])
def test_resampled_refuses_what_is_no_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="three positive numbers"):
        Grid((2, 2, 2), np.eye(4)).resampled(spacing)


@light
@given(grids(), st.floats(0.001, 0.5))
def test_shear_is_the_sine_of_the_tilt_and_orthonormalised_removes_it(grid: Grid, tilt: float) -> None:
    tilted = grid.affine.copy()
    along = tilted[:3, 2] / grid.spacing[2]
    sideways = tilted[:3, 1] / grid.spacing[1]
    tilted[:3, 2] = grid.spacing[2] * (math.cos(tilt) * along + math.sin(tilt) * sideways)
    sheared = Grid(grid.shape, tilted)
    assert sheared.shear == pytest.approx(math.sin(tilt), abs=1e-9)
    mended = sheared.orthonormalised()
    assert mended.shear < 1e-9
    np.testing.assert_allclose(mended.spacing, sheared.spacing, rtol=1e-9)
    middle = (np.array(grid.shape) - 1) / 2
    np.testing.assert_allclose(mended.to_world(middle), sheared.to_world(middle), atol=1e-9)
    # The polar factor shares the tilt between both axes: each turns by half of it.
    assert float(mended.direction[:, 2] @ sheared.direction[:, 2]) == pytest.approx(math.cos(tilt / 2), abs=1e-9)
    assert mended.is_right_handed == sheared.is_right_handed


@light
@given(grids())
def test_an_orthogonal_grid_is_its_own_nearest(grid: Grid) -> None:
    assert grid.shear < 1e-9
    assert grid.orthonormalised().isclose(grid, 1e-9)


@light
@given(grids())
def test_lps_differs_in_the_sign_of_x_and_y(grid: Grid) -> None:
    np.testing.assert_array_equal(grid.lps_affine[:2], -grid.affine[:2])
    np.testing.assert_array_equal(grid.lps_affine[2:], grid.affine[2:])
    assert Grid.from_lps(grid.shape, grid.lps_affine) == grid


def test_distance_finds_the_farthest_voxel() -> None:
    grid = Grid((11, 2, 2), np.eye(4))
    stretched = Grid((11, 2, 2), np.diag([1.1, 1, 1, 1]))
    assert grid.distance(stretched) == pytest.approx(1.0)
    assert not grid.isclose(stretched)
    assert grid.isclose(stretched, 1.01)
    assert grid.distance(Grid((11, 2, 3), np.eye(4))) == math.inf


@pytest.mark.parametrize(
    "affine",
    [np.full((4, 4), np.nan), np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.eye(3), np.diag([1, 1, 1, 2]), np.diag([1, np.inf, 1, 1])],
    ids=["nan", "zero", "flat", "3x3", "last row", "infinite"],
)
def test_an_affine_that_places_nothing_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 0), (2, 2, 2, 2), (-1, 2, 2)])
def test_a_shape_that_is_no_volume_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="three positive sizes"):
        Grid(shape, np.eye(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", ["RAR", "RA", "XYZ", "RASS"])
def test_an_orientation_that_names_no_three_axes_is_refused(codes: str) -> None:
    with pytest.raises(GeometryError):
        Grid((2, 2, 2), np.eye(4)).reorientation(codes)


def test_a_grid_cannot_be_changed_from_outside() -> None:
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 5
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5
    assert hash(grid) == hash(Grid((2, 2, 2), np.eye(4)))
