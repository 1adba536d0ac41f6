"""The phantoms are what was asked for: volumes, intensities, noise and positions follow from the arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from volseg.errors import InputError
from volseg.synthetic import SyntheticScan, head, limb, make_ct, make_mr
from volseg.synthetic.fields import Waves, correlated_noise
from volseg.synthetic.mass import Mass, with_volume
from volseg.synthetic.scan import scanner_axes, scanner_grid

SMALL = {"shape": (72, 72, 32), "spacing": (2.5, 2.5, 5.0)}


@pytest.fixture(scope="module")
def ct() -> SyntheticScan:
    return make_ct(3, shape=(144, 128, 24), spacing=(1.3, 1.3, 4.0), lesion_ml=90, noise_hu=20, contrast=False)


@pytest.fixture(scope="module")
def mr() -> SyntheticScan:
    return make_mr(1, shape=(120, 144, 60), spacing=(1.5, 1.5, 2.5), lesion_ml=8, noise=20)


def inside(scan: SyntheticScan, name: str) -> np.ndarray:
    number = next(n for n, tissue in scan.tissue_names.items() if tissue == name)
    return binary_erosion(scan.tissues == number, np.ones((3, 3, 1)), iterations=1)


@pytest.mark.parametrize("make", [make_ct, make_mr])
def test_same_seed_same_scan_other_seed_other_scan(make) -> None:
    first, again, other = make(5, **SMALL), make(5, **SMALL), make(6, **SMALL)
    assert first.image.dtype == np.int16
    assert first.label.dtype == np.uint8
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert first.grid == again.grid
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("asked", [40.0, 300.0])
def test_the_mass_has_the_volume_asked_for(seed: int, asked: float) -> None:
    scan = make_ct(seed, shape=(80, 80, 60), spacing=(2.5, 2.5, 4.0), lesion_ml=asked)
    assert scan.volumes_ml()[1] == pytest.approx(asked, rel=0.03)


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_mass_lies_wholly_in_a_small_field_of_view(seed: int) -> None:
    scan = make_ct(seed, shape=(96, 80, 40), spacing=(1.5, 1.5, 3.5))
    label = scan.label.copy()
    label[1:-1, 1:-1, 1:-1] = 0
    assert scan.volumes_ml()[1] > 9
    assert not label.any()


@pytest.mark.parametrize(("tissue", "tolerance"), [("muscle", 4), ("fat", 8), ("cortical bone", 60), ("marrow", 15)])
def test_ct_tissues_have_the_hu_put_in(ct: SyntheticScan, tissue: str, tolerance: float) -> None:
    number = next(n for n, name in limb.TISSUES.items() if name == tissue)
    assert np.median(ct.image[inside(ct, tissue)]) == pytest.approx(limb.TISSUE_HU[number], abs=tolerance)


def test_the_mass_is_less_dense_than_muscle(ct: SyntheticScan) -> None:
    contrast = np.median(ct.image[inside(ct, "muscle")]) - np.median(ct.image[inside(ct, "tumor")])
    # Drawn 20-32 HU under muscle, 40 where the core is necrotic.
    assert 15 < contrast < 42
    assert np.array_equal(ct.label == 1, ct.tissues == limb.TUMOR)


def test_ct_noise_has_the_standard_deviation_asked_for() -> None:
    """The same seed with two noise levels differs by the difference of the two times one noise pattern."""
    quiet, loud = (make_ct(2, **SMALL, noise_hu=sd) for sd in (10, 35))
    # Air is clipped at -1000 HU, so only soft tissue shows the noise.
    where = np.isin(quiet.tissues, [limb.FAT, limb.MUSCLE, limb.TUMOR])
    difference = (loud.image.astype(float) - quiet.image)[where]
    assert difference.std() == pytest.approx(25, rel=0.05)
    assert difference.mean() == pytest.approx(0, abs=2)


def test_noise_is_correlated_as_a_filtered_reconstruction() -> None:
    """White noise behind a Gaussian of s voxels has a correlation of exp(-1 / (4 s^2)) between neighbours."""
    grid = scanner_grid((96, 96, 24), (0.8, 1.0, 3.0), (0, 0, 0))
    noise = correlated_noise(np.random.default_rng(0), grid, 30.0)
    assert noise.std() == pytest.approx(30, rel=1e-4)
    for axis, spacing in enumerate((0.8, 1.0)):
        near, far = np.delete(noise, -1, axis).ravel(), np.delete(noise, 0, axis).ravel()
        assert np.corrcoef(near, far)[0, 1] == pytest.approx(np.exp(-(spacing**2) / (4 * 0.75**2)), abs=0.04)


def test_mr_background_is_rician(mr: SyntheticScan) -> None:
    """Where there is no signal a magnitude image follows a Rayleigh distribution of mean sd * sqrt(pi / 2)."""
    air = binary_erosion(mr.tissues == head.AIR, iterations=3)
    assert mr.image.min() >= 0
    assert mr.image[air].mean() == pytest.approx(20 * np.sqrt(np.pi / 2), rel=0.03)
    assert mr.image[air].std() == pytest.approx(20 * np.sqrt(2 - np.pi / 2), rel=0.04)


def test_mr_tissues_are_ordered_as_t1_orders_them(mr: SyntheticScan) -> None:
    names = ("fat", "white matter", "grey matter", "cerebrospinal fluid")
    values = [np.median(mr.image[mr.tissues == n]) for name in names for n, tissue in head.TISSUES.items() if tissue == name]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_hippocampi_and_lesion_have_their_volumes(seed: int) -> None:
    scan = make_mr(seed, shape=(120, 120, 90), spacing=(1.2, 1.2, 1.4), lesion_ml=6)
    drawn = head.Head.draw(np.random.default_rng([seed, 0x3A]))
    large, small = head.HIPPOCAMPUS_RADII_MM
    # A cone frustum of elliptical section with half an ellipsoid at either end.
    frustum = np.pi * head.HIPPOCAMPUS_WIDTH * head.HIPPOCAMPUS_LENGTH_MM * (large**2 + large * small + small**2) / 3
    ends = 2 / 3 * np.pi * head.HIPPOCAMPUS_WIDTH * (large**3 + small**3)
    wanted = 2 * (frustum + ends) / 1000 * drawn.size.prod()
    volumes = scan.volumes_ml()
    assert volumes[1] + volumes[2] == pytest.approx(wanted, rel=0.12)
    assert volumes[1] > 0.3 * wanted
    assert volumes[2] > 0.25 * wanted
    assert volumes[3] == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize(("make", "number"), [(make_ct, 1), (make_mr, 3)])
def test_turning_the_slices_leaves_the_anatomy_where_it_was(make, number: int) -> None:
    straight = make(4, shape=(90, 90, 60), spacing=(2.5, 2.5, 3.0))
    turned = make(4, shape=(90, 90, 60), spacing=(2.5, 2.5, 3.0), oblique=25, orientation="PSR")
    assert turned.grid.orientation != straight.grid.orientation
    # Looking up the nearest voxel errs by up to half a voxel's diagonal, so only the mass behind its outermost layer is compared.
    voxels = np.argwhere(binary_erosion(turned.label == number))
    back = np.rint(straight.grid.to_voxel(turned.grid.to_world(voxels))).astype(int)
    held = ((back >= 0) & (back < straight.grid.shape)).all(axis=1)
    agree = straight.label[tuple(back[held].T)] == number
    assert held.mean() > 0.99
    assert len(agree) > 100
    assert agree.mean() > 0.99
    assert turned.volumes_ml()[number] == pytest.approx(straight.volumes_ml()[number], rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(-90, 90), st.sampled_from(["LPS", "RAS", "PSR", "LIP", "AIR"]))
def test_scanner_axes_are_a_rotation_of_the_named_ones_by_the_angle(angle: float, orientation: str) -> None:
    plain, turned = scanner_axes(orientation), scanner_axes(orientation, angle)
    np.testing.assert_allclose(turned.T @ turned, np.eye(3), atol=1e-12)
    # The trace of a rotation matrix is 1 + 2 cos(angle).
    assert np.trace(turned @ plain.T) == pytest.approx(1 + 2 * np.cos(np.deg2rad(angle)))
    grid = scanner_grid((10, 12, 14), (1, 2, 3), (5, 6, 7), plain)
    assert grid.orientation == orientation
    np.testing.assert_allclose(grid.to_world((np.array(grid.shape) - 1) / 2), (5, 6, 7))


def test_a_mass_without_lobes_is_an_ellipsoid_and_pushes_without_compressing() -> None:
    plain = Mass(np.array([3.0, -4.0, 5.0]), np.array([20.0, 15.0, 25.0]), np.eye(3), np.array([[1.0, 0, 0]]), np.array([0.0]))
    sized = with_volume(plain, 50.0, lambda mass, points: mass.radius(points) <= 1)
    assert 4 / 3 * np.pi * sized.axes.prod() / 1000 == pytest.approx(50, rel=0.02)
    start = np.array([[30.0, 4.0, 9.0], [3.0, 30.0, 20.0], [-30.0, -20.0, 40.0]])

    def before(positions: np.ndarray) -> np.ndarray:
        points = tuple(positions[:, axis].astype(np.float32) for axis in range(3))
        return np.stack(plain.before(points, plain.radius(points)), axis=1).astype(float)

    jacobian = np.stack([(before(start + step) - before(start - step)) / 2 for step in np.eye(3)], axis=2)
    np.testing.assert_allclose(np.linalg.det(jacobian), 1, atol=0.02)


def test_waves_have_zero_mean_and_unit_variance() -> None:
    axis = np.linspace(0, 4000, 60, dtype=np.float32)
    values = Waves.draw(np.random.default_rng(1), (20, 40)).at(tuple(np.meshgrid(axis, axis, axis, indexing="ij")))
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("make", "options", "names"),
    [
        (make_ct, {"shape": (4, 64, 64)}, "8 voxels"),
        (make_ct, {"spacing": (1, 1, -3)}, "spacing"),
        (make_ct, {"oblique": 120}, "120"),
        (make_ct, {"lesion_ml": 5000}, "5000"),
        (make_ct, {"noise_hu": -1}, "noise"),
        (make_ct, {"legs": 3}, "legs"),
        (make_ct, {"orientation": "LLS"}, "LLS"),
        (make_mr, {"lesion_ml": 0}, "lesion"),
        (make_mr, {"noise": 900}, "900"),
    ],
)
def test_arguments_out_of_range_are_named(make, options: dict, names: str) -> None:
    with pytest.raises(InputError, match=names):
        make(0, **options)
