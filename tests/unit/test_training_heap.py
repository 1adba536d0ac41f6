from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from volseg.training.heap import freed_memory_kept

COUNT = """
import resource
import torch
from volseg.training.heap import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        # Blocks of 48 MiB: from 32 MiB on glibc gives every one back.
        blocks = [torch.ones(12 * 2**20) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(3)
usual = faults(5)
with freed_memory_kept() as any_size:
    faults(8)
    kept = faults(5)
held = int(open("/proc/self/statm").read().split()[1])
print(any_size, usual, kept, held * resource.getpagesize() < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - 64 * 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or platform.system() != "Linux", reason="glibc's allocator")
def test_a_step_reuses_the_memory_of_the_one_before_and_gives_it_back_at_the_end():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    any_size, usual, kept, returned = done.stdout.split()
    if any_size == "False":
        pytest.skip("an older glibc, which gives blocks of this size back whatever it is told")
    assert int(kept) < int(usual) / 4, "is glibc keeping it by itself? Then this is not needed any more"
    assert returned == "True"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    with freed_memory_kept() as kept:
        assert kept is False
