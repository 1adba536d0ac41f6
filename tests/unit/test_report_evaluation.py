"""The report of an evaluation: what is on the page, and what the plots and pictures show."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.test_evaluation_scores import AFFINE, SHAPE, block, volume
from volseg.evaluation import METRICS, Distribution, Evaluation, compare_evaluations, compare_volumes, summarise
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume
from volseg.report.evaluation import MAX_CASES, SecondModel, WorstCase, _ratio_limits, write_evaluation_report
from volseg.report.evaluation_pictures import draw_disagreement, fits
from volseg.report.plots import MAX_DOTS, PlotRow, draw_distributions, ticks

NAME = "tumour <b>& co</b>"


def evaluation(shift: int = 0) -> Evaluation:
    empty = np.zeros(SHAPE, np.uint8)
    pairs = {
        "good": (block(2, 6 + shift), block(2, 6)),
        "poor": (block(0, 3), block(2, 6)),
        "lost": (empty, block(2, 6)),
        "<script>": (block(2, 7), block(2, 6)),
    }
    cases = []
    for name, (prediction, reference) in pairs.items():
        reference_volume = Volume(reference, Grid(SHAPE, AFFINE), Source(Path(f"{name}_ref.nii.gz"), "nifti", name))
        cases.append(compare_volumes(volume(prediction), reference_volume, name))
    return summarise(cases, {1: NAME}, missing=[Path("references/absent.nii.gz")])


def page(tmp_path: Path, **more: object) -> str:
    return write_evaluation_report(evaluation(), tmp_path / "report.html", predictions="model_a", references="expert", **more).read_text()


def test_the_page_says_what_was_measured_and_how(tmp_path: Path) -> None:
    text = page(tmp_path)
    for part in ("model_a", "expert", "good", "poor", "lost", "absent.nii.gz", "missed in 1, spurious in 0", "Tolerance of the NSD: 2 mm", "IoU of at least 0.1", "BCa"):
        assert part in text, part
    for metric in METRICS:
        assert metric.definition.replace("'", "&#39;") in text
    # Dice 1, 2*1/7, 0, 8/9.
    assert f"{(1 + 2 / 7 + 0 + 8 / 9) / 4:.4f}" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_page_is_self_contained_and_runs_nothing(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "<script" not in text
    assert NAME not in text
    assert "tumour &lt;b&gt;" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text


def test_a_second_model_has_its_table_and_its_hollow_dots(tmp_path: Path) -> None:
    other = evaluation(shift=2)
    text = page(tmp_path, second=SecondModel("model_b", other, compare_evaluations(evaluation(), other)))
    assert "Compared with model_b" in text
    assert 'fill="none" stroke="#E69F00"' in text
    # Dice of the good case falls from 1 to 8/10, the others stay: mean difference 0.2 / 4, one better and three equal.
    assert "+0.0500" in text
    assert "1, 3, 0" in text


def test_the_worst_cases_are_shown_with_their_numbers(tmp_path: Path) -> None:
    found = evaluation()
    grid = Grid(SHAPE, AFFINE)
    worst = [WorstCase(case, draw_disagreement(block(0, 3), block(2, 6), grid, {1: NAME}), "no scan") for case in found.worst(2)]
    text = page(tmp_path, worst=worst)
    assert [each.case.name for each in worst] == ["lost", "poor"]
    assert text.count("stroke-dasharray") == 6
    assert text.index("<h3>lost</h3>") < text.index("<h3>poor</h3>")
    assert "no scan" in text


def test_many_cases_are_cut_and_the_worst_kept(tmp_path: Path) -> None:
    reference = np.ones((2, 2, 2), np.uint8)
    prediction = reference.copy()
    prediction[0] = 0
    small = Grid((2, 2, 2), np.eye(4))
    cases = []
    for number in range(MAX_CASES + 3):
        label = prediction if number == MAX_CASES + 2 else reference
        volumes = [Volume(array, small, Source(Path(f"{number}.nii"), "nifti", str(number))) for array in (label, reference)]
        cases.append(compare_volumes(*volumes, f"case_{number:03d}"))
    text = write_evaluation_report(summarise(cases), tmp_path / "many.html", predictions="a", references="b").read_text()
    table = text[text.index("<h2>Cases</h2>") :]
    assert "3 more are in the CSV" in table
    assert "case_202" in table
    assert "case_200" not in table


def test_one_case_has_no_distribution_to_plot(tmp_path: Path) -> None:
    assert page(tmp_path).count('class="plot"') == 8
    single = summarise([compare_volumes(volume(block(0, 3)), volume(block(2, 6)), "one")], {1: NAME})
    text = write_evaluation_report(single, tmp_path / "one.html", predictions="a", references="b").read_text()
    assert "Every case" not in text
    assert f"{2 * 1 / 7:.4f}" in text


def test_nothing_to_score_is_said(tmp_path: Path) -> None:
    text = write_evaluation_report(summarise([]), tmp_path / "empty.html", predictions="a", references="b").read_text()
    assert "nothing to score" in text


# Plots.


def drawn(rows: list[PlotRow], limits: tuple[float, float] | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(draw_distributions("Dice", rows, limits))


def test_dots_lie_in_proportion_and_name_their_case() -> None:
    values = [("a", 0.0), ("b<", 0.5), ("c", 1.0)]
    root = drawn([PlotRow("liver", "#E69F00", values, Distribution.of(value for _, value in values))], (0, 1))
    dots = root.findall("circle")
    x = [float(dot.get("cx")) for dot in dots]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert [dot.findtext("title") for dot in dots] == ["a: 0", "b<: 0.5", "c: 1"]
    grid = [float(line.get("x1")) for line in root.findall("line") if line.get("class") == "grid"]
    assert (grid[0], grid[-1]) == (pytest.approx(x[0]), pytest.approx(x[2]))
    (median,) = [line for line in root.findall("line") if line.get("class") == "median"]
    assert float(median.get("x1")) == pytest.approx(x[1])


def test_of_very_many_values_some_dots_are_drawn_the_ends_among_them() -> None:
    values = [(str(n), (n * 37 % 1000) / 999) for n in range(1000)]
    dots = [dot.findtext("title") for dot in drawn([PlotRow("a", "#000000", values, Distribution.of(value for _, value in values))], (0, 1)).findall("circle")]
    assert len(dots) == MAX_DOTS
    assert (dots[0], dots[-1]) == ("0: 0", "27: 1")


@pytest.mark.parametrize(("lowest", "start"), [(0.0, 0.0), (0.49, 0.0), (0.5, 0.5), (0.79, 0.5), (0.93, 0.8), (1.0, 0.8)])
def test_the_axis_of_a_ratio_begins_where_the_values_do(lowest: float, start: float) -> None:
    assert _ratio_limits([PlotRow("a", "#000000", [("x", lowest), ("y", 1.0)], Distribution.of([lowest, 1.0]))]) == (start, 1.0)
    assert _ratio_limits([]) == (0.0, 1.0)


def test_a_label_without_values_and_equal_values_are_drawn() -> None:
    root = drawn([PlotRow("a", "#000000", [], Distribution.of([None])), PlotRow("b", "#000000", [("x", 0.0)], Distribution.of([0.0]))])
    assert "undefined" in "".join(root.itertext())
    assert len(root.findall("circle")) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 37, [0, 10, 20, 30]), (-30, 12, [-30, -20, -10, 0, 10]), (0, 0.004, [0, 0.001, 0.002, 0.003, 0.004])]
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


# Pictures.


def test_slices_lie_where_the_two_differ_most() -> None:
    grid = Grid((30, 30, 30), np.diag([2.0, 2, 2, 1]))
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[5:25, 5:25, 5:25] = 1
    prediction = reference.copy()
    prediction[8:22, 8:22, 20] = 0
    captions = [shown.caption for shown in draw_disagreement(prediction, reference, grid, {1: "a"})]
    assert captions[0] == "Axial, slice 21 of 30"


def test_the_scan_is_drawn_where_its_voxels_are_those_of_the_labels_in_any_order() -> None:
    grid = Grid(SHAPE, AFFINE)
    image = np.zeros(SHAPE, np.float32)
    image[3:5] = 1000
    turned, turned_grid = reorient(image, grid, "SAR")
    scan = Volume(turned, turned_grid, Source(Path("s.nii"), "nifti", "s"))
    assert fits(scan, grid)
    plain = [shown.svg for shown in draw_disagreement(block(2, 5), block(2, 6), grid, {1: "a"})]
    on_turned = [shown.svg for shown in draw_disagreement(block(2, 5), block(2, 6), grid, {1: "a"}, scan)]
    on_stored = [shown.svg for shown in draw_disagreement(block(2, 5), block(2, 6), grid, {1: "a"}, Volume(image, grid, scan.source))]
    assert on_turned == on_stored
    assert on_stored != plain
    moved = AFFINE.copy()
    moved[0, 3] += 5
    elsewhere = Volume(image, Grid(SHAPE, moved), scan.source)
    assert not fits(elsewhere, grid)
    assert [shown.svg for shown in draw_disagreement(block(2, 5), block(2, 6), grid, {1: "a"}, elsewhere)] == plain
