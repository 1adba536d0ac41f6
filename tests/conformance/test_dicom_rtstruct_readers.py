"""RT Structure Sets against others: published contours and their mask, independent readers, and the DICOM validator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from scipy import ndimage

from tests.dicom_factory import Scan, write
from volseg.geometry import Grid, reorient
from volseg.io import load
from volseg.io.dicom.objects.rtstruct import rasterise, rtstruct_on_volume, write_rtstruct
from volseg.io.dicom.objects.segments import Algorithm, describe_segments
from volseg.io.volume import Volume

TIE = 1e-3
"""Pixels. The published coordinates have few digits; a voxel centre nearer to an outline than this may fall on either side."""

SEGMENTS = describe_segments({0: "background", 1: "shell", 2: "core", 3: "dots"})


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def image_of(folder: Path) -> sitk.Image:
    """The scan as SimpleITK's GDCM reader places it, voxels left out."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def independent_masks(structure_set: Path, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Oracle: (k, j, i) mask by ROI name, and which voxel centres lie on an outline.

    With SimpleITK's geometry, pydicom's numbers and matplotlib asked for each voxel centre; contours of a slice joined by exclusive or.
    """
    image = image_of(folder)
    columns, rows, slices = image.GetSize()
    centres = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    to_index = np.linalg.inv(np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())
    ds = pydicom.dcmread(structure_set)
    names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
    masks = {}
    for roi in ds.ROIContourSequence:
        mask, ties = np.zeros((2, slices, rows, columns), dtype=bool)
        for contour in roi.ContourSequence:
            points = (np.array(contour.ContourData, dtype=float).reshape(-1, 3) - image.GetOrigin()) @ to_index.T
            k, outline = round(points[:, 2].mean()), Polygon(np.vstack([points[:, :2], points[:1, :2]]))
            mask[k] ^= outline.contains_points(centres).reshape(rows, columns)
            ties[k] |= np.not_equal(*(outline.contains_points(centres, radius=r) for r in (-TIE, TIE))).reshape(rows, columns)
        masks[names[roi.ReferencedROINumber]] = mask, ties
    return masks


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Volume, np.ndarray]:
    """An oblique scan of non-square pixels with a shell (holes with islands in them), a core and scattered dots; its folder, RTSTRUCT, volume and label."""
    folder = tmp_path_factory.mktemp("phantom")
    stored = np.zeros((16, 60, 72), np.int16)
    scan = Scan(stored, cosines=(0.8, 0.6, 0.0, -0.36, 0.48, 0.8), spacing=(1.1, 0.9), step=2.5, tags={"StudyDate": "20240131", "StudyTime": "101500", "StudyID": "1"})
    scan.tags["SeriesNumber"] = "3"
    volume = load(write(scan.datasets(), folder / "scan"))
    i, j, k = np.indices(volume.grid.shape)
    rough = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(volume.grid.shape), 1.5)
    radius = np.sqrt(((i - 36) / 30) ** 2 + ((j - 30) / 26) ** 2 + ((k - 8) / 8) ** 2) + rough
    label = np.select([radius < 0.35, (radius > 0.6) & (radius < 1)], [2, 1], 0).astype(np.uint8)
    label[(radius > 1.2) & (np.random.default_rng(2).random(label.shape) < 0.01)] = 3
    write_rtstruct(label, volume, folder / "rs.dcm", segments=SEGMENTS, algorithm=Algorithm("phantom", "1"))
    return folder / "scan", folder / "rs.dcm", volume, label


def test_the_validator_finds_no_errors(phantom: tuple[Path, Path, Volume, np.ndarray]) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run(["dciodvfy", phantom[1]], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "RTStructureSet" in said
    assert [line for line in said if "Error" in line or "Warning" in line] == []


def test_we_read_our_own_voxel_for_voxel(phantom: tuple[Path, Path, Volume, np.ndarray]) -> None:
    _, path, volume, label = phantom
    assert np.array_equal(rtstruct_on_volume(path, volume), label)


def test_an_independent_reader_finds_the_same_voxels(phantom: tuple[Path, Path, Volume, np.ndarray]) -> None:
    folder, path, _, label = phantom
    masks = independent_masks(path, folder)
    assert {name: int(mask.sum()) for name, (mask, _) in masks.items()} == {SEGMENTS[v].name: int((label == v).sum()) for v in (1, 2, 3)}
    for value in (1, 2, 3):
        assert np.array_equal(masks[SEGMENTS[value].name][0], (label == value).transpose(2, 1, 0))


def test_dcmrtstruct2nii_finds_the_same_voxels(phantom: tuple[Path, Path, Volume, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("dcmrtstruct2nii", reason="dcmrtstruct2nii is not installed (PyPI)", exc_type=ImportError)
    folder, path, volume, label = phantom
    # It calls pydicom by a name that pydicom 3 has dropped.
    monkeypatch.setattr(pydicom, "read_file", pydicom.dcmread, raising=False)
    peer.dcmrtstruct2nii(str(path), str(folder), str(tmp_path), mask_foreground_value=1, convert_original_dicom=False)
    for value in (1, 2, 3):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"mask_{SEGMENTS[value].name}.nii.gz")) > 0
        truth = (label == value).transpose(2, 1, 0)
        if truth.sum() * volume.grid.voxel_volume_ml > 1:
            assert dice(mask, truth) >= 0.98


def test_the_published_contours_give_the_published_mask(real_data: Path) -> None:
    case = real_data / "dicom" / "sts" / "STS_002" / "CT"
    volume = load(case / "image")
    published = nib.load(real_data / "sts" / "labelsTr" / "STS_002.nii.gz")
    mask, grid = reorient(np.asarray(published.dataobj), Grid(published.shape, published.affine), volume.grid.orientation)
    start = np.rint(volume.grid.to_voxel(grid.origin)).astype(int)
    assert volume.grid.crop(start, start + mask.shape).isclose(grid, 0.01)
    ours = rtstruct_on_volume(case / "mask" / "RS.dcm", volume)
    part = ours[tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))]
    assert mask.any()
    # The published image is a smaller crop: nothing of the tumour lies outside it.
    assert part.sum() == ours.sum()
    assert dice(part == 1, mask == 1) >= 0.999


@pytest.mark.parametrize("patient", ["STS_001", "STS_002"])
@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_the_published_contours_give_what_an_independent_reader_finds(real_data: Path, patient: str, modality: str) -> None:
    case = real_data / "dicom" / "sts" / patient / modality
    ((theirs, ties),) = independent_masks(case / "mask" / "RS.dcm", case / "image").values()
    volume = load(case / "image")
    result = rasterise(case / "mask" / "RS.dcm", volume)
    assert result.names == {1: f"GTV_Mass_{modality}"}
    ours = result.label.transpose(2, 1, 0) == 1
    assert np.array_equal(ours[~ties], theirs[~ties])
    assert ties.sum() < 0.05 * theirs.sum()
    contours = pydicom.dcmread(case / "mask" / "RS.dcm").ROIContourSequence[0].ContourSequence
    drawn = sum(area(np.array(c.ContourData, dtype=float).reshape(-1, 3)) for c in contours) * volume.grid.spacing[2] / 1000
    assert result.label.sum() * volume.grid.voxel_volume_ml == pytest.approx(drawn, rel=0.02)


def area(points: np.ndarray) -> float:
    """Area (mm^2) of a polygon in an axial plane."""
    x, y = points[:, 0], points[:, 1]
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def test_contours_drawn_on_the_pet_fit_the_ct_of_the_same_frame(real_data: Path) -> None:
    case = real_data / "dicom" / "sts" / "STS_001"
    volume = load(case / "CT" / "image")
    own, other = (rtstruct_on_volume(case / modality / "mask" / "RS.dcm", volume) == 1 for modality in ("CT", "PET"))
    assert dice(own, other) >= 0.98
