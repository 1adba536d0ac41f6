"""Windows, weights and slabs are those of MONAI's sliding window, for any size, window, overlap, blending and padding."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference

from volseg.inference.streaming.sliding import SlidingWindow, Tally, slab_axis, stream
from volseg.inference.windows import importance_map, window_starts

sizes = st.tuples(*[st.integers(1, 40)] * 3)
rois = st.tuples(*[st.integers(3, 24)] * 3)
overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7])
modes = st.sampled_from(["constant", "gaussian"])
GAINS = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], dtype=np.float32)


class Linear:
    """Scores that depend on the voxel and on its place in the window, so that every weight counts."""

    def __init__(self, batch: int, channels: int) -> None:
        self.batch, self.gains, self.seen = batch, GAINS[:, :channels], 0

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        assert windows.flags.c_contiguous
        self.seen += len(windows)
        place = np.add.outer(np.add.outer(np.arange(windows.shape[2]), 2 * np.arange(windows.shape[3])), 3 * np.arange(windows.shape[4])).astype(np.float32) / 50
        return np.einsum("kc,ncxyz->nkxyz", self.gains, windows) + place


def gathered(image, executor, window, axis, **kwargs):
    parts = [(slab.start, slab.scores.copy(), slab.finite) for slab in stream(image, executor, window, axis, **kwargs)]
    assert [start for start, _, _ in parts] == list(np.cumsum([0, *(part.shape[1] for _, part, _ in parts)])[:-1])
    assert all(finite for _, _, finite in parts)
    return np.moveaxis(np.concatenate([part for _, part, _ in parts], axis=1), 1, axis + 1)


@settings(max_examples=40, deadline=None)
@given(sizes, rois, overlaps, modes, st.sampled_from(["constant", "replicate"]), st.integers(0, 2), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_slabs_are_monais_sliding_window(size, roi, overlap, mode, padding, axis, batch, channels, spill):
    image = np.random.default_rng(0).normal(size=(channels, *size)).astype(np.float32)
    # torch.nn.functional.pad takes a value for constant padding alone.
    cval = -1.0 if padding == "constant" else 0.0
    window = SlidingWindow(roi, (overlap,) * 3, mode, padding_mode=padding, cval=cval)
    network = Linear(batch, channels)
    expected = sliding_window_inference(
        torch.from_numpy(image)[None], roi, 2, lambda x: torch.from_numpy(network(np.ascontiguousarray(x.numpy()))), overlap=overlap, mode=mode, padding_mode=padding, cval=cval
    )
    found = gathered(image, network, window, axis, threads=2, spill=spill)
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), overlaps)
def test_starts_cover_the_axis_in_order(length, window, overlap):
    starts = window_starts(length, window, overlap)
    covered = np.zeros(max(length, window), dtype=bool)
    for start in starts:
        covered[start : start + window] = True
    assert covered.all()
    assert starts == sorted(starts)
    assert starts[-1] + window == max(length, window)


@settings(max_examples=30, deadline=None)
@given(rois, modes, st.sampled_from([0.125, 0.25, 0.05]))
def test_weights_are_monais(roi, mode, sigma):
    expected = compute_importance_map(roi, mode=mode, sigma_scale=sigma)
    np.testing.assert_allclose(importance_map(roi, mode, [sigma] * 3), expected.numpy(), rtol=1e-5)


def test_windows_of_one_value_are_run_once():
    image = np.zeros((1, 40, 16, 16), dtype=np.float32)
    image[:, :4] = np.random.default_rng(0).normal(size=(1, 4, 16, 16))
    window, tally, network = SlidingWindow((8, 8, 8), (0.0,) * 3), Tally(), Linear(4, 1)
    found = gathered(image, network, window, 0, tally=tally)
    # 5 x 2 x 2 windows; the 4 of the first lane hold noise, the other 16 only zeros.
    assert (tally.windows, tally.repeated, network.seen) == (20, 15, 5)
    all_run = sliding_window_inference(torch.from_numpy(image)[None], (8, 8, 8), 1, lambda x: torch.from_numpy(Linear(1, 1)(np.ascontiguousarray(x.numpy()))), overlap=0.0)
    np.testing.assert_allclose(found, all_run[0].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_told(axis, bad):
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)

    class Broken(Linear):
        def __call__(self, windows):
            scores = super().__call__(windows)
            scores[0, 1, 3, 3, 3] = bad
            return scores

    assert not all(slab.finite for slab in stream(image, Broken(1, 1), SlidingWindow((8, 8, 8)), axis, threads=2))


def test_the_slab_follows_the_longest_axis_in_windows():
    assert [slab_axis(size, (10, 10, 10)) for size in product((5, 50), repeat=3) if max(size) == 50] == [2, 1, 1, 0, 0, 0, 0]
