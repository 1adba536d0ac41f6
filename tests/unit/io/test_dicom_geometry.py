"""Voxels land where the equation of DICOM PS3.3 C.7.6.2.1.1 puts them, whatever the orientation, order or file names."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dicom_factory import AXIAL, Scan, ramp, write
from volseg.io.dicom import find_series, read_series
from volseg.io.dicom.geometry import rotation_degrees, stack_slices

CORNERS = [(0, 0, 0), (5, 0, 0), (0, 3, 0), (0, 0, 4), (5, 3, 4), (2, 1, 3)]


def check(scan: Scan, folder: Path) -> None:
    volume = read_series(write(scan.datasets(), folder))
    slices, rows, columns = scan.stored.shape
    assert volume.array.shape == volume.grid.shape == (columns, rows, slices)
    stack_up = np.dot(scan.positions[-1] - scan.positions[0], np.cross(scan.cosines[:3], scan.cosines[3:])) > 0
    for i, j, k in CORNERS:
        at = k if stack_up else slices - 1 - k
        np.testing.assert_allclose(volume.grid.to_world((i, j, at)), scan.world(i, j, k), atol=1e-6)
        assert volume.array[i, j, at] == scan.stored[k, j, i]


@pytest.mark.parametrize(
    ("cosines", "orientation"),
    [
        (AXIAL, "LPS"),
        ((0, 1, 0, 0, 0, -1), "PIR"),
        ((1, 0, 0, 0, 0, -1), "LIP"),
        ((-1, 0, 0, 0, -1, 0), "RAS"),
        ((0.8, 0.6, 0, -0.36, 0.48, 0.8), None),
    ],
    ids=["axial", "sagittal", "coronal", "prone", "oblique"],
)
def test_orientations(tmp_path: Path, cosines: tuple[float, ...], orientation: str | None) -> None:
    scan = Scan(ramp(), cosines=cosines, spacing=(0.5, 1.25))
    check(scan, tmp_path)
    grid = read_series(tmp_path).grid
    np.testing.assert_allclose(grid.spacing, (1.25, 0.5, 2.0), atol=1e-9)
    if orientation:
        # The letters name where growing i, j, k point: the row cosines, column cosines and normal written above, by hand.
        assert grid.orientation == orientation


def test_slices_written_from_top_to_bottom(tmp_path: Path) -> None:
    check(Scan(ramp(), step=-2.0, spacing=(0.7, 0.3)), tmp_path)


def test_step_is_from_positions_not_thickness(tmp_path: Path) -> None:
    volume = read_series(write(Scan(ramp(), step=1.7).datasets(), tmp_path))
    assert volume.grid.spacing[2] == pytest.approx(1.7)


@settings(max_examples=15, deadline=None)
@given(
    quaternion=st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1),
    spacing=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    step=st.floats(0.3, 8) | st.floats(-8, -0.3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_any_orientation(quaternion: list[float], spacing: tuple[float, float], step: float, origin: tuple[float, float, float]) -> None:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    column = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    with tempfile.TemporaryDirectory() as folder:
        check(Scan(ramp(), cosines=(*row, *column), spacing=spacing, step=step, origin=origin), Path(folder))


def test_positions_rounded_to_two_decimals_are_accepted(tmp_path: Path) -> None:
    positions = np.array([(0, 0, round(0.625 * k, 2)) for k in range(9)])
    volume = read_series(write(Scan(ramp(9), positions=positions).datasets(), tmp_path))
    assert volume.grid.spacing[2] == pytest.approx(0.625)


def test_drift_within_one_percent_a_step_is_still_refused() -> None:
    # Steps of 1.000 then 1.008 mm differ by less than 1 %, yet the middle slice lies 0.2 mm from where a regular grid of 100 steps puts it.
    z = np.concatenate([[0], np.cumsum([1.0] * 50 + [1.008] * 50)])
    stack = stack_slices(np.stack([0 * z, 0 * z, z], axis=1), np.array([0.0, 0, 1]))
    assert "uneven" in stack.findings[0]
    assert "0.200 mm off" in stack.findings[0]


@pytest.mark.parametrize("degrees", [1.0, 12.0, -20.0])
def test_tilt_angle_is_measured(degrees: float) -> None:
    tilt = np.radians(degrees)
    positions = np.arange(6)[:, None] * np.array([0, 2 * np.tan(tilt), 2.0])
    (finding,) = stack_slices(positions, np.array([0.0, 0, 1])).findings
    assert f"{abs(degrees):.2f} degrees" in finding


def test_rotation_between_orientations() -> None:
    assert rotation_degrees(AXIAL, (0, 1, 0, -1, 0, 0)) == pytest.approx(90)
    assert rotation_degrees(AXIAL, (-1, 0, 0, 0, -1, 0)) == pytest.approx(180)


def test_find_series_describes_without_pixels(tmp_path: Path) -> None:
    scan = Scan(ramp())
    (series,) = find_series(write(scan.datasets(), tmp_path))
    assert (series.uid, series.key, series.modality, series.description) == (scan.uid, scan.uid, "CT", "phantom")
    assert (series.rows, series.columns, len(series.files), series.problem) == (4, 6, 5, None)
