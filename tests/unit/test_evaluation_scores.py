"""From volumes to scores, and from scores to statistics."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.errors import GeometryError, InputError, OutputError, WriteError
from volseg.evaluation import GRID_TOLERANCE_MM, METRICS, CaseAgreement, Distribution, Settings, compare_volumes, score_pair, summarise, write_csv
from volseg.evaluation.writing import format_csv
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume
from volseg.io.text import write_json

AFFINE = np.array([[-0.9, 0, 0, 80], [0, -0.9, 0, 70], [0, 0, 3, -400], [0, 0, 0, 1]], dtype=float)
SHAPE = (12, 10, 8)


def volume(array: np.ndarray, affine: np.ndarray = AFFINE, name: str = "scan") -> Volume:
    return Volume(array, Grid(array.shape, affine), Source(Path(f"{name}.nii.gz"), "nifti", name))


def block(start: int, stop: int, label: int = 1) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[start:stop] = label
    return array


def test_volumes_follow_from_the_grid() -> None:
    case = compare_volumes(volume(block(2, 6)), volume(block(3, 9)), "a")
    (score,) = case.score({1: "tumor"})
    slab_ml = 10 * 8 * 0.9 * 0.9 * 3 / 1000
    assert score.predicted_ml == pytest.approx(4 * slab_ml)
    assert score.reference_ml == pytest.approx(6 * slab_ml)
    assert score.volume_difference_ml == pytest.approx(-2 * slab_ml)
    assert score.overlap.dice == pytest.approx(2 * 3 / (4 + 6))
    values = score.to_dict()
    assert values["false_positive_ml"] == pytest.approx(slab_ml)
    assert values["false_negative_ml"] == pytest.approx(3 * slab_ml)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from("+-")] * 3), st.integers(0, 2**32 - 1))
def test_storage_orientation_does_not_change_scores(order: list[int], signs: tuple[str, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    prediction, reference = (volume(random.integers(0, 3, SHAPE, dtype=np.uint8)) for _ in range(2))
    letters = ("LR", "PA", "IS")
    codes = "".join(letters[axis][sign == "+"] for axis, sign in zip(order, signs, strict=True))
    turned, grid = reorient(prediction.array, prediction.grid, codes)
    assert compare_volumes(Volume(turned, grid, prediction.source), reference).overlaps == compare_volumes(prediction, reference).overlaps


def test_a_shifted_grid_is_refused_with_the_distance() -> None:
    shifted = AFFINE.copy()
    shifted[2, 3] += 1.5
    with pytest.raises(GeometryError, match=r"pred\.nii\.gz: not on the grid of the reference ref\.nii\.gz: 12x10x8 .*LPS.* against .*up to 1\.5 mm apart"):
        compare_volumes(volume(block(0, 3), shifted, "pred"), volume(block(0, 3), name="ref"))


def test_a_different_size_is_refused_naming_both() -> None:
    with pytest.raises(GeometryError, match=r"11x10x8 .* against 12x10x8 .*sizes differ"):
        compare_volumes(volume(block(0, 3)[:-1]), volume(block(0, 3)))


def test_the_tolerance_takes_float32_headers_and_no_tenth_of_a_voxel() -> None:
    far = AFFINE.copy()
    far[:3, 3] = [-1234.56789, 987.654321, -1777.77777]
    rounded = far.astype(np.float32).astype(float)
    assert not np.array_equal(rounded, far)
    assert compare_volumes(volume(block(0, 3), rounded), volume(block(0, 3), far)).overlaps[1].dice == 1
    for shift, accepted in ((0.9 * GRID_TOLERANCE_MM, True), (1.1 * GRID_TOLERANCE_MM, False)):
        moved = far.copy()
        moved[0, 3] += shift
        if accepted:
            compare_volumes(volume(block(0, 3), moved), volume(block(0, 3), far))
        else:
            with pytest.raises(GeometryError):
                compare_volumes(volume(block(0, 3), moved), volume(block(0, 3), far))


def test_whole_numbers_stored_as_floats_are_labels_and_others_are_not() -> None:
    as_float = block(0, 3).astype(np.float32)
    assert compare_volumes(volume(as_float), volume(block(0, 3))).overlaps[1].dice == 1
    as_float[0, 0, 0], as_float[1, 1, 1] = 0.25, np.nan
    with pytest.raises(InputError, match=r"probabilities\.nii\.gz: not a label map, 2 of 960 values are not whole numbers \(first: 0\.25\)"):
        compare_volumes(volume(as_float, name="probabilities"), volume(block(0, 3)))


def test_an_image_taken_for_a_label_map_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"ct\.nii\.gz against scan\.nii\.gz: .*-1000"):
        compare_volumes(volume(np.full(SHAPE, -1000, np.int16), name="ct"), volume(block(0, 3)))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_statistics_agree_with_the_standard_library(values: list[float]) -> None:
    found = Distribution.of([*values, None])
    assert (found.n, found.n_undefined) == (len(values), 1)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.median == pytest.approx(statistics.median(values))
    assert found.sd == pytest.approx(statistics.stdev(values), abs=1e-7)
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    assert (found.lower_quartile, found.upper_quartile) == (pytest.approx(lower), pytest.approx(upper))
    assert (found.minimum, found.maximum) == (min(values), max(values))


def test_statistics_of_one_and_of_none() -> None:
    assert Distribution.of([0.5]) == Distribution(1, 0, 0.5, 0.5, None, 0.5, 0.5, 0.5, 0.5)
    assert Distribution.of([None, None]) == Distribution(0, 2)


def four_cases() -> list[CaseAgreement]:
    empty = np.zeros(SHAPE, np.uint8)
    pairs = {"both": (empty, empty), "missed": (empty, block(0, 4)), "spurious": (block(0, 4), empty), "half": (block(0, 4), block(2, 6))}
    return [compare_volumes(volume(prediction), volume(reference), name) for name, (prediction, reference) in pairs.items()]


def test_empty_cases_are_counted_shown_and_kept_out_of_the_mean() -> None:
    evaluation = summarise(four_cases(), {1: "tumor"})
    (summary,) = evaluation.summary
    assert (summary.n_cases, summary.n_both_empty, summary.n_missed, summary.n_spurious) == (4, 1, 1, 1)
    assert (summary.dice.n, summary.dice.n_undefined) == (3, 1)
    assert summary.dice.mean == pytest.approx((0 + 0 + 0.5) / 3)
    assert evaluation.mean_dice == pytest.approx(0.5 / 3)
    assert [case.scores[0].note for case in evaluation.cases] == ["both empty", "missed", "spurious", ""]
    assert evaluation.cases[2].scores[0].to_dict()["false_positive_ml"] == pytest.approx(4 * 10 * 8 * 0.81 * 3 / 1000)


def test_named_labels_are_listed_even_if_absent_and_found_ones_even_if_unnamed() -> None:
    case = compare_volumes(volume(block(0, 4, 3)), volume(block(0, 4, 3)), "a")
    evaluation = summarise([case], {1: "tumor", 2: "node"})
    assert [(summary.label, summary.name, summary.dice.n, summary.dice.mean) for summary in evaluation.summary] == [(1, "tumor", 0, None), (2, "node", 0, None), (3, "3", 1, 1.0)]
    assert evaluation.mean_dice == 1


def test_distances_are_left_out_where_a_surface_is_missing_and_counted_there() -> None:
    (summary,) = summarise(four_cases(), {1: "tumor"}).summary
    assert (summary.metrics["hd95_mm"].n, summary.metrics["hd95_mm"].n_undefined) == (1, 3)
    # Two of four slices each stick out by 2 of 0.9 mm.
    assert summary.metrics["hd_mm"].mean == pytest.approx(2 * 0.9)
    assert (summary.metrics["nsd"].n, summary.metrics["nsd"].minimum) == (3, 0)
    assert (summary.metrics["volume_error_percent"].n, summary.metrics["volume_error_percent"].minimum) == (2, -100)
    assert (summary.lesions.true_positive, summary.lesions.false_positive, summary.lesions.false_negative) == (1, 1, 1)
    assert summary.lesions.f1 == pytest.approx(0.5)


def test_over_all_labels_every_case_counts_once_with_the_mean_of_its_labels() -> None:
    prediction, reference = block(0, 4) + block(8, 12, 2), block(2, 6) + block(8, 12, 2)
    only_first = compare_volumes(volume(block(0, 4)), volume(block(0, 4)), "b")
    evaluation = summarise([compare_volumes(volume(prediction), volume(reference), "a"), only_first], {1: "tumor", 2: "node"})
    dice = evaluation.overall["dice"]
    # Case a: (0.5 + 1) / 2; case b: its second label is in neither map.
    assert (dice.n, dice.mean) == (2, pytest.approx((0.75 + 1) / 2))
    assert evaluation.mean_dice == pytest.approx(((0.5 + 1) / 2 + 1) / 2), "the mean over labels of the means over cases, as ever"
    assert [case.name for case in evaluation.worst(5)] == ["a", "b"]
    assert [case.name for case in evaluation.worst(1)] == ["a"]


def test_arrays_are_scored_like_files_and_only_the_labels_asked_for() -> None:
    random = np.random.default_rng(3)
    prediction, reference = (random.integers(0, 4, SHAPE, dtype=np.uint8) for _ in range(2))
    told = Settings(1.0, {2: 4.0}, 0.0)
    case = compare_volumes(volume(prediction), volume(reference), "a", told).score({1: "one", 2: "two", 7: "none"})
    arrays = score_pair(prediction, reference, (0.9, 0.9, 3.0), {1: "one", 2: "two", 7: "none"}, settings=told)
    for expected, found in zip(case, arrays, strict=True):
        assert found.metrics() == pytest.approx(expected.metrics(), nan_ok=True)
    assert list(arrays[0].metrics()) == [metric.key for metric in METRICS]
    assert set(arrays[2].metrics().values()) == {None, 0.0}, "a label in neither map: volumes of 0, everything else undefined"
    assert arrays[1].agreement.surface.nsd == 1, "random labels are within 4 mm of each other everywhere"


def test_memory_order_and_a_margin_change_nothing() -> None:
    random = np.random.default_rng(4)
    prediction, reference = ((random.random((8, 7, 6)) < 0.3).astype(np.uint8) for _ in range(2))
    expected = score_pair(prediction, reference, (1, 2, 3), {1: "a"})
    padded = [np.asfortranarray(np.pad(array, ((3, 1), (0, 5), (2, 2)))) for array in (prediction, reference)]
    for pair in (padded, (prediction, np.asfortranarray(reference)), [array[::-1].copy()[::-1] for array in (prediction, reference)]):
        assert score_pair(*pair, (1, 2, 3), {1: "a"})[0].metrics() == pytest.approx(expected[0].metrics())


@pytest.mark.parametrize("spacing", [(1, 2), (1, 0, 2), np.zeros((3, 3))])
def test_a_spacing_that_is_none_is_refused(spacing: object) -> None:
    with pytest.raises(InputError, match="three positive numbers of mm"):
        score_pair(block(0, 2), block(0, 2), spacing, {1: "a"})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="at least 0, got -1"):
        Settings(tolerance_mm=-1)
    with pytest.raises(InputError, match="got nan"):
        Settings(label_tolerances_mm={1: float("nan")})
    with pytest.raises(InputError, match=r"between 0 and 1, got 1\.5"):
        Settings(lesion_iou=1.5)


def test_json_and_csv_hold_every_case_and_leave_the_undefined_empty(tmp_path: Path) -> None:
    evaluation = summarise(four_cases(), {1: 'a, "quoted" name'}, missing=[Path("ref/lost.nii.gz")])
    written = json.loads(write_json(tmp_path / "report.json", evaluation.to_dict()).read_text())
    assert written["schema"] == "volseg.evaluation/1"
    assert [case["labels"][0]["dice"] for case in written["cases"]] == [None, 0, 0, 0.5]
    assert written["references_without_prediction"] == ["ref/lost.nii.gz"]
    rows = list(csv.DictReader(io.StringIO(write_csv(evaluation, tmp_path / "cases.csv").read_text())))
    assert [row["case"] for row in rows] == ["both", "missed", "spurious", "half"]
    assert [row["dice"] for row in rows] == ["", "0.0", "0.0", "0.5"]
    assert {row["name"] for row in rows} == {'a, "quoted" name'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "report.json"]


def test_a_csv_without_cases_still_has_its_header() -> None:
    assert format_csv(summarise([])).startswith("case,label,name,dice,iou,")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")

    def full_disk(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(WriteError, match="no space left on the device"):
        write_json(target, {})
    monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.json", "old")]


def test_places_that_are_no_file_are_refused_and_folders_are_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        write_json(tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        write_json(tmp_path / "file" / "report.json", {})
    assert write_json(tmp_path / "new" / "folder" / "report.json", {}).is_file()
