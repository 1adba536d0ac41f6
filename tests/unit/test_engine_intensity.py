"""Percentile scaling is MONAI's, where it takes torch's quantile (small scans) and where it takes numpy's percentile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentiles

from volseg.inference.intensity import apply_intensity


@pytest.mark.parametrize("shape", [(2, 9, 8, 7), (1, 101, 100, 100)])
@pytest.mark.parametrize(
    "arguments",
    [
        {"b_min": 0.0, "b_max": 1.0, "clip": True},
        {"b_min": -1.0, "b_max": 2.0, "relative": True},
        {"b_min": 0.0, "b_max": 1.0, "channel_wise": True},
        {"b_min": None, "b_max": None},
    ],
)
def test_percentiles_are_monais(shape, arguments):
    image = (np.random.default_rng(0).gamma(2, 300, size=shape) * np.arange(1, shape[0] + 1)[:, None, None, None]).astype(np.float32)
    expected = ScaleIntensityRangePercentiles(1, 99.5, **arguments)(torch.from_numpy(image.copy())).numpy()
    found = apply_intensity(image.copy(), "ScaleIntensityRangePercentiles", {"lower": 1, "upper": 99.5, **arguments})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_constant_image_is_moved_to_the_lower_bound():
    image = np.full((1, 4, 4, 4), 7, dtype=np.float32)
    arguments = {"lower": 1, "upper": 99, "b_min": 0.25, "b_max": 1.0}
    expected = ScaleIntensityRangePercentiles(**arguments)(torch.from_numpy(image.copy())).numpy()
    np.testing.assert_allclose(apply_intensity(image, "ScaleIntensityRangePercentiles", arguments), expected)
