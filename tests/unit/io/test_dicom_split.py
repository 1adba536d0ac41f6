"""One SeriesInstanceUID, several stacks: divided by what differs, only where positions repeat; what was pasted into a series is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tests.dicom_factory import Scan, ramp, write
from volseg.errors import GeometryError, InputError, SeriesError
from volseg.io.dicom import find_series, read_series

UID = "1.2.3.88"


def stacks(*tags: dict[str, Any], **options: Any) -> list[Dataset]:
    """One stack at the same five positions for each set of tags; stack n holds n * 1000 + its ramp."""
    return [ds for n, changed in enumerate(tags) for ds in Scan(ramp() + np.int16(1000 * n), uid=UID, tags=changed, **options).datasets()]


def distinctions(folder: Path) -> list[str]:
    return [s.distinction for s in find_series(folder)]


DIRECTIONS = [[0.0, 0.6, 0.8], [0.6, 0.8, 0.0]]
CASES: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([{"EchoTime": "2.46"}, {"EchoTime": "4.920"}], ["EchoTime 2.46 ms", "EchoTime 4.92 ms"]),
    ([{"EchoTime": "9.5"}, {"EchoTime": "12"}], ["EchoTime 9.5 ms", "EchoTime 12 ms"]),
    ([{"EchoNumbers": "1"}, {"EchoNumbers": "2"}], ["EchoNumbers 1", "EchoNumbers 2"]),
    ([{"InversionTime": "900"}, {"InversionTime": "2300"}], ["InversionTime 900 ms", "InversionTime 2300 ms"]),
    ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}], ["DiffusionBValue 0 s/mm2", "DiffusionBValue 800 s/mm2"]),
    (
        [{"DiffusionBValue": b, "DiffusionGradientOrientation": d} for b in (500.0, 1000.0) for d in DIRECTIONS],
        [f"DiffusionBValue {b} s/mm2, DiffusionGradientOrientation {d}" for b in (500, 1000) for d in ("0\\0.6\\0.8", "0.6\\0.8\\0")],
    ),
    ([{"TemporalPositionIdentifier": str(n)} for n in (1, 2, 10)], [f"TemporalPositionIdentifier {n}" for n in (1, 2, 10)]),
    ([{"TriggerTime": "0"}, {"TriggerTime": "41.5"}], ["TriggerTime 0 ms", "TriggerTime 41.5 ms"]),
    ([{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}], ["ImageType ORIGINAL\\PRIMARY\\M", "ImageType ORIGINAL\\PRIMARY\\P"]),
    ([{"AcquisitionNumber": "3"}, {"AcquisitionNumber": "4"}], ["AcquisitionNumber 3", "AcquisitionNumber 4"]),
    ([{"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}], ["ConvolutionKernel B30f", "ConvolutionKernel B70f"]),
    ([{}, {"EchoTime": "5"}], ["no EchoTime", "EchoTime 5 ms"]),
]


@pytest.mark.parametrize(("tags", "expected"), CASES, ids=[expected[0] for _, expected in CASES])
def test_stacks_are_told_apart(tmp_path: Path, tags: list[dict[str, Any]], expected: list[str]) -> None:
    write(stacks(*tags), tmp_path)
    found = find_series(tmp_path)
    assert [s.distinction for s in found] == expected
    assert [s.key for s in found] == [f"{UID}#{n}" for n in range(1, len(tags) + 1)]
    for n, s in enumerate(found):
        np.testing.assert_array_equal(read_series(tmp_path, s.key).array, (ramp() + 1000 * n).T)
    with pytest.raises(GeometryError, match=f"several stacks in one series: .*choose one with --series {UID}#1 or {UID}#2"):
        read_series(tmp_path)


@pytest.mark.parametrize(("keyword", "values"), [("EchoTime", ("2", "4")), ("DiffusionBValue", (0.0, 800.0))])
@pytest.mark.parametrize("alternating", [False, True])
def test_images_of_two_contrasts_are_no_volume_even_at_positions_of_their_own(tmp_path: Path, keyword: str, values: tuple[Any, Any], alternating: bool) -> None:
    """What is left when a transfer loses the other half of both echoes."""
    datasets = Scan(ramp(6), uid=UID).datasets()
    for n, ds in enumerate(datasets):
        setattr(ds, keyword, values[n % 2 if alternating else n // 3])
    write(datasets, tmp_path)
    with pytest.raises(GeometryError, match=rf"several stacks in one series: 3 \+ 3 slices with {keyword}"):
        read_series(tmp_path)
    assert [len(s.slices) for s in find_series(tmp_path)] == [3, 3]


def test_two_people_with_one_series_uid_are_no_volume(tmp_path: Path) -> None:
    datasets = Scan(ramp(6), uid=UID).datasets()
    for ds in datasets[3:]:
        ds.StudyInstanceUID = "1.2.3.99"
    write(datasets, tmp_path)
    with pytest.raises(GeometryError, match=r"3 \+ 3 slices with different StudyInstanceUIDs \(0020,000D\); choose one with --series"):
        read_series(tmp_path)
    whose = {s.distinction: s.key for s in find_series(tmp_path)}
    np.testing.assert_array_equal(read_series(tmp_path, whose["study 1.2.3.4"]).array, ramp(6)[:3].T)
    np.testing.assert_array_equal(read_series(tmp_path, whose["study 1.2.3.99"]).array, ramp(6)[3:].T)


def test_the_smallest_combination_is_used(tmp_path: Path) -> None:
    kinds = [["ORIGINAL", "PRIMARY", kind] for kind in "MP"]
    write(stacks(*[{"EchoTime": echo, "ImageType": kind} for echo in ("2", "4") for kind in kinds]), tmp_path)
    assert distinctions(tmp_path) == [f"EchoTime {echo} ms, ImageType ORIGINAL\\PRIMARY\\{kind}" for echo in (2, 4) for kind in "MP"]


def test_an_attribute_that_differs_within_a_stack_is_passed_over(tmp_path: Path) -> None:
    datasets = stacks({"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"})
    for n, ds in enumerate(datasets):
        ds.EchoTime = str(2 + n)
    assert distinctions(write(datasets, tmp_path)) == ["TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"]


def test_what_varies_along_the_stack_divides_nothing(tmp_path: Path) -> None:
    datasets = Scan(ramp(6)).datasets()
    for n, ds in enumerate(datasets):
        ds.AcquisitionNumber, ds.AcquisitionTime, ds.TriggerTime = 1 + n // 3, f"10{n:02d}00", str(40 * n)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "A" if n < 2 else "B"]
    (series,) = find_series(write(datasets, tmp_path))
    assert (series.distinction, series.problem) == ("", None)
    np.testing.assert_array_equal(read_series(tmp_path).array, ramp(6).T)


@pytest.mark.parametrize("trait", ["AcquisitionTime", "ContentTime"])
def test_time_divides_whole_stacks_that_follow_each_other(tmp_path: Path, trait: str) -> None:
    datasets = stacks({}, {}, {})
    for n, ds in enumerate(datasets):
        # Slices of one stack are taken within a second, interleaved; the day goes before the time past midnight.
        seconds = n // 5 * 10 + (n % 5 * 2 % 5) / 10
        setattr(ds, trait, f"2359{50 + seconds:04.1f}" if seconds < 10 else f"0000{seconds - 10:04.1f}")
        setattr(ds, trait.replace("Time", "Date"), "20240228" if seconds < 10 else "20240229")
    found = distinctions(write(datasets, tmp_path))
    assert [text.split(" to ")[0] for text in found] == [f"{trait} 20240228235950.0", f"{trait} 20240229000000.0", f"{trait} 20240229000010.0"]
    for n in range(3):
        np.testing.assert_array_equal(read_series(tmp_path, f"{UID}#{n + 1}").array, (ramp() + 1000 * n).T)


def test_times_that_interleave_divide_nothing(tmp_path: Path) -> None:
    datasets = stacks({}, {})
    for n, ds in enumerate(datasets):
        ds.AcquisitionTime = f"1000{n % 5 * 2 + n // 5:02d}"
    with pytest.raises(GeometryError, match="duplicate positions: 10 different images share 5"):
        read_series(write(datasets, tmp_path))


def test_one_retaken_slice_is_refused_not_cut_off(tmp_path: Path) -> None:
    datasets = [*Scan(ramp(), uid=UID, tags={"AcquisitionNumber": "1"}).datasets(), Scan(ramp() + 1, uid=UID, tags={"AcquisitionNumber": "2"}).slice(2)]
    with pytest.raises(GeometryError, match="duplicate positions: 6 different images share 5"):
        read_series(write(datasets, tmp_path))


def test_stacks_of_different_length(tmp_path: Path) -> None:
    datasets = [*Scan(ramp(), uid=UID, tags={"EchoTime": "3"}).datasets(), *Scan(ramp(3), uid=UID, tags={"EchoTime": "7"}).datasets()]
    assert [len(s.slices) for s in find_series(write(datasets, tmp_path))] == [5, 3]


def test_geometry_and_echo_together(tmp_path: Path) -> None:
    sagittal = Scan(ramp(7), cosines=(0, 1, 0, 0, 0, -1), uid=UID).datasets()
    write([*stacks({"EchoTime": "1"}, {"EchoTime": "2"}), *sagittal], tmp_path)
    assert distinctions(tmp_path) == ["axial (normal 0, 0, 1), EchoTime 1 ms", "axial (normal 0, 0, 1), EchoTime 2 ms", "sagittal (normal -1, 0, 0)"]


def test_one_sop_instance_uid_for_all_echoes_loses_none(tmp_path: Path) -> None:
    datasets = stacks({"EchoTime": "1"}, {"EchoTime": "2"})
    for ds in datasets:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    assert [len(s.slices) for s in find_series(write(datasets, tmp_path))] == [5, 5]


def test_frames_of_reference_apart_in_space_are_named(tmp_path: Path) -> None:
    datasets = Scan(ramp(), uid=UID).datasets()
    for ds in datasets[:2]:
        ds.FrameOfReferenceUID = "7.7"
    assert distinctions(write(datasets, tmp_path)) == ["frame of reference 1.2.3.5", "frame of reference 7.7"]


def _capture(**tags: Any) -> Dataset:
    ds = Scan(ramp(1, 50, 60), uid=UID).slice(0)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
PASTED = [
    (_capture(SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"], **COLOUR), "DERIVED\\SECONDARY"),
    (_capture(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), "SCREEN SAVE"),
    (_capture(ImageType=["DERIVED", "PRIMARY", "MPR"], ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"]), "MPR"),
    (_capture(ImageType=["DERIVED", "SECONDARY", "OTHER"], **COLOUR), "OTHER"),
    (_capture(ImageType=["DERIVED", "SECONDARY"]), "DERIVED\\SECONDARY"),
]


@pytest.mark.parametrize(("pasted", "kind"), PASTED, ids=["capture", "screen", "reformat", "colour", "other matrix"])
def test_what_is_pasted_into_a_series_is_left_out(tmp_path: Path, pasted: Dataset, kind: str) -> None:
    volume = read_series(write([*Scan(ramp(), uid=UID).datasets(), pasted], tmp_path))
    np.testing.assert_array_equal(volume.array, ramp().T)
    assert any("left out 1 derived image among the originals" in note and kind in note for note in volume.warnings)


def test_a_projection_on_the_slices_of_the_originals(tmp_path: Path) -> None:
    projection = Scan(ramp(), uid=UID, tags={"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "PROJECTION IMAGE"]}).slice(2)
    volume = read_series(write([*Scan(ramp(), uid=UID).datasets(), projection], tmp_path))
    np.testing.assert_array_equal(volume.array, ramp().T)


def test_slices_marked_derived_by_compression_stay(tmp_path: Path) -> None:
    datasets = Scan(ramp(), uid=UID).datasets()
    for ds in datasets[:2]:
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    np.testing.assert_array_equal(read_series(write(datasets, tmp_path)).array, ramp().T)
    del datasets[0].ImagePositionPatient
    with pytest.raises(InputError, match="1 of 5 images of its series"):
        read_series(write(datasets, tmp_path))


def test_an_original_series_goes_before_a_derived_one(tmp_path: Path) -> None:
    derived = Scan(ramp(3), uid="1.2.3.2", tags={"ImageType": ["DERIVED", "SECONDARY", "MPR"]})
    write(derived.datasets(), tmp_path / "derived")
    alone = read_series(tmp_path)
    assert any("all images of the series are derived from others (DERIVED\\SECONDARY\\MPR)" in note for note in alone.warnings)
    original = Scan(ramp(5), uid="1.2.3.1")
    write(original.datasets(), tmp_path / "original")
    volume = read_series(tmp_path)
    assert volume.source.series_instance_uid == "1.2.3.1"
    assert any("left out 1 derived series" in note and "1.2.3.2" in note for note in volume.warnings)
    assert read_series(tmp_path, "1.2.3.2").array.shape[2] == 3


def test_a_derived_series_of_another_modality_is_another_scan(tmp_path: Path) -> None:
    write(Scan(ramp(3), uid="1.2.3.2", tags={"ImageType": ["DERIVED", "SECONDARY"], "Modality": "PT"}).datasets(), tmp_path / "pet")
    write(Scan(ramp(5), uid="1.2.3.1").datasets(), tmp_path / "ct")
    with pytest.raises(SeriesError, match="2 series"):
        read_series(tmp_path)
