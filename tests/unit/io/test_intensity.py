"""Rescaling and the smallest exact dtype."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from volseg.io.intensity import INTEGERS, rescaled

light = settings(deadline=None, max_examples=50)


@light
@given(arrays(np.int64, (2, 3, 2), elements=st.integers(-(2**31), 2**32 - 1)), st.integers(-3, 3).filter(bool), st.integers(-2000, 2000))
def test_whole_numbers_stay_exact_in_the_smallest_type_that_holds_them(raw: np.ndarray, slope: int, intercept: int) -> None:
    values, warnings = rescaled(raw, slope, intercept)
    exact = [int(v) * slope + intercept for v in raw.ravel()]
    fitting = [kind for kind in INTEGERS if np.iinfo(kind).min <= min(exact) and max(exact) <= np.iinfo(kind).max]
    if fitting:
        assert [int(v) for v in values.ravel()] == exact
        assert values.dtype.itemsize == min(np.dtype(kind).itemsize for kind in fitting)
        assert warnings == ()
    else:
        assert values.dtype == np.float32
        assert len(warnings) == 1


@light
@given(arrays(np.float32, (2, 2, 3), elements=st.floats(-4000, 4000, width=32)), st.floats(0.01, 4), st.floats(-1000, 1000))
def test_fractions_become_float32_of_the_float64_result(raw: np.ndarray, slope: float, intercept: float) -> None:
    values, _ = rescaled(raw, slope, intercept)
    np.testing.assert_array_equal(values.astype(np.float32), (raw.astype(np.float64) * slope + intercept).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 1], "uint8"),
        ([0, 255], "uint8"),
        ([-1, 1], "int8"),
        ([-1024, 3071], "int16"),
        ([0, 40000], "uint16"),
        ([-1, 40000], "int32"),
        ([0, 2**32 - 1], "uint32"),
        ([0, 0.5], "float32"),
    ],
)
@pytest.mark.parametrize("stored", ["<f8", ">f8"])
def test_floats_that_are_whole_are_stored_as_integers(values: list[float], dtype: str, stored: str) -> None:
    raw = np.array(values, stored).reshape(1, 1, 2)
    result, warnings = rescaled(raw)
    assert result.dtype == dtype
    assert result.ravel().tolist() == values
    assert warnings == ()


def test_nothing_is_copied_when_nothing_changes() -> None:
    raw = np.array([-1000, 3000], np.int16).reshape(1, 1, 2)
    assert rescaled(raw)[0] is raw


def test_memory_order_is_kept() -> None:
    raw = np.asfortranarray(np.random.default_rng(0).random((4, 5, 6)))
    assert rescaled(raw)[0].flags.f_contiguous


def test_float64_beyond_float32_is_counted() -> None:
    values, warnings = rescaled(np.array([1e300, 0.5, np.nan]).reshape(1, 1, 3))
    assert warnings[0].startswith("2 of 3 voxels")
    assert np.isinf(values[0, 0, 0])
