"""Lesions matched one to one: counts by hand, and against a search through every assignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from volseg.evaluation import Detection, match_lesions

SHAPE = (20, 8, 6)
masks = npst.arrays(np.bool_, (6, 5, 4), elements=st.sampled_from([True, False, False]))


def slabs(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for start, stop in ranges:
        mask[start:stop] = True
    return mask


SLICE = SHAPE[1] * SHAPE[2]


def test_found_missed_and_false_lesions() -> None:
    found = match_lesions(slabs((0, 4), (15, 18)), slabs((1, 5), (8, 11)), 0.1)
    assert found == Detection(1, 1, 1, 3 * SLICE, 3 * SLICE)
    assert (found.f1, found.sensitivity, found.precision) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))


def test_sensitivity_and_precision_are_not_swapped() -> None:
    found = match_lesions(slabs((0, 2)), slabs((0, 2), (5, 7), (10, 12)), 0.1)
    assert (found.sensitivity, found.precision) == (pytest.approx(1 / 3), 1)


def test_a_lesion_in_two_pieces_is_found_once_and_the_other_piece_is_false_but_has_no_false_volume() -> None:
    assert match_lesions(slabs((0, 5), (6, 8)), slabs((0, 9)), 0.1) == Detection(1, 1, 0, 0, 0)


def test_one_piece_over_two_lesions_finds_the_one_it_overlaps_better() -> None:
    assert match_lesions(slabs((0, 10)), slabs((0, 3), (5, 10)), 0.1) == Detection(1, 0, 1, 0, 0)


def test_the_better_match_comes_first_though_the_worse_is_numbered_first() -> None:
    """Prediction 0-4 touches lesion 3-5 (IoU 1/5), prediction 4 - that is the middle of one - fits better: taken in order of number, the first would take it away."""
    prediction, reference = np.zeros((9, 3, 1), bool), np.zeros((9, 3, 1), bool)
    reference[2:7, 0] = True
    prediction[2:3, 0] = True
    prediction[4:7, 0] = True
    assert match_lesions(prediction, reference, 0.0) == Detection(1, 1, 0, 0, 0)
    assert match_lesions(prediction, reference, 0.5) == Detection(1, 1, 0, 0, 0), "IoU 3/5 of the second piece, though the first one is numbered before it"


def test_the_threshold_is_reached_by_its_own_value_and_by_nothing_less() -> None:
    prediction, reference = slabs((0, 1)), slabs((0, 10))
    assert match_lesions(prediction, reference, 0.1).true_positive == 1
    assert match_lesions(prediction, reference, 0.11) == Detection(0, 1, 1, 0, 0)


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert match_lesions(mask, mask, 0.1) == Detection(1, 0, 0, 0, 0)


def test_no_lesions() -> None:
    empty = slabs()
    assert match_lesions(empty, empty, 0.1) == Detection()
    assert Detection().f1 is Detection().sensitivity is Detection().precision is None
    missed = match_lesions(empty, slabs((0, 2)), 0.1)
    assert (missed.f1, missed.sensitivity, missed.precision) == (0, 0, None)


def test_sums_are_those_of_all_lesions() -> None:
    assert Detection(1, 2, 3, 4, 5) + Detection(10, 20, 30, 40, 50) == Detection(11, 22, 33, 44, 55)


@given(masks, masks, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]))
def test_any_masks_against_scipy_and_a_plain_loop(prediction: np.ndarray, reference: np.ndarray, least: float) -> None:
    ours, theirs = (ndimage.label(mask, np.ones((3, 3, 3)))[0] for mask in (prediction, reference))
    pieces, lesions = ([labels == n for n in range(1, labels.max() + 1)] for labels in (ours, theirs))
    ious = {(a, b): (p & r).sum() / (p | r).sum() for a, p in enumerate(pieces) for b, r in enumerate(lesions) if (p & r).any()}
    found = match_lesions(prediction, reference, least)
    candidates = {pair: iou for pair, iou in ious.items() if iou >= least}
    if len(set(candidates.values())) == len(candidates):
        used: set[tuple[str, int]] = set()
        count = 0
        for a, b in sorted(candidates, key=lambda pair: -candidates[pair]):
            if not {("p", a), ("r", b)} & used:
                used |= {("p", a), ("r", b)}
                count += 1
        assert found.true_positive == count
    assert found.true_positive + found.false_positive == len(pieces)
    assert found.true_positive + found.false_negative == len(lesions)
    assert found.false_positive_voxels == sum(int(p.sum()) for p in pieces if not (p & reference).any())
    assert found.false_negative_voxels == sum(int(r.sum()) for r in lesions if not (r & prediction).any())
    if least > 0.5:
        # No lesion can reach more than one half with two others, so there is nothing to choose.
        assert found.true_positive == len(candidates)
