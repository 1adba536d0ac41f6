"""Random geometry through the synthetic scanner and back: every voxel at its world position with its value, whatever the orientation, order or layout of the files."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import volseg
from volseg.errors import GeometryError
from volseg.geometry import Grid
from volseg.io.dicom import find_series
from volseg.synthetic import ScannerSettings, SyntheticScan, make_ct, make_mr, write_multiframe, write_series
from volseg.synthetic.scan import scanner_axes, scanner_grid
from volseg.synthetic.scanner import PATIENT_POSITIONS

ORIENTATIONS = ("LPS", "RAS", "RPI", "PSR", "ASL", "PIL", "LIP", "RIA", "LSA", "SPL")
# Shrinking a failure that writes files takes minutes and small scans need none.
few = settings(max_examples=15, derandomize=True, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])

BASE = {"CT": make_ct(1, shape=(8, 8, 8), spacing=(4.0, 4.0, 4.0)), "MR": make_mr(1, shape=(8, 8, 8), spacing=(4.0, 4.0, 4.0))}
"""Identity and labels of a scan; the grid and the voxels are drawn."""


@st.composite
def scans(draw: st.DrawFn, modalities: tuple[str, ...] = ("CT", "MR"), orientations: tuple[str, ...] = ORIENTATIONS) -> SyntheticScan:
    """Voxels that are all different on a random oblique grid with three different spacings."""
    shape = draw(st.tuples(*[st.integers(8, 11)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    centre = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    axes = scanner_axes(draw(st.sampled_from(orientations)), draw(st.floats(-44, 44)))
    grid = scanner_grid(shape, spacing, centre, axes)
    values = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.prod(shape)).astype(np.int16).reshape(shape)
    return replace(BASE[draw(st.sampled_from(modalities))], image=values, label=np.zeros(shape, np.uint8), tissues=np.zeros(shape, np.uint8), grid=grid)


@st.composite
def habits(draw: st.DrawFn) -> ScannerSettings:
    return ScannerSettings(
        patient_position=draw(st.sampled_from((None, *PATIENT_POSITIONS))),
        numbering=draw(st.sampled_from(("along", "reversed", "shuffled"))),
        shuffled_names=draw(st.booleans()),
        signed=draw(st.booleans()),
        bits_stored=draw(st.sampled_from((12, 16))),
        monochrome1=draw(st.booleans()),
    )


def assert_same_in_world(volume: volseg.Volume, scan: SyntheticScan) -> None:
    """Each voxel of the scan is a voxel of the volume, at the same position to a thousandth of a millimetre."""
    world = scan.grid.to_world(np.moveaxis(np.indices(scan.grid.shape), 0, -1))
    index = np.rint(volume.grid.to_voxel(world)).astype(int)
    np.testing.assert_allclose(volume.grid.to_world(index), world, atol=1e-3)
    assert volume.array.size == scan.image.size
    np.testing.assert_array_equal(volume.array[tuple(np.moveaxis(index, -1, 0))], scan.image)


@few
@given(scans(), habits())
def test_single_frames(scan: SyntheticScan, habit: ScannerSettings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_series(scan, Path(folder) / "s", settings=habit)
        assert_same_in_world(volseg.load(Path(folder) / "s"), scan)


@few
@given(scans(), habits())
def test_multi_frame_equals_single_frames(scan: SyntheticScan, habit: ScannerSettings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_series(scan, Path(folder) / "s", settings=habit)
        single, many = volseg.load(Path(folder) / "s"), volseg.load(write_multiframe([scan], Path(folder) / "m" / "m.dcm", settings=habit))
    assert_same_in_world(many, scan)
    np.testing.assert_array_equal(many.array, single.array)
    assert many.grid.distance(single.grid) < 1e-6
    assert sorted(s.frame for s in many.source.header.slices) == list(range(many.grid.shape[2]))


@few
@given(scans(("CT",)), st.floats(0.5, 30), st.booleans())
def test_a_tilt_is_refused_with_its_angle(scan: SyntheticScan, tilt: float, forward: bool) -> None:
    # Over a whole stack a tilt must show beyond twice the 0.01 mm that scanners round positions to.
    assume(np.sin(np.radians(tilt)) * scan.grid.spacing[2] * (scan.grid.shape[2] - 1) > 0.021)
    with tempfile.TemporaryDirectory() as folder:
        for target in (Path(folder) / "s", Path(folder) / "m.dcm"):
            write = write_series if target.suffix == "" else lambda scan, path, settings: write_multiframe([scan], path, settings=settings)
            write(scan, target, settings=ScannerSettings(tilt_degrees=tilt if forward else -tilt))
            with pytest.raises(GeometryError, match="gantry tilt") as caught:
                volseg.load(target)
            said = re.search(r"stacked ([\d.]+) degrees off", str(caught.value))
            assert said is not None
            # The message has two decimals.
            assert abs(float(said[1]) - tilt) <= 0.0051
            assert "--fix-geometry" in str(caught.value)


@few
@given(scans(("CT",)), st.floats(0.3, 5.0), st.floats(1.1, 1.8), st.integers(2, 4), st.integers(2, 5))
def test_uneven_spacing_is_refused_with_both_spacings(scan: SyntheticScan, step: float, factor: float, near: int, far: int) -> None:
    steps = [step] * near + [step * factor] * far
    with tempfile.TemporaryDirectory() as folder:
        write_series(scan, Path(folder) / "s", settings=ScannerSettings(offsets_mm=(0.0, *np.cumsum(steps))), field=lambda points: np.zeros(len(points)))
        with pytest.raises(GeometryError, match="uneven slice spacing") as caught:
            volseg.load(Path(folder) / "s")
    listed = {float(mm): int(n) for mm, n in re.findall(r"([\d.]+) mm \((\d+)x\)", str(caught.value))}
    assert sum(listed.values()) == near + far
    for value, count in ((step, near), (step * factor, far)):
        # Rounding to three decimals may fall either way for one spacing.
        assert sum(n for mm, n in listed.items() if abs(mm - value) <= 1.1e-3) == count


@few
@given(scans(("CT",)), st.integers(2, 5), st.integers(1, 2))
def test_missing_slices_are_refused_with_their_number(scan: SyntheticScan, first: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_series(scan, Path(folder) / "s", settings=ScannerSettings(missing=tuple(range(first, first + count))))
        with pytest.raises(GeometryError, match=rf"gap: {count} slices? missing from a spacing of {scan.grid.spacing[2]:.3f} mm"):
            volseg.load(Path(folder) / "s")


@settings(few, max_examples=8)
@given(scans(("MR",)), st.sampled_from(("single", "multi")))
def test_echoes_of_one_series_are_told_apart(scan: SyntheticScan, layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        habit = ScannerSettings(echo_times_ms=(5.0, 30.0), numbering="shuffled")
        path = Path(folder) / "s"
        _ = write_series(scan, path, settings=habit) if layout == "single" else write_multiframe([scan], path / "m.dcm", settings=habit)
        parts = find_series(path)
        assert len(parts) == 2
        volumes = [volseg.load(path, series=part.key) for part in parts]
    first, second = sorted(volumes, key=lambda volume: -int(volume.array.max()))
    assert_same_in_world(first, scan)
    # exp(-(30 - 5) / 50), rounded to whole numbers
    assert_same_in_world(second, replace(scan, image=np.rint(scan.image * 0.6065306597126334).astype(np.int16)))


@settings(few, max_examples=8)
@given(scans(("MR",)), st.floats(15, 40))
def test_stacks_of_one_object_are_told_apart(scan: SyntheticScan, angle: float) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(np.radians(angle)), -np.sin(np.radians(angle))], [np.sin(np.radians(angle)), np.cos(np.radians(angle))]]
    other = replace(scan, grid=Grid(scan.grid.shape, turn @ scan.grid.affine), image=(scan.image[::-1] + 1000).astype(np.int16))
    with tempfile.TemporaryDirectory() as folder:
        path = write_multiframe([scan, other], Path(folder) / "m.dcm", settings=ScannerSettings(numbering="shuffled"))
        parts = find_series(path)
        assert len(parts) == 2
        volumes = [volseg.load(path, series=part.key) for part in parts]
    first, second = sorted(volumes, key=lambda volume: int(volume.array.min()))
    assert_same_in_world(first, scan)
    assert_same_in_world(second, other)


@settings(few, max_examples=15)
@given(scans(("CT",)), habits())
def test_pet_slices_keep_their_own_scale(scan: SyntheticScan, habit: ScannerSettings) -> None:
    pet = replace(scan, modality="PT", image=(scan.image * 20).astype(np.int16))
    with tempfile.TemporaryDirectory() as folder:
        write_series(pet, Path(folder) / "s", settings=habit)
        volume = volseg.load(Path(folder) / "s")
    world = pet.grid.to_world(np.moveaxis(np.indices(pet.grid.shape), 0, -1))
    index = np.rint(volume.grid.to_voxel(world)).astype(int)
    # Half a step of the coarsest slice: its top value over 32767, or over 2047 with 12 bits.
    step = float(pet.image.max()) / (32767 if habit.bits_stored == 16 else 2047)
    np.testing.assert_allclose(volume.array[tuple(np.moveaxis(index, -1, 0))], pet.image, atol=step / 2 * 1.001)
    assert volume.array.dtype == np.float32
