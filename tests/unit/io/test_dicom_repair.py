"""Tilted and uneven series come back on an orthogonal, even grid, every value at its place in space; what cannot be mended is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import volseg
from tests.dicom_factory import AXIAL, Scan, write
from volseg.errors import GeometryError
from volseg.geometry import FloatArray
from volseg.io.dicom import find_series
from volseg.io.dicom import read as reading

TILT = np.radians(20.0)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(TILT)), float(-np.sin(TILT)))
OBLIQUE = tuple(float(v) for v in np.linalg.qr(np.array([[0.9, 0.2, 0.3], [-0.1, 0.8, 0.4], [0.2, -0.5, 0.9]]))[0][:2].ravel())
ROWS, COLUMNS = 40, 36
SPACING = (1.5, 1.25)
GRADIENT = np.array([3.0, -5.0, 7.0])


def scan_of(values: object, positions: np.ndarray, cosines: tuple[float, ...] = AXIAL, **tags: object) -> Scan:
    """A scan of ``values(world RAS mm (..., 3))`` on the given slices (LPS mm), sampled at each pixel centre and rounded to int16."""
    scan = Scan(np.zeros((len(positions), ROWS, COLUMNS), np.int16), cosines=cosines, spacing=SPACING, positions=np.asarray(positions, float), tags=dict(tags))
    i, j = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="xy")
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    for k, position in enumerate(scan.positions):
        world = (position + row * SPACING[1] * i[..., None] + column * SPACING[0] * j[..., None]) * (-1, -1, 1)
        scan.stored[k] = np.rint(values(world))
    return scan


def ramp(world: FloatArray) -> FloatArray:
    return world @ GRADIENT


def covered(volume: volseg.Volume, scan: Scan) -> np.ndarray:
    """Voxels of the volume that lie, in plane, inside both true slices around them (with a pixel to spare)."""
    normal = np.cross(scan.cosines[:3], scan.cosines[3:])
    along = scan.positions @ normal
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij"), axis=-1)
    lps = volume.grid.to_world(index) * (-1, -1, 1)
    place = lps @ normal
    inside = np.ones(volume.grid.shape, bool)
    below = np.clip(np.searchsorted(along, place + 1e-6) - 1, 0, len(along) - 1)
    for m in (below, np.clip(below + 1, 0, len(along) - 1)):
        offset = lps - scan.positions[m]
        i, j = offset @ np.array(scan.cosines[:3]) / SPACING[1], offset @ np.array(scan.cosines[3:]) / SPACING[0]
        inside &= (i >= 0) & (i <= COLUMNS - 1) & (j >= 0) & (j <= ROWS - 1)
    return inside


def stacked(cosines: tuple[float, ...], along_z: list[float], *, upright: bool) -> np.ndarray:
    """Positions at the given distances along z (a tilted gantry's table) or along the normal."""
    direction = np.cross(cosines[:3], cosines[3:]) if upright else np.array([0.0, 0.0, 1.0])
    return np.array([-20.0, -30.0, 10.0]) + np.array(along_z)[:, None] * direction


EVEN = [5.0 * k for k in range(8)]
UNEVEN = [0, 2.5, 5, 7.5, 8.2, 12.2, 16.2, 20.2, 24.2]
GAP = [0, 3, 6, 15, 18, 21, 24, 27]
CASES = {
    "tilted": (TILTED, EVEN, False),
    "uneven": (AXIAL, UNEVEN, True),
    "tilted and uneven": (TILTED, UNEVEN, False),
    "two slices missing": (AXIAL, GAP, True),
    "oblique and uneven": (OBLIQUE, UNEVEN, True),
    "table not along the normal of oblique slices": (OBLIQUE, UNEVEN, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_linear_ramp_comes_back_everywhere(name: str, tmp_path: Path) -> None:
    cosines, along, upright = CASES[name]
    sign = 1 if np.cross(cosines[:3], cosines[3:])[2] > 0 else -1
    scan = scan_of(ramp, stacked(cosines, [sign * z for z in along] if not upright else along, upright=upright), cosines)
    folder = write(scan.datasets(), tmp_path)
    with pytest.raises(GeometryError, match="--fix-geometry"):
        volseg.load(folder)
    volume = volseg.load(folder, fix_geometry=True)
    assert volume.array.dtype == np.int16
    assert volume.grid.shear < 1e-6
    inside = covered(volume, scan)
    assert inside.mean() > 0.5
    index = np.argwhere(inside)
    # Linear interpolation gives a linear function exactly, so only two roundings to whole numbers and one of a position within the 1 % that positions are trusted to are left.
    trusted = np.abs(GRADIENT).sum() * max(0.01, 0.01 * volume.grid.spacing[2])
    assert np.abs(volume.array[inside] - ramp(volume.grid.to_world(index))).max() <= 1.0 + trusted


def test_a_sphere_keeps_its_place_and_size(tmp_path: Path) -> None:
    centre, radius = np.array([-5.0, 0.0, 28.0]), 9.0
    positions = stacked(TILTED, list(np.cumsum([0.0] + [1.0] * 12 + [2.0] * 20)), upright=False)
    # A soft edge of 4 mm, so that half height marks the surface to a fraction of a voxel.
    scan = scan_of(lambda world: 1000 * np.clip((radius + 2 - np.linalg.norm(world - centre, axis=-1)) / 4, 0, 1), positions, TILTED)
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    inside = volume.array >= 500
    world = volume.grid.to_world(np.argwhere(inside))
    np.testing.assert_allclose(world.mean(axis=0), centre, atol=0.25)
    assert inside.sum() * volume.grid.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.03)
    for axis in range(3):
        assert np.ptp(world[:, axis]) == pytest.approx(2 * radius, abs=2.5)


def test_whole_pixel_shifts_move_pixels_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    # Each slice two rows (3 mm) further than the last: a tilt that needs no interpolation at all.
    positions = np.array([[0.0, 3.0 * k, 5.0 * k] for k in range(4)])
    scan = Scan(rng.integers(-900, 900, (4, ROWS, COLUMNS)).astype(np.int16), spacing=SPACING, positions=positions)
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    assert volume.array.shape == (COLUMNS, ROWS + 6, 4)
    for k in range(4):
        np.testing.assert_array_equal(volume.array[:, 2 * k : 2 * k + ROWS, k], scan.stored[k].T)
        outside = np.delete(volume.array[:, :, k], np.s_[2 * k : 2 * k + ROWS], axis=1)
        assert (outside == scan.stored.min()).all()


def test_true_slices_between_gaps_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    scan = Scan(rng.integers(0, 900, (8, ROWS, COLUMNS)).astype(np.int16), spacing=SPACING, positions=stacked(AXIAL, [float(z) for z in GAP], upright=True))
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    assert volume.grid.spacing[2] == pytest.approx(3.0)
    for m, z in enumerate(GAP):
        np.testing.assert_array_equal(volume.array[:, :, round(z / 3)], scan.stored[m].T)
    third = scan.stored[2] * (2 / 3) + scan.stored[3] * (1 / 3)
    np.testing.assert_allclose(volume.array[:, :, 3].T, third, atol=0.5 + 1e-3)


def test_fractions_stay_float32(tmp_path: Path) -> None:
    scan = scan_of(ramp, stacked(AXIAL, UNEVEN, upright=True), AXIAL, RescaleSlope="0.5")
    assert volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True).array.dtype == np.float32


def test_what_was_done_is_recorded(tmp_path: Path) -> None:
    scan = scan_of(ramp, stacked(TILTED, EVEN, upright=False), TILTED)
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    record = json.loads(json.dumps(volume.source.details["geometry_correction"]))
    assert record["tilt_degrees"] == pytest.approx(20.0, abs=0.01)
    assert record["slice_spacings_mm"] == [[pytest.approx(5 * np.cos(TILT), abs=1e-3), 7]]
    assert record["largest_shift_mm"] == pytest.approx(35 * np.sin(TILT), abs=1e-3)
    assert record["shape_before"] == [COLUMNS, ROWS, 8]
    assert record["shape"] == list(volume.grid.shape)
    np.testing.assert_array_equal(record["affine"], volume.grid.affine)
    assert record["fill"] == scan.stored.min()
    assert "linear" in record["interpolation"]
    assert any("resampled" in note and "20.00 degrees" in note for note in volume.warnings)
    assert len(volume.source.header.slices) == 8


def test_a_good_series_is_left_alone(tmp_path: Path) -> None:
    scan = scan_of(ramp, stacked(AXIAL, EVEN, upright=True))
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert "geometry_correction" not in volume.source.details
    assert volume.warnings == ()


def test_one_thin_step_does_not_multiply_the_slices(tmp_path: Path) -> None:
    scan = scan_of(ramp, stacked(AXIAL, [0, 5, 10, 15, 15.5, 20, 25, 30], upright=True))
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    assert volume.grid.shape[2] == 15


def test_a_slice_slightly_beside_the_line_slides_back(tmp_path: Path) -> None:
    positions = stacked(AXIAL, EVEN, upright=True)
    positions[3] += (1.9, -0.8, 0)
    scan = scan_of(ramp, positions)
    volume = volseg.load(write(scan.datasets(), tmp_path), fix_geometry=True)
    inside = covered(volume, scan)
    assert np.abs(volume.array[inside] - ramp(volume.grid.to_world(np.argwhere(inside)))).max() <= 1.0 + 1e-6


BROKEN = {
    "three slices missing": ([0, 3, 6, 18, 21, 24], None, r"3 slices are missing between .* more than the 2 that --fix-geometry bridges"),
    "same position twice": ([0, 3, 3, 6], None, "duplicate positions"),
    "a slice far beside the others": (EVEN, (6.0, 0, 0), r"a slice 6\.0 mm beside the others"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_mended_is_refused(name: str, tmp_path: Path) -> None:
    along, shift, message = BROKEN[name]
    positions = stacked(AXIAL, along, upright=True)
    if shift:
        positions[3] += shift
    folder = write(scan_of(ramp, positions).datasets(), tmp_path)
    for fix in (False, True):
        with pytest.raises(GeometryError, match=message):
            volseg.load(folder, fix_geometry=fix)
    (series,) = find_series(folder)
    assert not series.mendable


def test_mixed_orientations_are_refused(tmp_path: Path) -> None:
    first = scan_of(ramp, stacked(AXIAL, EVEN, upright=True))
    second = scan_of(ramp, stacked(TILTED, EVEN, upright=True), TILTED)
    second.uid = first.uid
    with pytest.raises(GeometryError, match="mixed orientations"):
        volseg.load(write([*first.datasets(), *second.datasets()], tmp_path), fix_geometry=True)


def test_absurd_positions_do_not_fill_the_memory(tmp_path: Path) -> None:
    positions = np.array([[0.0, 2e8 * k, 5.0 * k] for k in range(4)])
    folder = write(scan_of(lambda world: np.zeros(world.shape[:-1]), positions).datasets(), tmp_path)
    with pytest.raises(GeometryError, match="its positions cannot be right"):
        volseg.load(folder, fix_geometry=True)


def test_a_found_series_is_mended_too(tmp_path: Path) -> None:
    folder = write(scan_of(ramp, stacked(AXIAL, UNEVEN, upright=True)).datasets(), tmp_path)
    (series,) = find_series(folder)
    with pytest.raises(GeometryError, match="uneven slice spacing"):
        reading.read_found(folder, series)
    assert "geometry_correction" in reading.read_found(folder, series, fix_geometry=True).source.details


def test_fix_geometry_straightens_other_formats(tmp_path: Path) -> None:
    import nibabel as nib

    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    nib.save(nib.Nifti1Image(np.zeros((6, 7, 8), np.int16), sheared), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="--fix-geometry"):
        volseg.load(tmp_path / "a.nii")
    assert volseg.load(tmp_path / "a.nii", fix_geometry=True).grid.shear < 1e-6
