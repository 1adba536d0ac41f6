"""Real scanner series held against dcm2niix and against the published NIfTI beside them; broken ones are refused for the right reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.misc
import pytest
from pydicom.pixels import get_decoder

from volseg.errors import GeometryError, InputError, SeriesError
from volseg.geometry import Grid, reorient
from volseg.io.dicom import read_series

SERIES = [
    "sts/STS_001/CT/image",
    "sts/STS_001/PET/image",
    "sts/STS_002/CT/image",
    "sts/STS_002/PET/image",
    "vendors/anatomical/001",
    "vendors/anatomical/001_implicit",
    "vendors/generic/anatomical/001",
    "vendors/generic/anatomical/001_implicit",
    "vendors/generic/anatomical/002_non_isotropic",
    "vendors/generic/compressed/001",
    "vendors/generic/compressed_j2k/001",
    "vendors/generic/compressed_jpeg/001",
    "vendors/generic/compressed_jpegls/001",
    "vendors/generic/compressed_rle/001",
    "vendors/failing/slicecount/001",
]

GROUND_TRUTH = [*(name for name in SERIES if name.startswith("vendors")), "vendors/failing/slicecount/001"]
"""dicom2nifti refuses ``slicecount`` because it wants four slices; its two lie regularly and make a volume here, the same one as the NIfTI published beside it."""

REFUSED = [
    ("head_ct_tilt_uneven", GeometryError, ("gantry tilt", "18.50 degrees", "uneven slice spacing", "4.002 mm (13x)", "6.999 mm (13x)", "1.081 mm (1x)")),
    ("vendors/failing/gantrytilting/001", GeometryError, ("gantry tilt", "14.00 degrees")),
    ("vendors/failing/notavolume/001", GeometryError, ("duplicate positions", "4 different images share 1 slice position")),
    ("vendors/failing/sliceincrement/001", GeometryError, ("gap", "1 slice missing", "5.000 mm", "10.000 mm")),
    ("vendors/failing/sliceincrement/002", GeometryError, ("gantry tilt", "15.50 degrees", "gap", "1 slice missing")),
    ("vendors/failing/sliceorientation/001", GeometryError, ("mixed orientations", "2 + 2 slices", "PixelSpacing")),
    ("vendors/generic/rgb/001", InputError, ("colour image", "3 samples per pixel", "RGB")),
    *((f"sts/{patient}/{modality}/mask", InputError, ("no scan", "RT Structure Set Storage")) for patient in ("STS_001", "STS_002") for modality in ("CT", "PET")),
    ("sts/STS_001", SeriesError, ("2 series", "CT", "PT", "59 slices", "--series UID")),
]
"""The angles are those of GantryDetectorTilt (18.5) or follow from ImageOrientationPatient against a table along z: arcsin 0.2419 = 14.00, arcsin 0.2672 = 15.50 degrees."""


def assert_same_voxels_in_space(path: Path, oracle: nib.Nifti1Image, atol: float = 0) -> None:
    """Same values at the same world positions; array axes may be permuted and flipped."""
    volume = read_series(path)
    grid = Grid(oracle.shape[:3], oracle.affine)
    ours, our_grid = reorient(volume.array, volume.grid, "RAS")
    theirs, their_grid = reorient(np.asanyarray(oracle.dataobj), grid, "RAS")
    assert our_grid.shape == their_grid.shape
    np.testing.assert_allclose(our_grid.affine, their_grid.affine, atol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6 if volume.array.dtype.kind == "f" else 0, atol=atol)


def dicom_folders(data: Path) -> list[str]:
    """Every folder below ``data`` that holds DICOM files itself."""
    return sorted({str(file.parent.relative_to(data)) for file in data.rglob("*") if file.is_file() and pydicom.misc.is_dicom(file)})


def dcm2niix_images(folder: Path, target: Path) -> tuple[list[Path], str]:
    """What dcm2niix makes of a folder, and what it says; the calling test is skipped where it is not installed."""
    dcm2niix = shutil.which("dcm2niix") or getattr(pytest.importorskip("dcm2niix"), "bin", None)
    # -m y keeps one series in one file, -x n forbids cropping, -s n reads all series.
    done = subprocess.run([str(dcm2niix), "-b", "n", "-z", "n", "-m", "y", "-x", "n", "-f", "out", "-o", str(target), str(folder)], capture_output=True, text=True, check=False)
    return sorted(target.glob("*.nii")), done.stdout


def test_no_folder_of_the_data_is_left_untested(real_data: Path) -> None:
    tested = {*SERIES, *GROUND_TRUTH, *(name for name, _, _ in REFUSED)}
    assert set(dicom_folders(real_data / "dicom")) - tested == set()


@pytest.mark.parametrize("name", SERIES)
def test_dcm2niix(name: str, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom" / name
    images, said = dcm2niix_images(folder, tmp_path)
    assert len(images) == 1, said[-300:]
    assert_same_voxels_in_space(folder, nib.load(images[0]))


@pytest.mark.parametrize("name", GROUND_TRUTH)
def test_published_nifti(name: str, real_data: Path) -> None:
    folder = real_data / "dicom" / name
    assert_same_voxels_in_space(folder, nib.load(folder.parent / f"{folder.name}_ground_truth.nii.gz"))


@pytest.mark.parametrize(("name", "kind", "words"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_refused(name: str, kind: type[Exception], words: tuple[str, ...], real_data: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_series(real_data / "dicom" / name)
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)


SYNTAXES = ("compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle")


def test_every_encoding_of_one_scan_gives_the_same_volume(real_data: Path) -> None:
    volumes = [read_series(real_data / "dicom" / "vendors" / "generic" / syntax / "001") for syntax in SYNTAXES]
    for syntax, volume in zip(SYNTAXES, volumes, strict=True):
        np.testing.assert_array_equal(volume.array, volumes[0].array, err_msg=syntax)
        assert volume.grid.isclose(volumes[0].grid), syntax


@pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name != "compressed_rle"])
def test_the_decoder_volseg_depends_on_suffices(syntax: str, real_data: Path) -> None:
    pytest.importorskip("gdcm")
    generic = real_data / "dicom" / "vendors" / "generic"
    # pydicom itself decodes RLE, with no plug-in, so it is the reference; these sagittal slices are stacked along -x.
    expected = read_series(generic / "compressed_rle" / "001").array
    slices = sorted((pydicom.dcmread(file) for file in (generic / syntax / "001").iterdir()), key=lambda ds: -ds.ImagePositionPatient[0])
    for k, ds in enumerate(slices):
        frame, _ = get_decoder(ds.file_meta.TransferSyntaxUID).as_array(ds, raw=True, decoding_plugin="gdcm")
        np.testing.assert_array_equal(frame.T, expected[:, :, k])
