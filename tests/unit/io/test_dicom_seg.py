"""Label maps to DICOM Segmentations: read back by highdicom and by plain pydicom, voxel for voxel; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from scipy.spatial.transform import Rotation

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.io import load
from volseg.io.dicom import find_series
from volseg.io.dicom.objects.seg import read_seg, seg_on_volume, write_seg
from volseg.io.dicom.objects.segments import ABNORMAL, ABNORMAL_WORDS, ANATOMY, LEFT, NEOPLASM, ORGANS, RIGHT, TISSUE, Algorithm, Code, Segment, describe_segments
from volseg.io.volume import Source, Volume

ALGORITHM = Algorithm("ct_tumor", "0.1.0", "ab" * 32)
SEGMENTS = describe_segments({1: "liver", 3: "tumor", 7: "vessel", 300: "left kidney"})
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": OBLIQUE,
}


def labelled(scan: Scan, folder: Path, seed: int = 0, values: tuple[int, ...] = (0, 1, 3)) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A scan read back, a label map on its grid, and the same by the scan's own slices; each voxel is told by its value, which is unique, so no geometry is involved.

    The first and last slice and the outermost rows hold no label.
    """
    volume = load(write(scan.datasets(), folder, shuffle=seed))
    drawn = np.random.default_rng(seed).choice(values, scan.stored.shape).astype(np.uint16 if max(values) > 255 else np.uint8)
    drawn[0] = drawn[-1] = 0
    drawn[:, 0] = 0
    drawn[1, 1, : len(values)] = values
    lookup = np.zeros(int(scan.stored.max()) + 1, drawn.dtype)
    lookup[scan.stored.ravel()] = drawn.ravel()
    return volume, lookup[volume.array], drawn


def by_pydicom(path: Path, scan: Scan) -> np.ndarray:
    """Segment numbers on the scan's own slices, each frame placed by its position, with pydicom's bit unpacking alone."""
    ds = pydicom.dcmread(path)
    shared = ds.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, scan.cosines, atol=1e-6)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, scan.spacing, rtol=1e-6)
    out = np.zeros(scan.stored.shape, np.uint16)
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    for item, frame in zip(ds.PerFrameFunctionalGroupsSequence, frames, strict=True):
        assert frame.any(), "an empty frame was written"
        away = np.linalg.norm(scan.positions - np.array(item.PlanePositionSequence[0].ImagePositionPatient, float), axis=1)
        assert away.min() < 1e-4
        identified = item if "SegmentIdentificationSequence" in item else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber if ds.SegmentationType != "LABELMAP" else 1
        out[away.argmin()] += frame * number
    return out


def by_highdicom(path: Path, scan: Scan, folder: Path) -> np.ndarray:
    """Segment numbers on the scan's own slices, found by highdicom through the references to their SOP Instance UIDs."""
    import highdicom as hd

    uids = {}
    for file in folder.iterdir():
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        uids[int(np.linalg.norm(scan.positions - np.array(ds.ImagePositionPatient, float), axis=1).argmin())] = ds.SOPInstanceUID
    seg = hd.seg.segread(path)
    return seg.get_pixels_by_source_instance([uids[k] for k in range(len(uids))], combine_segments=True, assert_missing_frames_are_empty=True)


def write_label(label: np.ndarray, volume: Volume, path: Path, **options: object) -> Path:
    written = write_seg(label, volume, path, **{"segments": SEGMENTS, "algorithm": ALGORITHM, **options})
    assert written == path
    return path


def _deidentified() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic Application Confidentiality Profile"
    return code


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31 - 1), orientation=st.sampled_from([*ORIENTATIONS, "any"]), kind=st.sampled_from(["binary", "labelmap"]))
def test_every_voxel_lands_where_independent_readers_see_it(tmp_path_factory: pytest.TempPathFactory, seed: int, orientation: str, kind: str) -> None:
    folder = tmp_path_factory.mktemp("scan")
    random = np.random.default_rng(seed)
    any_cosines = tuple(Rotation.random(random_state=seed).as_matrix()[:, :2].T.ravel())
    size = random.integers((3, 4, 4), (6, 10, 10))
    scan = Scan(ramp(*size), ORIENTATIONS.get(orientation, any_cosines), tuple(random.uniform(0.5, 3, 2)), step=float(random.choice([-1, 1]) * random.uniform(0.8, 5)))
    scan.positions = scan.positions + random.uniform(-100, 100, 3)
    volume, label, drawn = labelled(scan, folder / "scan", seed, (0, 1, 3, 7))
    path = write_label(label, volume, folder / "seg.dcm", kind=kind)
    numbers = np.searchsorted([0, 1, 3, 7], drawn) if kind == "binary" else drawn
    np.testing.assert_array_equal(by_pydicom(path, scan), numbers)
    np.testing.assert_array_equal(by_highdicom(path, scan, folder / "scan"), numbers)
    np.testing.assert_array_equal(seg_on_volume(path, volume), label)


def test_highdicom_sees_the_volume_at_the_same_places(tmp_path: Path) -> None:
    import highdicom as hd

    scan = Scan(ramp(5, 6, 8), OBLIQUE, (0.7, 1.3), step=-2.0)
    volume, label, drawn = labelled(scan, tmp_path / "scan")
    seen = hd.seg.segread(write_label(label, volume, tmp_path / "seg.dcm")).get_volume(combine_segments=True)
    index = np.argwhere(seen.array > 0)
    places = (index @ seen.affine[:3, :3].T + seen.affine[:3, 3]) * (-1, -1, 1)
    expected = np.array([scan.world(i, j, k) for k, j, i in np.argwhere(drawn > 0)])
    assert len(places) == len(expected) > 30
    np.testing.assert_allclose(places[np.lexsort(np.round(places, 3).T)], expected[np.lexsort(np.round(expected, 3).T)], atol=1e-3)


def test_label_values_with_gaps_come_back(tmp_path: Path) -> None:
    volume, label, _ = labelled(Scan(ramp(4, 6, 7)), tmp_path / "scan", values=(0, 3, 7, 300))
    path = write_label(label, volume, tmp_path / "seg.dcm")
    seg = read_seg(path)
    assert [(s.number, s.value, s.name) for s in seg.segments] == [(1, 3, "tumor"), (2, 7, "vessel"), (3, 300, "left kidney")]
    np.testing.assert_array_equal(seg_on_volume(seg, volume), label)
    assert len({s.TrackingUID for s in pydicom.dcmread(path).SegmentSequence}) == 3
    np.testing.assert_array_equal(seg_on_volume(path, volume, {"vessel": 2, "left kidney": 1}), np.select([label == 7, label == 300], [2, 1]))


def test_probabilities_are_kept_to_half_a_step(tmp_path: Path) -> None:
    scan = Scan(ramp(5, 6, 7), OBLIQUE)
    volume, label, drawn = labelled(scan, tmp_path / "scan")
    share = np.random.default_rng(0).uniform(0.5, 1, label.shape).astype(np.float32)
    probabilities = {1: np.where(label == 1, share, 0), 3: np.where(label == 3, share, 1 - share) * (label > 0), 7: np.full(label.shape, 1e-4, np.float32)}
    path = write_label(label, volume, tmp_path / "seg.dcm", kind="fractional", probabilities=probabilities)
    assert [s.value for s in read_seg(path).segments] == [1, 3], "a segment without a step of probability was written"
    np.testing.assert_array_equal(seg_on_volume(path, volume), label)
    import highdicom as hd

    seg = hd.seg.segread(path)
    uids = [s.sop_uid for s in volume.source.header.slices]
    for number, value in ((1, 1), (2, 3)):
        seen = seg.get_pixels_by_source_instance(uids, segment_numbers=[number], assert_missing_frames_are_empty=True)[..., 0]
        np.testing.assert_allclose(seen.transpose(2, 1, 0), probabilities[value], atol=0.5 / 255 + 1e-6)
    assert drawn.any()


def test_nothing_segmented_writes_nothing(tmp_path: Path) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path / "scan"))
    path = tmp_path / "seg.dcm"
    path.write_bytes(b"an older one")
    nothing = np.zeros(volume.grid.shape, np.uint8)
    assert write_seg(nothing, volume, path, segments=SEGMENTS, algorithm=ALGORITHM) is None
    assert write_seg(nothing, volume, path, segments=SEGMENTS, algorithm=ALGORITHM, kind="fractional", probabilities={1: nothing * 0.1}) is None
    assert path.read_bytes() == b"an older one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "surface"}, "'surface' is no segmentation type"),
        ({"segments": {3: SEGMENTS[3]}}, "label 1 is in the label map but not among the described segments"),
        ({"kind": "fractional"}, "needs the probabilities"),
        ({"kind": "fractional", "probabilities": {1: np.full((6, 4, 5), 1.5)}}, "probabilities of label 1 run from 1.5 to 1.5"),
        ({"kind": "fractional", "probabilities": {1: np.full((6, 4, 5), np.nan)}}, "run from nan to nan"),
        ({"label": np.full((6, 4, 5), -1)}, "whole numbers from 0 to 65535"),
        ({"label": np.full((6, 4, 5), 0.5)}, "whole numbers from 0 to 65535"),
    ],
)
def test_what_cannot_be_a_segmentation_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path / "scan"))
    options = {"label": np.ones(volume.grid.shape, np.int32), "segments": SEGMENTS, "algorithm": ALGORITHM, **change}
    with pytest.raises(InputError, match=message):
        write_seg(volume=volume, path=tmp_path / "seg.dcm", **options)
    assert not (tmp_path / "seg.dcm").exists()


def test_the_object_says_whose_it_is_and_what_it_was_made_from(tmp_path: Path) -> None:
    tags = {"StudyID": "S1", "StudyDate": "20240102", "AccessionNumber": "A1", "PatientSex": "F", "SeriesNumber": 4, "StudyDescription": "Abdomen"}
    scan = Scan(ramp(5, 6, 7), OBLIQUE, tags=tags)
    volume, label, drawn = labelled(scan, tmp_path / "scan")
    ds = pydicom.dcmread(write_label(label, volume, tmp_path / "seg.dcm"))
    sources = [pydicom.dcmread(f) for f in (tmp_path / "scan").iterdir()]
    assert (ds.PatientName, ds.PatientID, ds.PatientSex) == ("Test^Phantom", "phantom", "F")
    assert (ds.StudyInstanceUID, ds.StudyID, ds.StudyDate, ds.AccessionNumber, ds.StudyDescription) == ("1.2.3.4", "S1", "20240102", "A1", "Abdomen")
    assert (ds.FrameOfReferenceUID, ds.Modality, ds.SeriesNumber, ds.Manufacturer, ds.SegmentsOverlap) == ("1.2.3.5", "SEG", 1004, "volseg", "NO")
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == scan.uid
    assert {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence} == {s.SOPInstanceUID for s in sources}
    position_of = {s.SOPInstanceUID: s.ImagePositionPatient for s in sources}
    for item in ds.PerFrameFunctionalGroupsSequence:
        uid = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(item.PlanePositionSequence[0].ImagePositionPatient, position_of[uid], atol=1e-6)
    assert len(ds.PerFrameFunctionalGroupsSequence) == sum(int((drawn == v).any(axis=(1, 2)).sum()) for v in (1, 3))


def test_segments_carry_their_codes_colour_and_algorithm(tmp_path: Path) -> None:
    import highdicom as hd

    volume, label, _ = labelled(Scan(ramp(4, 6, 7)), tmp_path / "scan")
    liver = Code("10200004", "SCT", "Liver")
    segments = {1: Segment(1, "a\\b" + "c" * 80, ABNORMAL, NEOPLASM, LEFT, liver, (200, 30, 30)), 3: Segment(3, "rest")}
    one, two = pydicom.dcmread(write_label(label, volume, tmp_path / "seg.dcm", segments=segments)).SegmentSequence
    codes = [one.SegmentedPropertyCategoryCodeSequence, one.SegmentedPropertyTypeCodeSequence, one.AnatomicRegionSequence]
    codes.append(one.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence)
    assert [Code(s[0].CodeValue, s[0].CodingSchemeDesignator, s[0].CodeMeaning) for s in codes] == [ABNORMAL, NEOPLASM, liver, LEFT]
    np.testing.assert_allclose(hd.color.CIELabColor.from_dicom_value(one.RecommendedDisplayCIELabValue).to_rgb(), (200, 30, 30), atol=1)
    assert one.SegmentLabel == ("a/b" + "c" * 80)[:64]
    assert (one.SegmentAlgorithmType, one.SegmentAlgorithmName) == ("AUTOMATIC", "ct_tumor")
    (made,) = one.SegmentationAlgorithmIdentificationSequence
    assert (made.AlgorithmName, made.AlgorithmVersion, made.AlgorithmParameters) == ("ct_tumor", "0.1.0", "weights_sha256=" + "ab" * 32)
    assert made.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert "RecommendedDisplayCIELabValue" not in two and two.SegmentedPropertyTypeCodeSequence[0].CodeValue == TISSUE.value


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Łukasz^Ζωή=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Волков^Юрий"),
    ],
)
@pytest.mark.parametrize("segment", ["tumor", "Größe ✓"])
def test_names_survive_in_every_character_set(tmp_path: Path, charset: str | list[str], name: str, segment: str) -> None:
    volume, label, _ = labelled(Scan(ramp(4, 6, 7), tags={"SpecificCharacterSet": charset, "PatientName": name}), tmp_path / "scan")
    segments = {v: Segment(v, segment) for v in (1, 3)}
    path = write_label(label, volume, tmp_path / "seg.dcm", segments=segments)
    ds = pydicom.dcmread(path)
    assert str(ds.PatientName) == name
    assert [s.name for s in read_seg(path).segments] == [segment, segment]
    assert (ds.SpecificCharacterSet == charset) == (segment.isascii() or charset == "ISO_IR 192")


def test_an_undefined_character_set_is_not_passed_on(tmp_path: Path) -> None:
    volume, label, _ = labelled(Scan(ramp(4, 6, 7), tags={"SpecificCharacterSet": "LATIN-ONE"}), tmp_path / "scan")
    assert pydicom.dcmread(write_label(label, volume, tmp_path / "seg.dcm")).SpecificCharacterSet == "ISO_IR 192"


def test_sloppy_headers_are_completed_with_nothing_invented(tmp_path: Path) -> None:
    sloppy = {"PatientSex": "male", "StudyDate": "yesterday", "SpacingBetweenSlices": "-77", "SeriesNumber": None}
    with pydicom.config.disable_value_validation():
        datasets = Scan(ramp(4, 6, 7), tags=sloppy, step=2.5).datasets()
        for ds in datasets:
            del ds.PatientID, ds.SliceThickness
        folder = write(datasets, tmp_path / "scan")
    volume = load(folder)
    label = (volume.array > 50).astype(np.uint8)
    ds = pydicom.dcmread(write_label(label, volume, tmp_path / "seg.dcm"))
    for keyword in ("PatientID", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        assert ds[keyword].value in ("", None), keyword
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices, ds.SeriesNumber) == (2.5, 2.5, 1000)


@pytest.mark.parametrize(
    ("given", "method", "codes"),
    [
        ({"DeidentificationMethod": ""}, "not stated by the images", None),
        ({}, "not stated by the images", None),
        ({"DeidentificationMethod": "by hand"}, "by hand", None),
        ({"DeidentificationMethod": "", "DeidentificationMethodCodeSequence": [_deidentified()]}, None, "113100"),
    ],
)
def test_a_removed_identity_always_says_how(tmp_path: Path, given: dict[str, object], method: str | None, codes: str | None) -> None:
    volume, label, _ = labelled(Scan(ramp(4, 6, 7), tags={"PatientIdentityRemoved": "YES"} | given), tmp_path / "scan")
    ds = pydicom.dcmread(write_label(label, volume, tmp_path / "seg.dcm"))
    assert ds.get("DeidentificationMethod") == method
    assert [item.CodeValue for item in ds.get("DeidentificationMethodCodeSequence", [])] == ([codes] if codes else [])


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID"])
def test_without_a_uid_to_refer_to_nothing_is_written(tmp_path: Path, keyword: str) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        delattr(ds, keyword)
        if keyword == "SOPInstanceUID":
            ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    volume = load(_raw(datasets, tmp_path / "scan"))
    with pytest.raises(InputError, match=rf"has no {keyword} \(00.*which a segmentation must refer to"):
        write_seg(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "seg.dcm", segments=SEGMENTS, algorithm=ALGORITHM)


def test_slices_that_share_a_uid_are_refused(tmp_path: Path) -> None:
    datasets = Scan(ramp()).datasets()
    for ds in datasets:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    volume = load(write(datasets, tmp_path / "scan"))
    with pytest.raises(InputError, match=r"has the SOPInstanceUID of 000\d\.dcm too \(1\.2\.3\)"):
        write_seg(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "seg.dcm", segments=SEGMENTS, algorithm=ALGORITHM)


def test_headers_highdicom_cannot_use_are_a_clear_error(tmp_path: Path) -> None:
    volume = load(write(Scan(ramp()).datasets(), tmp_path / "scan"))
    # A series of two studies is refused when it is read, so the study changes after that.
    file = sorted((tmp_path / "scan").iterdir())[3]
    changed = pydicom.dcmread(file)
    changed.StudyInstanceUID = "1.2.99"
    changed.save_as(file)
    with pytest.raises(InputError, match=r"seg\.dcm: no DICOM-SEG can be made from the headers of .*same series"):
        write_seg(np.ones(volume.grid.shape, np.uint8), volume, tmp_path / "seg.dcm", segments=SEGMENTS, algorithm=ALGORITHM)
    assert [p.name for p in tmp_path.iterdir()] == ["scan"]


def _raw(datasets: list[Dataset], folder: Path) -> Path:
    folder.mkdir()
    for n, ds in enumerate(datasets):
        pydicom.dcmwrite(folder / f"{n}.dcm", ds, enforce_file_format=False)
    return folder


def test_big_endian_sources_with_sequences_are_carried_over(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P5", "99X", "Procedure"
    datasets = Scan(ramp(4, 6, 7), tags={"ProcedureCodeSequence": [code]}).datasets()
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        ds["PixelData"].VR = "OW"
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    volume = load(write(datasets, tmp_path / "scan"))
    label = (volume.array > 50).astype(np.uint8)
    path = write_label(label, volume, tmp_path / "seg.dcm")
    assert pydicom.dcmread(path).ProcedureCodeSequence[0].CodeMeaning == "Procedure"
    np.testing.assert_array_equal(seg_on_volume(path, volume), label)


def multi_frame(folder: Path) -> list[str]:
    """Two stacks in one enhanced object, frames in any order; the keys of the two."""
    from volseg.synthetic import make_ct
    from volseg.synthetic.scanner import ScannerSettings, write_multiframe

    scans = [make_ct(seed=1, shape=(24, 20, count), spacing=(4, 4, 8), oblique=oblique) for count, oblique in ((8, 0), (9, 20))]
    write_multiframe(scans, folder / "scan.dcm", settings=ScannerSettings(numbering="shuffled"))
    return [series.key for series in find_series(folder / "scan.dcm")]


@pytest.mark.parametrize("stack", [0, 1])
def test_frames_of_a_multi_frame_scan_are_referred_to_by_their_numbers(tmp_path: Path, stack: int) -> None:
    volume = load(tmp_path / "scan.dcm", multi_frame(tmp_path)[stack])
    label = (np.random.default_rng(0).uniform(size=volume.grid.shape) > 0.5).astype(np.uint8)
    label[:, :, 0] = 0
    path = write_label(label, volume, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(seg_on_volume(path, volume), label)
    source, ds = pydicom.dcmread(tmp_path / "scan.dcm"), pydicom.dcmread(path)
    orientation = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    shared = source.SharedFunctionalGroupsSequence[0]
    numbers = []
    for item in ds.PerFrameFunctionalGroupsSequence:
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        frame = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        np.testing.assert_allclose(item.PlanePositionSequence[0].ImagePositionPatient, frame.PlanePositionSequence[0].ImagePositionPatient, atol=1e-6)
        turned = frame if "PlaneOrientationSequence" in frame else shared
        np.testing.assert_allclose(orientation, turned.PlaneOrientationSequence[0].ImageOrientationPatient, atol=1e-6)
        numbers.append(reference.ReferencedFrameNumber)
    assert len(set(numbers)) == volume.grid.shape[2] - 1


def test_a_corrected_scan_is_segmented_on_its_original_slanted_slices(tmp_path: Path) -> None:
    positions = np.array([[-10.0 + 0.1 * k, -20 + 1.3 * k, 30 + z] for k, z in enumerate((0.0, 2.0, 4.5, 6.0, 9.0))])
    scan = Scan(ramp(5, 9, 7), spacing=(1.5, 0.9), positions=positions)
    (series,) = find_series(write(scan.datasets(), tmp_path / "scan"))
    grid = Grid.from_lps((8, 12, 6), np.array([[0.9, 0, 0, -10.21], [0, 1.5, 0, -20.13], [0, 0, 1.9, 29.77], [0, 0, 0, 1]]))
    volume = Volume(np.zeros(grid.shape, np.int16), grid, Source(tmp_path, "dicom", "tilted", header=series))
    label = np.zeros(grid.shape, np.uint8)
    label[2:6, 3:9, 1:5] = 1
    path = write_label(label, volume, tmp_path / "seg.dcm")
    box = (np.array([1.5, 2.5, 0.5]), np.array([5.5, 8.5, 4.5]))
    expected = np.zeros(scan.stored.shape, bool)
    for k, j, i in np.ndindex(scan.stored.shape):
        place = grid.to_voxel(scan.world(i, j, k))
        expected[k, j, i] = ((place >= box[0]) & (place < box[1])).all()
    np.testing.assert_array_equal(by_pydicom(path, scan) > 0, expected)
    # Read back it lies where it was but for what two nearest-neighbour steps across slices up to 3 mm apart move.
    back = seg_on_volume(path, volume)
    assert (back[3:5, 4:8, 2:4] == 1).all() and not back[:, :, 5].any() and not back[7:].any()
    assert "SpacingBetweenSlices" not in pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_codes_are_those_of_the_standard() -> None:
    listed = {}
    for by_code in concepts["SCT"].values():
        for value, (meaning, cids) in by_code.items():
            listed.setdefault(value, {}).update(dict.fromkeys(cids, meaning.casefold()))
    contexts = {7150: [TISSUE, ANATOMY, ABNORMAL], 244: [LEFT, RIGHT], 7159: ABNORMAL_WORDS.values(), 7192: ORGANS.values()}
    for context, codes in contexts.items():
        for code in codes:
            assert listed[code.value].get(context) == code.meaning.casefold(), code


@pytest.mark.parametrize(
    ("name", "category", "meaning", "modifier"),
    [
        ("Liver", ANATOMY, "Liver", None),
        ("kidney_left", ANATOMY, "Kidney", LEFT),
        ("Right lung", ANATOMY, "Lung", RIGHT),
        ("liver tumor", ABNORMAL, "Neoplasm", None),
        ("GTV-1", ABNORMAL, "Neoplasm", None),
        ("brainstem", TISSUE, "Tissue", None),
        ("liver vessels", TISSUE, "Tissue", None),
        ("left right lung", ANATOMY, "Lung", None),
        ("anything", TISSUE, "Tissue", None),
    ],
)
def test_names_are_coded_only_where_they_say_what_they_are(name: str, category: Code, meaning: str, modifier: Code | None) -> None:
    (segment,) = describe_segments({0: "background", 5: name}).values()
    assert (segment.value, segment.category, segment.type.meaning, segment.type_modifier) == (5, category, meaning, modifier)
