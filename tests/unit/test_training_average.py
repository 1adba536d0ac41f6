from __future__ import annotations

import math

import pytest
import torch

from volseg.training.average import POWER, WeightAverage, bare, share_of_newest


def test_width_of_the_average_is_five_per_cent_of_the_training():
    """The width formula of Karras et al. (2024), eq. 126, for the exponent in use."""
    width = math.sqrt(POWER + 1) / ((POWER + 2) * math.sqrt(POWER + 3))
    assert width == pytest.approx(0.05, abs=1e-4)


def test_weights_of_the_networks_follow_the_power_law():
    """Unrolled, network i of n has the weight b_i * prod(1 - b_j), which telescopes to (i/n)^(g+1) - ((i-1)/n)^(g+1)."""
    steps = 40
    network = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(network)
    for step in range(1, steps + 1):
        with torch.no_grad():
            network.weight.fill_(float(step**2))
        average.update(network)
    expected = sum(step**2 * ((step / steps) ** (POWER + 1) - ((step - 1) / steps) ** (POWER + 1)) for step in range(1, steps + 1))
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.weight.item() == steps**2


def test_first_network_is_taken_whole():
    assert share_of_newest(1) == 1


def test_average_continues_from_its_state():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    whole, first = WeightAverage(network), WeightAverage(network)
    states = []
    for step in range(6):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 3))
        whole.update(network)
        if step < 3:
            first.update(network)
            continue
        if step == 3:
            states.append({name: tensor.clone() for name, tensor in first.state_dict().items()})
            second = WeightAverage(network)
            second.load_state_dict(states[0])
        second.update(network)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    # Statistics of batch norm are those of the network itself.
    assert torch.equal(whole.network[1].running_mean, network[1].running_mean)


def test_wrappers_are_taken_off():
    network = torch.nn.Linear(1, 1)
    assert bare(network) is network
    assert bare(torch.compile(network, backend="eager")) is network
