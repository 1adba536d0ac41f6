"""NIfTI reading: which form counts, voxel values against nibabel's own, shear."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat

from volseg.errors import GeometryError
from volseg.io import load

SHAPE = (4, 5, 6)


def affine_of(angles: tuple[float, float, float] = (0, 0, 0), spacing: tuple[float, float, float] = (1, 2, 3), origin: tuple[float, float, float] = (7, 8, 9)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*angles) * spacing
    affine[:3, 3] = origin
    return affine


def write(path: Path, array: np.ndarray, *, sform: np.ndarray | None = None, qform: np.ndarray | None = None, codes: tuple[int, int] = (1, 1)) -> Path:
    """Write with the forms given; a form left out has code 0."""
    image = nibabel.Nifti1Image(array, None)
    image.set_sform(sform, codes[0] if sform is not None else 0)
    image.set_qform(qform, codes[1] if qform is not None else 0)
    nibabel.save(image, path)
    return path


def numbered(dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def test_the_sform_counts_when_both_are_set_and_their_distance_is_named(tmp_path: Path) -> None:
    shifted = affine_of(origin=(7, 8, 9.5))
    volume = load(write(tmp_path / "a.nii", numbered(), sform=affine_of(), qform=shifted, codes=(2, 1)))
    np.testing.assert_array_equal(volume.grid.affine, affine_of())
    (warning,) = volume.warnings
    assert "0.5 mm apart" in warning
    assert "code 2" in warning
    assert volume.source.details["form"] == "sform"
    assert (volume.source.details["sform_code"], volume.source.details["qform_code"]) == (2, 1)


def test_forms_that_mirror_each_other_are_named(tmp_path: Path) -> None:
    volume = load(write(tmp_path / "a.nii", numbered(), sform=affine_of(), qform=np.diag([-1.0, 2, 3, 1])))
    assert "RAS and LAS" in volume.warnings[0]


def test_forms_that_agree_give_no_warning(tmp_path: Path) -> None:
    oblique = affine_of((0.3, -0.2, 0.5))
    assert load(write(tmp_path / "a.nii", numbered(), sform=oblique, qform=oblique)).warnings == ()


def test_the_qform_counts_when_the_sform_is_not_set(tmp_path: Path) -> None:
    volume = load(write(tmp_path / "a.nii", numbered(), qform=affine_of((0.1, 0.2, 0.3))))
    np.testing.assert_allclose(volume.grid.affine, affine_of((0.1, 0.2, 0.3)), atol=1e-5)
    assert volume.source.details["form"] == "qform"


def test_without_forms_the_voxel_sizes_are_used_as_nibabel_does_and_it_is_said(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(), None)
    image.header.set_zooms((1, 2, 3))
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[252:256] = bytes(4)
    (tmp_path / "a.nii").write_bytes(raw)
    volume = load(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.grid.affine, nibabel.load(tmp_path / "a.nii").affine)
    assert volume.grid.spacing == (1, 2, 3)
    assert volume.source.details["form"] == "pixdim"
    assert "orientation and position are unknown" in volume.warnings[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("scaling", [(1, 0), (2, -1024), (0.25, 3.5), (0, 5), (np.nan, np.nan)], ids=str)
def test_values_are_those_of_nibabel(tmp_path: Path, order: str, dtype: str, scaling: tuple[float, float]) -> None:
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.dtype(order + dtype))
    header.set_sform(affine_of(), 1)
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = scaling
    array = (np.arange(120) % 127).reshape(SHAPE) + (0.37 if dtype[0] == "f" else 0)
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + array.astype(order + dtype).tobytes(order="F"))
    volume = load(tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_array_equal(volume.array.astype(np.float64), expected.astype(np.float32))
    assert volume.array.dtype.isnative
    whole = bool((expected == np.rint(expected)).all())
    assert (volume.array.dtype.kind in "iu") == whole
    if not whole:
        assert volume.array.dtype == np.float32


def test_rescaled_ct_is_int16(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype("u2")
    header.set_sform(affine_of(), 1)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, -1024
    raw = np.linspace(0, 4095, 120).astype("u2")
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + raw.tobytes())
    volume = load(tmp_path / "a.nii")
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array.ravel(order="F"), raw.astype(int) - 1024)


def test_nan_voxels_are_kept_and_counted(tmp_path: Path) -> None:
    array = numbered("float32") + 0.5
    array[0, 0, :3] = (np.nan, np.inf, -np.inf)
    volume = load(write(tmp_path / "a.nii.gz", array, sform=affine_of()))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.warnings[0].startswith("3 of 120 voxels are NaN")


def test_64_bit_values_too_large_become_float32_with_a_warning(tmp_path: Path) -> None:
    array = numbered("int64")
    array[0, 0, 0] = 2**40 + 1
    image = nibabel.Nifti1Image(array, affine_of(), dtype="int64")
    nibabel.save(image, tmp_path / "a.nii")
    volume = load(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    assert str(2**40 + 1) in volume.warnings[0]


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = load(write(tmp_path / "a.nii", numbered().reshape(shape), sform=affine_of()))
    np.testing.assert_array_equal(volume.array, numbered())


def test_compression_is_recognised_by_content_and_the_file_is_identified_by_its_bytes(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.nii", numbered(), sform=affine_of())
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("b.nii.gz", "c.nii"):
        volume = load(tmp_path / name)
        np.testing.assert_array_equal(volume.array, numbered())
        assert volume.source.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert (volume.source.name, volume.source.kind) == (name[0], "nifti")


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(), affine_of())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "a.nii.gz").array, numbered())


def sheared_affine(shear: float) -> np.ndarray:
    """A gantry tilt: the slice step leans towards j by asin(shear)."""
    affine = affine_of()
    affine[:3, 2] = 3 * np.array([0, shear, math.sqrt(1 - shear**2)])
    return affine


def test_shear_of_rounding_is_ignored(tmp_path: Path) -> None:
    volume = load(write(tmp_path / "a.nii", numbered(), sform=sheared_affine(5e-7)))
    np.testing.assert_array_equal(volume.grid.affine, nibabel.load(tmp_path / "a.nii").affine)
    assert volume.warnings == ()


def test_tiny_shear_is_mended_with_a_warning(tmp_path: Path) -> None:
    volume = load(write(tmp_path / "a.nii", numbered(), sform=sheared_affine(5e-4)))
    assert volume.grid.shear < 1e-9
    assert "shear 0.0005" in volume.warnings[0]
    np.testing.assert_array_equal(volume.array, numbered())


def test_shear_is_refused_with_its_size_and_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", numbered(), sform=sheared_affine(0.3))
    with pytest.raises(GeometryError, match=r"cosine 0\.3 .* 17\.5 degrees .*fix_shear=True") as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_fix_shear_puts_every_value_where_it_was(tmp_path: Path) -> None:
    """Trilinear interpolation reproduces a linear function of the world exactly, so the answer is known everywhere inside."""
    shape, affine = (9, 20, 8), sheared_affine(0.3)
    world = np.einsum("wa,aijk->wijk", affine, np.stack([*np.indices(shape), np.ones(shape)]))[:3]
    array = (2 * world[0] - 3 * world[1] + 5 * world[2] + 0.1).astype(np.float32)
    volume = load(write(tmp_path / "a.nii", array, sform=affine), fix_shear=True)
    assert volume.grid.shear < 1e-9
    np.testing.assert_allclose(volume.grid.spacing, (1, 2, 3 * math.sqrt(1 - 0.09)), rtol=1e-6)
    places = np.stack(np.indices(volume.grid.shape), axis=-1)
    inside = np.abs(np.linalg.solve(affine, np.append(volume.grid.to_world(places), np.ones((*volume.grid.shape, 1)), -1)[..., None])[..., :3, 0] - (np.array(shape) - 1) / 2)
    inside = (inside <= (np.array(shape) - 1) / 2 + 1e-6).all(axis=-1)
    expected = volume.grid.to_world(places) @ (2, -3, 5) + 0.1
    assert inside.sum() > 0.5 * array.size
    np.testing.assert_allclose(volume.array[inside], expected[inside], atol=1e-2)
    assert volume.source.header is None
    assert "resampled trilinearly" in volume.warnings[-1]
    for corner in np.array(np.meshgrid(*([0, n - 1] for n in shape))).reshape(3, 8).T:
        at = volume.grid.to_voxel((affine @ [*corner, 1])[:3])
        assert (at > -1e-4).all()
        assert (at < np.array(volume.grid.shape) - 1 + 1e-4).all()
