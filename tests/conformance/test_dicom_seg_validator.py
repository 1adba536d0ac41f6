"""DICOM Segmentations of CT and MR, classic and multi-frame, judged by dciodvfy; and the published tumour outline of a real CT, voxel for voxel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import SegmentationStorage

from tests.dicom_factory import Scan, ramp, write
from tests.dicom_peers import validator_errors
from volseg.io import load
from volseg.io.dicom.objects.origin import find_referenced_series
from volseg.io.dicom.objects.seg import seg_on_volume, write_seg
from volseg.io.dicom.objects.segments import ABNORMAL, LEFT, NEOPLASM, Algorithm, Code, Segment, describe_segments
from volseg.io.volume import Volume
from volseg.synthetic import make_ct, make_mr
from volseg.synthetic.scanner import ScannerSettings, write_multiframe, write_series

ALGORITHM = Algorithm("ct_tumor", "0.1.0", "ab" * 32)
SEGMENTS = {
    2: Segment(2, "tumor", ABNORMAL, NEOPLASM, LEFT, Code("10200004", "SCT", "Liver"), (220, 20, 60)),
    9: Segment(9, "the rest"),
}
SHAPE, SPACING = (20, 24, 9), (8.0, 8.0, 12.0)

UNKNOWN_LABELMAP = ("Error - Information Object Not found", "Error - SegmentNumber not monotonically increasing from one by one")
"""All that the dciodvfy of 2022 says of a Label Map Segmentation (2024): it does not know the class, whose segments may be numbered as they like (PS3.3 C.8.20.2)."""


def scanned(source: str, folder: Path) -> Volume:
    """A synthetic scan as each kind of scanner writes it; ``bare`` has none of the type 2 elements."""
    if source == "bare CT":
        return load(write(Scan(ramp(9, 24, 20), (0.8, 0.6, 0, -0.36, 0.48, 0.8)).datasets(), folder))
    scan = make_ct(1, shape=SHAPE, spacing=SPACING) if "CT" in source else make_mr(1, shape=SHAPE, spacing=SPACING)
    if "enhanced" in source:
        folder.mkdir()
        write_multiframe([scan], folder / "scan.dcm", settings=ScannerSettings(numbering="shuffled"))
    else:
        write_series(scan, folder)
    return load(folder)


def drawn(volume: Volume) -> np.ndarray:
    label = np.random.default_rng(0).choice(np.array([0, 2, 9], np.uint8), volume.grid.shape)
    label[:, :, [0, -1]] = 0
    return label


def written(source: str, kind: Any, folder: Path) -> Path:
    volume = scanned(source, folder / "scan")
    label = drawn(volume)
    probabilities = {value: (label == value) * np.float32(0.8) for value in SEGMENTS} if kind == "fractional" else None
    path = write_seg(label, volume, folder / "seg.dcm", segments=SEGMENTS, algorithm=ALGORITHM, kind=kind, probabilities=probabilities)
    assert path is not None
    np.testing.assert_array_equal(seg_on_volume(path, load(*find_referenced_series(path))), label)
    return path


SOURCES = ["CT", "MR", "enhanced CT", "enhanced MR", "bare CT"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_segmentations_pass_the_validator(tmp_path: Path, source: str, kind: str) -> None:
    assert validator_errors(written(source, kind, tmp_path)) == []


@pytest.mark.parametrize("source", SOURCES)
def test_of_label_maps_the_validator_only_says_that_it_does_not_know_them(tmp_path: Path, source: str) -> None:
    path = written(source, "labelmap", tmp_path)
    assert [line for line in validator_errors(path) if not line.startswith(UNKNOWN_LABELMAP)] == []
    assert len(validator_errors(path)) <= 2


def test_all_of_a_label_map_that_a_binary_one_has_too_passes_the_validator(tmp_path: Path) -> None:
    ds = pydicom.dcmread(written("CT", "labelmap", tmp_path))
    # Under the name of the class it does know, the modules both classes share are checked: patient, study, equipment, references, dimensions, functional groups.
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    ds.SegmentationType, ds.SegmentationFractionalType, ds.MaximumFractionalValue = "FRACTIONAL", "PROBABILITY", 255
    ds.save_as(tmp_path / "renamed.dcm")
    about_segments = [line for line in validator_errors(tmp_path / "renamed.dcm") if "Segment" not in line]
    assert about_segments == []


def test_the_validator_would_see_a_missing_element(tmp_path: Path) -> None:
    ds = pydicom.dcmread(written("CT", "binary", tmp_path))
    del ds.SegmentSequence[0].SegmentAlgorithmType
    ds.save_as(tmp_path / "broken.dcm")
    assert any("SegmentAlgorithmType" in line for line in validator_errors(tmp_path / "broken.dcm"))


@pytest.mark.parametrize("case", ["STS_001", "STS_002"])
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_published_outline_keeps_its_voxels(real_data: Path, tmp_path: Path, case: str, kind: Any) -> None:
    volume = load(real_data / "dicom" / "sts" / case / "CT" / "image")
    mask = nibabel.load(real_data / "sts" / "labelsTr" / f"{case}.nii.gz")
    inside = nibabel.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))
    index = np.rint(nibabel.affines.apply_affine(np.linalg.inv(volume.grid.affine), inside)).astype(int)
    label = np.zeros(volume.grid.shape, np.uint8)
    label[tuple(index.T)] = 1
    path = write_seg(label, volume, tmp_path / "seg.dcm", segments=describe_segments({1: "GTV"}), algorithm=ALGORITHM, kind=kind)
    assert path is not None
    # These headers hold a StudyID and an AccessionNumber longer than DICOM allows; the result keeps both, or it would not join its study.
    inherited = validator_errors(Path(volume.source.header.files[0]))
    assert [line for line in validator_errors(path) if line not in inherited and not (kind == "labelmap" and line.startswith(UNKNOWN_LABELMAP))] == []
    np.testing.assert_array_equal(seg_on_volume(path, volume), label)
    places = world_of(path)
    assert len(places) == len(inside) > 10_000
    np.testing.assert_allclose(places[np.lexsort(np.round(places, 1).T)], inside[np.lexsort(np.round(inside, 1).T)], atol=2e-3)


def world_of(path: Path) -> np.ndarray:
    """RAS+ mm of every segmented pixel by highdicom's own geometry."""
    import highdicom as hd

    seg = hd.seg.segread(path).get_volume(combine_segments=True)
    return (np.argwhere(seg.array > 0) @ seg.affine[:3, :3].T + seg.affine[:3, 3]) * (-1, -1, 1)


def test_of_a_tilted_head_the_skull_found_on_the_corrected_grid_lies_on_the_skull_of_the_original_slices(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom" / "head_ct_tilt_uneven"
    volume = load(folder, fix_geometry=True)
    bone_hu = 300
    path = write_seg((volume.array > bone_hu).astype(np.uint8), volume, tmp_path / "seg.dcm", segments=describe_segments({1: "skull"}), algorithm=ALGORITHM)
    assert path is not None
    ds = pydicom.dcmread(path)
    masks = {tuple(item.PlanePositionSequence[0].ImagePositionPatient): frame > 0 for item, frame in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True)}
    sizes = shared = mirrored = 0
    for header in volume.source.header.slices:
        source = pydicom.dcmread(header.member.path)
        own = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept) > bone_hu
        mask = masks.pop(tuple(source.ImagePositionPatient))
        sizes += int(own.sum() + mask.sum())
        shared += int((own & mask).sum())
        mirrored += int((own[:, ::-1] & mask).sum())
    assert not masks, "frames that lie on no slice"
    # Between slices up to 7 mm apart the corrected grid is interpolated, so the two skulls are not the same voxels; mirrored they would hardly meet.
    assert 2 * shared / sizes > 0.9 > 0.6 > 2 * mirrored / sizes
