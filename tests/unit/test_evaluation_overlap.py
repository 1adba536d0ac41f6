"""Overlap metrics against MONAI, set arithmetic and analytic boxes; the empty cases; what is no label map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from volseg.errors import GeometryError, InputError
from volseg.evaluation import Overlap, count_overlaps, dice, iou
from volseg.evaluation import overlap as overlap_module

SHAPE = (7, 5, 4)
label_maps = npst.arrays(np.uint8, SHAPE, elements=st.integers(0, 3))


def box(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def test_two_shifted_boxes_overlap_as_computed_by_hand() -> None:
    one, other = box((20, 20, 20), (2, 2, 2), (12, 12, 12)), box((20, 20, 20), (5, 4, 2), (15, 14, 12))
    common = 7 * 8 * 10
    overlap = count_overlaps(one, other)[1]
    assert (overlap.true_positive, overlap.false_positive, overlap.false_negative) == (common, 1000 - common, 1000 - common)
    assert dice(one, other) == pytest.approx(2 * common / 2000)
    assert iou(one, other) == pytest.approx(common / (2000 - common))
    assert overlap.precision == overlap.sensitivity == pytest.approx(common / 1000)


def test_precision_and_sensitivity_are_not_swapped() -> None:
    inside, outside = box((8, 8, 8), (2, 2, 2), (4, 4, 4)), box((8, 8, 8), (2, 2, 2), (6, 6, 6))
    overlap = count_overlaps(inside, outside)[1]
    assert overlap.precision == 1
    assert overlap.sensitivity == pytest.approx(8 / 64)


def test_dice_and_iou_agree_with_monai_where_defined_and_undefined() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    random = np.random.default_rng(7)
    # Probabilities of 0 leave some labels out of one map or both, which is where conventions differ.
    maps = [random.choice(5, size=(6, 9, 8), p=p) for p in ([0.4, 0.3, 0.3, 0, 0], [0.6, 0.2, 0, 0.2, 0])]
    one_hot = [torch.nn.functional.one_hot(torch.as_tensor(m), 5).permute(3, 0, 1, 2)[None] for m in maps]
    expected_dice = metrics.compute_dice(*one_hot, include_background=False, ignore_empty=False)[0]
    expected_iou = metrics.compute_iou(*one_hot, include_background=False, ignore_empty=False)[0]
    undefined = metrics.compute_dice(*one_hot, include_background=False, ignore_empty=True)[0]
    found = count_overlaps(*maps)
    for label in (1, 2, 3):
        assert found[label].dice == pytest.approx(float(expected_dice[label - 1]))
        assert found[label].iou == pytest.approx(float(expected_iou[label - 1]))
    assert 4 not in found
    assert Overlap().dice is None
    assert bool(torch.isnan(undefined[3]))


@given(label_maps, label_maps)
def test_counts_are_those_of_sets_and_symmetric(one: np.ndarray, other: np.ndarray) -> None:
    found = count_overlaps(one, other)
    swapped = count_overlaps(other, one)
    assert list(found) == sorted((set(np.unique(one)) | set(np.unique(other))) - {0})
    for label, overlap in found.items():
        a, b = set(np.flatnonzero(one == label)), set(np.flatnonzero(other == label))
        assert (overlap.true_positive, overlap.false_positive, overlap.false_negative) == (len(a & b), len(a - b), len(b - a))
        assert overlap.dice == swapped[label].dice
        assert overlap.precision == swapped[label].sensitivity
        assert overlap.iou == pytest.approx(overlap.dice / (2 - overlap.dice))
        assert 0 <= overlap.dice <= 1


@settings(max_examples=30)
@given(label_maps, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.sampled_from([np.uint8, np.int16, np.uint16, np.int64, ">i2"]))
def test_memory_layout_type_and_chunking_change_nothing(one: np.ndarray, order: list[int], flips: tuple[bool, ...], dtype: object) -> None:
    other = np.roll(one, 1, axis=0)
    expected = count_overlaps(one, other)
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    laid_out = np.flip(np.asfortranarray(np.flip(one, axes)).astype(dtype), axes)
    stored = np.ascontiguousarray(other.transpose(order)).transpose(np.argsort(order))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "CHUNK_VOXELS", 21)
        assert count_overlaps(laid_out, stored) == expected


def test_empty_cases() -> None:
    empty, full = np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)
    assert dice(empty, empty) is None
    assert iou(empty, empty) is None
    assert dice(empty, full) == iou(empty, full) == 0
    assert dice(full, empty) == iou(full, empty) == 0
    missed, spurious = count_overlaps(empty, full)[1], count_overlaps(full, empty)[1]
    assert (missed.precision, missed.sensitivity) == (None, 0)
    assert (spurious.precision, spurious.sensitivity) == (0, None)


def test_dice_of_masks_ignores_which_label() -> None:
    one, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, bool)
    one[:3], other[:3] = 5, True
    assert dice(one, other) == 1


def test_booleans_and_large_labels_are_counted() -> None:
    assert count_overlaps(np.array([True, False, True]), np.array([1, 1, 0])) == {1: Overlap(1, 1, 1)}
    assert count_overlaps(np.array([14175, 0], np.int32), np.array([14175, 65535], np.int32)) == {14175: Overlap(1, 0, 0), 65535: Overlap(0, 0, 1)}


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full(SHAPE, 0.5, np.float32), "float32"),
        (np.full(SHAPE, -1000, np.int16), "-1000"),
        (np.full(SHAPE, 70000, np.int32), "70000"),
        (np.arange(140, dtype=np.int32).reshape(SHAPE) + 100, None),
        (np.arange(3000, dtype=np.int32).reshape(30, 10, 10), "3000 different values"),
    ],
)
def test_what_is_no_label_map_is_refused(array: np.ndarray, says: str | None) -> None:
    if says is None:
        assert len(count_overlaps(array, array)) == array.size
        return
    with pytest.raises(InputError, match=says):
        count_overlaps(array, array)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(7, 5, 4\).*\(7, 5, 3\)"):
        count_overlaps(np.zeros(SHAPE, np.uint8), np.zeros((7, 5, 3), np.uint8))
