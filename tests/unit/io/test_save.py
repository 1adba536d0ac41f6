"""Writing labels and images: on exactly the scan's grid, complete or not at all."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import IO

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.eulerangles import euler2mat

from volseg.errors import GeometryError, InputError, OutputError, VolsegError, WriteError
from volseg.geometry import Grid
from volseg.io import Source, Volume, load, save_label, save_volume, written_beside

SHAPE = (5, 6, 7)
SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]


def oblique(shape: tuple[int, int, int] = SHAPE) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.3, -0.2, 0.7) * (0.9765625, -0.9765625, 3.27)
    affine[:3, 3] = (-123.456, 78.9, -1011.12)
    return Grid(shape, affine)


def a_volume(grid: Grid, kind: str = "dicom") -> Volume:
    return Volume(np.zeros(grid.shape, np.int16), grid, Source(Path("ct"), kind, "ct"))


def labels(high: int = 2) -> np.ndarray:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3
    array[0, 0, 0] = high
    return array


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 0), (0, 1), (4, 3), (0, 0)])
@pytest.mark.parametrize("version", [nibabel.Nifti1Header, nibabel.Nifti2Header])
def test_a_label_repeats_both_forms_and_codes_bit_for_bit(tmp_path: Path, codes: tuple[int, int], order: str, version: type) -> None:
    """The forms of the input differ from each other and are not exact in float32 arithmetic; every field that places voxels must come back as it was."""
    header = version(endianness=order)
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_sform(oblique().affine, codes[0])
    shifted = oblique().affine.copy()
    shifted[:3, 3] += (0.1, 0.2, 0.3)
    header.set_qform(shifted, codes[1])
    header["vox_offset"] = 352 if version is nibabel.Nifti1Header else 544
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + bytes(2 * np.prod(SHAPE)))
    saved = nibabel.load(save_label(labels(), load(tmp_path / "a.nii"), tmp_path / "a_seg.nii.gz"))
    given = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(saved.affine, given.affine)
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "qform_code"):
        assert saved.header[field].tobytes() == given.header[field].astype(saved.header[field].dtype).tobytes(), field
    np.testing.assert_array_equal(saved.header["pixdim"][:4], given.header["pixdim"][:4])
    assert saved.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(saved.dataobj), labels())
    assert saved.header.get_xyzt_units()[0] == "mm"
    assert saved.header.get_intent()[0] == "label"
    assert bytes(saved.header["descrip"].tobytes()).rstrip(b"\0") == b"volseg"


def test_a_label_of_a_mended_scan_repeats_the_files_forms(tmp_path: Path) -> None:
    """The label belongs to the file's voxels, so it carries the file's affine and not the mended one."""
    affine = np.diag([1.0, 2, 3, 1])
    affine[1, 2] = 1e-3
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    nibabel.save(image, tmp_path / "a.nii")
    volume = load(tmp_path / "a.nii")
    assert "orthogonal" in volume.warnings[0]
    saved = nibabel.load(save_label(labels(), volume, tmp_path / "b.nii"))
    np.testing.assert_array_equal(saved.affine, nibabel.load(tmp_path / "a.nii").affine)


def test_a_label_of_a_cropped_volume_lies_on_the_crop(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), oblique().affine), tmp_path / "a.nii")
    volume = load(tmp_path / "a.nii")
    stop = [n + 1 for n in SHAPE]
    cropped = Volume(volume.array[1:6, 1:7, 1:8], volume.grid.crop((1, 1, 1), stop), volume.source)
    saved = load(save_label(labels(), cropped, tmp_path / "b.nii.gz"))
    assert saved.grid.isclose(cropped.grid)
    moved = Volume(volume.array, volume.grid.crop((1, 1, 1), (10, 10, 10)), volume.source)
    assert load(save_label(np.zeros((9, 9, 9)), moved, tmp_path / "c.nii.gz")).grid.isclose(moved.grid)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_label_of_another_format_lies_on_its_grid(tmp_path: Path, suffix: str) -> None:
    path = save_label(labels(), a_volume(oblique()), tmp_path / "new" / "folder" / f"a_seg{suffix}")
    again = load(path)
    assert again.grid.isclose(oblique())
    np.testing.assert_array_equal(again.array, labels())
    assert left_in(path.parent) == [path.name]
    if "nii" in suffix:
        header = nibabel.load(path).header
        assert (header["sform_code"], header["qform_code"]) == (1, 1)
        np.testing.assert_allclose(header.get_qform(), oblique().affine, atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("high", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_the_smallest_unsigned_type_is_used(tmp_path: Path, high: int, dtype: type, suffix: str) -> None:
    path = save_label(labels(high).astype(np.float64), a_volume(oblique()), tmp_path / f"a{suffix}")
    stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored.transpose(2, 1, 0), labels(high))


@pytest.mark.parametrize("wrong", [-1, 0.5, 2**32, np.nan, np.inf, 1j])
def test_values_that_are_no_labels_are_refused(tmp_path: Path, wrong: complex) -> None:
    array = labels().astype(np.result_type(np.float64, type(wrong)))
    array[1, 1, 1] = wrong
    with pytest.raises(InputError, match="whole numbers"):
        save_label(array, a_volume(oblique()), tmp_path / "a.nii.gz")
    assert left_in(tmp_path) == []


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    for save in (lambda a: save_label(a, a_volume(oblique()), tmp_path / "a.nii"), lambda a: save_volume(a, oblique(), tmp_path / "a.nii")):
        with pytest.raises(GeometryError, match=r"\(5, 6, 8\)"):
            save(np.zeros((5, 6, 8)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_content_gives_equal_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (save_label(labels(), a_volume(oblique()), tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64", "int64", ">i2", "float16"])
def test_images_of_every_type_come_back(tmp_path: Path, dtype: str, suffix: str) -> None:
    array = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, SHAPE).astype(dtype)
    path = save_volume(array, oblique(), tmp_path / f"a{suffix}", description="a synthetic scan")
    stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).transpose(2, 1, 0)
    np.testing.assert_array_equal(stored, array)
    assert stored.dtype == {"bool": "uint8", "int64": "uint8", ">i2": "int16", "float16": "float32"}.get(dtype, dtype)


def test_memory_layout_of_the_array_does_not_matter(tmp_path: Path) -> None:
    array = np.random.default_rng(1).random((7, 6, 5)).astype(np.float32).T[::-1]
    path = save_volume(array, oblique(), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), array)


def test_a_type_that_cannot_hold_the_values_is_refused(tmp_path: Path) -> None:
    save_volume(np.full(SHAPE, 255.0), oblique(), tmp_path / "a.nii", dtype=np.uint8)
    for value in (256.0, -1.0, 0.5, np.nan):
        with pytest.raises(InputError, match="not all exact in uint8"):
            save_volume(np.full(SHAPE, value), oblique(), tmp_path / "b.nii", dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a", "a.dcm", "a.mhd"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"use \.nii\.gz"):
        save_label(labels(), a_volume(oblique()), tmp_path / name)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        save_label(labels(), a_volume(oblique()), tmp_path / "out" / "a.nii.gz")
    assert caught.value.exit_code == 2


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(OutputError):
        save_label(labels(), a_volume(oblique()), tmp_path / "a.nii.gz")
    assert left_in(tmp_path) == ["a.nii.gz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            save_label(labels(), a_volume(oblique()), tmp_path / "a.nii.gz")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, WriteError), (errno.EDQUOT, WriteError), (errno.EACCES, OutputError), (errno.EROFS, OutputError)])
def test_an_error_of_the_file_system_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, number: int, kind: type[VolsegError], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("the old one")
    opened = Path.open

    class FullDisk:
        def __init__(self, file: IO[bytes]) -> None:
            self.file, self.writes = file, 0

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.writes += 1
            if self.writes > 1:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    monkeypatch.setattr(Path, "open", lambda self, mode="r", *args, **kw: FullDisk(opened(self, mode, *args, **kw)) if "x" in mode else opened(self, mode, *args, **kw))
    with pytest.raises(kind) as caught:
        save_label(labels(), a_volume(oblique()), path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.exit_code == (1 if kind is WriteError else 2)
    assert left_in(tmp_path) == [path.name]
    assert path.read_text() == "the old one"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_real_limit_on_the_file_size(tmp_path: Path, suffix: str) -> None:
    """The operating system itself stops the writing half way."""
    code = f"""
import numpy as np, pathlib
from volseg.io import save_volume
from volseg.geometry import Grid
from volseg.errors import WriteError
try:
    save_volume(np.random.default_rng(0).random((40, 40, 40)), Grid((40, 40, 40), np.eye(4)), pathlib.Path({str(tmp_path)!r}) / 'a{suffix}')
except WriteError as error:
    print('told', error)
"""
    limit = 20_000
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.stdout.startswith(f"told {tmp_path}"), done.stderr
    assert left_in(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written_beside(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path
        raise KeyboardInterrupt
    assert left_in(tmp_path) == []


def test_permissions_of_the_file_are_the_users_usual_ones(tmp_path: Path) -> None:
    path = save_label(labels(), a_volume(oblique()), tmp_path / "a.nii.gz")
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
