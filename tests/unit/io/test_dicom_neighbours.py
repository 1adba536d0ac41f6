"""A file that nobody can read may be the first or last slice of the series it lies with; reading on would give a volume a slice short without a sign."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RTStructureSetStorage

from tests.dicom_factory import Scan, ramp, report, write
from volseg.errors import InputError
from volseg.io.dicom import find_series, read_series


def series_in(folder: Path, **tags: object) -> Path:
    return write(Scan(ramp(), tags=tags).datasets(), folder, shuffle=None)


def cut_before_the_series(file: Path) -> None:
    """The header ends inside the SOP class: a DICOM file of which nothing is known."""
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"1.2.840.10008.5.1.4.1.1.2", 300) + 6])


def garble_the_class(file: Path) -> None:
    """The length of the SOP class is wrong, so nothing behind it is found: neither a series nor rows."""
    data = bytearray(file.read_bytes())
    data[data.index(b"\x08\x00\x16\x00UI") + 6] = 27
    file.write_bytes(data)


def garble_the_series(file: Path) -> None:
    data = file.read_bytes()
    at = data.index(b"\x20\x00\x0e\x00UI") + 8
    file.write_bytes(data[: at + 4] + b"\xff" + data[at + 5 :])


DAMAGE = {
    "cannot be parsed": garble_the_class,
    "names no valid series": garble_the_series,
    "cut inside the header": cut_before_the_series,
    "empty": lambda file: file.write_bytes(b""),
    "a few bytes": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "zeros": lambda file: file.write_bytes(b"\0" * file.stat().st_size),
    "something else": lambda file: file.write_bytes(b"<html>404 not found</html>" * 20),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("fix_geometry", [False, True])
def test_the_last_slice_cannot_be_read(damage: str, fix_geometry: bool, tmp_path: Path) -> None:
    series_in(tmp_path)
    DAMAGE[damage](tmp_path / "0004.dcm")
    with pytest.raises(InputError, match=r"0004\.dcm: .*; it lies among the 4 slices of series [\d.]+ and may be one of them; if it is none, move it elsewhere"):
        read_series(tmp_path, fix_geometry=fix_geometry)


def test_a_slice_without_suffix_is_empty(tmp_path: Path) -> None:
    series_in(tmp_path)
    for n, file in enumerate(sorted(tmp_path.iterdir())):
        file.rename(tmp_path / f"IM{n}")
    (tmp_path / "IM4").write_bytes(b"")
    with pytest.raises(InputError, match=r"IM4: is empty \(0 bytes\); copy it again from its source; it lies among"):
        read_series(tmp_path)


def test_any_slice_of_it_may_be_named(tmp_path: Path) -> None:
    series_in(tmp_path)
    cut_before_the_series(tmp_path / "0000.dcm")
    with pytest.raises(InputError, match=r"0000\.dcm: .*may be one of them"):
        read_series(tmp_path / "0002.dcm")


def test_several_are_counted(tmp_path: Path) -> None:
    series_in(tmp_path)
    for name in ("0003.dcm", "0004.dcm"):
        cut_before_the_series(tmp_path / name)
    with pytest.raises(InputError, match=r"0003\.dcm: .* \(2 files are like this\)"):
        read_series(tmp_path)


def without_rows(folder: Path, sop_class: str) -> Path:
    """The last slice keeps its series, but has another class and lost its pixels."""
    ds = pydicom.dcmread(folder / "0004.dcm")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(ds, keyword)
    ds.save_as(folder / "0004.dcm")
    return folder


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.2222", "1.2.840.1\xff008.5.1.4", ""])
def test_what_is_left_of_a_slice_is_no_object_beside_the_series(sop_class: str, tmp_path: Path) -> None:
    without_rows(series_in(tmp_path), sop_class)
    with pytest.raises(InputError, match=r"0004\.dcm: (damaged DICOM|is no DICOM)"):
        read_series(tmp_path)


def test_a_vendors_object_in_the_series_is_told(tmp_path: Path) -> None:
    volume = read_series(without_rows(series_in(tmp_path), "1.3.46.670589.11.0.0.99"))
    np.testing.assert_array_equal(volume.array, ramp()[:4].T)
    assert "left out 1 object of a private class in the series (1.3.46.670589.11.0.0.99, 0004.dcm)" in volume.warnings


def test_a_series_without_any_uid_is_read(tmp_path: Path) -> None:
    """Anonymisers empty them; then no file is an exception."""
    series_in(tmp_path, SeriesInstanceUID="")
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


def test_in_a_zip(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "s")
    cut_before_the_series(folder / "0004.dcm")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"CT/{file.name}")
    with pytest.raises(InputError, match=r"s\.zip:CT/0004\.dcm: .*may be one of them"):
        read_series(tmp_path / "s.zip")


def test_a_structure_set_among_the_slices_does_not_excuse_it(tmp_path: Path) -> None:
    series_in(tmp_path)
    report(RTStructureSetStorage).save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    cut_before_the_series(tmp_path / "0004.dcm")
    with pytest.raises(InputError, match="may be one of them"):
        read_series(tmp_path)


def test_elsewhere_it_is_only_warned_of(tmp_path: Path) -> None:
    series_in(tmp_path / "ct")
    other = series_in(tmp_path / "other")
    for n in range(4):
        (other / f"{n:04d}.dcm").unlink()
    cut_before_the_series(other / "0004.dcm")
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert any("left out a file" in note and "0004.dcm" in note for note in volume.warnings)


def test_in_a_folder_of_two_series_it_may_belong_to_either(tmp_path: Path) -> None:
    """Which of them is short nobody knows, and refusing both would refuse every export that lies in one folder; it is named in a warning."""
    scans = [Scan(ramp()), Scan(ramp())]
    write([*scans[0].datasets(), *scans[1].datasets()], tmp_path, shuffle=None)
    cut_before_the_series(tmp_path / "0009.dcm")
    volume = read_series(tmp_path, scans[0].uid)
    assert any("left out a file" in note and "0009.dcm" in note for note in volume.warnings)


@pytest.mark.parametrize(
    ("name", "content"), [("._0001.dcm", b"\0\5\x16\7" * 30), ("Thumbs.db", b"\xd0\xcf\x11\xe0"), ("README.txt", b"a study"), ("done", b""), ("DICOMDIR", b"")]
)
def test_what_lies_in_every_export_is_no_slice(name: str, content: bytes, tmp_path: Path) -> None:
    series_in(tmp_path)
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp().T)


def test_the_list_tells_it_too(tmp_path: Path) -> None:
    series_in(tmp_path)
    cut_before_the_series(tmp_path / "0004.dcm")
    (series,) = find_series(tmp_path)
    assert "0004.dcm" in (series.problem or "")
