"""Label maps between a volume's grid and its original slices, and objects that find the images they belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage, generate_uid
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from tests.dicom_factory import Scan, ramp, report, write
from volseg.errors import GeometryError, InputError
from volseg.geometry import Grid, reorient
from volseg.io import load
from volseg.io.dicom import find_series
from volseg.io.dicom.objects.origin import find_referenced_series, label_from_slices, label_on_slices, lies_on_slices, read_object, source_datasets
from volseg.io.volume import Source, Volume

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
"""Two perpendicular unit vectors that lie in no anatomical plane."""


def centres(scan: Scan) -> np.ndarray:
    """(slices, rows, columns, 3) RAS+ mm of every pixel by the factory's own equation."""
    slices, rows, columns = scan.stored.shape
    return np.array([[[scan.world(i, j, k) for i in range(columns)] for j in range(rows)] for k in range(slices)])


def nearest_voxel(label: np.ndarray, grid: Grid, world: np.ndarray) -> np.ndarray:
    """Oracle: the value of the closest voxel centre by a search tree, 0 where the point lies outside the box of voxels. For orthogonal grids."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.array([grid.affine[:3, :3] @ n + grid.affine[:3, 3] for n in index])
    _, found = cKDTree(points).query(world.reshape(-1, 3))
    value = label.reshape(-1)[found]
    offset = (world.reshape(-1, 3) - points[found]) @ grid.direction
    return np.where((np.abs(offset) <= np.array(grid.spacing) / 2).all(axis=1), value, 0).reshape(world.shape[:-1])


def tilted(folder: Path) -> tuple[Scan, Volume]:
    """Uneven slices stacked at a slant, and a volume on an orthogonal even grid as a correction would make it."""
    positions = np.array([[-10.0 + 0.1 * k, -20 + 1.3 * k, 30 + z] for k, z in enumerate((0.0, 2.0, 4.5, 6.0, 9.0))])
    scan = Scan(ramp(5, 9, 7), spacing=(1.5, 0.9), positions=positions)
    (series,) = find_series(write(scan.datasets(), folder))
    assert series.error is not None
    grid = Grid.from_lps((8, 12, 6), np.array([[0.9, 0, 0, -10.21], [0, 1.5, 0, -20.13], [0, 0, 1.9, 29.77], [0, 0, 0, 1]]))
    return scan, Volume(np.zeros(grid.shape, np.int16), grid, Source(folder, "dicom", "tilted", header=series))


def test_headers_come_back_whole_in_the_order_of_k(tmp_path: Path) -> None:
    scan = Scan(ramp(), OBLIQUE, step=-2.0, tags={"InstitutionName": "Somewhere"})
    volume = load(write(scan.datasets(), tmp_path))
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    datasets = source_datasets(volume)
    along = [np.dot(ds.ImagePositionPatient, normal) for ds in datasets]
    assert along == sorted(along)
    assert [ds.InstitutionName for ds in datasets] == ["Somewhere"] * 5
    assert all("PixelData" not in ds for ds in datasets)


def test_headers_in_a_zip_are_found_again(tmp_path: Path) -> None:
    import shutil

    write(Scan(ramp()).datasets(), tmp_path / "scan")
    volume = load(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "scan"))
    assert len(source_datasets(volume)) == 5


def test_frames_of_one_object_give_one_header(tmp_path: Path) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path))
    series = volume.source.header
    framed = replace(series, slices=tuple(replace(series.slices[0], frame=n) for n in range(5)))
    assert len(source_datasets(replace(volume, source=replace(volume.source, header=framed)))) == 1


def test_files_that_changed_or_went_are_refused(tmp_path: Path) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path))
    file = Path(volume.source.header.slices[2].member.path)
    ds = pydicom.dcmread(file)
    ds.SOPInstanceUID = generate_uid()
    ds.save_as(file)
    with pytest.raises(InputError, match=rf"{file.name}: has changed since the scan was read"):
        source_datasets(volume)
    file.write_bytes(b"\x08\x00")
    with pytest.raises(InputError, match=file.name):
        source_datasets(volume)
    file.unlink()
    with pytest.raises(InputError, match=rf"{file.name}: has gone"):
        source_datasets(volume)


def test_a_volume_from_elsewhere_has_no_headers(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2)), Grid((2, 2, 2), np.eye(4)), Source(tmp_path / "scan.nii.gz", "nifti", "scan"))
    with pytest.raises(InputError, match=r"scan\.nii\.gz: .*needs a DICOM series"):
        source_datasets(volume)
    with pytest.raises(InputError, match="needs a DICOM series"):
        label_on_slices(volume.array, volume)


def test_on_its_own_grid_every_pixel_keeps_its_value(tmp_path: Path) -> None:
    scan = Scan(ramp(), OBLIQUE, (0.7, 1.3), step=-2.0)
    volume = load(write(scan.datasets(), tmp_path))
    on_slices = label_on_slices(volume.array, volume)
    assert lies_on_slices(volume)
    # Slices run along the positive normal, so those written with a negative step come in reverse.
    np.testing.assert_array_equal(on_slices, scan.stored[::-1])
    np.testing.assert_array_equal(label_from_slices(on_slices, volume), volume.array)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "IPR"])
def test_reoriented_and_cropped_volumes_land_on_the_same_pixels(tmp_path: Path, codes: str) -> None:
    scan = Scan(ramp(5, 7, 6), OBLIQUE, (0.7, 1.3))
    volume = load(write(scan.datasets(), tmp_path))
    start, stop = (1, 2, 1), (5, 6, 5)
    part = volume.array[1:5, 2:6, 1:5]
    array, grid = reorient(part, volume.grid.crop(start, stop), codes)
    derived = replace(volume, array=array, grid=grid)
    expected = np.zeros_like(scan.stored)
    expected[1:5, 2:6, 1:5] = scan.stored[1:5, 2:6, 1:5]
    np.testing.assert_array_equal(label_on_slices(array, derived), expected)
    np.testing.assert_array_equal(label_from_slices(scan.stored, derived), array)


def test_a_corrected_volume_is_sampled_at_each_slices_pixel_centres(tmp_path: Path) -> None:
    scan, volume = tilted(tmp_path)
    label = np.random.default_rng(1).integers(0, 99, volume.grid.shape).astype(np.uint8)
    assert not lies_on_slices(volume)
    expected = nearest_voxel(label, volume.grid, centres(scan))
    assert (expected == 0).any() and (expected > 0).mean() > 0.3
    np.testing.assert_array_equal(label_on_slices(label, volume), expected)


def test_drawings_on_slanted_uneven_slices_reach_a_corrected_volume(tmp_path: Path) -> None:
    scan, volume = tilted(tmp_path)
    stack = np.random.default_rng(2).integers(1, 99, scan.stored.shape).astype(np.uint8)
    # A scan whose every voxel is told by the plain definition: the slice nearest along z, then the nearest pixel of it.
    expected = np.zeros(volume.grid.shape, np.uint8)
    heights = scan.positions[:, 2]
    for index in np.ndindex(volume.grid.shape):
        x, y, z = (volume.grid.lps_affine @ [*index, 1])[:3]
        k = int(np.abs(heights - z).argmin())
        column, row = round((x - scan.positions[k, 0]) / 0.9), round((y - scan.positions[k, 1]) / 1.5)
        if 29 <= z < 40.5 and 0 <= row < 9 and 0 <= column < 7:
            expected[index] = stack[k, row, column]
    assert (expected == 0).any()
    np.testing.assert_array_equal(label_from_slices(stack, volume), expected)


@given(seed=st.integers(0, 2**32 - 1))
def test_any_rotated_crop_is_sampled_by_the_nearest_voxel(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    random = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed % 2**31).as_matrix()
    scan = Scan(ramp(3, 4, 5), tuple(rotation[:, :2].T.ravel()), tuple(random.uniform(0.5, 3, 2)), step=random.uniform(1, 4))
    volume = load(write(scan.datasets(), tmp_path_factory.mktemp("scan")))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=(seed + 1) % 2**31).as_matrix() * random.uniform(0.5, 3, 3)
    shape = tuple(random.integers(2, 6, 3))
    affine[:3, 3] = centres(scan).reshape(-1, 3).mean(axis=0) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(shape, affine)
    label = random.integers(1, 9, shape).astype(np.uint8)
    turned = Volume(label, grid, volume.source)
    np.testing.assert_array_equal(label_on_slices(label, turned), nearest_voxel(label, grid, centres(scan)))


def test_a_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path))
    with pytest.raises(GeometryError, match=r"shape \(2, 2, 2\) is not the scan's \(6, 4, 5\)"):
        label_on_slices(np.zeros((2, 2, 2)), volume)
    with pytest.raises(GeometryError, match=r"\(5, 6, 4\) pixels .* do not fit the series' \(5, 4, 6\)"):
        label_from_slices(np.zeros((5, 6, 4)), volume)


def seg_object(uid: str, sops: list[str]) -> Dataset:
    ds = report(SegmentationStorage)
    item, ds.Modality = Dataset(), "SEG"
    item.SeriesInstanceUID = uid
    item.ReferencedInstanceSequence = [Dataset() for _ in sops]
    for reference, sop in zip(item.ReferencedInstanceSequence, sops, strict=True):
        reference.ReferencedSOPInstanceUID = sop
    ds.ReferencedSeriesSequence = [item]
    return ds


def rtstruct_object(uid: str) -> Dataset:
    ds, frame, study, series = report(RTStructureSetStorage), Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = uid
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    return ds


@pytest.mark.parametrize("place", ["study/CT", "study/SEG", "study"])
@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_images_are_found_beside_below_and_one_folder_up(tmp_path: Path, place: str, kind: str) -> None:
    scan, other = Scan(ramp()), Scan(ramp(4))
    write(scan.datasets(), tmp_path / "study" / "CT")
    write(other.datasets(), tmp_path / "study" / "PT")
    ds = seg_object(scan.uid, []) if kind == "seg" else rtstruct_object(scan.uid)
    (tmp_path / place).mkdir(exist_ok=True)
    ds.save_as(tmp_path / place / "object.dcm", enforce_file_format=True)
    volume = load(*find_referenced_series(tmp_path / place / "object.dcm"))
    assert volume.source.series_instance_uid == scan.uid
    assert volume.grid.shape[2] == 5


def test_of_two_stacks_in_one_series_the_referenced_one_is_found(tmp_path: Path) -> None:
    large, small = Scan(ramp(6)), Scan(ramp(3), OBLIQUE)
    small.uid = large.uid
    datasets = small.datasets()
    write(large.datasets(), tmp_path / "large")
    write(datasets, tmp_path / "small")
    seg_object(large.uid, [str(ds.SOPInstanceUID) for ds in datasets]).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert load(*find_referenced_series(tmp_path / "seg.dcm")).grid.shape[2] == 3


def test_images_that_are_nowhere_are_named_with_where_was_looked(tmp_path: Path) -> None:
    (tmp_path / "study" / "SEG").mkdir(parents=True)
    file = tmp_path / "study" / "SEG" / "seg.dcm"
    seg_object("1.2.77", []).save_as(file, enforce_file_format=True)
    with pytest.raises(InputError, match=rf"SeriesInstanceUID 1\.2\.77\) are not below {file.parent} or {file.parent.parent};"):
        find_referenced_series(file)
    report(SegmentationStorage).save_as(file, enforce_file_format=True)
    with pytest.raises(InputError, match="does not say which images it belongs to"):
        find_referenced_series(file)


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_object(tmp_path / "seg.dcm")
    (tmp_path / "note.dcm").write_text("hello, this is not an object of any kind")
    with pytest.raises(InputError, match=r"note\.dcm"):
        read_object(tmp_path / "note.dcm")
