from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from volseg.training.checkpoint import Position, detached_state, load_last, save_last
from volseg.training.loop import LoopSettings, TrainingLoop
from volseg.training.schedule import Limits
from volseg.training.validation import TIME_SHARE, Scores


class TimedValidator:
    """Takes as long as it was told to."""

    def __init__(self, seconds):
        self.last_seconds = None
        self._seconds = seconds

    def is_due(self, epoch, **facts):
        return True

    def run(self, epoch, network):
        return Scores({}, None, self._seconds)


def loop_of(validator, folder, seconds=600.0):
    network = torch.nn.Linear(2, 1)
    trainer = SimpleNamespace(network=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.1), state=SimpleNamespace(epoch=1, device=torch.device("cpu")), scaler=None)
    settings = LoopSettings(Limits(epochs=10, seconds=seconds), folder, {}, average=False)
    return TrainingLoop(trainer, validator, None, settings, reporter=SimpleNamespace(), on_epoch=lambda report: None)


@pytest.mark.parametrize("took", [4.0, 1e6])
def test_a_resumed_training_keeps_as_much_time_for_its_last_validation(tmp_path, took):
    whole = loop_of(TimedValidator(took), tmp_path)
    assert whole._reserve_s == pytest.approx(TIME_SHARE * 600), "none was timed yet"
    whole._validate(is_last=False, elapsed=60.0)
    whole._save_last()
    assert whole._reserve_s == pytest.approx(min(took, TIME_SHARE * 600))

    position, states = load_last(tmp_path / "last.pt", {})
    resumed = loop_of(TimedValidator(took), tmp_path)
    resumed.restore(position, states)
    assert resumed._reserve_s == whole._reserve_s


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    loop = loop_of(TimedValidator(4.0), tmp_path)
    states = {"model": detached_state(loop._network.state_dict()), "optimizer": loop._trainer.optimizer.state_dict()}
    save_last(tmp_path / "last.pt", Position(epoch=3), {}, states)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["position"]["last_validation_s"]
    torch.save(content, tmp_path / "last.pt")
    position, _ = load_last(tmp_path / "last.pt", {})
    assert position == Position(epoch=3)
