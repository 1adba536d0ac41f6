"""Enhanced multi-frame objects: one slice a frame, placed and scaled by its own functional groups, whoever wrote it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ImplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import GeometryError, InputError
from volseg.io.dicom import find_series, read_series
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.header import SliceHeader, read_headers

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def item(**elements: Any) -> list[Dataset]:
    """A sequence of one item."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return [ds]


def enhanced(scan: Scan, order: list[int] | None = None, sop_class: str = EnhancedCTImageStorage, scale: Callable[[int], tuple[str, str]] = lambda _: ("1", "0")) -> Dataset:
    """The scan as one object, its frames in any order; orientation and spacing are shared, position and rescale per frame (PS3.3 C.7.6.16)."""
    order = list(range(len(scan.stored))) if order is None else order
    ds = scan.slice(0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=ds.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=ds.PixelSpacing, SliceThickness="9")
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in order:
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=scan.slice(k).ImagePositionPatient)
        slope, intercept = scale(k)
        group.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
        group.FrameContentSequence = item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, keyword)
    ds.NumberOfFrames = len(order)
    ds.PixelData = np.ascontiguousarray(scan.stored[order]).tobytes()
    return ds


def headers_of(ds: Dataset, folder: Path, **options: Any) -> list[SliceHeader]:
    file = folder / "object.dcm"
    ds.save_as(file, **({"enforce_file_format": True} | options))
    return read_headers(Member(file, None, file.stat().st_size))


@pytest.mark.parametrize("cosines", [(1.0, 0, 0, 0, 1, 0), (0.0, 1, 0, 0, 0, -1), OBLIQUE])
def test_frames_in_any_order_lie_where_the_standard_says(tmp_path: Path, cosines: tuple[float, ...]) -> None:
    scan = Scan(ramp(), cosines=cosines, spacing=(0.5, 1.25))
    volume = read_series(write([enhanced(scan, [3, 0, 4, 1, 2])], tmp_path))
    for i, j, k in ((0, 0, 0), (5, 3, 4), (2, 1, 3)):
        at = np.linalg.inv(volume.grid.affine) @ [*scan.world(i, j, k), 1]
        np.testing.assert_allclose(at[:3], np.round(at[:3]), atol=1e-4)
        assert volume.array[tuple(np.round(at[:3]).astype(int))] == scan.stored[k, j, i]


def test_each_frame_has_its_own_scale(tmp_path: Path) -> None:
    scan = Scan(ramp())
    ds = enhanced(scan, scale=lambda k: (str(k + 1), str(-10 * k)))
    expected = scan.stored * np.arange(1, 6)[:, None, None] - 10 * np.arange(5)[:, None, None]
    np.testing.assert_array_equal(read_series(write([ds], tmp_path)).array, expected.T)


def test_headers_say_where_each_frame_is(tmp_path: Path) -> None:
    scan = Scan(ramp())
    headers = headers_of(enhanced(scan), tmp_path)
    assert [h.frame for h in headers] == [0, 1, 2, 3, 4]
    assert len({h.member for h in headers}) == 1
    data = (tmp_path / "object.dcm").read_bytes()
    for k, h in enumerate(headers):
        assert h.position == pytest.approx(scan.positions[k])
        assert h.pixel_offset is not None
        assert data[h.pixel_offset : h.pixel_offset + h.frame_bytes] == scan.stored[k].tobytes()


@pytest.mark.parametrize("options", [{"implicit_vr": True}, {}])
def test_sequences_of_any_encoding(tmp_path: Path, options: dict[str, Any]) -> None:
    ds = enhanced(Scan(ramp(), cosines=OBLIQUE))
    expected = headers_of(ds, tmp_path)
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        ds[name].is_undefined_length = True
        for group in ds[name].value:
            group.is_undefined_length_sequence_item = True
            for element in group:
                element.is_undefined_length = True
    if options:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found = headers_of(ds, tmp_path)
    assert [(h.position, h.orientation, h.spacing) for h in found] == [(h.position, h.orientation, h.spacing) for h in expected]


@settings(max_examples=20, deadline=None)
@given(angles=st.tuples(*[st.floats(-np.pi, np.pi)] * 3), origin=st.tuples(*[st.floats(-500, 500)] * 3), step=st.floats(0.3, 8))
def test_any_geometry(tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, ...], origin: tuple[float, float, float], step: float) -> None:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]] @ [[1, 0, 0], [0, cx, -sx], [0, sx, cx]]
    scan = Scan(ramp(4), cosines=(*turn[:, 0], *turn[:, 1]), origin=origin, step=step)
    volume = read_series(write([enhanced(scan, [2, 0, 3, 1])], tmp_path_factory.mktemp("any")))
    np.testing.assert_allclose((volume.grid.affine @ [5, 3, 3, 1])[:3], scan.world(5, 3, 3), atol=1e-3)
    np.testing.assert_array_equal(volume.array, scan.stored.T)


def test_highdicoms_legacy_converted_object_equals_its_classic_series(tmp_path: Path) -> None:
    classic = Scan(ramp(), cosines=OBLIQUE, spacing=(0.5, 1.25))
    datasets = classic.datasets()
    for n, ds in enumerate(datasets, 1):
        ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "", "", "", "", "", "", ""
        ds.Manufacturer, ds.PatientPosition, ds.InstanceNumber, ds.AcquisitionNumber, ds.PositionReferenceIndicator = "x", "HFS", n, 1, ""
        ds.SeriesNumber, ds.Laterality = 1, ""
        ds.RescaleType = "HU"
    converted = LegacyConvertedEnhancedCTImage(datasets, series_instance_uid=generate_uid(), series_number=2, sop_instance_uid=generate_uid(), instance_number=1)
    expected = read_series(write(datasets, tmp_path / "classic"))
    found = read_series(write([converted], tmp_path / "legacy"))
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.grid.affine, expected.grid.affine, atol=1e-5)


def test_two_echoes_in_one_object_are_two_stacks(tmp_path: Path) -> None:
    scan = Scan(np.concatenate([ramp(), ramp() + 1000]), positions=np.tile(np.arange(5)[:, None] * [0, 0, 2.0], (2, 1)))
    ds = enhanced(scan, sop_class=EnhancedMRImageStorage)
    for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.MREchoSequence = item(EffectiveEchoTime=2.46 if n < 5 else 4.92)
    first, second = find_series(write([ds], tmp_path))
    assert (first.distinction, second.distinction) == ("EchoTime 2.46 ms", "EchoTime 4.92 ms")
    assert first.key.endswith("#1")
    assert "EchoTime 2.46 ms" in str(first)
    np.testing.assert_array_equal(read_series(tmp_path, second.key).array, (ramp() + 1000).T)
    with pytest.raises(GeometryError, match=r"several stacks in one series: 5 \+ 5 slices with EchoTime 2\.46 ms; EchoTime 4\.92 ms; choose one with --series .*#1 or .*#2"):
        read_series(tmp_path)


def test_diffusion_directions_are_told_with_their_b_value(tmp_path: Path) -> None:
    scan = Scan(np.concatenate([ramp()] * 3), positions=np.tile(np.arange(5)[:, None] * [0, 0, 2.0], (3, 1)))
    ds = enhanced(scan, sop_class=EnhancedMRImageStorage)
    for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        if n < 5:
            group.MRDiffusionSequence = item(DiffusionBValue=0.0, DiffusionDirectionality="NONE")
        else:
            direction = item(DiffusionGradientOrientation=[1.0, 0.0, 0.0] if n < 10 else [0.0, 1.0, 0.0])
            group.MRDiffusionSequence = item(DiffusionBValue=1000.0, DiffusionDirectionality="DIRECTIONAL", DiffusionGradientDirectionSequence=direction)
    found = [s.distinction for s in find_series(write([ds], tmp_path))]
    assert found == [
        "DiffusionBValue 0 s/mm2, no DiffusionGradientOrientation",
        "DiffusionBValue 1000 s/mm2, DiffusionGradientOrientation 0\\1\\0",
        "DiffusionBValue 1000 s/mm2, DiffusionGradientOrientation 1\\0\\0",
    ]


def test_parallel_stacks_side_by_side(tmp_path: Path) -> None:
    z = np.array([0, 2, 4, 31, 33, 35], dtype=float)
    ds = enhanced(Scan(ramp(6), positions=z[:, None] * [0, 0, 1.0]))
    for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].StackID = str(1 + n // 3)
    stacks = find_series(write([ds], tmp_path))
    assert [s.distinction for s in stacks] == ["StackID 1", "StackID 2"]
    assert [s.problem is None or "several stacks" in s.problem for s in stacks] == [True, True]


def _drop(name: str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for group in (*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence):
            if name in group:
                delattr(group, name)

    return change


CHANGES: list[tuple[Callable[[Dataset], None], type[Exception], str]] = [
    (_drop("PlanePositionSequence"), InputError, "frame 1 of 5 has no PlanePositionSequence, which holds its ImagePositionPatient"),
    (_drop("PlaneOrientationSequence"), InputError, "has no PlaneOrientationSequence"),
    (_drop("PixelMeasuresSequence"), InputError, "has no PixelMeasuresSequence"),
    (lambda ds: setattr(ds, "NumberOfFrames", 10**9), InputError, "truncated: 240 bytes of pixels where 4 rows x 6 columns x 16 bits x 1000000000 frames need 48000000000"),
    (lambda ds: setattr(ds, "NumberOfFrames", 4), InputError, "4 frames (NumberOfFrames (0028,0008)) but places for 5"),
    (lambda ds: setattr(ds, "NumberOfFrames", -1), InputError, "has -1 frames (NumberOfFrames (0028,0008)) but places for 5"),
    (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]), InputError, "truncated: 238 bytes"),
    (lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0], "ImagePositionPatient"), InputError, "frame 3 of 5 has no ImagePositionPatient"),
    (lambda ds: setattr(ds.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence[0], "RescaleSlope", "0"), InputError, "(frame 4 of 5)"),
    (lambda ds: setattr(ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", ["-1", "1"]), GeometryError, "both must be positive"),
]


@pytest.mark.parametrize(("change", "kind", "words"), CHANGES, ids=[words[:40] for _, _, words in CHANGES])
def test_damaged_objects(tmp_path: Path, change: Callable[[Dataset], None], kind: type[Exception], words: str) -> None:
    ds = enhanced(Scan(ramp()))
    change(ds)
    with pytest.raises(InputError) as caught:
        read_series(write([ds], tmp_path))
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_without_a_place_are_no_volume(tmp_path: Path) -> None:
    ds = Scan(ramp()).slice(0)
    ds.SOPClassUID, ds.NumberOfFrames, ds.PixelData = UltrasoundMultiFrameImageStorage, 5, ramp().tobytes()
    with pytest.raises(InputError, match=r"multi-frame object \(Ultrasound Multi-frame Image Storage, 5 frames\) without a place for each frame"):
        read_series(write([ds], tmp_path))


def test_the_same_object_twice_is_read_once(tmp_path: Path) -> None:
    ds = enhanced(Scan(ramp()))
    volume = read_series(write([ds, ds], tmp_path))
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert any("left out 5" in note for note in volume.warnings)


def test_many_frames_are_quick(tmp_path: Path) -> None:
    count = 600
    headers_of(enhanced(Scan(np.zeros((count, 2, 2), np.int16))), tmp_path)
    file = tmp_path / "object.dcm"
    start = time.process_time()
    headers = read_headers(Member(file, None, file.stat().st_size))
    # A tenth of it is usual; a reader that looks through all groups for each frame takes seconds.
    assert time.process_time() - start < 1e-3 * count
    assert len(headers) == count
    assert headers[-1].position == pytest.approx((-10, -20, 30 + 2 * (count - 1)))
