"""DICOM Segmentations as other makers write them, and broken ones: placed by position and exactly, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SegmentationStorage, generate_uid

from tests.dicom_factory import Scan, decimal, ramp, report, write
from volseg.errors import GeometryError, InputError
from volseg.io import load
from volseg.io.dicom.objects.seg import read_seg, seg_on_volume
from volseg.io.volume import Volume

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
ROWS, COLUMNS = 5, 7


def item(**elements: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


@dataclass
class Foreign:
    """A writer of Segmentations that shares nothing with volseg's: every functional group is per frame, and no frame names its source."""

    scan: Scan
    masks: list[tuple[int, np.ndarray, np.ndarray]]
    cosines: tuple[float, ...] = ()
    spacing: tuple[float, float] = (0.0, 0.0)
    kind: str = "BINARY"
    names: tuple[str, ...] = ("liver", "tumor")
    tags: dict[str, Any] = field(default_factory=dict)

    def dataset(self) -> Dataset:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality, ds.Manufacturer = SegmentationStorage, generate_uid(), "SEG", "another"
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        ds.FrameOfReferenceUID, ds.SegmentationType = "1.2.3.5", self.kind
        ds.ReferencedSeriesSequence = [item(SeriesInstanceUID=self.scan.uid)]
        ds.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=name, TrackingID=f"{name} (label 99)") for n, name in enumerate(self.names, 1)]
        ds.SharedFunctionalGroupsSequence = [Dataset()]
        ds.PerFrameFunctionalGroupsSequence = [self._frame(number, position) for number, position, _ in self.masks]
        pixels = np.stack([mask for *_, mask in self.masks]).astype(np.uint8)
        ds.NumberOfFrames, ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated = ds.BitsStored = 1 if self.kind == "BINARY" else 8
        ds.HighBit = ds.BitsStored - 1
        content = np.packbits(pixels.ravel(), bitorder="little").tobytes() if self.kind == "BINARY" else pixels.tobytes()
        ds.PixelData = content + b"\0" * (len(content) % 2)
        ds["PixelData"].VR = "OB"
        for keyword, value in self.tags.items():
            setattr(ds, keyword, value)
        return ds

    def _frame(self, number: int, position: np.ndarray) -> Dataset:
        return item(
            PlanePositionSequence=[item(ImagePositionPatient=[decimal(v) for v in position])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[decimal(v) for v in self.cosines or self.scan.cosines])],
            PixelMeasuresSequence=[item(PixelSpacing=[decimal(v) for v in (self.spacing if any(self.spacing) else self.scan.spacing)], SliceThickness="1")],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
        )

    def save(self, path: Path, change: Callable[[Dataset], None] = lambda ds: None) -> Path:
        ds = self.dataset()
        change(ds)
        ds.save_as(path, enforce_file_format=True)
        return path


def scanned(folder: Path, cosines: tuple[float, ...] = OBLIQUE) -> tuple[Scan, Volume, np.ndarray]:
    """A scan, as read, and a random drawing on its slices; voxels are told by their unique values."""
    scan = Scan(ramp(4, ROWS, COLUMNS), cosines, (0.7, 1.3), step=-2.0)
    return scan, load(write(scan.datasets(), folder)), np.random.default_rng(0).integers(0, 3, scan.stored.shape).astype(np.uint8)


def on_grid(volume: Volume, drawn: np.ndarray) -> np.ndarray:
    """What was drawn on the scan's own slices, on the volume's grid."""
    return drawn.ravel()[volume.array]


def frames_of(scan: Scan, drawn: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    return [(number, scan.positions[k], drawn[k] == number) for number in (1, 2) for k in range(len(drawn))]


def test_frames_in_any_order_land_by_position(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    frames = frames_of(scan, drawn)
    shuffled = [frames[n] for n in np.random.default_rng(1).permutation(len(frames))]
    path = Foreign(scan, shuffled).save(tmp_path / "seg.dcm")
    # A value in another maker's Tracking ID is no label of ours.
    assert [(s.number, s.value) for s in read_seg(path).segments] == [(1, None), (2, None)]
    np.testing.assert_array_equal(seg_on_volume(path, volume), on_grid(volume, drawn))
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"tumor": 5}), np.where(on_grid(volume, drawn) == 2, 5, 0))
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"1": 4, "tumor": 4}), np.where(on_grid(volume, drawn) > 0, 4, 0))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_frames_with_turned_axes_land_on_the_same_voxels(tmp_path: Path, flip: tuple[int, int], transposed: bool) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    row, column = np.array(scan.cosines[:3]), np.array(scan.cosines[3:])
    axes = [(row * flip[1], scan.spacing[1]), (column * flip[0], scan.spacing[0])]
    first = np.zeros(3)
    first += row * scan.spacing[1] * (COLUMNS - 1) * (flip[1] < 0) + column * scan.spacing[0] * (ROWS - 1) * (flip[0] < 0)
    frames = []
    for number, position, mask in frames_of(scan, drawn):
        turned = mask[:: flip[0], :: flip[1]]
        frames.append((number, position + first, turned.T if transposed else turned))
    (along_row, between_columns), (along_column, between_rows) = axes[::-1] if transposed else axes
    foreign = Foreign(scan, frames, (*along_row, *along_column), (between_rows, between_columns))
    np.testing.assert_array_equal(seg_on_volume(foreign.save(tmp_path / "seg.dcm"), volume), on_grid(volume, drawn))


def test_frames_of_a_smaller_or_larger_field_land_on_the_same_voxels(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    row, column = np.array(scan.cosines[:3]) * scan.spacing[1], np.array(scan.cosines[3:]) * scan.spacing[0]
    crop = [(n, p + 2 * row + 1 * column, m[1:4, 2:6]) for n, p, m in frames_of(scan, drawn)]
    kept = np.zeros_like(drawn)
    kept[:, 1:4, 2:6] = drawn[:, 1:4, 2:6]
    np.testing.assert_array_equal(seg_on_volume(Foreign(scan, crop).save(tmp_path / "small.dcm"), volume), on_grid(volume, kept))
    pad = [(n, p - 2 * row - 3 * column, np.pad(m, ((3, 1), (2, 4)))) for n, p, m in frames_of(scan, drawn)]
    np.testing.assert_array_equal(seg_on_volume(Foreign(scan, pad).save(tmp_path / "large.dcm"), volume), on_grid(volume, drawn))
    for corner in ((0, 0), (-1, -1)):
        pad[0][2][corner] = True
        with pytest.raises(GeometryError, match=r"large\.dcm: frame 1 has \d segmented pixels outside the scan's 7x5 pixels"):
            seg_on_volume(Foreign(scan, pad).save(tmp_path / "large.dcm"), volume)
    beside = [(1, scan.positions[0] + 100 * row, np.ones((ROWS, 300), bool))]
    with pytest.raises(GeometryError, match="1500 segmented pixels outside"):
        seg_on_volume(Foreign(scan, beside).save(tmp_path / "beside.dcm"), volume)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ((0.5, 0, 0), r"frame 1 lies 0\.000 mm beside the nearest slice and 0\.500 pixels off"),
        ((0, 0.2, 0), r"0\.200 pixels off"),
        ((0, 0, 0.25), r"frame 1 lies 0\.500 mm beside the nearest slice"),
        ((0, 0, 40), r"frame 1 lies 8\d\.000 mm beside the nearest slice"),
    ],
)
def test_another_lattice_is_refused_with_how_far_it_is_off(tmp_path: Path, shift: tuple[float, float, float], message: str) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    row, column = np.array(scan.cosines[:3]), np.array(scan.cosines[3:])
    offset = shift[0] * row * scan.spacing[1] + shift[1] * column * scan.spacing[0] + shift[2] * np.cross(row, column) * 2.0
    frames = [(n, p + offset, m) for n, p, m in frames_of(scan, drawn)]
    with pytest.raises(GeometryError, match=rf"seg\.dcm: .*{message}"):
        seg_on_volume(Foreign(scan, frames).save(tmp_path / "seg.dcm"), volume)


@pytest.mark.parametrize(
    ("cosines", "spacing"),
    [(OBLIQUE, (0.7, 1.4)), (OBLIQUE, (0.35, 0.65)), ((1, 0, 0, 0, 1, 0), (0.7, 1.3)), ((*OBLIQUE[:3], 0.48, -0.64, 0.6), (0.7, 1.3))],
)
def test_other_axes_or_spacing_are_refused(tmp_path: Path, cosines: tuple[float, ...], spacing: tuple[float, float]) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    with pytest.raises(GeometryError, match=r"frame 1 has other axes or pixel spacing|frame 1 lies"):
        seg_on_volume(Foreign(scan, frames_of(scan, drawn), cosines, spacing).save(tmp_path / "seg.dcm"), volume)


def test_a_spacing_that_meets_the_lattice_again_at_the_far_corner_is_refused(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    # One column more over the whole width: the corners coincide, the pixels between them do not.
    spacing = (0.7, 1.3 * (COLUMNS - 2) / (COLUMNS - 1))
    with pytest.raises(GeometryError, match=r"seg\.dcm: frame 1"):
        seg_on_volume(Foreign(scan, frames_of(scan, drawn), spacing=spacing).save(tmp_path / "seg.dcm"), volume)


def test_empty_frames_anywhere_are_passed_over(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    frames = [(1, scan.positions[0] + 500, np.zeros((ROWS, COLUMNS))), *frames_of(scan, drawn)]
    np.testing.assert_array_equal(seg_on_volume(Foreign(scan, frames).save(tmp_path / "seg.dcm"), volume), on_grid(volume, drawn))


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    foreign = Foreign(scan, frames_of(scan, drawn), tags={"FrameOfReferenceUID": "1.2.9"})
    with pytest.raises(GeometryError, match=r"another frame of reference \(1\.2\.9\) than the scan \(1\.2\.3\.5\)"):
        seg_on_volume(foreign.save(tmp_path / "seg.dcm"), volume)
    np.testing.assert_array_equal(seg_on_volume(foreign.save(tmp_path / "seg.dcm", lambda ds: delattr(ds, "FrameOfReferenceUID")), volume), on_grid(volume, drawn))

    def without_either(ds: Dataset) -> None:
        del ds.FrameOfReferenceUID, ds.ReferencedSeriesSequence

    with pytest.raises(GeometryError, match=r"another frame of reference \(none\).*it names none"):
        seg_on_volume(foreign.save(tmp_path / "seg.dcm", without_either), volume)


def test_overlapping_segments_are_refused_unless_others_are_wanted(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    both = (drawn == 1) & (scan.stored % 2 == 0)
    frames = [*frames_of(scan, drawn), *((3, scan.positions[k], both[k]) for k in range(4))]
    path = Foreign(scan, frames, names=("liver", "tumor", "cyst")).save(tmp_path / "seg.dcm")
    with pytest.raises(InputError, match=rf"'liver' and 'cyst' share {both.sum()} voxels; choose segments"):
        seg_on_volume(path, volume)
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"cyst": 1, "tumor": 2}), on_grid(volume, both + 2 * (drawn == 2)))
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"liver": 1, "cyst": 1}), on_grid(volume, drawn == 1))


def test_unknown_names_and_values_are_refused(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    path = Foreign(scan, frames_of(scan, drawn)).save(tmp_path / "seg.dcm")
    with pytest.raises(InputError, match=r"has no segment 'Liver'; choose from 'liver' \(1\), 'tumor' \(2\)"):
        seg_on_volume(path, volume, {"Liver": 1})
    with pytest.raises(InputError, match="between 0 and 65535"):
        seg_on_volume(path, volume, {"liver": -1})


@pytest.mark.parametrize(("maximum", "inside"), [(255, 128), (100, 50), (1, 1)])
def test_fractions_count_from_half(tmp_path: Path, maximum: int, inside: int) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    frames = [(n, p, np.where(m, inside, inside - 1)) for n, p, m in frames_of(scan, drawn)]
    path = Foreign(scan, frames, kind="FRACTIONAL", tags={"MaximumFractionalValue": maximum}).save(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(seg_on_volume(path, volume), on_grid(volume, drawn))


def test_of_equal_probabilities_the_first_counts_and_of_true_overlaps_none(tmp_path: Path) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    half = [(n, p, np.full((ROWS, COLUMNS), 128)) for n, p, _ in frames_of(scan, drawn)]
    tags = {"MaximumFractionalValue": 255}
    assert (seg_on_volume(Foreign(scan, half, kind="FRACTIONAL", tags=tags).save(tmp_path / "half.dcm"), volume) == 1).all()
    sure = [(n, p, m + 200) for n, p, m in half]
    with pytest.raises(InputError, match="'liver' and 'tumor' share 140 voxels"):
        seg_on_volume(Foreign(scan, [(n, p, np.minimum(m, 255)) for n, p, m in sure], kind="FRACTIONAL", tags=tags).save(tmp_path / "sure.dcm"), volume)


@pytest.mark.parametrize("compressed", [False, True])
def test_label_maps_are_read_packed_or_not(tmp_path: Path, compressed: bool) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    frames = [(0, scan.positions[k], drawn[k]) for k in range(4)]
    foreign = Foreign(scan, frames, kind="LABELMAP")
    path = foreign.save(tmp_path / "seg.dcm", (lambda ds: ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)) if compressed else (lambda ds: None))
    np.testing.assert_array_equal(seg_on_volume(path, volume), on_grid(volume, drawn))
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"tumor": 1}), on_grid(volume, drawn == 2))


def broken(**elements: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in elements.items():
            setattr(ds, keyword, value)

    return change


def frame_without(group: str) -> Callable[[Dataset], None]:
    return lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[2], group)


def first_frame(group: str, **elements: Any) -> Callable[[Dataset], None]:
    return lambda ds: broken(**elements)(ds.PerFrameFunctionalGroupsSequence[0][group][0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (broken(NumberOfFrames=9), InputError, r"describes 8 frames .* NumberOfFrames \(0028,0008\) is 9"),
        (broken(Rows=0), InputError, "0 rows and 7 columns"),
        (broken(Rows=50), InputError, "truncated: 36 bytes of pixels where 8 frames of 50x7 need 350"),
        (broken(SegmentationType="SURFACE"), InputError, "has SegmentationType .* 'SURFACE', not one of BINARY"),
        (broken(SegmentSequence=[]), InputError, r"has frames of segment \[1, 2\] that Segment Sequence"),
        (lambda ds: delattr(ds, "PixelData"), InputError, "truncated: 0 bytes"),
        (frame_without("PlanePositionSequence"), GeometryError, r"frame 3 has no ImagePositionPatient \(0020,0032\)"),
        (frame_without("PlaneOrientationSequence"), GeometryError, "frame 3 has no ImageOrientationPatient"),
        (frame_without("PixelMeasuresSequence"), GeometryError, "frame 3 has no PixelSpacing"),
        (frame_without("SegmentIdentificationSequence"), InputError, "frame 3 has no ReferencedSegmentNumber"),
        (
            lambda ds: setattr(ds.PerFrameFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [0, 1]),
            GeometryError,
            r"frame 1: PixelSpacing \(0028,0030\) is 0\\1 mm",
        ),
        (first_frame("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), GeometryError, "frame 1: rows and columns meet at 0.000 degrees"),
    ],
)
def test_broken_objects_are_named(tmp_path: Path, change: Callable[[Dataset], None], error: type[Exception], message: str) -> None:
    scan, volume, drawn = scanned(tmp_path / "scan")
    path = Foreign(scan, frames_of(scan, drawn)).save(tmp_path / "seg.dcm", change)
    with pytest.raises(error, match=rf"seg\.dcm: .*{message}"):
        seg_on_volume(path, volume)


def test_pixels_of_no_segment_are_refused(tmp_path: Path) -> None:
    scan, volume, _ = scanned(tmp_path / "scan")
    path = Foreign(scan, [(0, scan.positions[0], np.full((ROWS, COLUMNS), 9))], kind="LABELMAP").save(tmp_path / "seg.dcm")
    with pytest.raises(InputError, match="pixels of segment 9, which Segment Sequence"):
        seg_on_volume(path, volume)


def test_other_objects_and_cut_off_ones_are_refused(tmp_path: Path) -> None:
    scan, _, drawn = scanned(tmp_path / "scan")
    report("1.2.840.10008.5.1.4.1.1.481.3").save_as(tmp_path / "rtstruct.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="is no DICOM Segmentation but RT Structure Set Storage"):
        read_seg(tmp_path / "rtstruct.dcm")
    path = Foreign(scan, frames_of(scan, drawn)).save(tmp_path / "seg.dcm")
    data = path.read_bytes()
    path.write_bytes(data[:700])
    with pytest.raises(InputError, match=r"seg\.dcm"):
        read_seg(path)
