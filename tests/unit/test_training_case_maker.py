from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import SpatialPadd

from volseg.training.case_maker import interior_of

SHAPE = (9, 6, 5)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"image": generator.normal(size=(2, *SHAPE)).astype(np.float32), "label": generator.integers(0, 3, (1, *SHAPE)).astype(np.float32)}


@pytest.mark.parametrize("size", [(9, 6, 5), (12, 6, 9), (10, 9, 8), (4, 4, 20)])
def test_the_place_of_a_volume_in_its_padding_is_that_of_monai(size):
    before = arrays()
    padded = {key: np.asarray(value) for key, value in SpatialPadd(["image", "label"], size)(before).items()}
    box = interior_of(before, padded)
    assert box is not None
    for key, value in before.items():
        np.testing.assert_array_equal(padded[key][(slice(None), *(slice(*side) for side in box))], value)


def test_nothing_else_passes_for_padding():
    before = arrays()
    brighter = {"image": before["image"] + 1e-6, "label": before["label"]}
    relabelled = {"image": before["image"], "label": np.where(before["label"] == 2, 1, before["label"])}
    cropped = {key: value[:, 1:] for key, value in before.items()}
    at_the_end = {key: np.pad(value, ((0, 0), (0, 4), (0, 0), (0, 0))) for key, value in before.items()}
    for after in (brighter, relabelled, cropped, at_the_end):
        assert interior_of(before, after) is None


def test_voxels_that_are_no_number_are_equal_to_themselves():
    before = arrays()
    before["image"][0, 0, 0, 0] = np.nan
    assert interior_of(before, {key: value.copy() for key, value in before.items()}) == ((0, 9), (0, 6), (0, 5))
