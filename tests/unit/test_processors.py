from __future__ import annotations

import os
from pathlib import Path

import pytest

from volseg import processors


def groups(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control groups as Linux mounts them, and the list of those a process is in."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    (root / "own").write_text(own)
    return root, root / "own"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/job/step\n", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "50000 100000", "other/cpu.max": "1000 100000"}, 0.5),
        ("4:cpu,cpuacct:/docker/x\n2:pids:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/docker/x/cpu.cfs_quota_us": "250000", "cpu/docker/x/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_narrowest_quota_counts(tmp_path, own, files, expected):
    assert processors.cpu_quota(*groups(tmp_path, own, files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert processors.cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("bound", "quota", "expected"), [(64, None, 64), (64, 2.0, 2), (64, 2.5, 3), (64, 0.1, 1), (4, 16.0, 4)])
def test_threads_are_those_allowed_and_no_more_than_the_quota(monkeypatch, bound, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    assert processors.usable_threads() == expected


def test_torch_keeps_to_a_quota(monkeypatch):
    import torch

    from volseg.inference import device

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(device, "usable_threads", lambda: 3)
        device.select_device("cpu")
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(device, "usable_threads", lambda: 8)
        device.select_device("cpu")
        assert torch.get_num_threads() == 3, "threads that were asked for (OMP_NUM_THREADS) stay"
    finally:
        torch.set_num_threads(threads)
