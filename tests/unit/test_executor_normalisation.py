"""Normalisations in OpenVINO are as exact as PyTorch's where most of a window is one value, as air is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from volseg.inference.executors.conversion.openvino import convert
from volseg.inference.executors.openvino_executor import OpenVINOExecutor

ROI = (64, 64, 64)

NETWORKS = {
    "instance": lambda: torch.nn.InstanceNorm3d(4, affine=True),
    "instance, not affine": lambda: torch.nn.InstanceNorm3d(4),
    "group": lambda: torch.nn.GroupNorm(2, 4),
    "layer": lambda: torch.nn.GroupNorm(1, 4),
}


class Normalised(torch.nn.Module):
    """Four mixtures of the image, normalised."""

    def __init__(self, normalisation: torch.nn.Module) -> None:
        super().__init__()
        self.mix, self.normalisation = torch.nn.Conv3d(1, 4, 1), normalisation

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.normalisation(self.mix(image))


@pytest.mark.parametrize("name", NETWORKS)
def test_mostly_constant_windows_are_normalised_exactly(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path))
    torch.manual_seed(0)
    network = Normalised(NETWORKS[name]()).eval()
    with torch.no_grad():
        for parameter in network.normalisation.parameters():
            parameter += torch.rand_like(parameter)
    window = np.full((2, 1, *ROI), 1.7, dtype=np.float32)
    window[:, :, 58:] = np.random.default_rng(0).normal(0.3, 1, (2, 1, 6, 64, 64))
    found = OpenVINOExecutor(convert({"test": name}, lambda: network, 1, ROI), 1, ROI, "fp32", 2, 1)(window).copy()
    with torch.inference_mode():
        expected = network.double()(torch.from_numpy(window).double()).numpy()
    # Without it they are off by 3e-4 to 6e-3 here.
    assert np.abs(found - expected).max() < 1e-4
