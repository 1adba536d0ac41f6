from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from torch.utils.data import RandomSampler

from volseg.training.distributed import Ranks, RankSampler, agree, in_turn, ranks, share_config


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_share_out_one_draw(count):
    samplers = [RankSampler(RandomSampler(range(10)), rank, count) for rank in range(count)]
    for seed in (5, 6):
        for sampler in samplers:
            sampler.set_seed(seed)
        # Other random numbers that a process drew in between must not matter.
        drawn = [(torch.rand(rank), list(sampler))[1] for rank, sampler in enumerate(samplers)]
        assert [len(part) for part in drawn] == [10 // count] * count
        together = [case for part in drawn for case in part]
        assert len(set(together)) == len(together)


def test_epochs_are_drawn_anew_and_the_global_state_is_left_alone():
    sampler = RankSampler(RandomSampler(range(100)), 0, 2)
    sampler.set_seed(1)
    torch.manual_seed(3)
    first = list(sampler)
    following = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), following)
    assert list(sampler) == first
    sampler.set_seed(2)
    assert list(sampler) != first


def test_validation_cases_are_shared_unless_a_process_would_have_none():
    assert [Ranks(rank, 2).share("abcde") for rank in range(2)] == [list("ace"), list("bd")]
    assert Ranks(1, 3).share("ab") == list("ab")


def test_place_is_read_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks()
    assert ranks().is_first
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks() == Ranks(3, 4, 1)
    assert not ranks().is_first
    assert ranks().device("cpu") == "cpu"


def test_config_of_one_process_is_unchanged():
    loader = {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2, "shuffle": True}
    config = ConfigParser({"train": {"dataloader": dict(loader)}})
    share_config(config, Ranks())
    assert config.get("train#dataloader") == loader


@pytest.mark.parametrize("sampler", [None, {"_target_": "torch.utils.data.RandomSampler", "data_source": "@train#dataset", "replacement": True, "num_samples": 12}])
def test_config_of_several_wraps_the_sampler(sampler):
    loader = {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2, "shuffle": True} | ({"sampler": sampler, "shuffle": False} if sampler else {})
    config = ConfigParser({"train": {"dataset": "$list(range(8))", "dataloader": loader}})
    share_config(config, Ranks(1, 2))
    built = config.get_parsed_content("train#dataloader")
    assert isinstance(built.sampler, RankSampler)
    assert len(built.sampler) == (6 if sampler else 4)
    assert len(built) == (3 if sampler else 2)


def test_alone_nothing_is_waited_for():
    with in_turn(Ranks()):
        assert agree(1.5, torch.device("cpu")) == 1.5
