"""Every transfer syntax a PACS hands out, made by dcmtk and GDCM from one synthetic CT: lossless ones come back exactly, lossy ones as the codec's own decoder gives them."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID

from volseg.errors import InputError
from volseg.io.dicom import read_series
from volseg.io.dicom.pixels.extended import decode_extended
from volseg.synthetic import ScannerSettings, SyntheticScan, make_ct, write_multiframe, write_series

# Encoder, its options, the transfer syntax that must come out.
LOSSLESS = {
    "jpeg_lossless": ("dcmcjpeg", "+el", "1.2.840.10008.1.2.4.57"),
    "jpeg_lossless_sv1": ("dcmcjpeg", "+e1", "1.2.840.10008.1.2.4.70"),
    "jpeg_lossless_sv1_gdcm": ("gdcmconv", "--jpeg", "1.2.840.10008.1.2.4.70"),
    "jpeg_ls": ("dcmcjpls", "+el", "1.2.840.10008.1.2.4.80"),
    "jpeg_ls_gdcm": ("gdcmconv", "--jpegls", "1.2.840.10008.1.2.4.80"),
    "jpeg_2000": ("gdcmconv", "--j2k", "1.2.840.10008.1.2.4.90"),
    "rle": ("dcmcrle", "", "1.2.840.10008.1.2.5"),
    "rle_gdcm": ("gdcmconv", "--rle", "1.2.840.10008.1.2.5"),
    "deflated": ("dcmconv", "+td", "1.2.840.10008.1.2.1.99"),
    "big_endian": ("dcmconv", "+tb", "1.2.840.10008.1.2.2"),
    "implicit": ("dcmconv", "+ti", "1.2.840.10008.1.2"),
}

# And who decodes it in our stead.
LOSSY = {
    "jpeg_baseline": ("dcmcjpeg", "+eb", "1.2.840.10008.1.2.4.50", "dcmdjpeg"),
    "jpeg_extended": ("dcmcjpeg", "+ee", "1.2.840.10008.1.2.4.51", "dcmdjpeg"),
    "jpeg_ls_near": ("dcmcjpls", "+en", "1.2.840.10008.1.2.4.81", "dcmdjpls"),
    "jpeg_2000_lossy": ("gdcmconv", "--j2k -Y --irreversible -q 60", "1.2.840.10008.1.2.4.91", "gdcmconv"),
}

# Encoders are started once a slice, so there are only three.
FEW = (3, 4, 5, 6, 7)
STORED = {
    "unsigned 16": ScannerSettings(missing=FEW),
    "unsigned 12": ScannerSettings(missing=FEW, bits_stored=12),
    "signed 16": ScannerSettings(missing=FEW, signed=True, padding_value=-2000),
    "signed 12": ScannerSettings(missing=FEW, signed=True, bits_stored=12),
}


HTJ2K = (
    "/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi"
    "4zLv+QAAoAAAAAARIAAf+TwAAmn/UFB3QAAMAAE0AAE0AAEwA++QMHdADu/gMHdABv/QKHdADAABUwAATwAATgJrhgPQMAopQAB536AoF0AFBQ5wCiNADAABaEAAFrQAAWiMYlpoz3aNT4XQ3p8UTn"
    "1wDn8/PPuXvnPJKO2LmQUwpPf4gAYbgAHl/64Uf+/Je/Aw+fGEA32ADAAC3IAAXoEAALUCwsLLHk/z/4p/9+jzaW+uYCQJ3ZiAOypHGCfQA5z3POOeecc8455zzPOeecc845cuQgngNg5gAYOdBzOd"
    "LzxA0MxANMOQRmDoH5ADgu4MQAKIBlr9ZckMYkMbIB/vf/f/t//3v4AMYC2+YwDspgXAD/2Q=="
)
"""The image of :func:`lattice` as a reversible High-Throughput JPEG 2000 stream, encoded by OpenJPH (through imagecodecs 2026.3.6), which no dependency of volseg brings along."""


def lattice() -> np.ndarray:
    """uint16 (12, 16) of 12 bits, by a formula."""
    return ((np.arange(12)[:, None] ** 2 * 29 + np.arange(16)[None, :] * 151) % 4096).astype(np.uint16)


def program(name: str) -> str:
    """Path of an encoder; python-gdcm brings gdcmconv along."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package {'libgdcm-tools' if name.startswith('gdcm') else 'dcmtk'})")
    return found


def run(name: str, options: str, source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    done = subprocess.run([program(name), *options.split(), str(source), str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def encoded(name: str, options: str, files: list[Path], folder: Path) -> list[Path]:
    for file in files:
        run(name, options, file, folder / file.name)
    return [folder / file.name for file in files]


def phantom() -> SyntheticScan:
    return make_ct(1, shape=(20, 16, 8), spacing=(4.0, 5.0, 6.0))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_come_back_exactly(syntax: str, stored: str, tmp_path: Path) -> None:
    encoder, options, uid = LOSSLESS[syntax]
    scan, settings = phantom(), STORED[stored]
    native = write_series(scan, tmp_path / "native", settings=settings)
    files = encoded(encoder, options, native, tmp_path / "encoded")
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == uid
    volume = read_series(tmp_path / "encoded")
    expected = scan.image[:, :, :3] if settings.padding_value is None else np.stack([pydicom.dcmread(f).pixel_array.T for f in native], axis=-1)
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype == np.int16
    assert volume.grid.distance(scan.grid.crop((0, 0, 0), (20, 16, 3))) < 1e-6


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_come_back_as_the_codecs_own_decoder_gives_them(syntax: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder, options, uid, decoder = LOSSY[syntax]
    scan = phantom()
    files = encoded(encoder, options, write_series(scan, tmp_path / "native", settings=STORED["unsigned 12"]), tmp_path / "encoded")
    decoded = [pydicom.dcmread(f) for f in encoded(decoder, "--raw" if decoder == "gdcmconv" else "", files, tmp_path / "decoded")]
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == uid
    capfd.readouterr()
    volume = read_series(tmp_path / "encoded")
    assert capfd.readouterr().err == ""
    # dcmcjpeg scales every slice by itself, and says so in RescaleSlope and RescaleIntercept.
    expected = np.stack([ds.pixel_array.T * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in decoded], axis=-1)
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    # And it is still the picture: the codecs were asked for good quality.
    assert np.corrcoef(volume.array.ravel(), scan.image[:, :, :3].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("encoder", "options"), [("dcmcjpeg", "+e1"), ("dcmcjpls", "+el"), ("dcmcrle", ""), ("dcmconv", "+tb"), ("dcmconv", "+td"), ("gdcmconv", "--j2k")])
def test_compressed_multi_frame_objects_come_back_exactly(encoder: str, options: str, tmp_path: Path) -> None:
    scan = phantom()
    run(encoder, options, write_multiframe([scan], tmp_path / "m.dcm", settings=ScannerSettings(numbering="shuffled")), tmp_path / "encoded" / "m.dcm")
    volume = read_series(tmp_path / "encoded")
    np.testing.assert_array_equal(volume.array, scan.image)
    assert volume.grid.distance(scan.grid) < 1e-6


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"])
def test_high_throughput_jpeg_2000(uid: str, tmp_path: Path) -> None:
    files = write_series(make_ct(1, shape=(16, 12, 8), spacing=(4.0, 5.0, 6.0)), tmp_path / "s", settings=ScannerSettings(bits_stored=12))
    for file in files:
        ds = pydicom.dcmread(file)
        ds.PixelData = encapsulate([base64.b64decode(HTJ2K)])
        ds.file_meta.TransferSyntaxUID = UID(uid)
        ds.save_as(file)
    np.testing.assert_array_equal(read_series(tmp_path / "s").array, np.repeat(lattice().T[:, :, None].astype(int) - 1024, 8, axis=2))


def test_a_syntax_nobody_decodes_is_named(tmp_path: Path) -> None:
    files = write_series(phantom(), tmp_path / "s")
    for file in files:
        ds = pydicom.dcmread(file)
        ds.PixelData = encapsulate([b"\0" * 64])
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.92")
        ds.save_as(file)
    with pytest.raises(InputError, match=r"transfer syntax JPEG 2000 Part 2.* cannot be decoded; convert it"):
        read_series(tmp_path / "s")


@pytest.mark.parametrize("suffix", [b"", b"\xff\xd9"])
def test_a_jpeg_extended_slice_cut_short_is_refused(suffix: bytes, tmp_path: Path) -> None:
    files = encoded("dcmcjpeg", "+ee", write_series(phantom(), tmp_path / "native", settings=STORED["unsigned 12"]), tmp_path / "encoded")
    ds = pydicom.dcmread(files[1])
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    # The decoder itself would fill the rest with grey and go on.
    ds.PixelData = encapsulate([frame[: len(frame) // 2] + suffix])
    ds.save_as(files[1])
    with pytest.raises(InputError, match=rf"{files[1].name}: .*JPEG Extended.*cannot be decoded"):
        read_series(tmp_path / "encoded")


def test_without_gdcm_jpeg_extended_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdcm", None)
    with pytest.raises(RuntimeError, match="pip install python-gdcm"):
        decode_extended(b"", 1, 1, 12, signed=False)


def test_no_gpl_decoder_is_needed() -> None:
    """pylibjpeg-libjpeg is GPL; where it is installed beside volseg these tests would not prove that GDCM suffices."""
    from pydicom.pixels import get_decoder

    for _, _, uid in (*LOSSLESS.values(), *((a, b, c) for a, b, c, _ in LOSSY.values())):
        if UID(uid).is_compressed and uid != "1.2.840.10008.1.2.1.99":
            assert set(get_decoder(UID(uid)).available_plugins) & {"gdcm", "pydicom"}, uid
