from __future__ import annotations

import pytest
import torch

from volseg.errors import BundleError, InputError
from volseg.training.pretrained import apply_pretrained, find_weights, freeze, load_pretrained


def network(classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(classes)
    return torch.nn.ModuleDict({"body": torch.nn.Linear(3, 4), "head": torch.nn.Linear(4, classes)})


def saved(tmp_path, state):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    return path


def test_what_fits_is_loaded_and_the_head_starts_anew(tmp_path):
    source, target = network(3), network(2)
    fresh = target["head"].weight.clone()
    path = saved(tmp_path, {name: tensor.half() for name, tensor in source.state_dict().items()} | {"other.weight": torch.zeros(1)})
    transfer = load_pretrained(target, path)
    assert torch.equal(target["body"].weight, source["body"].weight.half().float())
    assert torch.equal(target["head"].weight, fresh)
    assert transfer.loaded == ("body.weight", "body.bias")
    assert transfer.reshaped == ("head.weight", "head.bias")
    assert transfer.missing == ()
    assert transfer.unused == ("other.weight",)
    lines = transfer.describe()
    assert "2 of 4 tensors loaded" in lines[0]
    assert any("head.weight" in line for line in lines)
    assert any("other.weight" in line for line in lines)


def test_names_of_distributed_training_are_understood(tmp_path):
    source, target = network(2), network(2)
    path = saved(tmp_path, {f"module.{name}": tensor + 1 for name, tensor in source.state_dict().items()})
    assert len(load_pretrained(target, path).loaded) == 4
    assert torch.equal(target["head"].bias, source["head"].bias + 1)


def test_weights_of_another_kind_of_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="none of its 1 tensors fits"):
        load_pretrained(network(), saved(tmp_path, {"conv.weight": torch.zeros(1)}))


def test_missing_weights_and_bundles_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt: no such weights file"):
        find_weights(tmp_path / "gone.pt")
    with pytest.raises(BundleError):
        find_weights(tmp_path / "gone")


def test_frozen_parameters_do_not_move():
    model = network()
    before = model["body"].weight.clone()
    assert freeze(model, ["body.*"]) == ("body.weight", "body.bias")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model["head"](model["body"](torch.ones(2, 3))).sum().backward()
    optimizer.step()
    assert torch.equal(model["body"].weight, before)
    assert model["head"].weight.grad is not None


def test_patterns_that_freeze_nothing_or_everything_are_refused():
    with pytest.raises(InputError, match=r"'encoder\.\*' fits no parameter.*body, head"):
        freeze(network(), ["encoder.*"])
    with pytest.raises(InputError, match="nothing would be left"):
        freeze(network(), ["*"])


def test_a_resumed_training_keeps_its_own_weights(tmp_path):
    target = network(2)
    before = target["body"].weight.clone()
    transfer, frozen = apply_pretrained(target, saved(tmp_path, network(3).state_dict()), ["head.*"], resumed=True)
    assert transfer is None
    assert torch.equal(target["body"].weight, before)
    assert frozen == ("head.weight", "head.bias")
