"""Damaged and hostile DICOM: a clear message of one line in bounded time and memory, or exactly the right volume; never a crash and never a wrong volume."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

from tests.dicom_factory import Scan, ramp, write
from tests.unit.io.test_dicom_frames import enhanced
from volseg.errors import InputError, VolsegError
from volseg.io.dicom import find_series, read_series
from volseg.io.dicom.files import elements, facts
from volseg.io.dicom.files.archive import Member, list_members
from volseg.io.dicom.files.dataset import open_dataset
from volseg.io.dicom.files.header import SliceHeader, read_headers

MIB = 2**20


def header_of(file: Path) -> SliceHeader:
    (header,) = read_headers(Member(file, None, file.stat().st_size))
    return header


def refusal(path: Path, *words: str, mib: float = 4.0, seconds: float = 5.0) -> str:
    """The message of a refusal, which must come in time and with little memory."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(VolsegError) as caught:
            read_series(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert peak < mib * MIB, f"{peak / MIB:.1f} MiB for: {text}"
    assert time.process_time() - begun < seconds
    for word in words:
        assert word in text
    return text


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """One element in Explicit VR Little Endian (PS3.5 7.1.2), whose length may lie."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    count = len(value) if length is None else length
    return head + (struct.pack("<HI", 0, count) if vr in ("OB", "OW", "SQ", "UN", "UT") else struct.pack("<H", count)) + value


def spliced(folder: Path, inserted: bytes, *, before: int = 0x00100010) -> Path:
    """A series whose files have bytes of our own in front of an element (PatientName unless told)."""
    write(Scan(ramp()).datasets(), folder)
    mark = struct.pack("<HH", before >> 16, before & 0xFFFF)
    for file in folder.iterdir():
        data = file.read_bytes()
        at = data.index(mark, 140)
        file.write_bytes(data[:at] + inserted + data[at:])
    return folder


# Claims that are larger than the file.


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_frame_of_gigabytes_in_a_kilobyte(tmp_path: Path, syntax: str) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.Rows = ds.Columns = 60000
    refusal(write(datasets, tmp_path), "claims 60000 rows x 60000 columns x 16 bits (7200000000 bytes) in a file of")


def test_a_hundred_gigabytes_of_native_frames(tmp_path: Path) -> None:
    ds = enhanced(Scan(ramp()))
    ds.Rows, ds.Columns, ds.NumberOfFrames = 10000, 10000, 500
    refusal(write([ds], tmp_path), "truncated: 240 bytes of pixels", "need 100000000000")


@pytest.mark.parametrize("size", [0xFFFFFFF0, 2**31])
def test_an_element_of_gigabytes(tmp_path: Path, size: int) -> None:
    # Private data before the pixels: what follows cannot be found any more.
    refusal(spliced(tmp_path, element(0x00090010, "OB", b"x" * 8, size)), "header ends before Rows", "copy it again")


def test_wanted_text_of_gigabytes(tmp_path: Path) -> None:
    refusal(spliced(tmp_path, element(0x0008103E, "UT", b"x" * 8, 0xFFFFFFF0)), "header ends before Rows")


def test_pixels_of_gigabytes_by_their_own_length(tmp_path: Path) -> None:
    write(Scan(ramp()).datasets(), tmp_path)
    for file in tmp_path.iterdir():
        data = bytearray(file.read_bytes())
        at = data.index(b"\xe0\x7f\x10\x00OW")
        data[at + 8 : at + 12] = struct.pack("<I", 0xFFFFFFF0)
        file.write_bytes(data)
    # The 48 bytes that are needed are there, so this volume is right.
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


def test_a_header_longer_than_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_HEADER_BYTES", 2**20)
    refusal(spliced(tmp_path, element(0x00090010, "OB", bytes(2 * MIB))), "header is longer than 1 MiB", mib=120)


# Structures without end.


def test_sequences_nested_thousands_deep(tmp_path: Path) -> None:
    nested = (element(0x00081140, "SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 20_000
    refusal(spliced(tmp_path, nested), "nested more than 32 deep", mib=16)


def test_a_sequence_that_never_ends(tmp_path: Path) -> None:
    refusal(spliced(tmp_path, element(0x00081140, "SQ", b"", 0xFFFFFFFF)), "where an item should start")


def test_an_item_that_never_ends(tmp_path: Path) -> None:
    refusal(spliced(tmp_path, element(0x00081140, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), 0xFFFFFFFF)), "header ends before Rows")


def test_millions_of_empty_elements(tmp_path: Path) -> None:
    refusal(spliced(tmp_path, bytes(8 * 500_000)), "more than 20000 elements on one level", mib=40)


def test_an_item_longer_than_its_sequence(tmp_path: Path) -> None:
    ds = enhanced(Scan(ramp()))
    file = write([ds], tmp_path) / "0000.dcm"
    data = bytearray(file.read_bytes())
    at = data.index(b"\x00\x52\x30\x92SQ") + 12
    data[at + 4 : at + 8] = struct.pack("<I", 2**30)
    file.write_bytes(data)
    refusal(tmp_path, "PerFrameFunctionalGroupsSequence (5200,9230) is damaged")


def test_an_element_longer_than_its_item(tmp_path: Path) -> None:
    file = write([enhanced(Scan(ramp()))], tmp_path) / "0000.dcm"
    data = bytearray(file.read_bytes())
    at = data.index(b"\x20\x00\x32\x00DS") + 6
    data[at : at + 2] = struct.pack("<H", 0x7FF0)
    file.write_bytes(data)
    refusal(tmp_path, "element (0020,0032) is said to have 32752 bytes")


def test_a_frame_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MAX_FRAME_BYTES", 47)
    refusal(write(Scan(ramp()).datasets(), tmp_path), "claims 4 rows x 6 columns x 16 bits", "more than the limit")


# Odd but readable.


def test_sequences_are_stepped_over_in_every_form(tmp_path: Path) -> None:
    inner = element(0x00080100, "SH", b"123 ")
    item, item_end, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    level = inner
    for _ in range(12):
        level = element(0x00081140, "SQ", item + level + item_end + end, 0xFFFFFFFF)
    known = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    implicit = struct.pack("<HHI", 0x0008, 0x0100, 4) + b"123 "
    unknown = element(0x00091010, "UN", item + implicit + item_end + end, 0xFFFFFFFF)
    inserted = level + element(0x00081140, "SQ", known) + element(0x00090010, "LO", b"MAKER ") + unknown + element(0x00091011, "ZZ", b"ab") + element(0x00091012, "OB", b"")
    np.testing.assert_array_equal(read_series(spliced(tmp_path, inserted)).array, ramp().T)


def _vr(keyword: str, vr: str, value: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        del ds[keyword]
        tag = pydicom.datadict.tag_for_keyword(keyword)
        ds.add_new(tag, vr, value)

    return change


WRONG_VRS = [
    _vr("Rows", "DS", "4"),
    _vr("Rows", "IS", "4"),
    _vr("Columns", "UL", 6),
    _vr("PixelSpacing", "FD", [1.0, 1.0]),
    _vr("PixelSpacing", "UN", b"1\\1 "),
    _vr("ImagePositionPatient", "LO", ["-10", "-20", "30"]),
    _vr("BitsStored", "SS", 16),
    _vr("RescaleSlope", "FL", 1.0),
    _vr("Modality", "UN", b"CT"),
]


@pytest.mark.parametrize("change", WRONG_VRS)
def test_a_wrong_vr_is_read_by_what_it_holds(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    datasets = Scan(ramp()).datasets()
    change(datasets[0])
    volume = read_series(write(datasets, tmp_path))
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert volume.source.modality == "CT"


@pytest.mark.parametrize("value", ["abc", "1_0\\1", "1e999\\1", "nan\\1", "1", "1\\1\\1", ""])
def test_numbers_that_are_none(tmp_path: Path, value: str) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        _vr("PixelSpacing", "LO", value.split("\\"))(ds)
    refusal(write(datasets, tmp_path), "PixelSpacing (0028,0030)")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_uncompressed_encoding(tmp_path: Path, syntax: str) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    for n, ds in enumerate(datasets):
        ds.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


def test_the_walk_agrees_with_pydicom_on_every_element(tmp_path: Path) -> None:
    ds = enhanced(Scan(ramp()))
    ds.SpecificCharacterSet, ds.SeriesDescription, ds.PixelPaddingValue = "ISO_IR 192", "Schädel µ", -2000
    file = write([ds], tmp_path) / "0000.dcm"
    found = elements.read_elements(Member(file, None, file.stat().st_size))
    assert found is not None
    seen = 0
    for keyword, (tag, vr) in elements.TAGS.items():
        assert pydicom.datadict.tag_for_keyword(keyword) == tag
        assert vr in pydicom.datadict.dictionary_VR(tag)
        assert (keyword in found) == (tag in ds)
        if keyword in ds and vr in ("US", "DS", "IS"):
            assert found.numbers(keyword, ds[keyword].VM) == pytest.approx(tuple(float(v) for v in np.atleast_1d(ds[keyword].value)))
            seen += 1
        elif keyword in ds and vr in ("CS", "UI", "LO"):
            assert found.text(keyword) == "\\".join(np.atleast_1d(np.array(ds[keyword].value, dtype=str)))
            seen += 1
    assert seen > 12


@pytest.mark.parametrize("charset", ["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 6\\ISO 2022 IR 87", "GB18030", "ISO_IR 144"])
def test_text_of_any_character_set_is_what_pydicom_reads(tmp_path: Path, charset: str) -> None:
    texts = {"": "Head", "ISO_IR 144": "Голова", "GB18030": "头部 CT", "ISO_IR 100": "Schädel", "ISO_IR 192": "頭 ä µ"}
    ds = Scan(ramp()).slice(0)
    if charset:
        ds.SpecificCharacterSet = charset.split("\\")
    ds.SeriesDescription = texts.get(charset, "頭部 CT")
    file = write([ds], tmp_path) / "0000.dcm"
    assert header_of(file).text["description"] == str(pydicom.dcmread(file).SeriesDescription) == ds.SeriesDescription


def test_padding_takes_the_sign_of_the_pixels(tmp_path: Path) -> None:
    ds = Scan(ramp()).slice(0)
    ds.add_new(0x00280120, "US", 63536)
    file = write([ds], tmp_path) / "0000.dcm"
    # 63536 and -2000 are the same 16 bits.
    assert header_of(file).padding == -2000


# Packed files.


def _deflated_bomb(file: Path, size: int) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DeflatedExplicitVRLittleEndian, CTImageStorage, generate_uid()
    ds = Scan(ramp(1, 16, 16)).slice(0)
    ds.Rows = ds.Columns = int((size // 2) ** 0.5)
    ds.PixelData = b""
    body = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_dataset(_little(body), ds)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = body.getvalue()
    head = start[: start.index(b"\xe0\x7f\x10\x00OW") + 8] + struct.pack("<I", size)
    packed = packer.compress(head) + b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    with file.open("wb") as stream:
        pydicom.filewriter.write_file_meta_info(_preamble(stream), meta, enforce_standard=False)
        stream.write(packed)
    return file


def _little(body: pydicom.filebase.DicomBytesIO) -> pydicom.filebase.DicomBytesIO:
    body.is_little_endian, body.is_implicit_VR = True, False
    return body


def _preamble(stream: Any) -> Any:
    stream.write(bytes(128) + b"DICM")
    return stream


def test_a_deflate_bomb(tmp_path: Path) -> None:
    file = _deflated_bomb(tmp_path / "bomb.dcm", 128 * MIB)
    assert file.stat().st_size < MIB
    assert header_of(file).rows == 8192
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"would unpack to more than 64 MiB from \d+ bytes"):
            open_dataset(Member(file, None, file.stat().st_size), pixels=True)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_deflated_data_that_is_damaged(tmp_path: Path) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    # The middle slice: that there is a gap says less than that this file is damaged.
    file = write(datasets, tmp_path, shuffle=None) / "0002.dcm"
    data = file.read_bytes()
    at = data.index(DeflatedExplicitVRLittleEndian.encode()) + 60
    file.write_bytes(data[:at] + b"\xff" * 60 + data[at + 60 :])
    with pytest.raises(InputError, match="damaged DICOM"):
        header_of(file)
    refusal(tmp_path, "0002.dcm: damaged DICOM", "lies among the 4 slices of series")


def test_a_zip_of_zips_is_never_unpacked_further(tmp_path: Path) -> None:
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(64 * MIB))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for n in range(50):
            packed.write(inner, f"{n}.zip")
    refusal(tmp_path / "outer.zip", "holds no DICOM images (50 files looked at)")


def test_a_zip_of_much_nothing_is_only_looked_into(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "high.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        with packed.open("big", "w") as stream:
            for _ in range(256):
                stream.write(bytes(MIB))
        for ds in Scan(ramp()).datasets():
            body = io.BytesIO()
            ds.save_as(body, enforce_file_format=True)
            packed.writestr(f"{ds.SOPInstanceUID}.dcm", body.getvalue())
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_series(tmp_path / "high.zip").array, ramp().T)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_names_in_a_zip_send_nothing_to_the_terminal(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "names.zip", "w") as packed:
        packed.writestr("a\x1b[2J\nb.dcm", bytes(128) + b"DICM")
    refusal(tmp_path / "names.zip", "a?[2J?b.dcm", "header ends before Rows")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:/x", "..\\x"])
def test_names_that_point_outside_a_zip(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "outside.zip", "w") as packed:
        packed.writestr(name, b"x")
    refusal(tmp_path / "outside.zip", "points outside the zip")


# Places.


def test_links_in_circles(tmp_path: Path) -> None:
    folder = write(Scan(ramp()).datasets(), tmp_path / "scan")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "self.dcm").symlink_to(folder / "self.dcm")
    (folder / "nowhere.dcm").symlink_to(folder / "gone.dcm")
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    refusal(tmp_path / "pipe.dcm", "neither a file nor a folder")
    write(Scan(ramp()).datasets(), tmp_path / "scan")
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc for a file that exists and cannot be read")
def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(InputError, match=r"/proc/self/mem: cannot be read \(Input/output error\)"):
        read_headers(Member(Path("/proc/self/mem"), None, 0))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Scan(ramp()).datasets(), tmp_path / "scan")
    closed = tmp_path / "closed"
    closed.mkdir()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        # Tests may run as root, whom no permission stops.
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert any(f"left out a file: {closed}: cannot be read" in note for note in volume.warnings)


# DICOMDIR.


def dicomdir(folder: Path, names: list[list[str]]) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    ds.SOPClassUID = MediaStorageDirectoryStorage
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    patient = Dataset()
    patient.DirectoryRecordType = "PATIENT"
    ds.DirectoryRecordSequence = [patient, *records]
    ds.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_stands_for_the_files_it_lists(tmp_path: Path) -> None:
    write(Scan(ramp()).datasets(), tmp_path / "IMAGES")
    write(Scan(ramp(3)).datasets(), tmp_path / "OTHER")
    index = dicomdir(tmp_path, [["IMAGES", f"{n:04d}.dcm"] for n in range(5)])
    volume = read_series(index)
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert volume.warnings == ()
    assert len(find_series(index)) == 1
    assert len(find_series(tmp_path)) == 2


def test_files_that_a_dicomdir_lists_and_that_are_not_there_are_named(tmp_path: Path) -> None:
    write(Scan(ramp()).datasets(), tmp_path / "images")
    index = dicomdir(tmp_path, [["IMAGES", f"{n:04d}.DCM"] for n in range(6)])
    volume = read_series(index)
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert any("IMAGES/0005.DCM: is not there" in note for note in volume.warnings)


def test_a_dicomdir_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "cd").mkdir()
    write(Scan(ramp()).datasets(), tmp_path / "images")
    refusal(dicomdir(tmp_path / "cd", [["..", "images", "0000.dcm"]]), "a name that points outside its folder")


def test_a_dicomdir_of_nothing(tmp_path: Path) -> None:
    refusal(dicomdir(tmp_path, []), "lists no files")
    (tmp_path / "DICOMDIR").write_bytes(b"hello")
    refusal(tmp_path / "DICOMDIR", "is no DICOMDIR")


def test_a_damaged_dicomdir(tmp_path: Path) -> None:
    index = dicomdir(tmp_path, [["IMAGES", "A"]])
    data = bytearray(index.read_bytes())
    at = data.index(b"\x04\x00\x20\x12SQ") + 8
    # Behind the last record, half the head of another.
    data[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", data, at)[0] + 4)
    index.write_bytes(data)
    refusal(index, "DICOMDIR: damaged DICOM", "copy it again")


# Mutations. What pydicom, a reader of its own, makes of the same bytes is the judge.


def _mutated(data: bytes, random: np.random.Generator, end: int) -> bytes:
    at = int(random.integers(132, end))
    size = int(random.integers(1, 9))
    kind = random.integers(5)
    if kind == 0:
        return data[:at] + random.bytes(size) + data[at + size :]
    if kind == 1:
        return data[:at] + data[at + size :]
    if kind == 2:
        return data[:at] + random.bytes(size) + data[at:]
    if kind == 3:
        return data[: int(random.integers(0, len(data)))]
    flipped = bytearray(data)
    flipped[at] ^= 1 << int(random.integers(8))
    return bytes(flipped)


def _judged(file: Path) -> np.ndarray | None:
    try:
        ds = pydicom.dcmread(file, force=True)
        return np.asarray(ds.pixel_array * float(ds.get("RescaleSlope") or 1) + float(ds.get("RescaleIntercept") or 0))
    except Exception:  # whatever a damaged file makes pydicom raise, it is no judge then
        return None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_mutated_headers_give_the_right_volume_or_a_refusal(tmp_path: Path, syntax: str) -> None:
    random = np.random.default_rng(7)
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        if syntax == RLELossless:
            ds.compress(RLELossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
    write(datasets, tmp_path, shuffle=None)
    right = read_series(tmp_path)
    # The middle slice: a series without it has a gap and must be refused.
    file = tmp_path / "0002.dcm"
    data = file.read_bytes()
    end = data.rindex(b"\xe0\x7f\x10\x00")
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            file.write_bytes(_mutated(data, random, end))
            try:
                volume = read_series(tmp_path)
            except VolsegError as error:
                assert "\n" not in str(error)
                continue
            read += 1
            assert volume.grid.isclose(right.grid)
            np.testing.assert_array_equal(volume.array[..., [0, 1, 3, 4]], right.array[..., [0, 1, 3, 4]])
            if not np.array_equal(volume.array[..., 2], right.array[..., 2]):
                judged = _judged(file)
                assert judged is not None
                np.testing.assert_array_equal(volume.array[..., 2], judged.T)
    assert read > 20


def _stored_position(item: pydicom.Dataset) -> list[float]:
    """ImagePositionPatient as its bytes say, whatever has become of the VR before them: pydicom converts no value of a VR it does not know."""
    value = item.get_item("ImagePositionPatient").value
    return [float(part) for part in value.split(b"\\")] if isinstance(value, bytes) else [float(part) for part in value]


def test_mutated_multi_frame_objects_give_a_volume_or_a_refusal(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    file = write([enhanced(Scan(ramp()))], tmp_path) / "0000.dcm"
    data = file.read_bytes()
    end = data.rindex(b"\xe0\x7f\x10\x00")
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            file.write_bytes(_mutated(data, random, end))
            try:
                volume = read_series(tmp_path)
            except VolsegError as error:
                assert "\n" not in str(error)
                continue
            read += 1
            ds = pydicom.dcmread(file, force=True)
            assert volume.array.shape == (ds.Columns, ds.Rows, ds.NumberOfFrames)
            positions = [_stored_position(g.PlanePositionSequence[0]) for g in ds.PerFrameFunctionalGroupsSequence]
            origin = (volume.grid.affine @ [0, 0, 0, 1])[:3] * (-1, -1, 1)
            assert min(np.abs(np.array(positions) - origin).max(axis=1)) < 0.02
    assert read > 20


def test_random_bytes_are_no_dicom(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    for n in range(50):
        (tmp_path / f"{n}.dcm").write_bytes((bytes(128) + b"DICM" if n % 2 else b"\x08\x00\x05\x00") + random.bytes(int(random.integers(0, 3000))))
    refusal(tmp_path, mib=16)


def test_members_of_a_folder_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", "c"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    assert [str(m.path.relative_to(tmp_path)) for m in list_members(tmp_path)] == ["a/3", "b/1", "b/2", "c"]
