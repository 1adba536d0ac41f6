"""Two processes train one network, as torchrun starts them; on CPUs they talk through gloo."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.bundle_factory import tiny_bundle
from volseg.synthetic import write_dataset

WORKER = '''
"""What `python -m volseg` does, with the weights of every process kept beside."""
import os, sys
import torch
import volseg.training.loop as loop
from volseg.cli.main import main

run = loop.TrainingLoop.run

def keep(self):
    end = run(self)
    torch.save({"model": self._network.state_dict(), "average": self._average.network.state_dict()}, os.environ["KEEP"] + os.environ["RANK"] + ".pt")
    return end

loop.TrainingLoop.run = keep
main(sys.argv[1:])
'''


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    bundle = tiny_bundle(folder, ramp=5)
    write_dataset(folder / "data", 10, seed=3, shape=(48, 40, 20), spacing=(3, 3, 7))
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(folder / "worker.py")]
    command += ["train", str(bundle), "--data", str(folder / "data"), "--epochs", "2", "--device", "cpu", "--precision", "fp32", "-o", str(folder / "run"), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KEEP": str(folder / "rank"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_both_end_with_the_same_weights(together):
    folder, _ = together
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    start = torch.load(folder / "run" / "last.pt", weights_only=True)
    for part in ("model", "average"):
        for name, tensor in first[part].items():
            assert torch.equal(tensor, second[part][name]), f"{part} {name}"
    assert all(torch.equal(first["model"][name], tensor) for name, tensor in start["model"].items())


def test_only_the_first_speaks_and_writes(together):
    folder, done = together
    document = json.loads(done.stdout)
    assert document["runs"][0]["epochs"] == 2
    assert done.stderr.count("epoch 2/2") == 1
    events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    assert len(events.Scalars("train_loss")) == 4
    record = json.loads((folder / "run" / "provenance.json").read_text())
    assert record["processes"] == 2
    # Eight cases train, two a step in each of two processes.
    assert "2 epochs of 2 steps" in done.stderr
    assert "over 5 passes over the cases (5 epochs)" in done.stderr
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["val_mean_dice"]) <= 1 for row in rows)


def test_weights_have_the_names_of_one_process(together):
    folder, _ = together
    assert not any(name.startswith("module.") for name in torch.load(folder / "run" / "model.pt", weights_only=True))


TWICE = """
import torch
from volseg.training.distributed import agree, connect, in_turn, ranks

place = ranks()
for value in (3.0, 5.0):
    connect(place, "cpu")
    with in_turn(place):
        pass
    assert agree(value if place.is_first else -1.0, torch.device("cpu")) == value
"""


def test_one_connection_serves_several_trainings(tmp_path):
    """A second connection would wait for ever for what the first one left behind."""
    (tmp_path / "twice.py").write_text(TWICE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "twice.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
