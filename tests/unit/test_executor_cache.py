"""The cache of converted networks: its limit, its stamps, and what spoils it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from volseg.errors import InputError
from volseg.inference.executors.cache_limit import ABANDONED_S, DEFAULT_LIMIT_GB, SPARED_S, cache_limit_bytes, prune
from volseg.inference.executors.compiled import MANIFEST, cache_folder, entry_for, read_entry, staging_folder, write_entry
from volseg.inference.executors.conversion.kept import find_converted, keep_converted

HOUR = 3600.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VOLSEG_CACHE_LIMIT_GB", raising=False)
    return tmp_path / "cache"


def entry(name: str, size: int, hours_ago: float) -> Path:
    """A good entry of about ``size`` bytes (its manifest comes on top)."""
    staged = staging_folder()
    assert staged is not None
    (staged / "network").write_bytes(bytes(size))
    path = write_entry(entry_for({"name": name}), {"name": name}, staged)
    used = time.time() - hours_ago * HOUR
    os.utime(path / MANIFEST, (used, used))
    return path


def test_what_was_not_used_for_longest_goes_first():
    oldest, older, old = entry("a", 4000, 30), entry("b", 4000, 20), entry("c", 4000, 10)
    assert prune(10_000) == [oldest]
    assert not oldest.exists()
    assert older.exists()
    assert old.exists()
    assert prune(10_000) == []
    assert prune(0) == [older, old]
    assert list((cache_folder() / "networks").iterdir()) == []


def test_reading_counts_as_use():
    first, second = entry("a", 4000, 30), entry("b", 4000, 20)
    assert read_entry(first, {"name": "a"}) is not None
    assert prune(6000) == [second]
    assert first.exists()


def test_what_another_process_may_be_loading_is_spared():
    used = entry("a", 4000, (SPARED_S - 60) / HOUR)
    assert prune(0) == []
    assert used.exists()


def test_folders_of_killed_processes_are_swept():
    left, fresh = staging_folder(), staging_folder()
    assert left is not None
    assert fresh is not None
    then = time.time() - ABANDONED_S - 60
    os.utime(left, (then, then))
    assert prune(10**9) == [left]
    assert fresh.exists()


def test_no_cache_is_nothing_to_prune():
    assert prune(0) == []


def test_limit_is_kept_when_a_network_is_added(monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE_LIMIT_GB", "0.000005")
    old = entry("old", 4000, 30)
    made = keep_converted({"name": "new"}, lambda folder: (folder / "network").write_bytes(bytes(4000)), keep=True)
    assert not old.exists()
    assert find_converted({"name": "new"}, "network") == made / "network"


def test_failed_writes_leave_nothing(cache):
    def fail(folder: Path) -> None:
        (folder / "network").write_bytes(b"half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        keep_converted({"name": "x"}, fail, keep=True)
    assert list((cache / "networks").iterdir()) == []


@pytest.mark.parametrize(("text", "gigabytes"), [("", DEFAULT_LIMIT_GB), ("2.5", 2.5), ("0", 0)])
def test_limit(text, gigabytes, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE_LIMIT_GB", text)
    assert cache_limit_bytes() == int(gigabytes * 10**9)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_limit_that_is_no_number_is_told(text, monkeypatch):
    monkeypatch.setenv("VOLSEG_CACHE_LIMIT_GB", text)
    with pytest.raises(InputError, match=f"VOLSEG_CACHE_LIMIT_GB={text}"):
        keep_converted({"name": "x"}, lambda folder: None, keep=True)


def test_read_only_cache_is_read(monkeypatch):
    """As root writes anywhere, the refusal is injected."""
    path = entry("a", 100, 30)
    stamp = (path / MANIFEST).stat().st_mtime

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    assert find_converted({"name": "a"}, "network") == path / "network"
    assert (path / MANIFEST).stat().st_mtime == stamp
    assert staging_folder() is None
    assert prune(0) == []
    assert path.exists()


def test_network_of_another_name_is_not_found():
    entry("a", 100, 1)
    assert find_converted({"name": "a"}, "network.onnx") is None
