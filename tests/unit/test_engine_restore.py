"""Restored labels are the arg-max of densely interpolated scores, and resampled scans are MONAI's, for any size, spacing and slab."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import AsDiscrete
from monai.transforms import Spacing as MonaiSpacing

from volseg.geometry import Grid
from volseg.inference.streaming import Axis, Restorer, match_monai, resample
from volseg.inference.streaming.border import Border
from volseg.inference.streaming.decision import Decision, decide
from volseg.inference.streaming.dense import Dense

TIE = 1e-4
sizes = st.tuples(*[st.integers(1, 14)] * 3)
steps = st.tuples(*[st.sampled_from([0.3, 0.5, 0.77, 1.0, 1.6, 2.4])] * 3)


def axes_of(size, step):
    return [Axis.linear(n, max(1, round((n - 1) / s + 1)), s) for n, s in zip(size, step, strict=True)]


def dense(shares, axes):
    """Every share at every voxel of the label map, by torch's own trilinear interpolation in float64."""
    positions = [(axis.low + axis.weight.astype(np.float64)) for axis in axes]
    unit = [2 * p / max(n - 1, 1) - 1 for p, n in zip(positions, shares.shape[1:], strict=True)]
    mesh = np.stack(np.meshgrid(*unit, indexing="ij")[::-1], axis=-1)
    given_ = torch.from_numpy(shares.astype(np.float64))[None]
    return torch.nn.functional.grid_sample(given_, torch.from_numpy(mesh)[None], mode="bilinear", padding_mode="border", align_corners=True)[0].numpy()


def restored(scores, axes, axis, decision, cuts, order="F", whole_planes=None):
    """The label map; with ``whole_planes`` True all voxels are interpolated, with False those at borders alone, with None whichever is taken."""
    with pytest.MonkeyPatch.context() as patch:
        if whole_planes is not None:
            patch.setattr("volseg.inference.streaming.restore.DENSE_FROM", 0.0 if whole_planes else 2.0)
        return restored_in_slabs(scores, axes, axis, decision, cuts, order)


def restored_in_slabs(scores, axes, axis, decision, cuts, order):
    label = np.full([len(a) for a in axes], 99, dtype=np.uint8, order=order)
    restorer = Restorer(label, axes, axis, decision, threads=2)
    moved = np.moveaxis(scores, axis + 1, 1)
    edges = sorted({0, moved.shape[1], *(cut for cut in cuts if cut < moved.shape[1])})
    for first, last in pairwise(edges):
        slab = moved[:, first:last].copy()
        restorer.add(first, slab)
        slab[:] = np.nan
    restorer.close()
    return label


def softmax(scores):
    shares = np.exp(scores.astype(np.float64) - scores.max(axis=0))
    return shares / shares.sum(axis=0)


@settings(max_examples=120, deadline=None)
@given(
    *(sizes, steps, st.integers(0, 2), st.integers(2, 7), st.lists(st.integers(1, 13), max_size=3)),
    *(st.sampled_from("CF"), st.sampled_from([0.3, 6.0]), st.integers(0, 99), st.sampled_from([None, True, False])),
)
def test_label_is_the_argmax_of_dense_interpolation(size, step, axis, classes, cuts, order, sharp, seed, whole_planes):
    scores = (np.random.default_rng(seed).normal(size=(classes, *size)) * sharp).astype(np.float32)
    axes = axes_of(size, step)
    label = restored(scores, axes, axis, Decision(), cuts, order, whole_planes)
    shares = dense(softmax(scores), axes)
    ordered = np.sort(shares, axis=0)
    tie = ordered[-1] - ordered[-2] < TIE
    assert ((label == shares.argmax(axis=0)) | tie).all()
    assert tie.mean() < 0.05 or label.size < 100


@settings(max_examples=30, deadline=None)
@given(sizes, steps, st.integers(0, 2), st.sampled_from([0.2, 0.5, 0.7]), st.integers(0, 99), st.booleans())
def test_one_channel_is_cut_at_a_threshold(size, step, axis, threshold, seed, whole_planes):
    scores = np.random.default_rng(seed).normal(size=(1, *size)).astype(np.float32) * 3
    axes = axes_of(size, step)
    label = restored(scores, axes, axis, Decision("sigmoid", threshold), [2, 5], whole_planes=whole_planes)
    share = dense(1 / (1 + np.exp(-scores.astype(np.float64))), axes)[0]
    assert ((label == (share > threshold)) | (abs(share - threshold) < TIE)).all()


@settings(max_examples=30, deadline=None)
@given(sizes, steps, st.integers(0, 2), st.integers(0, 99), st.booleans())
def test_logits_are_interpolated_where_nothing_activates_them(size, step, axis, seed, whole_planes):
    scores = np.random.default_rng(seed).normal(size=(4, *size)).astype(np.float32)
    axes = axes_of(size, step)
    label = restored(scores, axes, axis, Decision("none"), [3], whole_planes=whole_planes)
    values = np.sort(dense(scores, axes), axis=0)
    assert ((label == dense(scores, axes).argmax(axis=0)) | (values[-1] - values[-2] < TIE)).all()


@pytest.mark.parametrize("classes", [2, 3, 256, 257, 300])
def test_the_best_class_is_numpys_argmax(classes):
    """Labels of one byte and of two; the first of equal scores wins."""
    scores = np.random.default_rng(0).integers(0, 40, size=(classes, 5, 6, 7)).astype(np.float32)
    for given_scores in (scores, np.moveaxis(scores, 3, 1)):
        best = decide(given_scores, Decision())
        assert (best == given_scores.argmax(axis=0)).all()
        assert best.dtype == (np.uint8 if classes <= 256 else np.uint16)


def test_few_borders_are_picked_out_and_many_are_not(monkeypatch):
    """One class in one half, another in the other: a cell in ten is mixed; noise: all of them are."""
    taken = []
    monkeypatch.setattr("volseg.inference.streaming.restore.Dense", lambda *given_: taken.append("whole planes") or Dense(*given_))
    monkeypatch.setattr("volseg.inference.streaming.restore.Border", lambda *given_: taken.append("borders") or Border(*given_))
    halves = np.zeros((2, 6, 20, 20), np.float32)
    halves[0, :, :10], halves[1, :, 10:] = 5, 5
    restored_in_slabs(halves, axes_of((6, 20, 20), (0.5, 0.5, 0.5)), 0, Decision(), [], "C")
    assert set(taken) == {"borders"}
    taken.clear()
    noise = np.random.default_rng(0).normal(size=(5, 6, 20, 20)).astype(np.float32)
    restored_in_slabs(noise, axes_of((6, 20, 20), (0.5, 0.5, 0.5)), 0, Decision(), [], "C")
    assert set(taken) == {"whole planes"}


def test_nearest_takes_the_best_class_of_the_nearest_voxel():
    scores = np.random.default_rng(0).normal(size=(3, 5, 6, 7)).astype(np.float32)
    axes = [Axis.nearest(n, round((n - 1) / 0.4 + 1), 0.4) for n in (5, 6, 7)]
    near = [np.rint(np.clip(np.arange(len(a)) * 0.4, 0, n - 1)).astype(int) for a, n in zip(axes, (5, 6, 7), strict=True)]
    label = restored(scores, axes, 1, Decision(nearest=True), [2])
    assert (label == scores.argmax(axis=0)[np.ix_(*near)]).all()


def test_flipped_label_maps_are_filled_in_place():
    scores = np.random.default_rng(1).normal(size=(3, 4, 5, 6)).astype(np.float32)
    label = np.zeros((4, 5, 6), dtype=np.uint8)
    axes = axes_of((4, 5, 6), (1, 1, 1))
    restorer = Restorer(label[::-1, :, ::-1], axes, 2, Decision())
    restorer.add(0, np.moveaxis(scores, 3, 1))
    restorer.close()
    assert (label[::-1, :, ::-1] == scores.argmax(axis=0)).all()


@example((1, 2, 1), (1.0, 2.0, 1.0), (1.0, 1.5, 1.0), "bilinear", "C")
@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 24)] * 3),
    st.tuples(*[st.floats(0.4, 5.0)] * 3),
    st.tuples(*[st.floats(0.6, 4.0)] * 3),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from("CF"),
)
def test_resampling_is_monais_spacing(size, old, new, mode, order):
    array = np.random.default_rng(0).integers(-1000, 2000, size=size).astype(np.int16, order=order)
    affine = np.diag([*old, 1.0])
    expected = MonaiSpacing(new, mode=mode, padding_mode="border")(MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.from_numpy(affine)))
    spacing = match_monai(Grid(size, affine), new)
    assert spacing is not None
    assert spacing.grid.shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(spacing.grid.affine, expected.affine.numpy(), atol=1e-9)
    kind = Axis.nearest if mode == "nearest" else Axis.linear
    axes = [kind(n, m, step) for n, m, step in zip(size, spacing.grid.shape, spacing.steps, strict=True)]
    found = array.astype(np.float32) if spacing.is_identity else resample(array, axes, threads=2)
    if mode == "nearest":
        # A position a hair from a half may go either way.
        fair = np.ix_(*(abs((np.arange(len(a)) * s) % 1 - 0.5) > 1e-4 for a, s in zip(axes, spacing.steps, strict=True)))
        assert (found[fair] == expected.numpy()[0][fair]).all()
    else:
        # Positions in float32 (torch) differ by up to 1e-6 of the axis, values by up to 3000 between neighbours.
        np.testing.assert_allclose(found, expected.numpy()[0], atol=0.5)


@pytest.mark.parametrize("step", [0.5, 2.0])
def test_one_slice(step):
    scores = np.random.default_rng(0).normal(size=(3, 6, 7, 1)).astype(np.float32)
    axes = axes_of((6, 7, 1), (1.0, 1.0, step))
    assert (restored(scores, axes, 2, Decision(), []) == scores.argmax(axis=0)).all()


def test_a_probability_of_just_the_threshold_is_the_label_as_in_monai():
    scores = np.array([-1e-3, 0.0, 1e-3], dtype=np.float32).reshape(1, 1, 1, 3)
    expected = AsDiscrete(threshold=0.5)(torch.sigmoid(torch.from_numpy(scores))).numpy()[0]
    assert np.array_equal(decide(scores, Decision("sigmoid", 0.5)), expected)
    label = restored(scores, axes_of((1, 1, 3), (1.0, 1.0, 1.0)), 0, Decision("sigmoid", 0.5), [1])
    assert np.array_equal(label, expected)
