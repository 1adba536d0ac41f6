"""Counting label values and finding where they lie: plain numpy over the whole array is the oracle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.evaluation.extent import labelled_areas, labelled_box
from volseg.io import tally
from volseg.io.tally import count_values

LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "turned": lambda array: np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1),
    "flipped": lambda array: np.asfortranarray(array[::-1, :, ::-1])[::-1, :, ::-1],
    "part of more": lambda array: np.pad(array, 2, constant_values=1)[2:-2, 2:-2, 2:-2],
}


def sparse(shape: tuple[int, int, int], dtype: npt.DTypeLike, share: float, seed: int) -> npt.NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    highest = 1 if np.dtype(dtype).kind == "b" else min(int(np.iinfo(dtype).max), 300)  # type: ignore[type-var]
    return np.where(rng.random(shape) < share, rng.integers(0, highest + 1, shape), 0).astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int32, np.int64])
@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.integers(0, 99), st.sampled_from([1, 7, 64, 1 << 20]))
def test_counts_and_extent_are_those_of_the_whole_array(layout: str, dtype: npt.DTypeLike, shape: tuple[int, int, int], share: float, seed: int, chunk: int) -> None:
    array = LAYOUTS[layout](sparse(shape, dtype, share, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "CHUNK_VOXELS", chunk)
        counts = count_values(array)
    values, times = np.unique(array.astype(np.int64), return_counts=True)
    expected = np.zeros(values[-1] + 1, np.int64)
    expected[values] = times
    np.testing.assert_array_equal(counts, expected)
    for axis, area in enumerate(labelled_areas(array)):
        np.testing.assert_array_equal(area, np.count_nonzero(array, axis=tuple(other for other in range(3) if other != axis)))
    places = np.argwhere(array)
    box = labelled_box(array)
    assert box == (tuple(slice(low, high + 1) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)) if len(places) else None)
