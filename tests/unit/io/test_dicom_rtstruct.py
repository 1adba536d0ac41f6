"""RT Structure Sets: outlines and filling, label maps to contours and back, foreign and damaged files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tests.dicom_factory import AXIAL, Scan, decimal, ramp, report, write
from volseg.errors import GeometryError, InputError, OutputError
from volseg.geometry import Grid, reorient
from volseg.io import load
from volseg.io.dicom import find_series
from volseg.io.dicom.objects.origin import find_referenced_series, label_on_slices
from volseg.io.dicom.objects.rtstruct import rasterise, read_rtstruct, rtstruct_on_volume, write_rtstruct
from volseg.io.dicom.objects.rtstruct.contours import fill, outlines
from volseg.io.dicom.objects.segments import Algorithm, Code, Segment, describe_segments
from volseg.io.volume import Source, Volume

SEGMENTS = describe_segments({0: "background", 1: "tumor", 2: "liver", 3: "rest", 7: "Herz und Gefäße"})
ALGORITHM = Algorithm("ct_tumor", "0.1.0", "ab" * 32)
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def shoelace(polygon: np.ndarray) -> float:
    """Signed area of a closed polygon."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    image = np.zeros(shape, dtype=bool)
    inside, where = fill(polygons, shape)
    image[where] = inside
    return image


def by_points(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Oracle: matplotlib asks for each pixel centre whether it lies inside."""
    centres = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1).reshape(-1, 2)
    return Polygon(np.vstack([polygon, polygon[:1]])).contains_points(centres).reshape(shape)


def scan_of(folder: Path, shape: tuple[int, int, int] = (5, 9, 12), **options: Any) -> Volume:
    return load(write(Scan(ramp(*shape), **options).datasets(), folder))


def written(label: np.ndarray, volume: Volume, path: Path) -> Dataset:
    assert write_rtstruct(label, volume, path, segments=SEGMENTS, algorithm=ALGORITHM) == path
    return pydicom.dcmread(path)


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Labels 1 to 3: two smooth shapes with holes and islands, and single voxels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    label = np.where(smooth > 0.1, 1, 0) + np.where(smooth < -0.1, 2, 0)
    label[rng.random(shape) < 0.05] = 3
    return label.astype(np.uint8)


# Outlines and filling


@given(MASKS)
@settings(max_examples=300)
def test_outlines_enclose_exactly_their_pixels(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert sum(shoelace(p) for p in polygons) == mask.sum()
    assert len(polygons) == ndimage.label(mask)[1]


@given(MASKS)
@settings(max_examples=100)
def test_one_by_one_outlines_are_the_components_whichever_rule_joins_them(mask: np.ndarray) -> None:
    components, _ = ndimage.label(mask)
    for polygon in outlines(mask):
        alone = filled([polygon], mask.shape)
        (value,) = np.unique(components[alone])
        assert np.array_equal(alone, components == value)
        assert np.array_equal(by_points(polygon, mask.shape), alone)


def test_a_pixel_is_its_four_corners() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 3] = True
    (square,) = outlines(mask)
    assert sorted(map(tuple, square)) == [(2.5, 1.5), (2.5, 2.5), (3.5, 1.5), (3.5, 2.5)]


def test_a_straight_line_of_pixels_needs_four_points_even_at_the_border() -> None:
    mask = np.zeros((3, 50), dtype=bool)
    mask[0] = True
    (line,) = outlines(mask)
    assert len(line) == 4
    assert line.min(axis=0).tolist() == [-0.5, -0.5]
    assert line.max(axis=0).tolist() == [49.5, 0.5]


def test_a_ring_is_one_polygon_with_a_bridge_gone_both_ways() -> None:
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    (ring,) = outlines(mask)
    assert shoelace(ring) == 24
    steps = [(tuple(a), tuple(b)) for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)]
    assert sum((b, a) in steps for a, b in steps) == 2


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((3, 3), dtype=bool)) == []
    assert not filled([], (3, 3)).any()


@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
@settings(max_examples=60)
def test_filling_agrees_with_asking_for_each_point(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    star = rng.uniform(-3, 20, 2) + rng.uniform(1, 12, (corners, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert np.array_equal(filled([star], (17, 19)), by_points(np.round(star, 4), (17, 19)))


def test_polygons_that_share_a_border_through_centres_share_no_pixel() -> None:
    left, right = (np.array([[a, 0.0], [b, 0.0], [b, 4.0], [a, 4.0]]) for a, b in ((0.0, 3.0), (3.0, 6.0)))
    first, second = filled([left], (6, 8)), filled([right], (6, 8))
    assert not (first & second).any()
    assert (first | second).sum() == 6 * 4


def test_noise_far_below_a_pixel_does_not_move_a_border_through_centres() -> None:
    square = np.array([[1.0, 1.0], [4.0, 1.0], [4.0, 4.0], [1.0, 4.0]])
    assert np.array_equal(filled([square + 3e-5], (6, 6)), filled([square - 3e-5], (6, 6)))


def test_huge_polygons_cost_no_more_than_the_image() -> None:
    far = np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]])
    assert filled([far], (6, 7)).all()
    assert not filled([far + 5e9], (6, 7)).any()


def test_thousands_of_points_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    flower = (50.3, 49.6) + (30 + 15 * np.sin(9 * turns))[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    whole = filled([flower], (100, 100))
    monkeypatch.setattr("volseg.io.dicom.objects.rtstruct.contours.CROSSINGS_AT_ONCE", 100)
    assert np.array_equal(filled([flower], (100, 100)), whole)
    assert np.array_equal(whole, by_points(np.round(flower, 4), (100, 100)))


# Label map to file and back


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, -1.0]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_label_in_any_geometry_comes_back_voxel_for_voxel(tmp_path_factory: pytest.TempPathFactory, seed: int, way: float) -> None:
    rng = np.random.default_rng(seed)
    row, column, _ = Rotation.random(rng=rng).as_matrix()
    spacing = tuple(float(v) for v in rng.uniform(0.3, 3, 2))
    folder = tmp_path_factory.mktemp("scan")
    cosines = tuple(float(decimal(v)) for v in (*row, *column))
    volume = scan_of(folder / "scan", (4, 7, 9), cosines=cosines, spacing=spacing, origin=tuple(rng.uniform(-500, 500, 3)), step=way * float(rng.uniform(0.5, 5)))
    label = blobs(volume.grid.shape, seed)
    written(label, volume, folder / "rs.dcm")
    result = rasterise(folder / "rs.dcm", volume)
    assert np.array_equal(result.label, label)
    assert result.notes == ()


@pytest.mark.parametrize("cosines", [AXIAL, SAGITTAL, FEET_FIRST, OBLIQUE])
def test_corners_of_a_voxel_lie_where_the_standard_puts_them(tmp_path: Path, cosines: tuple[float, ...]) -> None:
    scan = Scan(ramp(5, 9, 12), cosines=cosines, spacing=(1.3, 0.7))
    volume = load(write(scan.datasets(), tmp_path / "scan"))
    label = np.zeros(volume.grid.shape, np.uint8)
    label[4, 6, 2] = 7
    ds = written(label, volume, tmp_path / "rs.dcm")
    (contour,) = ds.ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    corners = np.array([scan.world(i, j, 2) * (-1, -1, 1) for i in (3.5, 4.5) for j in (5.5, 6.5)])
    assert contour.NumberOfContourPoints == 4
    assert max(np.linalg.norm(points - corner, axis=1).min() for corner in corners) < 1e-4
    (image,) = contour.ContourImageSequence
    (slice_2,) = [d for d in map(pydicom.dcmread, (tmp_path / "scan").iterdir()) if np.allclose(d.ImagePositionPatient, scan.positions[2])]
    assert image.ReferencedSOPInstanceUID == slice_2.SOPInstanceUID
    assert "ReferencedFrameNumber" not in image


def test_every_number_is_a_decimal_string_of_sixteen_characters(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan", cosines=OBLIQUE, origin=(-99999.123456, 88888.7, 77777.1))
    ds = written(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "rs.dcm")
    raw = ds.ROIContourSequence[0].ContourSequence[0].get_item("ContourData").value
    assert max(len(number) for number in raw.strip().split(b"\\")) <= 16
    assert len(raw) % 2 == 0


def test_modules_say_whose_it_is_and_what_made_it(tmp_path: Path) -> None:
    tags = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "StudyDate": "20240131", "AccessionNumber": "A1", "SeriesNumber": "4"}
    volume = scan_of(tmp_path / "scan", tags=tags)
    label = np.zeros(volume.grid.shape, np.uint8)
    label[1:3, 1:3, 1:4], label[5, 5, 2] = 7, 1
    ds = written(label, volume, tmp_path / "rs.dcm")
    assert (str(ds.PatientName), ds.PatientID, ds.StudyDate, ds.AccessionNumber, ds.StudyInstanceUID) == ("Müller^Jörg", "phantom", "20240131", "A1", "1.2.3.4")
    assert (ds.Modality, ds.SOPClassUID, ds.ApprovalStatus) == ("RTSTRUCT", RTStructureSetStorage, "UNAPPROVED")
    assert ds.SeriesInstanceUID != volume.source.series_instance_uid
    assert [(r.ROINumber, r.ROIName, r.ROIGenerationAlgorithm) for r in ds.StructureSetROISequence] == [(1, "tumor", "AUTOMATIC"), (7, "Herz und Gefäße", "AUTOMATIC")]
    assert ALGORITHM.weights_sha256 in ds.StructureSetROISequence[0].ROIDescription
    assert [len(r.ContourSequence) for r in ds.ROIContourSequence] == [1, 3]
    assert {c.ContourGeometricType for r in ds.ROIContourSequence for c in r.ContourSequence} == {"CLOSED_PLANAR"}
    assert [o.RTROIInterpretedType for o in ds.RTROIObservationsSequence] == ["GTV", ""]
    assert ds.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeValue == "108369006"
    assert [r.name for r in read_rtstruct(tmp_path / "rs.dcm").rois] == ["tumor", "Herz und Gefäße"]
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert (frame.FrameOfReferenceUID, series.SeriesInstanceUID) == ("1.2.3.5", volume.source.series_instance_uid)
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == set(volume.source.details["sop_instance_uids"])
    folder, key = find_referenced_series(tmp_path / "rs.dcm")
    assert np.array_equal(rtstruct_on_volume(tmp_path / "rs.dcm", load(folder, key)), label)


def test_colours_and_codes_come_from_the_segment(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan")
    segments = {1: Segment(1, "liver", SEGMENTS[2].category, Code("10200004", "SCT", "Liver"), rgb=(9, 8, 7)), 2: Segment(2, "a\\b" + "x" * 80)}
    label = np.zeros(volume.grid.shape, np.uint8)
    label[0, 0, 0], label[-1, -1, -1] = 1, 2
    write_rtstruct(label, volume, tmp_path / "rs.dcm", segments=segments, algorithm=Algorithm("a" * 80, "1"))
    ds = pydicom.dcmread(tmp_path / "rs.dcm")
    first, second = read_rtstruct(tmp_path / "rs.dcm").rois
    assert first.rgb == (9, 8, 7)
    assert second.rgb is not None
    assert second.name == "a b" + "x" * 61
    assert (ds.StructureSetLabel, ds.RTROIObservationsSequence[0].RTROIInterpretedType) == ("a" * 16, "ORGAN")
    assert np.array_equal(rtstruct_on_volume(tmp_path / "rs.dcm", volume), label)


def test_frames_are_named_by_number(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan")
    series = volume.source.header
    one = series.slices[0]
    frames = tuple(replace(s, member=one.member, sop_uid=one.sop_uid, frame=k) for k, s in zip((4, 3, 2, 1, 0), series.slices, strict=True))
    volume = replace(volume, source=replace(volume.source, header=replace(series, slices=frames)))
    label = np.zeros(volume.grid.shape, np.uint8)
    label[2, 3, 1] = 1
    ds = written(label, volume, tmp_path / "rs.dcm")
    (image,) = ds.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    assert (image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) == (one.sop_uid, 4)
    frame = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(frame.ContourImageSequence) == 1
    assert np.array_equal(rtstruct_on_volume(tmp_path / "rs.dcm", volume), label)


def test_cropped_and_reoriented_volumes_come_back(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan", cosines=OBLIQUE)
    part = volume.array[2:10, 1:8, 1:4]
    array, grid = reorient(part, volume.grid.crop((2, 1, 1), (10, 8, 4)), "SRP")
    cropped = Volume(array, grid, volume.source)
    label = blobs(grid.shape, 3)
    written(label, cropped, tmp_path / "rs.dcm")
    assert np.array_equal(rtstruct_on_volume(tmp_path / "rs.dcm", cropped), label)
    assert np.count_nonzero(rtstruct_on_volume(tmp_path / "rs.dcm", volume)) == np.count_nonzero(label)


def test_contours_of_a_corrected_volume_lie_on_the_original_tilted_slices(tmp_path: Path) -> None:
    positions = np.array([[-10.0 + 0.1 * k, -20 + 1.3 * k, 30 + z] for k, z in enumerate((0.0, 2.0, 4.5, 6.0, 9.0))])
    (series,) = find_series(write(Scan(ramp(5, 9, 7), spacing=(1.5, 0.9), positions=positions).datasets(), tmp_path / "scan"))
    grid = Grid.from_lps((8, 12, 6), np.array([[0.9, 0, 0, -10.21], [0, 1.5, 0, -20.13], [0, 0, 1.9, 29.77], [0, 0, 0, 1]]))
    volume = Volume(np.zeros(grid.shape, np.int16), grid, Source(tmp_path, "dicom", "tilted", header=series))
    label = np.zeros(grid.shape, np.uint8)
    label[2:6, 3:9, 1:5] = 2
    ds = written(label, volume, tmp_path / "rs.dcm")
    heights = {round(float(c.ContourData[2]), 3) for c in ds.ROIContourSequence[0].ContourSequence}
    assert heights <= {float(z) for z in positions[:, 2]}
    again = rtstruct_on_volume(tmp_path / "rs.dcm", volume)
    assert np.array_equal(label_on_slices(again, volume) > 0, label_on_slices(label, volume) > 0)


def test_nothing_segmented_is_no_file_and_an_absent_label_no_roi(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan")
    label = np.zeros(volume.grid.shape, np.int16)
    assert write_rtstruct(label, volume, tmp_path / "rs.dcm", segments=SEGMENTS, algorithm=ALGORITHM) is None
    assert not (tmp_path / "rs.dcm").exists()
    label[1, 1, 1] = 2
    assert [r.ROINumber for r in written(label, volume, tmp_path / "rs.dcm").StructureSetROISequence] == [2]


def test_labels_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    volume = scan_of(tmp_path / "scan")
    options: dict[str, Any] = {"segments": SEGMENTS, "algorithm": ALGORITHM}
    with pytest.raises(InputError, match=r"value 5 \(540 voxels\)"):
        write_rtstruct(np.full(volume.grid.shape, 5), volume, tmp_path / "rs.dcm", **options)
    with pytest.raises(InputError, match="float64, not whole numbers"):
        write_rtstruct(np.ones(volume.grid.shape), volume, tmp_path / "rs.dcm", **options)
    with pytest.raises(GeometryError, match="shape"):
        write_rtstruct(np.ones((2, 2, 2), np.uint8), volume, tmp_path / "rs.dcm", **options)
    with pytest.raises(OutputError, match="folder"):
        write_rtstruct(np.ones(volume.grid.shape, np.uint8), volume, tmp_path, **options)
    nifti = Volume(volume.array, volume.grid, Source(tmp_path, "nifti", "scan"))
    with pytest.raises(InputError, match="needs a DICOM series"):
        write_rtstruct(np.ones(volume.grid.shape, np.uint8), nifti, tmp_path / "rs.dcm", **options)
    assert not (tmp_path / "rs.dcm").exists()


def test_a_scan_without_frame_of_reference_is_refused(tmp_path: Path) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        del ds.FrameOfReferenceUID
    volume = load(write(datasets, tmp_path / "scan"))
    with pytest.raises(InputError, match="no FrameOfReferenceUID"):
        write_rtstruct(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "rs.dcm", segments=SEGMENTS, algorithm=ALGORITHM)


@pytest.mark.filterwarnings("ignore")
def test_how_a_patient_was_made_anonymous_is_carried_over_as_codes_too(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic Application Confidentiality Profile"
    tags = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "Details in 0012,0064", "DeidentificationMethodCodeSequence": [code]}
    volume = scan_of(tmp_path / "scan", tags=tags)
    ds = written(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "rs.dcm")
    assert ds.DeidentificationMethod == tags["DeidentificationMethod"]
    assert [item.CodeValue for item in ds.DeidentificationMethodCodeSequence] == ["113100"]


def test_sloppy_headers_are_carried_over_or_left_empty(tmp_path: Path) -> None:
    datasets = Scan(ramp(), tags={"PatientSex": "UNKNOWN", "PatientID": "x" * 70, "PatientIdentityRemoved": "YES"}).datasets()
    for ds in datasets:
        ds.StudyDate = "2024.01.31"
        del ds.PatientName
    volume = load(write(datasets, tmp_path / "scan"))
    ds = written(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "rs.dcm")
    assert (ds.PatientName, ds.PatientSex, ds.StudyDate, ds.StudyTime, ds.PatientID) == ("", "", "", "", "x" * 70)
    assert ds.DeidentificationMethod


# Files of others


def square(x: float, y: float, size: float, z: float) -> list[float]:
    """A closed square in an axial plane, LPS+ mm, flat list of coordinates."""
    return [v for corner in ((x, y), (x + size, y), (x + size, y + size), (x, y + size)) for v in (*corner, z)]


def foreign(path: Path, rois: Mapping[int, tuple[str, list[Any]]], frame: str = "1.2.3.5", series: str | None = None) -> Path:
    """An RTSTRUCT by hand: contours by ROI number; each a list of coordinates, or (type, coordinates)."""
    ds = report(RTStructureSetStorage)
    ds.StructureSetLabel, ds.StructureSetROISequence, ds.ROIContourSequence = "foreign", [], []
    for number, (name, contours) in rois.items():
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for contour in contours:
            item = Dataset()
            item.ContourGeometricType, data = contour if isinstance(contour, tuple) else ("CLOSED_PLANAR", contour)
            item.NumberOfContourPoints, item.ContourData = len(data) // 3, [decimal(v) for v in data]
            drawn.ContourSequence.append(item)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    if series:
        place, study, images = Dataset(), Dataset(), Dataset()
        images.SeriesInstanceUID, study.RTReferencedSeriesSequence = series, [images]
        place.FrameOfReferenceUID, place.RTReferencedStudySequence = frame, [study]
        ds.ReferencedFrameOfReferenceSequence = [place]
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def axial(tmp_path: Path) -> Volume:
    """12 columns, 9 rows, 5 slices; voxel (i, j, k) at LPS (i, j, 2 k)."""
    return scan_of(tmp_path / "scan", origin=(0.0, 0.0, 0.0))


def only(volume: Volume, *voxels: tuple[int, int, int]) -> np.ndarray:
    label = np.zeros(volume.grid.shape, np.uint8)
    label[tuple(np.array(voxels).T)] = 1
    return label


def test_one_roi_is_label_one(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {42: ("GTV", [square(2.5, 3.5, 2, 4)])})
    result = rasterise(path, axial)
    assert np.array_equal(result.label, only(axial, (3, 4, 2), (4, 4, 2), (3, 5, 2), (4, 5, 2)))
    assert (result.names, result.notes, result.label.dtype) == ({1: "GTV"}, (), np.uint8)
    assert np.array_equal(rtstruct_on_volume(read_rtstruct(path), axial), result.label)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_nested_contours_are_holes(axial: Volume, tmp_path: Path, kind: str) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("ring", [(kind, square(0.5, 0.5, 5, 2)), (kind, square(1.5, 1.5, 3, 2)), (kind, square(2.5, 2.5, 1, 2))])})
    assert rtstruct_on_volume(path, axial).sum() == 25 - 9 + 1


def test_a_keyhole_through_voxel_centres_loses_and_adds_nothing(axial: Volume, tmp_path: Path) -> None:
    outer, inner = [(0.5, 0.5), (6.5, 0.5), (6.5, 6.5), (0.5, 6.5)], [(2.5, 2.5), (2.5, 4.5), (4.5, 4.5), (4.5, 2.5)]
    # From the outer corner's edge at (0.5, 3) into the hole's edge at (2.5, 3): right through the centres of row 3.
    walk = [(0.5, 3.0), (2.5, 3.0), inner[1], inner[2], inner[3], inner[0], (2.5, 3.0), (0.5, 3.0), outer[0], outer[1], outer[2], outer[3]]
    slanted = [(0.5, 1.0), (2.5, 3.0), inner[1], inner[2], inner[3], inner[0], (2.5, 3.0), (0.5, 1.0), outer[0], outer[1], outer[2], outer[3]]
    for polygon in (walk, slanted):
        path = foreign(tmp_path / "rs.dcm", {1: ("keyhole", [[v for x, y in polygon for v in (x, y, 4.0)]])})
        label = rtstruct_on_volume(path, axial)[:, :, 2]
        assert label.sum() == 36 - 4
        assert not label[3:5, 3:5].any()


def test_points_and_open_lines_are_left_out_with_a_note(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [("POINT", [1.0, 1.0, 0.0]), ("OPEN_PLANAR", square(1, 1, 3, 0)), square(0.5, 0.5, 1, 0), [1.0, 1.0, 0.0]])})
    with pytest.warns(UserWarning, match='ROI 1 "a": left out 3 contours'):
        assert rtstruct_on_volume(path, axial).sum() == 1


def test_the_same_contour_twice_counts_once(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [square(0.5, 0.5, 2, 0)] * 2)})
    result = rasterise(path, axial)
    assert result.label.sum() == 4
    assert "left out 1 contours that repeat another" in result.notes[0]


def test_several_rois_are_numbered_in_order_of_their_numbers(axial: Volume, tmp_path: Path) -> None:
    rois = {9: ("last", [square(5.5, 5.5, 1, 0)]), 2: ("first", [square(0.5, 0.5, 1, 0)]), 4: ("marker", [("POINT", [0.0, 0.0, 0.0])]), 5: ("", [square(3.5, 3.5, 1, 0)])}
    result = rasterise(foreign(tmp_path / "rs.dcm", rois), axial)
    assert result.names == {1: "first", 2: "", 3: "last"}
    assert (result.label[1, 1, 0], result.label[4, 4, 0], result.label[6, 6, 0]) == (1, 2, 3)


def test_overlapping_rois_are_refused_with_their_count_unless_chosen(axial: Volume, tmp_path: Path) -> None:
    rois = {1: ("GTV", [square(0.5, 0.5, 3, 0)]), 2: ("PTV", [square(1.5, 1.5, 3, 0)]), 3: ("node", [square(6.5, 6.5, 1, 0)])}
    path = foreign(tmp_path / "rs.dcm", rois)
    with pytest.raises(InputError, match='"GTV" and "PTV" share 4 voxels'):
        rasterise(path, axial)
    chosen = rasterise(path, axial, {"PTV": 5, "node": 300})
    assert {int(v): int((chosen.label == v).sum()) for v in np.unique(chosen.label)[1:]} == {5: 9, 300: 1}
    together = rasterise(path, axial, {"GTV": 1, "PTV": 1})
    assert together.label.sum() == 9 + 9 - 4
    assert together.names == {1: "GTV + PTV"}


def test_wrong_choices_are_refused(axial: Volume, tmp_path: Path) -> None:
    rois = {1: ("GTV", [square(0.5, 0.5, 1, 0)]), 2: ("GTV", [square(3.5, 3.5, 1, 0)]), 3: ("node", [("POINT", [0.0, 0.0, 0.0])])}
    path = foreign(tmp_path / "rs.dcm", rois)
    for wanted, complaint in (
        ({"GTV": 1}, "2 ROIs are called 'GTV' .numbers 1, 2."),
        ({"node": 1}, "no ROI with closed contours"),
        ({"GTV": 0}, "start at 1"),
        ({}, "no ROI was chosen"),
    ):
        with pytest.raises(InputError, match=complaint):
            rasterise(path, axial, wanted)


def test_another_frame_of_reference_is_refused(axial: Volume, tmp_path: Path) -> None:
    rois = {1: ("GTV", [square(0.5, 0.5, 1, 0)])}
    with pytest.raises(GeometryError, match=r"frame of reference 1\.9, the scan lies in 1\.2\.3\.5"):
        rasterise(foreign(tmp_path / "rs.dcm", rois, frame="1.9"), axial)
    with pytest.raises(GeometryError, match="none given"):
        rasterise(foreign(tmp_path / "rs.dcm", rois, frame=""), axial)
    assert rasterise(foreign(tmp_path / "rs.dcm", rois, frame="", series=axial.source.series_instance_uid), axial).label.sum() == 1


def test_contours_between_slices_count_for_the_nearest(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [square(0.5, 0.5, 1, 2.4), square(0.5, 0.5, 1, 4.4), square(5.5, 5.5, 1, 4.9), square(0.5, 0.5, 1, 9.5)])})
    result = rasterise(path, axial)
    assert np.array_equal(result.label, only(axial, (1, 1, 1), (1, 1, 2)))
    beyond, closer, between = result.notes
    assert "left out 1 of 4 contours, which lie beyond" in beyond
    assert "left out 1 contours on planes closer together" in closer
    assert "up to 0.400 mm from the slices (2.000 mm apart)" in between


def test_contours_too_far_apart_are_refused_unless_drawn_on_these_slices(axial: Volume, tmp_path: Path) -> None:
    rois = {1: ("a", [square(0.5, 0.5, 1, z) for z in (0.0, 4.0, 8.0)])}
    with pytest.raises(GeometryError, match=r"contours are 4\.000 mm apart on slices 2\.000 mm apart"):
        rasterise(foreign(tmp_path / "rs.dcm", rois), axial)
    result = rasterise(foreign(tmp_path / "rs.dcm", rois, series=axial.source.series_instance_uid), axial)
    assert result.label.sum() == 3
    assert "the slices between stay empty" in result.notes[0]


def test_single_lesions_may_lie_far_apart(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [square(0.5, 0.5, 1, z) for z in (0.0, 8.0)])})
    result = rasterise(path, axial)
    assert (result.label.sum(), result.notes) == (2, ())


def test_contours_on_other_planes_are_refused(axial: Volume, tmp_path: Path) -> None:
    upright = [1.0, 0.5, 0.0, 1.0, 4.5, 0.0, 1.0, 4.5, 6.0]
    with pytest.raises(GeometryError, match=r"reaches across 6\.00 mm of slices 2\.00 mm apart"):
        rasterise(foreign(tmp_path / "rs.dcm", {1: ("a", [upright])}), axial)


def test_contours_outside_the_image_are_cut_off_or_refused(axial: Volume, tmp_path: Path) -> None:
    label = rtstruct_on_volume(foreign(tmp_path / "rs.dcm", {1: ("a", [square(-100, -100, 101.5, 0)])}), axial)
    assert np.array_equal(label, only(axial, (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)))
    for place in (square(500, 0, 5, 0), square(0.5, 0.5, 3, 900)):
        with pytest.raises(GeometryError, match="no voxel centre of the scan"):
            rasterise(foreign(tmp_path / "rs.dcm", {1: ("a", [place])}), axial)
    thin = rasterise(foreign(tmp_path / "rs.dcm", {1: ("a", [square(0.5, 0.5, 1, 0)]), 2: ("thin", [square(0.6, 0.6, 0.2, 0)])}), axial)
    assert thin.notes[-1].endswith('ROI 2 "thin" encloses no voxel centre of the scan')


def test_a_volume_of_another_format_has_no_slices_to_draw_on(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [square(0.5, 0.5, 1, 0)])})
    with pytest.raises(InputError, match="needs a DICOM series"):
        rasterise(path, Volume(axial.array, axial.grid, Source(tmp_path, "nifti", "scan")))


# Damage


def damaged(path: Path, change: Any) -> Path:
    ds = pydicom.dcmread(foreign(path, {1: ("a", [square(0.5, 0.5, 1, 0)])}))
    change(ds)
    ds.save_as(path)
    return path


def set_data(*values: str, points: int = 1) -> Any:
    def change(ds: Dataset) -> None:
        item = ds.ROIContourSequence[0].ContourSequence[0]
        item.NumberOfContourPoints = points
        item["ContourData"] = pydicom.DataElement("ContourData", "OB", "\\".join(values).encode())

    return change


def twice(ds: Dataset) -> None:
    ds.StructureSetROISequence.append(ds.StructureSetROISequence[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_data("1", "2", "3", "4"), "4 numbers in ContourData .3006,0050., which is no multiple of 3"),
        (set_data("1", "nan", "3"), "coordinate of nan mm"),
        (set_data("1", "2", "-inf"), "coordinate of -inf mm"),
        (set_data("1", "2", "1e30"), r"coordinate of 1e\+30 mm"),
        (set_data("1", "", "3"), "something other than numbers"),
        (set_data("1", "left", "3"), "something other than numbers"),
        (set_data("1", "2", "3", points=2), "has 1 points, but NumberOfContourPoints .3006,0046. says 2"),
        (lambda ds: ds.__delattr__("StructureSetROISequence"), "has no StructureSetROISequence .3006,0020."),
        (lambda ds: ds.__delattr__("ROIContourSequence"), "has no ROIContourSequence .3006,0039."),
        (lambda ds: ds.StructureSetROISequence[0].__delattr__("ROINumber"), "has no ROINumber"),
        (lambda ds: ds.ROIContourSequence[0].__delattr__("ReferencedROINumber"), "has no ReferencedROINumber"),
        (lambda ds: setattr(ds.ROIContourSequence[0], "ReferencedROINumber", 5), "contours of ROI 5, which"),
        (twice, "two ROIs have the number 1"),
        (lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "is no RT Structure Set but CT Image Storage"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_with_the_reason(tmp_path: Path, change: Any, complaint: str) -> None:
    path = damaged(tmp_path / "rs.dcm", change)
    with pytest.raises(InputError, match=complaint) as caught:
        read_rtstruct(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_structure_set_without_areas_is_refused(axial: Volume, tmp_path: Path) -> None:
    path = foreign(tmp_path / "rs.dcm", {1: ("a", [("POINT", [0.0, 0.0, 0.0])]), 2: ("empty", [])})
    with pytest.raises(InputError, match=r"has no closed contours \(1 POINT\)"):
        rasterise(path, axial)


def test_what_is_no_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rs.dcm").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(InputError, match=r"rs\.dcm"):
        read_rtstruct(tmp_path / "rs.dcm")
    with pytest.raises(InputError, match="no such file"):
        read_rtstruct(tmp_path / "absent.dcm")


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.floats(0.2, 1))
@settings(max_examples=60, deadline=None)
def test_any_damaged_bytes_end_in_a_named_error_or_a_structure_set(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]], kept: float) -> None:
    path = foreign(tmp_path_factory.mktemp("fuzz") / "rs.dcm", {1: ("a", [square(0.5, 0.5, 1, 0)])}, series="1.2.3")
    content = bytearray(path.read_bytes())
    for where, value in changes:
        content[132 + int(where * (len(content) - 133))] = value
    path.write_bytes(content[: int(kept * len(content))])
    try:
        read_rtstruct(path)
    except InputError as error:
        assert str(path) in str(error)
