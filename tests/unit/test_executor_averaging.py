"""Flips and ensembles: what is averaged, and that flips are undone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.inference.executors.averaging import Averaging, Ensemble, Flipped

WINDOWS = np.random.default_rng(0).normal(size=(2, 1, 4, 5, 6)).astype(np.float32)


class Fake:
    """Writes every answer over the last, as executors may."""

    batch = 3

    def __init__(self, of):
        self.of, self.out, self.seen = of, None, 0

    def __call__(self, windows):
        assert windows.flags.c_contiguous
        self.seen += 1
        scores = self.of(windows).astype(np.float32)
        if self.out is None:
            self.out = np.empty_like(scores)
        self.out[:] = scores
        return self.out


def pointwise(x):
    return np.concatenate([x, -x, 2 * x], axis=1)


def with_place(x):
    place = np.arange(x.shape[2])[:, None, None] * 1.0 + np.arange(x.shape[4])
    return np.concatenate([x + place, x * place], axis=1)


def test_a_network_that_looks_at_single_voxels_is_not_changed_by_flips():
    fake = Fake(pointwise)
    np.testing.assert_allclose(Flipped(fake)(WINDOWS), pointwise(WINDOWS), rtol=1e-5)
    assert fake.seen == 8


def test_every_combination_of_flips_is_averaged_once():
    found = Flipped(Fake(with_place), (0, 2))(WINDOWS)
    flips = [[axis for axis, on in zip((2, 4), chosen, strict=True) if on] for chosen in product((False, True), repeat=2)]
    each = [np.flip(with_place(np.flip(WINDOWS, flip)), flip) for flip in flips]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5, atol=1e-5)


def test_an_ensemble_averages_scores():
    networks = [pointwise, lambda x: 3 * np.flip(pointwise(x), 1)]
    found = Ensemble([Fake(of) for of in networks])(WINDOWS)
    np.testing.assert_allclose(found, (networks[0](WINDOWS) + networks[1](WINDOWS)) / 2, rtol=1e-5, atol=1e-6)


def test_batch_notes_and_margin_are_the_members():
    small, other = Fake(pointwise), Fake(pointwise)
    small.batch, small.notes, other.notes, other.memory_margin = 1, ["hot", "slow"], ["slow"], 1.6
    both = Ensemble([Flipped(other), small])
    assert (both.batch, both.notes, both.memory_margin) == (1, ["slow", "hot"], 1.6)
    both.batch = 2
    assert (small.batch, other.batch) == (2, 2)


def test_runs_of_a_window_are_told():
    assert Averaging().facts() == {}
    assert Averaging(5, 8).facts() == {"ensemble": 5, "flips": 8, "runs_per_window": 40, "average": "logits"}


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(InputError, match="different shapes"):
        Ensemble([Fake(pointwise), Fake(with_place)])(WINDOWS)
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])
    with pytest.raises(InputError, match="0, 1 and 2"):
        Flipped(Fake(pointwise), (0, 3))
    with pytest.raises(InputError, match="0, 1 and 2"):
        Flipped(Fake(pointwise), (1, 1))
