"""The synthetic scanner: what it writes is valid (dciodvfy) and lies where the standard's equation, pydicom and an analytic anatomy say."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from volseg.errors import GeometryError, InputError
from volseg.geometry import Grid
from volseg.synthetic import ScannerSettings, SyntheticScan, make_ct, make_mr, write_multiframe, write_series
from volseg.synthetic.scanner import PATIENT_POSITIONS, scanner_orientation
from volseg.synthetic.scanner.pixels import outside_circle

SMALL = {"shape": (12, 10, 8), "spacing": (4.0, 5.0, 6.0)}

# Patient positions and the direction cosines a scanner writes for axial slices, as listed for RT (rows, then columns, LPS+).
KNOWN_COSINES = {
    "HFS": [1, 0, 0, 0, 1, 0],
    "HFP": [-1, 0, 0, 0, -1, 0],
    "HFDR": [0, 1, 0, -1, 0, 0],
    "HFDL": [0, -1, 0, 1, 0, 0],
    "FFS": [-1, 0, 0, 0, 1, 0],
    "FFP": [1, 0, 0, 0, -1, 0],
    "FFDR": [0, -1, 0, -1, 0, 0],
    "FFDL": [0, 1, 0, 1, 0, 0],
}


def plane_anatomy(points: np.ndarray) -> np.ndarray:
    """A tissue of whole numbers that vary linearly in space: trilinear interpolation of it is exact."""
    return np.asarray(points) @ np.array([1.5, -1.0, 2.0]) + 2000


def pet(scan: SyntheticScan) -> SyntheticScan:
    image = np.clip((scan.image.astype(int) + 1000) * 7, 0, 32767).astype(np.int16)
    return replace(scan, modality="PT", image=image)


def pixels_in_world(ds: pydicom.Dataset, first: list[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """RAS+ mm (rows, columns, 3) by PS3.3 C.7.6.2.1.1 and rescaled values of one single-frame image."""
    x, y = np.array(ds.ImageOrientationPatient[:3], float), np.array(ds.ImageOrientationPatient[3:], float)
    dj, di = map(float, ds.PixelSpacing)
    i, j = np.arange(ds.Columns)[None, :, None], np.arange(ds.Rows)[:, None, None]
    lps = np.array(ds.ImagePositionPatient, float) + i * di * x + j * dj * y
    return lps * (-1, -1, 1), ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


def assert_on_the_scan(files: list[Path], scan: SyntheticScan, atol: float = 0) -> None:
    seen = np.zeros(scan.grid.shape, dtype=int)
    for file in files:
        world, values = pixels_in_world(pydicom.dcmread(file))
        index = scan.grid.to_voxel(world)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-5)
        where = tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))
        np.testing.assert_allclose(values, scan.image[where], atol=atol)
        seen[where] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_every_patient_position_has_its_direction_cosines_and_keeps_every_voxel_in_place(position: str, tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    files = write_series(scan, tmp_path / "s", settings=ScannerSettings(patient_position=position))
    first, second = (pydicom.dcmread(f) for f in files[:2])
    assert first.PatientPosition == position
    np.testing.assert_array_equal(np.array(first.ImageOrientationPatient, float), KNOWN_COSINES[position])
    # Slices are numbered into the bore: towards the head of a patient who lies head first.
    assert np.sign(second.ImagePositionPatient[2] - first.ImagePositionPatient[2]) == (1 if position.startswith("HF") else -1)
    assert_on_the_scan(files, scan)


def test_an_unknown_patient_position_has_no_orientation() -> None:
    with pytest.raises(InputError, match="'SITTING'"):
        scanner_orientation("SITTING")


@pytest.mark.parametrize("make", [make_ct, make_mr, lambda *a, **k: pet(make_ct(*a, **k))])
@pytest.mark.parametrize(("orientation", "oblique"), [("LPS", 0), ("PSR", 0), ("LIP", 0), ("RAI", 31.0), ("ASL", -17.5)])
def test_any_orientation_has_its_values_where_the_standard_puts_them(make, orientation: str, oblique: float, tmp_path: Path) -> None:
    scan = make(1, **SMALL, orientation=orientation, oblique=oblique)
    # A PET slice is stored in steps of its top value / 32767, at most 1 Bq/ml.
    assert_on_the_scan(write_series(scan, tmp_path / "s"), scan, atol=0.5 if scan.modality == "PT" else 0)


@pytest.mark.parametrize("tilt", [18.5, -12.0])
def test_a_tilted_gantry_shows_the_anatomy_where_it_is(tilt: float, tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    files = write_series(scan, tmp_path / "s", settings=ScannerSettings(tilt_degrees=tilt, offsets_mm=(0, 4, 8, 15, 22)), field=plane_anatomy)
    slices = [pydicom.dcmread(f) for f in files]
    for ds in slices:
        world, values = pixels_in_world(ds)
        np.testing.assert_array_equal(values, np.rint(plane_anatomy(world)))
        assert ds.GantryDetectorTilt == tilt
        # As in a GE head CT with +18.5 degrees: columns 0 \ 0.9483237 \ -0.3173047.
        np.testing.assert_allclose(np.array(ds.ImageOrientationPatient, float), [1, 0, 0, 0, np.cos(np.radians(tilt)), -np.sin(np.radians(tilt))], atol=1e-7)
    positions = np.array([ds.ImagePositionPatient for ds in slices], float)
    np.testing.assert_allclose(np.diff(positions, axis=0), [[0, 0, 4], [0, 0, 4], [0, 0, 7], [0, 0, 7]], atol=1e-9)
    # The gantry turns about the middle of the box.
    middle = np.mean([pixels_in_world(slices[0])[0][0, 0], pixels_in_world(slices[0])[0][-1, -1]], axis=0)
    np.testing.assert_allclose(middle, scan.grid.to_world([5.5, 4.5, 0]), atol=1e-6)


def test_a_tilted_slice_of_voxels_interpolates_them_and_has_air_outside(tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    world = scan.grid.to_world(np.moveaxis(np.indices(scan.grid.shape), 0, -1))
    scan = replace(scan, image=np.rint(plane_anatomy(world)).astype(np.int16))
    files = write_series(scan, tmp_path / "s", settings=ScannerSettings(tilt_degrees=20))
    inside = 0
    for file in files:
        points, values = pixels_in_world(pydicom.dcmread(file))
        index = scan.grid.to_voxel(points)
        within = ((index >= 0) & (index <= np.array(scan.grid.shape) - 1)).all(-1)
        # Voxels and result are each rounded to whole numbers.
        np.testing.assert_allclose(values[within], plane_anatomy(points)[within], atol=1.0)
        outside = ((index < -1) | (index > np.array(scan.grid.shape))).any(-1)
        assert (values[outside] == -1000).all()
        inside += within.sum()
    assert 0.5 * scan.image.size < inside < scan.image.size


def test_missing_slices_uneven_offsets_and_numbering(tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    z = [float(p[2]) for p in (pydicom.dcmread(f).ImagePositionPatient for f in write_series(scan, tmp_path / "a", settings=ScannerSettings(missing=(3, 4))))]
    np.testing.assert_allclose(np.diff(z), [6, 6, 18, 6, 6], atol=1e-9)
    backwards = [pydicom.dcmread(f).InstanceNumber for f in write_series(scan, tmp_path / "b", settings=ScannerSettings(numbering="reversed"))]
    assert backwards == [8, 7, 6, 5, 4, 3, 2, 1]
    files = write_series(scan, tmp_path / "c", settings=ScannerSettings(numbering="shuffled", shuffled_names=True))
    numbers = [pydicom.dcmread(f).InstanceNumber for f in files]
    assert sorted(numbers) == list(range(1, 9)) != numbers
    assert sorted(files) != files
    assert [int(f.stem[2:]) for f in files] != numbers


@pytest.mark.parametrize(("signed", "bits", "intercept"), [(False, 16, -1024), (False, 12, -1024), (True, 16, 0), (True, 12, 1024)])
def test_every_way_to_store_values_gives_the_same_hu(signed: bool, bits: int, intercept: int, tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    files = write_series(scan, tmp_path / "s", settings=ScannerSettings(signed=signed, bits_stored=bits, overlay_bits=bits == 12, monochrome1=True))
    ds = pydicom.dcmread(files[0])
    assert (ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleIntercept, ds.PhotometricInterpretation) == (signed, bits, bits - 1, intercept, "MONOCHROME1")
    for k, file in enumerate(files):
        ds = pydicom.dcmread(file)
        raw = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).astype(int) & (2**bits - 1)
        value = np.where(raw >= 2 ** (bits - 1), raw - 2**bits, raw) if signed else raw
        np.testing.assert_array_equal(value + intercept, scan.image[:, :, k].T)
    overlaid = np.frombuffer(ds.PixelData, "<u2") >> 12
    assert (overlaid.reshape(ds.Rows, ds.Columns)[:, 1::2] == 15).all() == (bits == 12)


def test_padding_fills_what_the_circle_leaves(tmp_path: Path) -> None:
    scan = make_ct(1, **SMALL)
    ds = pydicom.dcmread(write_series(scan, tmp_path / "s", settings=ScannerSettings(signed=True, padding_value=-2000))[3])
    assert ds.PixelPaddingValue == -2000
    outside = outside_circle(ds.Rows, ds.Columns)
    assert outside[0, 0]
    assert not outside[ds.Rows // 2, ds.Columns // 2]
    np.testing.assert_array_equal(ds.pixel_array, np.where(outside, -2000, scan.image[:, :, 3].T))


def test_pet_says_what_suv_needs(tmp_path: Path) -> None:
    scan = pet(make_ct(1, **SMALL))
    datasets = [pydicom.dcmread(f) for f in write_series(scan, tmp_path / "s")]
    tracer = datasets[0].RadiopharmaceuticalInformationSequence[0]
    assert (datasets[0].Units, datasets[0].DecayCorrection, datasets[0].PatientWeight, tracer.RadionuclideTotalDose) == ("BQML", "START", 75, 370e6)
    assert (int(datasets[0].SeriesTime[:2]) - int(tracer.RadiopharmaceuticalStartTime[:2])) == 1
    assert tracer.RadionuclideHalfLife == pytest.approx(109.77 * 60)
    assert len({float(ds.RescaleSlope) for ds in datasets}) > 1
    for k, ds in enumerate(datasets):
        top = scan.image[:, :, k].max()
        np.testing.assert_allclose(ds.pixel_array * float(ds.RescaleSlope), scan.image[:, :, k].T, atol=top / 32767 / 2 + 1e-3)


def test_echoes_decay_in_one_series(tmp_path: Path) -> None:
    scan = make_mr(1, **SMALL)
    files = write_series(scan, tmp_path / "s", settings=ScannerSettings(echo_times_ms=(5.0, 30.0)))
    datasets = [pydicom.dcmread(f) for f in files]
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 1
    assert [(ds.EchoNumbers, float(ds.EchoTime)) for ds in datasets] == [(1, 5.0)] * 8 + [(2, 30.0)] * 8
    for k in range(8):
        # exp(-25 / 50)
        np.testing.assert_allclose(datasets[8 + k].pixel_array, scan.image[:, :, k].T * 0.60653066, atol=0.5 + 1e-3)


@pytest.mark.parametrize("make", [make_ct, make_mr])
@pytest.mark.parametrize("numbering", ["along", "shuffled"])
def test_a_multi_frame_object_has_the_frames_of_the_single_ones(make, numbering: str, tmp_path: Path) -> None:
    scan = make(1, **SMALL, orientation="PSR", oblique=20)
    ds = pydicom.dcmread(write_multiframe([scan], tmp_path / "m.dcm", settings=ScannerSettings(numbering=numbering)))
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert ds.SOPClassUID.name == f"Enhanced {scan.modality} Image Storage"
    assert ds.NumberOfFrames == 8
    places = []
    for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        single = pydicom.Dataset()
        single.ImageOrientationPatient = frame.PlaneOrientationSequence[0].ImageOrientationPatient
        single.ImagePositionPatient = frame.PlanePositionSequence[0].ImagePositionPatient
        single.PixelSpacing, single.Rows, single.Columns = shared.PixelMeasuresSequence[0].PixelSpacing, ds.Rows, ds.Columns
        single._pixel_array = pixels
        i, j = np.arange(ds.Columns)[None, :, None], np.arange(ds.Rows)[:, None, None]
        x, y = np.array(single.ImageOrientationPatient, float).reshape(2, 3)
        lps = np.array(single.ImagePositionPatient, float) + i * float(single.PixelSpacing[1]) * x + j * float(single.PixelSpacing[0]) * y
        index = np.rint(scan.grid.to_voxel(lps * (-1, -1, 1)))
        np.testing.assert_allclose(scan.grid.to_world(index), lps * (-1, -1, 1), atol=1e-5)
        rescale = shared.PixelValueTransformationSequence[0]
        where = tuple(np.moveaxis(index.astype(int), -1, 0))
        np.testing.assert_array_equal(pixels * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept), scan.image[where])
        assert frame.FrameContentSequence[0].InStackPositionNumber == where[2][0, 0] + 1
        places.append(int(where[2][0, 0]))
    assert sorted(places) == list(range(8))
    assert (places == list(range(8))) == (numbering == "along")


def test_several_scans_make_several_stacks(tmp_path: Path) -> None:
    scans = [make_mr(1, **SMALL), make_mr(1, **SMALL, oblique=30)]
    ds = pydicom.dcmread(write_multiframe(scans, tmp_path / "m.dcm", settings=ScannerSettings(echo_times_ms=(3.0, 9.0))))
    content = [(f.FrameContentSequence[0].StackID, f.MREchoSequence[0].EffectiveEchoTime) for f in ds.PerFrameFunctionalGroupsSequence]
    assert content == [("1", 3.0)] * 8 + [("1", 9.0)] * 8 + [("2", 3.0)] * 8 + [("2", 9.0)] * 8
    assert ds.pixel_array.shape == (32, 10, 12)


CASES = {
    "ct": lambda f: write_series(make_ct(1, **SMALL), f)[0],
    "ct_odd": lambda f: write_series(make_ct(1, **SMALL), f, settings=ScannerSettings(patient_position="FFDR", tilt_degrees=10, signed=True, padding_value=-2000))[0],
    "mr": lambda f: write_series(make_mr(1, **SMALL), f, settings=ScannerSettings(echo_times_ms=(3, 9)))[0],
    "pet": lambda f: write_series(pet(make_ct(1, **SMALL)), f, settings=ScannerSettings(patient_position="FFP"))[0],
    "enhanced_ct": lambda f: write_multiframe([make_ct(1, **SMALL)], f / "m.dcm", settings=ScannerSettings(padding_value=0)),
    "enhanced_mr": lambda f: write_multiframe([make_mr(1, **SMALL), make_mr(1, **SMALL, oblique=9)], f / "m.dcm", settings=ScannerSettings(echo_times_ms=(3, 9))),
}


@pytest.mark.parametrize("case", CASES)
def test_dciodvfy_finds_no_error(case: str, tmp_path: Path) -> None:
    dciodvfy = shutil.which("dciodvfy")
    if dciodvfy is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    report = subprocess.run([dciodvfy, str(CASES[case](tmp_path / "s"))], capture_output=True, text=True, check=False).stderr
    assert report.splitlines()[0].endswith("Image")
    assert not [line for line in report.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patient_position": "LYING"}, "'LYING'"),
        ({"numbering": "random"}, "'random'"),
        ({"tilt_degrees": 50}, "50"),
        ({"offsets_mm": (0, 2, 2)}, "must grow"),
        ({"bits_stored": 10}, "got 10"),
        ({"overlay_bits": True}, "bits_stored=12"),
        ({"padding_value": -1}, "0..65535"),
        ({"echo_times_ms": (5, 3)}, "echo times"),
    ],
)
def test_impossible_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ScannerSettings(**options)


@pytest.mark.parametrize(
    ("scan", "settings", "words"),
    [
        (make_mr(1, **SMALL), ScannerSettings(tilt_degrees=5), "only a CT gantry tilts, this is MR"),
        (make_ct(1, **SMALL), ScannerSettings(echo_times_ms=(3,)), "only MR has echoes, this is CT"),
        (make_ct(1, **SMALL), ScannerSettings(missing=(8,)), "0 to 7"),
        (replace(make_ct(1, **SMALL), image=np.full(SMALL["shape"], 3072, np.int16)), ScannerSettings(bits_stored=12), "3072 do not fit into 12 unsigned bits"),
    ],
)
def test_settings_that_do_not_fit_the_scan_are_refused_and_nothing_is_left(scan: SyntheticScan, settings: ScannerSettings, words: str, tmp_path: Path) -> None:
    for write in (lambda: write_series(scan, tmp_path / "s", settings=settings), lambda: write_multiframe([scan], tmp_path / "s", settings=settings)):
        with pytest.raises(InputError, match=words) as caught:
            write()
        assert str(caught.value).count(str(tmp_path / "s")) == 1
    assert not list(tmp_path.iterdir())


def test_multi_frame_refuses_what_one_object_cannot_hold(tmp_path: Path) -> None:
    ct = make_ct(1, **SMALL)
    for scans in ([], [pet(ct)], [ct, make_mr(1, **SMALL)], [ct, make_ct(1, shape=(13, 10, 8), spacing=(4, 5, 6))]):
        with pytest.raises(InputError, match="one matrix"):
            write_multiframe(scans, tmp_path / "m.dcm")
    affine = ct.grid.affine.copy()
    affine[1, 2] += 1
    with pytest.raises(GeometryError, match="orthogonal"):
        write_multiframe([replace(ct, grid=Grid(ct.grid.shape, affine))], tmp_path / "m.dcm")
    assert not list(tmp_path.iterdir())
