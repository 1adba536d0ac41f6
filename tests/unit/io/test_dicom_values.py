"""Stored bits become values: rescale, sign, unused bits, padding, dtype."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from tests.dicom_factory import Scan, ramp, write
from volseg.io.dicom import read_series


def test_ct_is_exact_int16(tmp_path: Path) -> None:
    stored = ramp().astype(np.uint16)
    scan = Scan(stored, tags={"BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-1024", "PixelPaddingValue": 0})
    volume = read_series(write(scan.datasets(), tmp_path))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, stored.astype(int).T - 1024)
    assert volume.source.details["pixel_padding_value"] == -1024


def test_bits_above_bits_stored_are_ignored_and_the_sign_extended(tmp_path: Path) -> None:
    # 12-bit two's complement: 0xFFF is -1, 0x800 is -2048, 0x7FF is 2047; the four high bits once held overlays (PS3.5 8.1.1) and mean nothing.
    stored = np.full((2, 4, 4), 0x0FFF, dtype=np.uint16)
    stored[0, 0, :3] = 0xA800, 0x57FF, 0xF005
    scan = Scan(stored, tags={"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1})
    array = read_series(write(scan.datasets(), tmp_path)).array
    assert array[:4, 0, 0].tolist() == [-2048, 2047, 5, -1]
    assert (array[:, :, 1] == -1).all()


@pytest.mark.parametrize(("high", "dtype"), [(32767, np.int16), (65535, np.int32)])
def test_unsigned_sixteen_bits_widen_only_when_needed(tmp_path: Path, high: int, dtype: type) -> None:
    stored = ramp().astype(np.uint16)
    stored[3, 0, 0] = high
    array = read_series(write(Scan(stored).datasets(), tmp_path)).array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, stored.T)


def test_slope_per_slice_gives_float32(tmp_path: Path) -> None:
    scan = Scan(ramp())
    datasets = scan.datasets()
    slopes = [0.5, 0.25, 1.5, 2.0, 0.125]
    for ds, slope in zip(datasets, slopes, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = str(slope), "-3"
    array = read_series(write(datasets, tmp_path)).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (scan.stored * np.array(slopes)[:, None, None] - 3).T)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint32])
def test_other_bit_depths(tmp_path: Path, dtype: type) -> None:
    stored = ramp().astype(dtype)
    np.testing.assert_array_equal(read_series(write(Scan(stored).datasets(), tmp_path)).array, stored.T)


def test_implicit_vr(tmp_path: Path) -> None:
    scan = Scan(ramp())
    datasets = scan.datasets()
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(read_series(write(datasets, tmp_path)).array, scan.stored.T)


def test_rle(tmp_path: Path) -> None:
    scan = Scan(ramp())
    datasets = scan.datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read_series(write(datasets, tmp_path)).array, scan.stored.T)


def test_the_licence_friendly_decoder_covers_the_usual_syntaxes() -> None:
    pytest.importorskip("gdcm")
    for uid in ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"):
        assert "gdcm" in get_decoder(uid).available_plugins


def test_monochrome1_is_kept_and_said(tmp_path: Path) -> None:
    scan = Scan(ramp(), tags={"PhotometricInterpretation": "MONOCHROME1"})
    volume = read_series(write(scan.datasets(), tmp_path))
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert any("MONOCHROME1" in note for note in volume.warnings)


def test_source_is_json_and_names_no_patient(tmp_path: Path) -> None:
    scan = Scan(ramp())
    source = read_series(write(scan.datasets(), tmp_path / "chest")).source
    assert (source.kind, source.name, source.series_instance_uid, source.modality) == ("dicom", "chest", scan.uid, "CT")
    text = json.dumps(dict(source.details))
    assert "Phantom" not in text
    assert len(source.details["sop_instance_uids"]) == 5


def test_sop_instance_uids_follow_the_slices(tmp_path: Path) -> None:
    datasets = Scan(ramp()).datasets()
    expected = [str(ds.SOPInstanceUID) for ds in datasets]
    assert read_series(write(datasets, tmp_path)).source.details["sop_instance_uids"] == expected


def test_progress_counts_slices(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_series(write(Scan(ramp()).datasets(), tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]
