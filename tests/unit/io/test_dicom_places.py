"""Where DICOM comes from: folders, single files, zips, copies, files without preamble, and places with none."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import InputError
from volseg.io import discover, load
from volseg.io.dicom import find_series, read_series
from volseg.io.dicom.files import archive


def pack(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))
    return target


def test_nested_folders_with_other_files(tmp_path: Path) -> None:
    scan = Scan(ramp())
    datasets = scan.datasets()
    write(datasets[:2], tmp_path / "a")
    write(datasets[2:], tmp_path / "b" / "c")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty.dcm").write_bytes(b"")
    np.testing.assert_array_equal(read_series(tmp_path).array, scan.stored.T)


def test_one_file_stands_for_its_series(tmp_path: Path) -> None:
    scan, other = Scan(ramp()), Scan(ramp(3))
    folder = write(scan.datasets(), tmp_path / "chest")
    for n, ds in enumerate(other.datasets()):
        ds.save_as(folder / f"other{n}.dcm", enforce_file_format=True)
    volume = read_series(folder / "0002.dcm")
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert volume.source.name == "chest"
    assert any("0002.dcm is one slice" in note for note in volume.warnings)


def test_zip_equals_folder_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write(Scan(ramp()).datasets(), tmp_path / "in" / "scan")
    packed = pack(folder, tmp_path / "study.zip")
    before = sorted(tmp_path.rglob("*"))
    volume = read_series(packed)
    assert sorted(tmp_path.rglob("*")) == before
    expected = read_series(folder)
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.grid == expected.grid
    assert volume.source.name == "study"


@pytest.mark.parametrize("name", ["../../escape.dcm", "/etc/escape.dcm", "a\\..\\..\\escape.dcm", "C:/escape.dcm"])
def test_zip_with_names_outside_itself(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr(name, b"x")
    with pytest.raises(InputError, match="outside the zip"):
        read_series(tmp_path / "evil.zip")


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ZIP_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for n in range(3):
            packed.writestr(f"{n}.dcm", bytes(400_000))
    assert (tmp_path / "bomb.zip").stat().st_size < 10_000
    with pytest.raises(InputError, match="would unpack to"):
        read_series(tmp_path / "bomb.zip")


def test_zip_member_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0.dcm", bytes(2000))
    with pytest.raises(InputError, match=r"limit of .* for one file"):
        read_series(tmp_path / "big.zip")


def test_zip_that_is_none_or_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(InputError, match="not a readable zip"):
        read_series(tmp_path / "text.zip")
    packed = pack(write(Scan(ramp(3, 64, 64)).datasets(), tmp_path / "scan"), tmp_path / "study.zip")
    with zipfile.ZipFile(packed) as archive_:
        start = archive_.infolist()[0].header_offset + 2000
    data = bytearray(packed.read_bytes())
    data[start : start + 50] = b"\xff" * 50
    packed.write_bytes(data)
    with pytest.raises(InputError, match=r"study\.zip"):
        read_series(packed)


def test_encrypted_zip(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("0.dcm", b"x" * 20)
    data = bytearray(buffer.getvalue())
    # Bit 0 of the general purpose flags (PKWARE APPNOTE 4.4.4) in the local and in the central header.
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        read_series(tmp_path / "secret.zip")


def test_the_same_file_twice_is_dropped_with_a_warning(tmp_path: Path) -> None:
    scan = Scan(ramp())
    write(scan.datasets(), tmp_path)
    shutil.copy(tmp_path / "0001.dcm", tmp_path / "copy.dcm")
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, scan.stored.T)
    assert any("left out 1 file" in note for note in volume.warnings)


def test_one_sop_uid_for_all_slices_loses_none(tmp_path: Path) -> None:
    scan = Scan(ramp(), tags={"SOPInstanceUID": "1.2.3"})
    np.testing.assert_array_equal(read_series(write(scan.datasets(), tmp_path)).array, scan.stored.T)


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble(tmp_path: Path, implicit: bool) -> None:
    scan = Scan(ramp())
    for n, ds in enumerate(scan.datasets()):
        meta = ds.file_meta
        del ds.file_meta
        ds.save_as(tmp_path / f"{n}.dcm", implicit_vr=implicit, little_endian=True)
        assert meta.TransferSyntaxUID != ImplicitVRLittleEndian
    assert (tmp_path / "0.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_series(tmp_path).array, scan.stored.T)


def test_slice_cut_inside_its_header_refuses_its_series(tmp_path: Path) -> None:
    write(Scan(ramp()).datasets(), tmp_path, shuffle=None)
    last = tmp_path / "0004.dcm"
    data = last.read_bytes()
    # Tag (0020,0032) ImagePositionPatient, little endian: the series is named before it, Rows come after.
    last.write_bytes(data[: data.index(b"\x20\x00\x32\x00")])
    with pytest.raises(InputError, match=r"0004\.dcm: damaged DICOM .*1 of 5 images"):
        read_series(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(128, 10**4), st.integers(0, 255)), min_size=1, max_size=20), cut=st.integers(0, 10**4))
def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    folder = tmp_path / "scan"
    if not folder.exists():
        write(Scan(ramp(3)).datasets(), folder, shuffle=None)
        shutil.copy(folder / "0001.dcm", tmp_path / "whole")
    data = bytearray((tmp_path / "whole").read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    (folder / "0001.dcm").write_bytes(data[: cut or None])
    try:
        read_series(folder)
    except InputError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("what", ["missing", "empty", "text", "file"])
def test_places_without_dicom(tmp_path: Path, what: str) -> None:
    target = tmp_path / what
    if what != "missing":
        target.mkdir()
    if what in ("text", "file"):
        (target / "a.dcm").write_text("This is a text of more than one hundred and thirty-two characters, renamed to look like a DICOM file. " * 3)
    with pytest.raises(InputError, match="no such file" if what == "missing" else "holds no DICOM"):
        read_series(target / "a.dcm" if what == "file" else target)


def test_pydicom_is_imported_before_there_are_threads(tmp_path: Path) -> None:
    """Each file needs another of its modules first; imported at once they fail (ImportError) one time in a hundred."""
    write(Scan(ramp()).datasets(), tmp_path)
    code = """
import sys
import volseg.io.dicom.find as place
read, complete = place.read_headers, []
def watched(member):
    complete.append("pydicom" in sys.modules and not sys.modules["pydicom"].__spec__._initializing)
    return read(member)
place.read_headers = watched
assert "pydicom" not in sys.modules
place.find(place.Path(sys.argv[1]))
assert len(complete) == 5 and all(complete), complete
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reader", [find_series, load, discover])
def test_a_path_in_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], object]) -> None:
    """Tests may run as root, whom no permission stops."""
    stat = Path.stat

    def refused(self: Path, **options: bool) -> os.stat_result:
        if self.name == "0001.dcm":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(InputError, match=r"0001\.dcm: cannot be looked at \(Permission denied\); check the path and the permissions"):
        reader(tmp_path / "0001.dcm")


def test_a_slice_of_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(Scan(ramp()).datasets(), tmp_path / "s")

    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match=r"s: the other slices of 0001\.dcm cannot be looked for \(Permission denied\)"):
        read_series(folder / "0001.dcm")
