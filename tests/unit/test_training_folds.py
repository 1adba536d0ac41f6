"""The parts of a cross-validation: baseline, choice of corrections, scores, and what goes into a bundle."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.dataset import Case
from volseg.errors import BundleError
from volseg.geometry import Grid, reorient
from volseg.inference.refine import Refinement
from volseg.training.export import BEGIN, END, next_version, with_refinements, with_table
from volseg.training.folds.baseline import CELLS, place, vote
from volseg.training.folds.choice import Choice, choose_refinements, helps
from volseg.training.folds.held_out import HeldOut
from volseg.training.folds.summary import CaseScores, CrossValidation

ORIENTATIONS = st.sampled_from(["RAS", "LPS", "SAR", "AIL", "IPR"])


def grid_of(codes, shape=(12, 10, 8)):
    return Grid(shape, np.diag([1.0, 1.5, 2.0, 1.0])).reoriented(codes)


def test_vote_is_the_most_frequent_label_at_a_place():
    """Three cases say 1, 1, 2 on the right half; ignored values give no vote; a draw goes to the lower label."""
    grid = Grid((10, 6, 6), np.eye(4))
    maps = []
    for value in (1, 1, 2):
        array = np.zeros(grid.shape, np.uint8)
        array[5:] = value
        array[:, :3] = 255
        maps.append((array, grid))
    votes = vote(maps, 3)
    assert votes.shape == (CELLS,) * 3
    assert (votes[CELLS // 2 :, CELLS // 2 :] == 1).all()
    assert (votes[: CELLS // 2] == 0).all()
    assert (votes[:, : CELLS // 2] == 0).all()


@given(ORIENTATIONS, ORIENTATIONS)
def test_votes_follow_the_patient_not_the_array(stored, wanted):
    right_front_head = np.zeros((12, 10, 8), np.uint8)
    right_front_head[9:, 8:, 6:] = 1
    ras = Grid((12, 10, 8), np.diag([1.0, 1.5, 2.0, 1.0]))
    label, grid = reorient(right_front_head, ras, stored)
    other, other_grid = reorient(right_front_head, ras, wanted)
    assert np.array_equal(place(vote([(label, grid)], 2), other_grid), other)


def test_rule_is_that_the_mean_rises_and_no_class_falls():
    assert helps({1: 0.5, 2: 0.5}, {1: 0.6, 2: 0.5})
    assert not helps({1: 0.5, 2: 0.5}, {1: 0.9, 2: 0.49})
    assert not helps({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5})


def held(tmp_path, number, prediction, reference, known=(1, 2), ignored=()):
    case = Case((tmp_path / f"case{number}.nii.gz",), tmp_path / f"case{number}_label.nii.gz")
    for path, array in ((case.label, reference), (tmp_path / f"case{number}_seg.nii.gz", prediction)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return HeldOut(0, case, tmp_path / f"case{number}_seg.nii.gz", frozenset(known), tuple(ignored))


def blocks():
    """Two organs of 216 voxels each, apart."""
    array = np.zeros((30, 16, 16), np.uint8)
    array[2:8, 2:8, 2:8] = 1
    array[18:24, 2:8, 2:8] = 2
    return array


def test_what_helps_is_chosen_and_what_harms_is_not(tmp_path):
    """Label 1 has a stray piece and a hole in the prediction, label 2 truly is two pieces: the largest piece helps 1 only, and holes too."""
    items = []
    for number in range(2):
        reference = blocks()
        reference[18:22, 11:14, 2:5] = 2
        prediction = reference.copy()
        prediction[4, 4, 4] = 0
        prediction[10:14, 12:15, 10:13] = 1
        items.append(held(tmp_path, number, prediction, reference))
    choice = choose_refinements(items, [1, 2])
    assert choice.refinements == (Refinement("KeepLargestConnectedComponent", {"applied_labels": [1]}), Refinement("FillHoles", {"applied_labels": [1]}))
    # 215 of 216 voxels found, 36 strayed; label 2 was right all along.
    assert choice.before == {1: pytest.approx(2 * 215 / (215 + 36 + 216)), 2: 1.0}
    assert choice.after == {1: 1.0, 2: 1.0}


def test_small_pieces_are_removed_where_the_largest_is_not_enough(tmp_path):
    """Both pieces of label 1 are real; a speck of 8 mm3 is not."""
    items = []
    for number in range(2):
        reference = blocks()
        reference[reference == 2] = 1
        prediction = reference.copy()
        prediction[12:14, 12:14, 12:14] = 1
        items.append(held(tmp_path, number, prediction, reference, known=(1,)))
    choice = choose_refinements(items, [1])
    assert [refinement.name for refinement in choice.refinements] == ["RemoveSmallObjects"]
    assert choice.refinements[0].arguments["min_size"] == 20
    assert choice.after == {1: 1.0}


def test_nothing_is_chosen_where_nothing_helps(tmp_path):
    choice = choose_refinements([held(tmp_path, 0, blocks(), blocks())], [1, 2])
    assert choice.refinements == ()
    assert choice.before == choice.after == {1: 1.0, 2: 1.0}
    assert all("not taken" in line for line in choice.tried)


def test_only_what_is_known_of_a_case_is_scored(tmp_path):
    reference, prediction = blocks(), blocks()
    reference[2:5, 2:8, 2:8] = 255
    prediction[18:24] = 0
    pair = held(tmp_path, 0, prediction, reference, known=(1,), ignored=(255,)).read()
    assert pair.dice() == {1: 1.0}
    # A baseline, or a correction of the label, is not charged for what it says where nothing is known.
    assert pair.dice(np.where(reference == 255, 1, pair.prediction)) == {1: 1.0}
    assert pair.dice(np.where(reference == 0, 1, pair.prediction))[1] < 1


def result():
    cases = (
        CaseScores(0, "a", {1: 0.8, 2: None}, {1: 0.9, 2: None}, {1: 0.1, 2: None}),
        CaseScores(0, "b", {1: 0.6, 2: 0.5}, {1: 0.7, 2: 0.5}, {1: 0.3, 2: 0.0}),
        CaseScores(1, "c", {1: 0.4}, {1: 0.5}, {1: 0.2}),
    )
    choice = Choice((Refinement("FillHoles", {"applied_labels": [1]}),), {1: 0.6, 2: 0.5}, {1: 0.7, 2: 0.5}, ("tried",))
    return CrossValidation("tiny", "balls", {1: "liver", 2: "big tumor"}, cases, choice)


def test_means_are_over_cases_and_then_over_labels():
    found = result()
    assert found.distribution(1).mean == pytest.approx(0.7)
    assert found.distribution(1).sd == pytest.approx(0.2)
    assert found.distribution(2).n == 1
    assert found.mean() == pytest.approx((0.7 + 0.5) / 2)
    assert found.mean(fold=1) == pytest.approx(0.5)
    assert found.mean("baseline") == pytest.approx((0.2 + 0.0) / 2)
    assert found.metrics()["cross_validation_dice_big_tumor"] == 0.5
    assert found.metrics()["cross_validation_cases"] == 3
    assert found.headings == ["label", "fold 0", "fold 1", "mean", "SD", "median", "baseline"]
    assert found.rows() == [
        ["liver", "0.8000", "0.5000", "0.7000", "0.2000", "0.7000", "0.2000"],
        ["big tumor", "0.5000", "-", "0.5000", "-", "0.5000", "0.0000"],
        ["mean", "0.6500", "0.5000", "0.6000", "", "", "0.1000"],
    ]
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["postprocessing"]["mean_dice_without"] == pytest.approx((0.6 + 0.5) / 2)
    assert document["cases"][2]["labels"] == {"liver": {"dice": 0.5, "without_postprocessing": 0.4, "baseline": 0.2}}
    assert "| liver | 0.8000 |" in found.to_markdown()


def test_corrections_go_behind_the_decision():
    config = {"postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "monai.transforms.AsDiscreted", "keys": "pred"}, {"_target_": "SaveImaged"}]}}
    assert with_refinements(config, [Refinement("FillHoles")], "inference.json")
    assert with_refinements(config, [Refinement("KeepLargestConnectedComponent")], "inference.json")
    assert not with_refinements(config, [], "inference.json")
    # A cross-validation that is resumed finds the same ones again.
    assert not with_refinements(config, [Refinement("FillHoles"), Refinement("KeepLargestConnectedComponent")], "inference.json")
    names = [step["_target_"].split(".")[-1] for step in config["postprocessing"]["transforms"]]
    assert names == ["AsDiscreted", "FillHolesd", "KeepLargestConnectedComponentd", "SaveImaged"]
    with pytest.raises(BundleError, match="AsDiscreted"):
        with_refinements({"postprocessing": "$make()"}, [Refinement("FillHoles")], "inference.json")


def test_the_measured_part_of_a_card_is_replaced():
    card = with_table("# name\n\ntext\n", "one")
    assert card.startswith("# name\n\ntext\n")
    assert f"{BEGIN}\none\n{END}" in card
    again = with_table(card + "\nafter\n", "two")
    assert "one" not in again
    assert "two" in again
    assert again.endswith("after\n")


@pytest.mark.parametrize(("version", "following"), [("0.1.1", "0.2.0"), ("1.9.0", "1.10.0"), ("1.0", "1.0.1")])
def test_new_weights_are_a_new_minor_version(version, following):
    assert next_version(version) == following
