"""Frames and slices become one array: where the pixels lie in the file, how wide they are, and several frames of one file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import InputError
from volseg.io.dicom import read_series
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.pixels import decode as pixels


def frame_headers(path: Path, ds: Dataset, order: Sequence[int], **changes: object) -> list[SliceHeader]:
    """What the headers of a multi-frame file's frames say, in any order along k."""
    member = Member(path, None, path.stat().st_size)
    facts: dict[str, object] = {
        "member": member,
        "uid": "1.2",
        "sop_uid": "1.2.3",
        "sop_class": "Enhanced CT Image Storage",
        "transfer_syntax": str(ds.file_meta.TransferSyntaxUID),
        "text": {},
        "image_type": (),
        "rows": ds.Rows,
        "columns": ds.Columns,
        "bits_allocated": ds.BitsAllocated,
        "bits_stored": ds.BitsStored,
        "signed": ds.PixelRepresentation == 1,
    }
    size = ds.Rows * ds.Columns * ds.BitsAllocated // 8
    # Where the values stand in the file, found by their own bytes.
    start = path.read_bytes().find(ds.PixelData) if str(ds.file_meta.TransferSyntaxUID) in (ExplicitVRLittleEndian, ImplicitVRLittleEndian) else None
    return [SliceHeader(**{**facts, **changes}, pixel_offset=None if start is None else start + n * size, frame=n) for n in order]


def multi_frame(stored: np.ndarray) -> Dataset:
    ds = Scan(stored).slice(0)
    ds.NumberOfFrames = len(stored)
    raw = np.ascontiguousarray(stored).tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    return ds


def saved(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


ORDER = (4, 0, 3, 1, 2)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_uncompressed_frames_in_any_order(tmp_path: Path, dtype: type, syntax: str) -> None:
    stored = ramp(5, 3, 7).astype(dtype)
    ds = multi_frame(stored)
    ds.file_meta.TransferSyntaxUID = syntax
    array = pixels.decode_slices(frame_headers(saved(ds, tmp_path / "a.dcm"), ds, ORDER))
    np.testing.assert_array_equal(array, stored[list(ORDER)].transpose(2, 1, 0))


def test_big_endian_and_deflated_frames(tmp_path: Path) -> None:
    stored = ramp()
    deflated = multi_frame(stored)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    array = pixels.decode_slices(frame_headers(saved(deflated, tmp_path / "d.dcm"), deflated, ORDER))
    np.testing.assert_array_equal(array, stored[list(ORDER)].transpose(2, 1, 0))
    big = multi_frame(stored)
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big.PixelData = stored.astype(">i2").tobytes()
    big["PixelData"].VR = "OW"
    array = pixels.decode_slices(frame_headers(saved(big, tmp_path / "b.dcm"), big, ORDER))
    np.testing.assert_array_equal(array, stored[list(ORDER)].transpose(2, 1, 0))


def test_compressed_frames_parse_their_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = ramp()
    ds = multi_frame(stored)
    ds.compress(RLELossless, generate_instance_uid=False)
    headers = frame_headers(saved(ds, tmp_path / "a.dcm"), ds, ORDER)
    opened: list[Member] = []
    original = pixels.open_dataset
    monkeypatch.setattr(pixels, "open_dataset", lambda member, **kwargs: opened.append(member) or original(member, **kwargs))
    np.testing.assert_array_equal(pixels.decode_slices(headers), stored[list(ORDER)].transpose(2, 1, 0))
    assert len(opened) == 1


def test_compressed_frames_without_an_offset_table(tmp_path: Path) -> None:
    stored = ramp(4, 16, 16)
    single = [Scan(stored[n : n + 1]).slice(0) for n in range(4)]
    for ds in single:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds = multi_frame(stored)
    frames = [next(generate_frames(s.PixelData, number_of_frames=1)) for s in single]
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.PixelData = encapsulate(frames, has_bot=False)
    headers = frame_headers(saved(ds, tmp_path / "a.dcm"), ds, range(4))
    np.testing.assert_array_equal(pixels.decode_slices(headers), stored.transpose(2, 1, 0))


def test_each_frame_has_its_own_scale(tmp_path: Path) -> None:
    stored = ramp(3)
    ds = multi_frame(stored)
    path = saved(ds, tmp_path / "a.dcm")
    headers = [h for n, slope in enumerate((0.5, 2.0, 4.0)) for h in frame_headers(path, ds, [n], slope=slope, intercept=-1.0)]
    array = pixels.decode_slices(headers)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (stored * np.array([0.5, 2, 4])[:, None, None] - 1).transpose(2, 1, 0))


def test_more_frames_than_one_task_reads(tmp_path: Path) -> None:
    stored = ramp(2 * pixels.FRAMES_PER_TASK + 3, 4, 5)
    ds = multi_frame(stored)
    np.testing.assert_array_equal(pixels.decode_slices(frame_headers(saved(ds, tmp_path / "a.dcm"), ds, range(len(stored)))), stored.transpose(2, 1, 0))


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    stored = ramp(3)
    ds = multi_frame(stored)
    ds.PixelData = ds.PixelData[:-10]
    with pytest.raises(InputError, match=r"a\.dcm: truncated: 134 bytes of pixels where 4 rows x 6 columns x 16 bits x 3 frames need 144; copy it again"):
        pixels.decode_slices(frame_headers(saved(ds, tmp_path / "a.dcm"), ds, range(3)))


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    stored = ramp(2)
    ds = multi_frame(stored)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.NumberOfFrames = 3
    with pytest.raises(InputError, match=r"a\.dcm: frame 3: pixels in RLE Lossless .* cannot be decoded"):
        pixels.decode_slices(frame_headers(saved(ds, tmp_path / "a.dcm"), ds, range(3)))


@pytest.mark.parametrize("zipped", [False, True])
def test_elements_behind_the_pixels(tmp_path: Path, zipped: bool) -> None:
    # Some writers pad the file with Data Set Trailing Padding (FFFC,FFFC), so the pixels are not the last thing in it.
    scan = Scan(ramp(), tags={"DataSetTrailingPadding": b"\0" * 100})
    folder = write(scan.datasets(), tmp_path / "scan")
    if zipped:
        with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
    np.testing.assert_array_equal(read_series(tmp_path / "scan.zip" if zipped else folder).array, scan.stored.T)


def test_odd_number_of_bytes(tmp_path: Path) -> None:
    stored = ramp(3, 3, 5).astype(np.uint8)
    datasets = Scan(stored).datasets()
    for ds in datasets:
        ds.PixelData += b"\0"
    np.testing.assert_array_equal(read_series(write(datasets, tmp_path)).array, stored.T)


@pytest.mark.parametrize(("stored", "slope", "intercept", "dtype"), [([0, 65535], 1, -32768, np.int16), ([0, 65535], -1, 32767, np.int16), ([0, 7], 65536, 5, np.int32)])
def test_arithmetic_within_the_volumes_own_integers(tmp_path: Path, stored: list[int], slope: int, intercept: int, dtype: type) -> None:
    array = np.resize(np.array(stored, np.uint16), (2, 3, 4))
    scan = Scan(array, tags={"RescaleSlope": str(slope), "RescaleIntercept": str(intercept)})
    volume = read_series(write(scan.datasets(), tmp_path)).array
    assert volume.dtype == dtype
    np.testing.assert_array_equal(volume, array.astype(np.int64).T * slope + intercept)


def test_values_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    scan = Scan(ramp().astype(np.uint32), tags={"RescaleSlope": "100000000"})
    with pytest.raises(InputError, match=r"\.dcm: values from \d+ to \d+ do not fit 32-bit integers"):
        read_series(write(scan.datasets(), tmp_path))


def test_column_varies_fastest_and_nothing_is_copied(tmp_path: Path) -> None:
    array = read_series(write(Scan(ramp()).datasets(), tmp_path)).array
    assert array.flags.f_contiguous
    assert array.flags.writeable


def test_native_reader_and_full_parser_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(3).integers(0, 65536, (3, 9, 11), dtype=np.uint16)
    folder = write(Scan(stored, tags={"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "RescaleIntercept": "-7"}).datasets(), tmp_path)
    fast = read_series(folder).array
    monkeypatch.setattr(pixels, "read_native", lambda *args: False)
    slow = read_series(folder).array
    assert fast.dtype == slow.dtype == np.int16
    np.testing.assert_array_equal(fast, slow)
    # Twelve bits in two's complement: the four above hold noise here.
    np.testing.assert_array_equal(fast.T, ((stored.astype(int) & 0xFFF) ^ 0x800) - 0x800 - 7)
