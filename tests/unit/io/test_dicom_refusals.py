"""Every series that is no regular volume is refused, by the right error, with its numbers and on one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, EnhancedCTImageStorage, HTJ2KLossless, RLELossless, RTStructureSetStorage, SegmentationStorage

from tests.dicom_factory import AXIAL, Scan, ramp, report, write
from volseg.errors import GeometryError, InputError, SeriesError
from volseg.io.dicom import find_series, read_series, series


def refused(path: Path, kind: type[Exception], *words: str, series: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_series(path, series)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_gap(tmp_path: Path) -> None:
    datasets = Scan(ramp(8), step=2.5).datasets()
    del datasets[5], datasets[4]
    refused(write(datasets, tmp_path), GeometryError, "gap", "2 slices missing", "2.500 mm", "7.500 mm")


def test_uneven_spacing(tmp_path: Path) -> None:
    positions = np.array([(0, 0, z) for z in (0, 2, 4, 7, 10)])
    refused(write(Scan(ramp(), positions=positions).datasets(), tmp_path), GeometryError, "uneven", "2.000 mm (2x)", "3.000 mm (2x)")


def test_duplicate_positions(tmp_path: Path) -> None:
    scan = Scan(ramp())
    refused(write([*scan.datasets(), *scan.datasets()], tmp_path), GeometryError, "duplicate", "10 different images share 5 slice positions")


def test_gantry_tilt(tmp_path: Path) -> None:
    tilt = np.radians(15)
    scan = Scan(ramp(), cosines=(1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))), positions=np.arange(5)[:, None] * np.array([0, 0, 3.0]), tags={"GantryDetectorTilt": "15"})
    refused(write(scan.datasets(), tmp_path), GeometryError, "gantry tilt", "15.00 degrees", "says 15")


def test_tilt_and_gap_are_both_named(tmp_path: Path) -> None:
    positions = np.array([0, 1, 2, 4, 5])[:, None] * np.array([0, 1.0, 4.0])
    # arctan(1 / 4) = 14.04 degrees.
    refused(write(Scan(ramp(), positions=positions).datasets(), tmp_path), GeometryError, "gantry tilt", "14.04 degrees", "gap: 1 slice missing")


def test_one_slice_shifted_in_its_plane(tmp_path: Path) -> None:
    positions = np.arange(5)[:, None] * np.array([0, 0, 2.0])
    positions[2, 0] = 1.5
    refused(write(Scan(ramp(), positions=positions).datasets(), tmp_path), GeometryError, "shifted slice", "1.500 mm")


def test_mixed_orientations_can_be_chosen_apart(tmp_path: Path) -> None:
    uid = "1.2.3.77"
    axial, sagittal = Scan(ramp(5), uid=uid), Scan(ramp(4), cosines=(0, 1, 0, 0, 0, -1), uid=uid)
    write(axial.datasets() + sagittal.datasets(), tmp_path)
    # Axes x y z -> y -z -x is a rotation by 120 degrees about a body diagonal.
    refused(tmp_path, GeometryError, "mixed orientations", "5 + 4 slices", "120.00 degrees", f"--series {uid}#1 or {uid}#2")
    refused(tmp_path, GeometryError, "mixed orientations", series=uid)
    np.testing.assert_array_equal(read_series(tmp_path, f"{uid}#2").array.shape, (6, 4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"Rows": 6, "Columns": 4}, "6x4 and 4x6 pixels"), ({"PixelSpacing": ["1", "1.5"]}, "1\\1 and 1\\1.5 mm"), ({"FrameOfReferenceUID": "9.9"}, "different frames")],
)
def test_slices_that_differ(tmp_path: Path, change: dict[str, object], words: str) -> None:
    datasets = Scan(ramp()).datasets()
    for keyword, value in change.items():
        setattr(datasets[-1], keyword, value)
    refused(write(datasets, tmp_path), GeometryError, "mixed slices", "4 + 1 slices", words)


def test_single_slice(tmp_path: Path) -> None:
    refused(write(Scan(ramp(1)).datasets(), tmp_path), GeometryError, "only 1 slice", "at least two")


def test_localisers(tmp_path: Path) -> None:
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    orientations = [AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)]
    scouts = [ds for cosines in orientations for ds in Scan(ramp(2), cosines=cosines, uid="1.2.3", tags=tags).datasets()]
    refused(write(scouts, tmp_path / "only"), InputError, "localiser", "6 images in 3 orientations")
    scan = Scan(ramp(), uid="1.2.3")
    volume = read_series(write(scouts + scan.datasets(), tmp_path / "with_scan"))
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert any("6 localiser" in note for note in volume.warnings)


def _mono(ds: Dataset) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"


CHANGES: list[tuple[Callable[[Dataset], None], type[Exception], str]] = [
    (_mono, InputError, "colour image (3 samples"),
    (lambda ds: setattr(ds, "PhotometricInterpretation", "PALETTE COLOR"), InputError, "PALETTE COLOR"),
    (lambda ds: setattr(ds, "NumberOfFrames", 7), InputError, "multi-frame"),
    (lambda ds: setattr(ds, "SOPClassUID", EnhancedCTImageStorage), InputError, "multi-frame"),
    (lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), InputError, "mosaic"),
    (lambda ds: delattr(ds, "ImagePositionPatient"), InputError, "ImagePositionPatient (0020,0032)"),
    (lambda ds: delattr(ds, "ImageOrientationPatient"), InputError, "ImageOrientationPatient (0020,0037)"),
    (lambda ds: delattr(ds, "PixelSpacing"), InputError, "PixelSpacing (0028,0030)"),
    (lambda ds: setattr(ds, "PixelSpacing", ["0", "1"]), GeometryError, "must be positive"),
    (lambda ds: setattr(ds, "ImageOrientationPatient", ["1", "0", "0", "0.5", "0.8660254", "0"]), GeometryError, "60.000 degrees instead of 90"),
    (lambda ds: setattr(ds, "ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"]), GeometryError, "length 2.0000"),
    (lambda ds: setattr(ds, "ImagePositionPatient", ["1", "2"]), InputError, "not 3 finite numbers"),
    (lambda ds: setattr(ds, "HighBit", 14), InputError, "HighBit"),
    (lambda ds: setattr(ds, "RescaleSlope", "0"), InputError, "RescaleSlope"),
    (lambda ds: setattr(ds, "ModalityLUTSequence", [Dataset()]), InputError, "Modality LUT"),
    (lambda ds: setattr(ds, "Rows", 0), InputError, "0 rows"),
    (lambda ds: (setattr(ds, "Rows", 60000), setattr(ds, "Columns", 60000)), InputError, "7200000000"),
    (lambda ds: delattr(ds, "PixelData"), InputError, "PixelData"),
    (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-20]), InputError, "28 bytes of pixels where 4 rows x 6 columns x 16 bits need 48"),
]


@pytest.mark.parametrize(("change", "kind", "words"), CHANGES, ids=[words for _, _, words in CHANGES])
def test_headers(tmp_path: Path, change: Callable[[Dataset], None], kind: type[Exception], words: str) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        change(ds)
    refused(write(datasets, tmp_path), kind, words, ".dcm")


def test_one_bad_slice_refuses_the_series(tmp_path: Path) -> None:
    datasets = Scan(ramp()).datasets()
    del datasets[-1].ImagePositionPatient
    refused(write(datasets, tmp_path), InputError, "1 of 5 images of its series")


def test_too_many_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MAX_VOXELS", 400 * 400 * 5 - 1)
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.Rows, ds.Columns = 400, 400
        ds.file_meta.TransferSyntaxUID = HTJ2KLossless
        ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x02\x00\x00\x00\x00\x00"
        ds["PixelData"].is_undefined_length = True
    refused(write(datasets, tmp_path), InputError, "400x400x5 voxels")


def test_file_cut_short(tmp_path: Path) -> None:
    write(Scan(ramp()).datasets(), tmp_path)
    file = tmp_path / "0003.dcm"
    file.write_bytes(file.read_bytes()[:-30])
    refused(tmp_path, InputError, "0003.dcm", "18 bytes of pixels", "need 48")


def test_unknown_transfer_syntax_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(Scan(ramp()).datasets(), tmp_path)
    for file in tmp_path.iterdir():
        # A UID that is in no registry, of the same length as the padded one it replaces.
        data = file.read_bytes()
        file.write_bytes(data.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.99"))
    refused(tmp_path, InputError, "1.2.840.10008.1.2.99", "cannot be decoded")
    assert capfd.readouterr().err == ""


def test_missing_decoder_names_syntax_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import Decoder

    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
    monkeypatch.setattr(Decoder, "is_available", False)
    refused(write(datasets, tmp_path), InputError, "RLE Lossless (1.2.840.10008.1.2.5)", "pip install python-gdcm")


def test_compressed_file_cut_short(tmp_path: Path) -> None:
    datasets = Scan(ramp(3, 64, 64)).datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
    write(datasets, tmp_path)
    file = tmp_path / "0001.dcm"
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path, InputError, "0001.dcm", "copy it again")


@pytest.mark.parametrize("sop_class", [RTStructureSetStorage, EncapsulatedPDFStorage, SegmentationStorage])
def test_objects_that_are_no_images(tmp_path: Path, sop_class: str) -> None:
    refused(write([report(sop_class)], tmp_path), InputError, "no scan", sop_class.name)


def test_object_beside_a_scan_is_no_obstacle(tmp_path: Path) -> None:
    scan = Scan(ramp())
    volume = read_series(write([*scan.datasets(), report(RTStructureSetStorage)], tmp_path))
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert volume.warnings == ()


def test_two_series_are_listed_and_chosen(tmp_path: Path) -> None:
    first, second = Scan(ramp(3), uid="1.2.3.1"), Scan(ramp(4), uid="1.2.3.2")
    write(first.datasets(), tmp_path / "a")
    write(second.datasets(), tmp_path / "b")
    refused(tmp_path, SeriesError, "2 series", "--series UID", "1.2.3.1 CT", "1.2.3.2 CT", '"phantom": 6x4, 3 slices', "4 slices")
    assert read_series(tmp_path, "1.2.3.2").array.shape == (6, 4, 4)
    refused(tmp_path, SeriesError, "no series 9.9", "1.2.3.1", series="9.9")
    assert [s.uid for s in find_series(tmp_path)] == ["1.2.3.1", "1.2.3.2"]


def test_no_usable_series_lists_every_reason(tmp_path: Path) -> None:
    write(Scan(ramp(1), uid="1.2.3.1").datasets(), tmp_path / "a")
    gap = Scan(ramp(5), uid="1.2.3.2").datasets()
    del gap[2]
    write(gap, tmp_path / "b")
    refused(tmp_path, SeriesError, "none of its 2 DICOM series", "only 1 slice", "gap")


def test_a_broken_series_beside_the_chosen_one_is_said(tmp_path: Path) -> None:
    write(Scan(ramp(1), uid="1.2.3.1").datasets(), tmp_path / "a")
    write(Scan(ramp(5), uid="1.2.3.2").datasets(), tmp_path / "b")
    assert any("only 1 slice" in note for note in read_series(tmp_path).warnings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, r"RescaleSlope and RescaleIntercept \(0028,1053 and 1052\): absent in 1 of 5 slices, present in others"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, r"PhotometricInterpretation \(0028,0004\): MONOCHROME1 in 1 of 5 slices, MONOCHROME2 in others"),
        ({"Modality": "PT"}, r"Modality \(0008,0060\): PT in 1 of 5 slices, CT in others"),
        ({"Units": "BQML"}, r"Units \(0054,1001\): BQML in 1 of 5 slices, absent in others"),
    ],
)
def test_slices_whose_values_mean_different_things(tmp_path: Path, change: dict[str, str | None], words: str) -> None:
    """One slice without its intercept would lie 1024 HU off, as brain among bone."""
    datasets = Scan(ramp(), tags={"RescaleIntercept": "-1024"}).datasets()
    for keyword, value in change.items():
        setattr(datasets[3], keyword, value)
    with pytest.raises(InputError, match=rf"0003\.dcm: {words}, so their values cannot be compared; repair the headers"):
        read_series(write(datasets, tmp_path, shuffle=None))


def test_the_wanted_modality_goes_before_others_in_one_folder(tmp_path):
    write(Scan(ramp()).datasets(), tmp_path / "study" / "ct")
    write(Scan(ramp(slices=4), tags={"Modality": "PT"}).datasets(), tmp_path / "study" / "pet")
    with pytest.raises(SeriesError, match="2 series that can be read"):
        read_series(tmp_path / "study")
    for name, slices in (("CT", 5), ("pet", 4)):
        volume = read_series(tmp_path / "study", modality=name)
        assert volume.array.shape[2] == slices
        assert any("left out 1 series of other modalities" in warning for warning in volume.warnings)
    # One of another modality alone is still read, and two of the wanted one are still a choice.
    with pytest.raises(SeriesError, match="2 series that can be read"):
        read_series(tmp_path / "study", modality="MR")
    write(Scan(ramp()).datasets(), tmp_path / "study" / "second")
    with pytest.raises(SeriesError, match="2 series that can be read"):
        read_series(tmp_path / "study", modality="CT")
