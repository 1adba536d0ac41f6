"""NRRD and MetaImage reading: headers written by hand, so that the meaning of every field is checked and not only SimpleITK's own habits."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.io import load

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4, order="F") - 5


def write_nrrd(path: Path, *lines: str, encoding: str = "raw") -> Path:
    head = ["NRRD0004", "# written by hand", "type: short", "dimension: 3", "sizes: 2 3 4", f"encoding: {encoding}", "endian: little", "note:=free text", *lines]
    data = ARRAY.astype("<i2").tobytes(order="F")
    path.write_bytes(("\n".join(head) + "\n\n").encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("RAS", (1, 1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("LPS", (-1, -1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("LAS", (-1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_space_says_what_the_numbers_mean(tmp_path: Path, space: str, signs: tuple[int, int, int], encoding: str) -> None:
    """Directions and origin are written as numbers of that space; ``signs`` turns it into RAS by definition."""
    path = write_nrrd(tmp_path / "a.nrrd", f"space: {space}", "space directions: (0,1.5,0) (0,0,2.5) (-0.5,0,0)", "space origin: (10,20,30)", encoding=encoding)
    volume = load(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    for index, place in [((0, 0, 0), (10, 20, 30)), ((1, 0, 0), (10, 21.5, 30)), ((0, 2, 0), (10, 20, 35)), ((0, 0, 3), (8.5, 20, 30))]:
        np.testing.assert_allclose(volume.grid.to_world(index), np.array(place) * signs, atol=1e-12)
    assert volume.warnings == ()
    assert volume.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (volume.source.kind, volume.source.name) == ("nrrd", "a")


def test_nrrd_without_a_space_is_taken_as_lps_with_a_warning(tmp_path: Path) -> None:
    volume = load(write_nrrd(tmp_path / "a.nrrd", "spacings: 1 2 3"))
    np.testing.assert_array_equal(volume.grid.affine, np.diag([-1, -2, 3, 1]))
    assert "it names no space" in volume.warnings[0]


def test_nrrd_in_scanner_axes_is_taken_as_lps_with_a_warning(tmp_path: Path) -> None:
    volume = load(write_nrrd(tmp_path / "a.nrrd", "space: scanner-xyz", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (10,20,30)"))
    assert "'scanner-xyz'" in volume.warnings[0]
    assert volume.grid.origin == (-10, -20, 30)


@pytest.mark.parametrize("blank_line", [True, False])
def test_detached_nrrd_is_identified_by_header_and_data(tmp_path: Path, blank_line: bool) -> None:
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: big\nspace: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\ndata file: a.bin\n"
    (tmp_path / "a.nhdr").write_text(head + "\n" * blank_line)
    (tmp_path / "a.bin").write_bytes(ARRAY.astype(">i2").tobytes(order="F"))
    volume = load(tmp_path / "a.nhdr")
    np.testing.assert_array_equal(volume.array, ARRAY)
    both = (tmp_path / "a.nhdr").read_bytes() + (tmp_path / "a.bin").read_bytes()
    assert volume.source.sha256 == hashlib.sha256(both).hexdigest()


def write_mha(path: Path, **fields: str) -> Path:
    head = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "DimSize": "2 3 4", "ElementType": "MET_SHORT"} | fields
    text = "".join(f"{key} = {value}\n" for key, value in head.items()) + "ElementDataFile = LOCAL\n"
    path.write_bytes(text.encode() + ARRAY.astype(">i2" if head["BinaryDataByteOrderMSB"] == "True" else "<i2").tobytes(order="F"))
    return path


@pytest.mark.parametrize("msb", ["True", "False"])
def test_metaimage_fields(tmp_path: Path, msb: str) -> None:
    """TransformMatrix lists the LPS direction of the first axis first (MetaIO documentation: a row per axis)."""
    fields = {"TransformMatrix": "0 1 0 0 0 1 1 0 0", "Offset": "10 20 30", "ElementSpacing": "1.5 2.5 0.5", "BinaryDataByteOrderMSB": msb}
    volume = load(write_mha(tmp_path / "a.mha", **fields))
    np.testing.assert_array_equal(volume.array, ARRAY)
    for index, lps in [((0, 0, 0), (10, 20, 30)), ((1, 0, 0), (10, 21.5, 30)), ((0, 2, 0), (10, 20, 35)), ((0, 0, 3), (11.5, 20, 30))]:
        np.testing.assert_allclose(volume.grid.to_world(index), np.array(lps) * (-1, -1, 1), atol=1e-12)


def test_a_format_is_recognised_by_content(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", "space: LPS", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (10,20,30)")
    path.rename(tmp_path / "a.mha")
    assert load(tmp_path / "a.mha").source.kind == "nrrd"
    write_mha(tmp_path / "b.nrrd")
    assert load(tmp_path / "b.nrrd").source.kind == "mha"


def test_values_outside_what_the_type_says_are_refused_not_guessed(tmp_path: Path) -> None:
    write_mha(tmp_path / "a.mha", ElementType="MET_DOUBLE")
    with pytest.raises(InputError, match="truncated"):
        load(tmp_path / "a.mha")
