from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.errors import DeviceError
from volseg.inference.device import select_device, select_precision
from volseg.inference.windows import count_windows

sizes = st.tuples(*[st.integers(1, 60)] * 3)
rois = st.tuples(*[st.integers(1, 32)] * 3)
overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7])


@settings(max_examples=60, deadline=None)
@given(sizes, rois, overlaps)
def test_window_count_is_monais(size, roi, overlap):
    from monai.inferers import SlidingWindowInferer

    seen = 0

    def network(batch: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += batch.shape[0]
        return batch

    SlidingWindowInferer(roi, sw_batch_size=64, overlap=overlap)(torch.zeros(1, 1, *size), network)
    assert count_windows(size, roi, [overlap] * 3) == seen


def test_axis_of_zero_takes_the_whole_volume():
    assert count_windows((40, 50, 60), (0, -1, 30), [0.5] * 3) == 3


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:a", ""])
def test_unknown_devices(name):
    with pytest.raises(DeviceError, match="unknown device"):
        select_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_cuda_says_what_to_do():
    with pytest.raises(DeviceError, match="--device cpu"):
        select_device("cuda")


def test_precision_rules():
    cpu = torch.device("cpu")
    assert select_precision("fp32", cpu) == "fp32"
    assert select_precision("bf16", cpu) == "bf16"
    assert select_precision("auto", torch.device("cuda", 0)) == "fp16"
    with pytest.raises(DeviceError, match="fp16"):
        select_precision("fp16", cpu)
