"""Real CT, PET and MR files: the same values and places as nibabel and SimpleITK find, and labels that repeat the input's affine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from volseg.io import discover, load, output_stems, save_label, save_volume


def some_scans(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("sts/imagesTr/*.nii.gz"))[:3], *sorted(folder.glob("hippocampus/imagesTr/[!.]*.nii.gz"))[:2]]


def test_values_and_grid_are_those_of_nibabel_and_the_label_repeats_the_affine(real_data: Path, tmp_path: Path) -> None:
    scans = some_scans(real_data)
    assert scans
    for path in scans:
        volume, oracle = load(path), nibabel.load(path)
        np.testing.assert_array_equal(volume.array, oracle.get_fdata(dtype=np.float32))
        assert volume.array.dtype.itemsize <= oracle.get_data_dtype().itemsize
        np.testing.assert_array_equal(volume.grid.affine, oracle.affine)
        assert volume.grid.orientation == "".join(nibabel.aff2axcodes(oracle.affine))
        saved = nibabel.load(save_label((volume.array > volume.array.mean()).astype(np.uint8), volume, tmp_path / path.name))
        assert saved.affine.tobytes() == oracle.affine.tobytes()
        assert saved.header.get_sform(coded=True)[1] == oracle.header.get_sform(coded=True)[1]
        assert saved.header.get_qform(coded=True)[1] == oracle.header.get_qform(coded=True)[1]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_real_ct_converted_by_simpleitk_reads_the_same(real_data: Path, tmp_path: Path, suffix: str) -> None:
    path = some_scans(real_data)[0]
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / f"a{suffix}"), True)
    original, converted = load(path), load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(converted.array, original.array)
    assert converted.grid.isclose(original.grid)
    assert load(save_volume(converted.array, converted.grid, tmp_path / f"b{suffix}")).grid.isclose(original.grid)


def test_the_scans_of_a_real_folder_are_found_and_named_apart(real_data: Path) -> None:
    series = discover(real_data / "dicom" / "sts")
    assert all(path.is_dir() for path in series)
    assert len(series) >= 4
    names = output_stems(series)
    assert len(set(names)) == len(names)
    images = discover(real_data / "sts" / "imagesTr")
    assert len(images) == len(list((real_data / "sts" / "imagesTr").glob("[!.]*.nii.gz")))


def test_importing_the_room_imports_no_heavy_library() -> None:
    code = "import sys, volseg.io; print([name for name in ('torch', 'monai', 'nibabel', 'SimpleITK', 'pydicom', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
