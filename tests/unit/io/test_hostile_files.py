"""Files that are not what they seem: each gives one line naming the file, what is wrong and what to do, before any answer."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from volseg.errors import GeometryError, InputError, VolsegError
from volseg.io import load


def refused(path: Path, match: str, kind: type[VolsegError] = InputError, *, named: Path | None = None) -> None:
    """``named`` is the file at fault where it is not the one that was given (detached data)."""
    with pytest.raises(kind, match=match) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(named or path))
    assert "\n" not in message
    assert ";" in message, "no remedy"
    assert caught.value.exit_code == 2


def ct(seed: int = 0) -> np.ndarray:
    """Noise, so that it compresses badly and a cut loses voxels."""
    return np.random.default_rng(seed).integers(-1024, 3000, (20, 21, 22)).astype(np.int16)


def nifti_bytes(**fields: object) -> bytearray:
    """A valid single-file NIfTI with some header fields overwritten."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((20, 21, 22))
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    return bytearray(header.binaryblock + bytes(4) + ct().tobytes(order="F"))


def test_the_untouched_file_loads(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    np.testing.assert_array_equal(load(tmp_path / "a.nii").array, ct())


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii.gz", "no such file")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name, "empty")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.txt"])
def test_text_renamed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear colleague,\nplease find the scan attached.\n" * 50)
    refused(tmp_path / name, "no format" if name == "a.txt" else "is not a")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_picture_renamed(tmp_path: Path, name: str) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()[0].astype(np.uint8)), str(tmp_path / "a.png"))
    (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
    refused(tmp_path / name, "is not a")


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_truncated_nii_gz(tmp_path: Path, kept: float) -> None:
    whole = gzip.compress(bytes(nifti_bytes()))
    (tmp_path / "a.nii.gz").write_bytes(whole[: int(len(whole) * kept)])
    refused(tmp_path / "a.nii.gz", "truncated")


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_nii_gz_without_its_end_marker(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(nifti_bytes()))[:-cut])
    refused(tmp_path / "a.nii.gz", "truncated")


@pytest.mark.parametrize("size", [100, 350, 400, 352 + 2 * 20 * 21 * 22 - 1])
@pytest.mark.parametrize("compress", [False, True])
def test_fewer_voxels_than_the_header_says(tmp_path: Path, size: int, compress: bool) -> None:
    part = bytes(nifti_bytes()[:size])
    (tmp_path / "a.nii").write_bytes(gzip.compress(part) if compress else part)
    refused(tmp_path / "a.nii", "truncated")


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(bytes(nifti_bytes())))
    whole[-6] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(whole)
    refused(tmp_path / "a.nii.gz", "damaged")


def test_bytes_behind_the_image_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(nifti_bytes()) + b"more"))
    assert "4 bytes or more follow" in load(tmp_path / "a.nii.gz").warnings[0]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_huge_claim_in_a_small_file_allocates_nothing(tmp_path: Path, name: str) -> None:
    raw = bytes(nifti_bytes(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])[:2000])
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    tracemalloc.start()
    refused(tmp_path / name, "truncated")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": [3, 20, 21, 0, 1, 1, 1, 1]}, "20x21x0"),
        ({"dim": [3, 20, -21, 22, 1, 1, 1, 1]}, "at least 1"),
        ({"dim": [9, 20, 21, 22, 1, 1, 1, 1]}, "9 dimensions"),
        ({"dim": [2, 20, 21, 1, 1, 1, 1, 1]}, "2D image"),
        ({"dim": [3, 20, 21, 1, 1, 1, 1, 1]}, "2D image"),
        ({"dim": [4, 20, 21, 11, 2, 1, 1, 1]}, "2 volumes"),
        ({"dim": [5, 20, 7, 22, 1, 3, 1, 1]}, "3 volumes"),
        ({"datatype": 128}, "RGB"),
        ({"datatype": 2304}, "RGB"),
        ({"datatype": 32}, "complex"),
        ({"datatype": 1}, "datatype code 1"),
        ({"datatype": 777}, "datatype code 777"),
        ({"magic": b"ni1"}, "two-file"),
        ({"magic": b""}, "Analyze"),
        ({"vox_offset": 1e9}, "truncated"),
        ({"scl_inter": np.inf}, "scl_inter"),
    ],
    ids=str,
)
def test_header_that_describes_no_scan(tmp_path: Path, fields: dict[str, object], match: str) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(**fields))
    refused(tmp_path / "a.nii", match)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"srow_x": [np.nan] * 4, "srow_y": [np.nan] * 4, "srow_z": [np.nan] * 4}, "sform .*finite"),
        ({"srow_z": [0, 0, 0, 0]}, "sform .*singular"),
        ({"srow_x": [np.inf, 0, 0, 0]}, "sform .*finite"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 0, 0, 1, 1, 1, 1]}, "qform .*singular"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, -1, 1, 1, 1, 1, 1, 1]}, "qform "),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3}, "qform "),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "qform "),
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "pixdim .*singular"),
        ({"xyzt_units": 3}, "micrometres"),
    ],
    ids=str,
)
def test_header_that_places_nothing(tmp_path: Path, fields: dict[str, object], match: str) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(**fields))
    refused(tmp_path / "a.nii", match, GeometryError)


def test_folder_without_scans(tmp_path: Path) -> None:
    refused(tmp_path, "no scan is in this folder")
    (tmp_path / "notes.txt").write_text("nothing")
    refused(tmp_path, "no scan is in this folder")


def test_folder_with_one_scan_or_several(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    assert load(tmp_path).source.path == tmp_path / "a.nii"
    (tmp_path / "b.nii").write_bytes(nifti_bytes())
    refused(tmp_path, r"2 scans \(a.nii, b.nii\)")


def test_series_of_a_file_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    with pytest.raises(InputError, match="not DICOM"):
        load(tmp_path / "a.nii", series="1.2.3")


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lost", [0.002, 0.5, 1.0])
def test_truncated_itk_file(tmp_path: Path, suffix: str, compressed: bool, lost: float, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()), str(path), compressed)
    data = next((file for file in tmp_path.iterdir() if file != path), path)
    whole = data.read_bytes()
    header = whole.index(b"\n\n") + 2 if suffix == ".nrrd" else whole.index(b"LOCAL\n") + 6 if suffix == ".mha" else 0
    data.write_bytes(whole[: len(whole) - int((len(whole) - header) * lost)])
    refused(path, "truncated", named=data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_file_with_damaged_compressed_data(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    """ITK reads such a MetaImage without an error and with wrong voxels."""
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()), str(path), True)
    whole = path.read_bytes()
    start = whole.index(b"\n\n") + 2 if suffix == ".nrrd" else whole.index(b"LOCAL\n") + 6
    for place in np.linspace(start + 20, len(whole) - 3, 15).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"damaged|truncated"):
            load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("cut", [1, 4, 8, 1000])
def test_nrrd_that_lost_its_last_bytes(tmp_path: Path, cut: int) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()), str(tmp_path / "a.nrrd"), True)
    whole = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(whole[:-cut])
    refused(tmp_path / "a.nrrd", "truncated")


@pytest.mark.parametrize(("size", "match"), [(None, "CompressedDataSize"), ("0", "CompressedDataSize"), ("100", "truncated"), ("10000000", "truncated")])
def test_mha_with_a_wrong_compressed_size(tmp_path: Path, size: str | None, match: str) -> None:
    """ITK reads these without an error and with wrong voxels."""
    path = tmp_path / "a.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()), str(path), True)
    head, _, data = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    lines = [line for line in head.decode().splitlines() if not line.startswith("CompressedDataSize")] + ([f"CompressedDataSize = {size}"] if size else [])
    path.write_bytes(("\n".join(lines) + "\nElementDataFile = LOCAL\n").encode() + data)
    refused(path, match)


def test_detached_data_that_is_not_there(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    refused(tmp_path / "a.mhd", "a.raw, which is not there")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_images_that_are_no_scan(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()[0]), str(path))
    refused(path, "2D image")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()[:, :, :3], isVector=True), str(path))
    refused(path, "3 numbers per voxel")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct()[:, :, :3].astype(np.uint8), isVector=True), str(path))
    refused(path, "3 numbers per voxel")
    SimpleITK.WriteImage(SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(ct(n)) for n in (1, 2)]), str(path))
    refused(path, "2 volumes" if suffix == ".mha" else "2 (volumes|numbers)")


def test_itk_with_a_fourth_axis_of_one(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(ct())]), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(load(tmp_path / "a.mha").array, ct().transpose(2, 1, 0))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_huge_claim_in_a_small_nrrd(tmp_path: Path, encoding: str) -> None:
    head = f"NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: 30000 30000 30000\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: {encoding}\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bytes(100))
    refused(tmp_path / "a.nrrd", "truncated")


def test_huge_claim_in_a_small_mha(tmp_path: Path) -> None:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(100))
    refused(tmp_path / "a.mha", "truncated")


@pytest.mark.parametrize(("directions", "match"), [("(1,0,0) (0,1,0) (0,1,0)", "singular"), ("(1,0,0) (0,1,0) (0,0.5,1)", "sheared")])
def test_nrrd_axes_that_span_no_orthogonal_space(tmp_path: Path, directions: str, match: str) -> None:
    head = f"NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: 2 2 2\nspace directions: {directions}\nspace origin: (0,0,0)\nencoding: raw\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bytes(16))
    refused(tmp_path / "a.nrrd", match, GeometryError)
