"""A training that is killed again and again ends with the weights of one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.bundle_factory import tiny_bundle
from volseg.synthetic import write_dataset

EPOCHS = 8

KILLER = '''
"""Trains in children of one process that has imported everything, and kills them (SIGKILL) at random moments."""
import json, os, random, signal, sys, time
import torch, monai, ignite
import volseg.training.loop as loop
from volseg.training import train

torch.set_num_threads(1)
loop.CHECKPOINT_INTERVAL_S = 0.0
bundle, data, run, kills, epochs = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
whole = os.path.join(run, "whole")
parts = os.path.join(run, "parts")


def child(folder):
    resume = os.path.exists(os.path.join(folder, "last.pt"))
    pid = os.fork()
    if pid == 0:
        try:
            train(bundle, data, folder, fold=0, epochs=epochs, device="cpu", precision="fp32", resume=resume)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


began = time.monotonic()
assert os.waitpid(child(whole), 0)[1] == 0
took = time.monotonic() - began
moments = random.Random(int(sys.argv[6]))
reached, killed = [], 0
while killed < kills:
    pid = child(parts)
    # Later and later, so that kills come before the first checkpoint, between epochs and in the middle of them.
    time.sleep(took * moments.uniform(0.2, 1.0 if killed < kills - 1 else 0.9))
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    killed += 1
    last = os.path.join(parts, "last.pt")
    reached.append(torch.load(last, weights_only=True)["position"]["epoch"] if os.path.exists(last) else None)
assert os.waitpid(child(parts), 0)[1] == 0
print(json.dumps({"reached": reached}))
'''


def kill(kills: int, tmp_path, seed: int) -> list[int | None]:
    """Kill a training so often, then let it end; compares everything a run leaves with that of an uninterrupted one."""
    bundle = tiny_bundle(tmp_path, ramp=EPOCHS)
    write_dataset(tmp_path / "data", 5, seed=1, shape=(48, 40, 20), spacing=(3, 3, 7))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLER, str(bundle), str(tmp_path / "data"), str(tmp_path / "run"), str(kills), str(EPOCHS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, parts = (torch.load(tmp_path / "run" / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["position"]["epoch"] == parts["position"]["epoch"] == EPOCHS
    assert whole["position"]["best_metric"] == parts["position"]["best_metric"]
    for part in ("model", "average"):
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, parts[part][name]), f"{part} {name}"
    best = [torch.load(tmp_path / "run" / name / "model.pt", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    reached: list[int | None] = json.loads(done.stdout.splitlines()[-1])["reached"]
    return reached


def test_killed_three_times(tmp_path):
    assert len(kill(3, tmp_path, seed=0)) == 3


@pytest.mark.slow
def test_killed_ten_times_in_a_row(tmp_path):
    reached = kill(10, tmp_path, seed=1)
    assert len(reached) == 10
    assert any(epoch is not None and 0 < epoch < EPOCHS for epoch in reached), "no kill came in the middle of the training"
