"""Surface distances: areas by hand, distances by brute force, whole metrics against analytic shapes, DeepMind's own program, SimpleITK and MONAI."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from volseg.evaluation import SurfaceAgreement, compare_surfaces
from volseg.evaluation.metrics import nearest
from volseg.evaluation.metrics.cells import cell_areas
from volseg.evaluation.metrics.surfaces import _cell_codes

UNIT = np.eye(3)
SPACING = (0.8, 1.3, 3.0)
masks = npst.arrays(np.bool_, (5, 4, 3))


def box(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float, spacing: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(axis**2 for axis in np.ix_(*axes)) <= radius**2


def surface_area(mask: np.ndarray, axes: np.ndarray) -> float:
    return float(cell_areas(axes)[_cell_codes(mask)].sum())


# Areas.


def test_the_area_of_a_box_is_its_faces_with_bevelled_edges_and_corners() -> None:
    sides, (x, y, z) = (4, 5, 6), SPACING
    flat = [n - 1 for n in sides]
    faces = 2 * (flat[0] * x * flat[1] * y + flat[0] * x * flat[2] * z + flat[1] * y * flat[2] * z)
    edges = 4 * (flat[0] * x * math.hypot(y, z) + flat[1] * y * math.hypot(x, z) + flat[2] * z * math.hypot(x, y)) / 2
    # A triangle through the middles of three edges that meet at right angles: half of the root of the squares of the products of its legs, two by two.
    corners = 8 * math.sqrt((x * y) ** 2 + (y * z) ** 2 + (x * z) ** 2) / 8
    assert surface_area(box((9, 9, 9), (2, 2, 2), (6, 7, 8)), np.diag(SPACING)) == pytest.approx(faces + edges + corners)


def test_planes_along_diagonals_have_their_exact_area() -> None:
    areas = cell_areas(UNIT)

    def code(inside: list[tuple[int, int, int]]) -> int:
        return sum(1 << (i + 2 * j + 4 * k) for i, j, k in inside)

    corners = list(itertools.product((0, 1), repeat=3))
    # Cells that the plane i + j = 1/2 or 3/2 cuts: two of them side by side cover one step of the plane, of area root 2.
    first, second = ([c for c in corners if c[0] + c[1] <= limit] for limit in (0, 1))
    assert areas[code(first)] + areas[code(second)] == pytest.approx(math.sqrt(2))
    # i + j + k = 1/2, 3/2, 5/2: a triangle, a hexagon and a triangle, together root 3 over a unit square.
    assert sum(areas[code([c for c in corners if sum(c) <= limit])] for limit in (0, 1, 2)) == pytest.approx(math.sqrt(3))


def test_areas_do_not_change_when_inside_and_outside_or_axes_are_swapped() -> None:
    areas = cell_areas(np.diag(SPACING))
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()
    np.testing.assert_allclose(areas, areas[::-1])
    unit = cell_areas(UNIT)
    for order in itertools.permutations(range(3)):
        moved = [sum(1 << sum((n >> axis & 1) << place for place, axis in enumerate(order)) for n in range(8) if code >> n & 1) for code in range(256)]
        np.testing.assert_allclose(unit[moved], unit)


@pytest.mark.parametrize("sheared", [False, True])
def test_a_large_ball_has_about_the_area_of_a_sphere(sheared: bool) -> None:
    """Marching cubes between two levels cuts a sphere into facets along few directions and overestimates it by some 9 %, at any size and along any axes."""
    matrix = np.array([[1.0, 0.3, 0], [0, 1, 0], [0, 0.2, 1.5]]) if sheared else np.diag([1.0, 1.0, 1.5])
    index = np.moveaxis(np.indices((64, 64, 48)), 0, -1) - np.array([32, 32, 24])
    radius = 18.0
    mask = np.linalg.norm(index @ matrix.T, axis=-1) <= radius
    assert surface_area(mask, matrix) / (4 * math.pi * radius**2) == pytest.approx(1.09, abs=0.04)


# Distances.


def brute_force(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> SurfaceAgreement:
    """Cells one by one, all distances at once, and percentiles by walking up."""
    areas = cell_areas(np.diag(spacing))
    sides = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        points, weights = [], []
        for cell in itertools.product(*(range(n + 1) for n in mask.shape)):
            inside = [padded[cell[0] + i, cell[1] + j, cell[2] + k] for k in (0, 1) for j in (0, 1) for i in (0, 1)]
            if 0 < sum(inside) < 8:
                points.append(np.multiply(cell, spacing))
                weights.append(areas[sum(int(value) << bit for bit, value in enumerate(inside))])
        sides.append((np.array(points), np.array(weights)))
    (ours, our_weights), (theirs, their_weights) = sides
    matrix = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    there, back = matrix.min(axis=1), matrix.min(axis=0)

    def percentile(distances: np.ndarray, weights: np.ndarray) -> float:
        return min(d for d in distances if weights[distances <= d].sum() >= 0.95 * weights.sum() * (1 - 1e-12))

    every, weights = np.concatenate([there, back]), np.concatenate([our_weights, their_weights])
    near = weights[every <= tolerance + 1e-6].sum() / weights.sum()
    return SurfaceAgreement(float(every.max()), max(percentile(there, our_weights), percentile(back, their_weights)), float((every * weights).sum() / weights.sum()), float(near))


@settings(max_examples=60)
@given(masks.filter(np.any), masks.filter(np.any), st.sampled_from([(1.0, 1.0, 1.0), SPACING]), st.sampled_from([0.0, 1.0, 2.0]))
def test_any_two_masks_agree_with_brute_force(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> None:
    found, expected = compare_surfaces(prediction, reference, np.diag(spacing), tolerance), brute_force(prediction, reference, spacing, tolerance)
    assert (found.hd_mm, found.hd95_mm) == (pytest.approx(expected.hd_mm), pytest.approx(expected.hd95_mm))
    assert (found.assd_mm, found.nsd) == (pytest.approx(expected.assd_mm), pytest.approx(expected.nsd))


@given(masks, masks)
def test_swapping_the_two_changes_nothing(one: np.ndarray, other: np.ndarray) -> None:
    there, back = (compare_surfaces(*pair, np.diag(SPACING), 1.5) for pair in ((one, other), (other, one)))
    for name in ("hd_mm", "hd95_mm", "assd_mm", "nsd"):
        assert getattr(there, name) == (None if getattr(back, name) is None else pytest.approx(getattr(back, name)))


def test_a_box_moved_along_one_axis_is_that_far_away() -> None:
    one, other = box((20, 12, 12), (2, 2, 2), (8, 9, 9)), box((20, 12, 12), (5, 2, 2), (11, 9, 9))
    found = compare_surfaces(one, other, np.diag(SPACING), 3 * 0.8)
    assert found.hd_mm == pytest.approx(3 * 0.8)
    assert found.nsd == 1, "a tolerance that is the distance itself, but for rounding, contains it"
    assert compare_surfaces(one, other, np.diag(SPACING), 3 * 0.8 - 0.01).nsd < 1


def test_a_mask_against_itself() -> None:
    mask = ball((15, 15, 15), (7, 7, 7), 5)
    assert compare_surfaces(mask, mask, UNIT, 0.0) == SurfaceAgreement(0, 0, 0, 1)


def test_concentric_balls_lie_apart_by_the_difference_of_their_radii() -> None:
    shape, centre, spacing = (60, 60, 40), (30, 30, 20), (1.0, 1.0, 1.5)
    inner, outer = (ball(shape, centre, radius, spacing) for radius in (16, 24))
    found = compare_surfaces(inner, outer, np.diag(spacing), 8 + 1.5)
    # Points lie in the middles of cells, up to half a voxel's diagonal off the sphere, and the nearest of them counts: so distances come out short, by less than a voxel.
    assert 8 - 1.5 < found.assd_mm < 8
    assert 8 - 0.5 < found.hd_mm < 8 + 1.5
    assert found.nsd == 1
    assert compare_surfaces(inner, outer, np.diag(spacing), 8 - 2).nsd < 0.02


def test_an_outlier_counts_in_hd_and_not_in_hd95() -> None:
    one = ball((50, 30, 30), (14, 14, 14), 10)
    other = one.copy()
    other[45, 14, 14] = True
    found = compare_surfaces(one, other, UNIT, 1.0)
    # From the middle of the outlier's farthest cell to the ball's nearest one: cells lie half a voxel off the voxel centres.
    assert found.hd_mm == pytest.approx(45.5 - 24.5, abs=0.05)
    assert found.hd95_mm == 0


def test_a_grid_along_other_axes_measures_true_millimetres() -> None:
    """Of a sheared grid (gantry tilt) and of a turned one the same voxels lie elsewhere: brute force on their world positions."""
    random = np.random.default_rng(5)
    one, other = (random.random((5, 6, 4)) < 0.2 for _ in range(2))
    axes = np.array([[0.0, 1.2, 0.0], [0.9, 0.0, 0.5], [0.0, 0.0, 2.0]])
    points = [np.argwhere((_cell_codes(mask) > 0) & (_cell_codes(mask) < 255)) @ axes.T for mask in (one, other)]
    matrix = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    assert compare_surfaces(one, other, axes, 1.0).hd_mm == pytest.approx(max(matrix.min(axis=0).max(), matrix.min(axis=1).max()))


@settings(max_examples=30)
@given(npst.arrays(np.bool_, (7, 6, 5)), npst.arrays(np.bool_, (7, 6, 5)), st.sampled_from([(1.0, 1.0, 1.0), SPACING]))
def test_the_map_and_the_tree_give_the_same_distances(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> None:
    cells, others = np.flatnonzero(one & ~other), np.flatnonzero(other)
    if len(cells) == 0 or len(others) == 0:
        return
    positions = [np.argwhere(mask) * spacing for mask in (one & ~other, other)]
    expected = np.linalg.norm(positions[0][:, None] - positions[1][None], axis=-1).min(axis=1)
    np.testing.assert_allclose(nearest._from_map(cells, others, one.shape, np.diag(spacing)), expected, atol=1e-4)
    np.testing.assert_allclose(nearest.nearest_distances(cells, others, one.shape, np.diag(spacing), 1), expected, atol=1e-4)


@pytest.mark.parametrize(("apart", "sheared", "by_map"), [(0, False, False), (24, False, True), (24, True, False)])
def test_the_map_is_taken_far_away_on_upright_grids_only(apart: int, sheared: bool, by_map: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane against one 24 voxels away is asked of the map; in a sheared grid it stays with the tree, and so does a near one in a long box."""
    asked = []
    original = nearest._from_map
    monkeypatch.setattr(nearest, "_from_map", lambda *arguments: asked.append(True) or original(*arguments))
    axes = np.array([[1.0, 0.2, 0], [0, 1, 0], [0, 0, 1]]) if sheared else UNIT
    shape = (30 if apart else 200, 40, 40)
    one, other = np.zeros(shape, bool), np.zeros(shape, bool)
    one[1], other[1 + max(apart, 1)] = True, True
    found = compare_surfaces(one, other, axes, 2.0)
    assert bool(asked) is by_map
    assert found.hd_mm == pytest.approx(max(apart, 1), rel=0.03)


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert compare_surfaces(empty, empty, UNIT, 1.0) == SurfaceAgreement(None, None, None, None)
    assert compare_surfaces(empty, full, UNIT, 1.0) == compare_surfaces(full, empty, UNIT, 1.0) == SurfaceAgreement(None, None, None, 0.0)


# Peers.


def blobs(seed: int, shape: tuple[int, ...] = (40, 36, 24)) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping unions of a few balls."""
    random = np.random.default_rng(seed)
    sides = []
    common = [(random.uniform(8, np.array(shape) - 8), random.uniform(4, 8)) for _ in range(3)]
    for _ in range(2):
        parts = [ball(shape, tuple(centre + random.normal(0, 0.7, 3)), radius + random.normal(0, 0.5)) for centre, radius in common]
        sides.append(np.logical_or.reduce(parts))
    return sides[0], sides[1]


@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_deepminds_program(seed: int) -> None:
    """Its table of areas differs from ours where a cell's polygon is not flat or a face is ambiguous; distances are the same."""
    peer = pytest.importorskip("surface_distance", reason="surface-distance (PyPI) is not installed")
    prediction, reference = blobs(seed)
    measured = peer.compute_surface_distances(reference, prediction, SPACING)
    found = compare_surfaces(prediction, reference, np.diag(SPACING), 2.0)
    assert found.hd_mm == pytest.approx(peer.compute_robust_hausdorff(measured, 100))
    assert found.hd95_mm == pytest.approx(peer.compute_robust_hausdorff(measured, 95), rel=0.02)
    assert found.nsd == pytest.approx(peer.compute_surface_dice_at_tolerance(measured, 2.0), abs=0.005)
    distances = [np.asarray(measured[f"distances_{way}"]) for way in ("gt_to_pred", "pred_to_gt")]
    areas = [np.asarray(measured[f"surfel_areas_{side}"]) for side in ("gt", "pred")]
    assert found.assd_mm == pytest.approx(np.average(np.concatenate(distances), weights=np.concatenate(areas)), rel=0.01)


def test_the_same_as_deepminds_program_on_a_real_tumour(real_data: Path) -> None:
    peer = pytest.importorskip("surface_distance", reason="surface-distance (PyPI) is not installed")
    image = nib.load(real_data / "sts" / "labelsTr" / "STS_002.nii.gz")
    reference = np.asanyarray(image.dataobj) == 1
    spacing = image.header.get_zooms()
    prediction = ndimage.binary_dilation(np.roll(reference, 2, axis=0), iterations=1) & ~np.roll(reference, 9, axis=1)
    measured = peer.compute_surface_distances(reference, prediction, spacing)
    found = compare_surfaces(prediction, reference, np.diag(spacing).astype(np.float64), 2.0)
    assert found.hd_mm == pytest.approx(peer.compute_robust_hausdorff(measured, 100), abs=1e-3)
    assert found.hd95_mm == pytest.approx(peer.compute_robust_hausdorff(measured, 95), rel=0.02)
    assert found.nsd == pytest.approx(peer.compute_surface_dice_at_tolerance(measured, 2.0), abs=0.005)
    there, back = peer.compute_average_surface_distance(measured)
    weights = [np.asarray(measured[f"surfel_areas_{side}"]).sum() for side in ("gt", "pred")]
    assert found.assd_mm == pytest.approx(np.average([there, back], weights=weights), rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_hausdorff_is_within_a_voxel_of_simpleitk_and_monai(seed: int) -> None:
    """They measure between voxels (of the whole mask, of its border), we between the surfaces around them: each end differs by half a voxel's diagonal at most."""
    from monai.metrics import compute_hausdorff_distance

    prediction, reference = blobs(seed)
    found = compare_surfaces(prediction, reference, np.diag(SPACING), 2.0)
    voxel = float(np.linalg.norm(SPACING))
    images = []
    for mask in (prediction, reference):
        image = sitk.GetImageFromArray(mask.astype(np.uint8).transpose(2, 1, 0))
        image.SetSpacing(SPACING)
        images.append(image)
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    assert found.hd_mm == pytest.approx(measure.GetHausdorffDistance(), abs=voxel)
    import torch

    batch = [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (prediction, reference)]
    for percentile, ours in ((None, found.hd_mm), (95, found.hd95_mm)):
        theirs = compute_hausdorff_distance(*batch, include_background=True, percentile=percentile, spacing=SPACING)
        assert ours == pytest.approx(float(theirs), abs=voxel)
