"""A compressed frame of which a part is missing never comes back as voxels, whatever stands at its end; libjpeg itself fills the rest in and only complains on stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames

from tests.conformance.test_dicom_syntaxes import LOSSLESS, LOSSY, encoded, run
from volseg.errors import InputError
from volseg.io.dicom import read_series
from volseg.io.dicom.pixels.complaints import complaints_raised
from volseg.io.dicom.pixels.encoded import stream_matrix
from volseg.synthetic import ScannerSettings, make_ct, write_multiframe, write_series

ENCODERS = {name: entry[:2] for name, entry in {**LOSSLESS, **LOSSY}.items() if name not in ("deflated", "big_endian", "implicit")}
MARKED = [name for name in ENCODERS if not name.startswith("rle")]
SHAPE = (28, 24, 8)
SPACING = (4.0, 5.0, 6.0)


def noisy(folder: Path) -> list[Path]:
    """Two slices whose every pixel is another than its neighbours, so that nothing missing can be guessed."""
    files = write_series(make_ct(1, shape=SHAPE, spacing=SPACING), folder, settings=ScannerSettings(missing=(2, 3, 4, 5, 6, 7), bits_stored=12))
    rng = np.random.default_rng(2)
    for file in files:
        ds = pydicom.dcmread(file)
        ds.PixelData = rng.integers(0, 4096, (ds.Rows, ds.Columns), dtype=np.uint16).tobytes()
        ds.save_as(file)
    return files


def replace_frame(file: Path, frame: bytes) -> None:
    ds = pydicom.dcmread(file)
    ds.PixelData = encapsulate([frame])
    ds.save_as(file)


def first_frame(file: Path) -> bytes:
    frame: bytes = next(generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=1))
    return frame.rstrip(b"\0")


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_cut_frame_is_refused(syntax: str, tmp_path: Path) -> None:
    files = encoded(*ENCODERS[syntax], noisy(tmp_path / "native"), tmp_path / "encoded")
    frame = first_frame(files[1])
    read_series(tmp_path / "encoded")
    for part in (0.1, 0.5, 0.9, 0.98):
        cut = frame[: int(len(frame) * part)]
        ends = (b"", b"\xff\xd9", b"\0" * (len(frame) - len(cut))) if syntax in MARKED else (b"", b"\xff\xd9")
        for end in ends:
            replace_frame(files[1], cut + end)
            with pytest.raises(InputError, match=rf"{files[1].name}: .*(cannot be decoded|cut short).*; copy it again"):
                read_series(tmp_path / "encoded")


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_file_cut_anywhere_is_refused(syntax: str, tmp_path: Path) -> None:
    files = encoded(*ENCODERS[syntax], noisy(tmp_path / "native"), tmp_path / "encoded")
    whole = files[1].read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00")
    for cut in (start + 20, (start + len(whole)) // 2, len(whole) - 30):
        files[1].write_bytes(whole[:cut])
        with pytest.raises(InputError, match=rf"{files[1].name}: "):
            read_series(tmp_path / "encoded")


@pytest.mark.parametrize(("encoder", "options"), [("dcmcjpeg", "+e1"), ("dcmcjpeg", "+eb"), ("dcmcjpeg", "+ee"), ("dcmcjpls", "+el"), ("dcmcrle", ""), ("gdcmconv", "--j2k")])
def test_a_cut_frame_of_many_is_named(encoder: str, options: str, tmp_path: Path) -> None:
    file = tmp_path / "encoded" / "m.dcm"
    run(encoder, options, write_multiframe([make_ct(1, shape=SHAPE, spacing=SPACING)], tmp_path / "m.dcm", settings=ScannerSettings(bits_stored=12)), file)
    read_series(file.parent)
    ds = pydicom.dcmread(file)
    frames = list(generate_frames(ds.PixelData, number_of_frames=SHAPE[2]))
    frames[3] = frames[3][: len(frames[3]) // 2] + b"\xff\xd9"
    ds.PixelData = encapsulate(frames)
    ds.save_as(file)
    with pytest.raises(InputError, match=r"m\.dcm: frame 4: pixels in .* cannot be decoded"):
        read_series(file.parent)


@pytest.mark.parametrize("syntax", MARKED)
def test_a_stream_of_another_matrix_is_refused(syntax: str, tmp_path: Path) -> None:
    """As many pixels in rows of another length would be a picture of stripes."""
    files = encoded(*ENCODERS[syntax], noisy(tmp_path / "native"), tmp_path / "encoded")
    assert stream_matrix(first_frame(files[0])) == (SHAPE[1], SHAPE[0])
    for file in files:
        ds = pydicom.dcmread(file)
        ds.Rows, ds.Columns = ds.Columns, ds.Rows
        ds.save_as(file)
    with pytest.raises(InputError, match=r"its stream holds 24 rows and 28 columns, the header says 28 and 24"):
        read_series(tmp_path / "encoded")


def test_what_others_write_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with complaints_raised():
        os.write(2, b"a progress bar\nUnsupported JPEG data precision 12\nCorrupt JPEG data: 1 extraneous bytes before marker 0xd9\n")
    assert capfd.readouterr().err == "a progress bar\n"


def test_more_left_over_than_padding_is_damage() -> None:
    with pytest.raises(RuntimeError, match="data are missing or damaged; the decoder says: Corrupt JPEG data: 46 extraneous bytes"), complaints_raised():
        os.write(2, b"Corrupt JPEG data: 46 extraneous bytes before marker 0xd9\n")


def test_the_reason_of_a_failure_is_told() -> None:
    with pytest.raises(RuntimeError, match="no image; the decoder says: Bogus marker length"), complaints_raised():
        os.write(2, b"Bogus marker length\n")
        msg = "no image"
        raise RuntimeError(msg)


def test_without_stderr_frames_are_decoded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = encoded("dcmcjpeg", "+e1", noisy(tmp_path / "native"), tmp_path / "encoded")
    expected = read_series(tmp_path / "native").array
    frame = first_frame(files[1])
    saved = os.dup(2)
    monkeypatch.setattr(sys, "stderr", None)
    os.close(2)
    try:
        np.testing.assert_array_equal(read_series(tmp_path / "encoded").array, expected)
        replace_frame(files[1], frame[: len(frame) // 2] + b"\xff\xd9")
        with pytest.raises(InputError, match="data are missing or damaged"):
            read_series(tmp_path / "encoded")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
