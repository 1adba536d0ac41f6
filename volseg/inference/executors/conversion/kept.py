"""What every conversion shares: written to a folder aside, checked against PyTorch, then moved into the cache in one step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.inference.executors.cache_limit import cache_limit_bytes, prune
from volseg.inference.executors.compiled import entry_for, read_entry, staging_folder, write_entry
from volseg.inference.executors.torch_executor import UnsupportedNetworkError

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-3
"""Largest difference of a score between PyTorch and the converted network, as a share of the largest score (of 1 at least)."""


def keep_converted(facts: Mapping[str, Any], write: Callable[[Path], None], *, keep: bool) -> Path:
    """Write a converted network into a fresh folder and make it an entry of the cache, which is then held to its limit.

    Parameters
    ----------
    facts : mapping
        From :func:`~volseg.inference.executors.conversion.facts.network_facts`.
    write : callable
        Fills the folder it is given, and raises where the network is not fit to be kept.
    keep : bool
        Whether the cache gets it.

    Returns
    -------
    Path
        The entry; a temporary folder, which is the caller's to remove, where the cache is not to be or cannot be written to.

    Raises
    ------
    InputError
        When the limit of the cache is no number.
    """
    limit = cache_limit_bytes()
    folder = staging_folder() if keep else None
    staged = folder or Path(tempfile.mkdtemp(prefix="volseg-"))
    try:
        write(staged)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    if folder is None:
        return staged
    entry = write_entry(entry_for(facts), facts, staged)
    prune(limit)
    return entry


def find_converted(facts: Mapping[str, Any], name: str) -> Path | None:
    """The file of a converted network of these facts in the cache, or None."""
    files = read_entry(entry_for(facts), facts)
    return files.get(name) if files else None


def check_windows(n: int, channels: int, roi: Sequence[int]) -> Floats:
    """Windows to compare engines with: noise in a tenth of each and one value elsewhere, as air is in a scan, where sums over a window lose most by rounding.

    Parameters
    ----------
    n, channels : int
        Windows, and channels of each.
    roi : sequence of 3 int
        Window size.

    Returns
    -------
    ndarray, float32, (n, channels, x, y, z)
    """
    windows = np.full((n, channels, *roi), 0.1, dtype=np.float32)
    part = windows[:, :, : max(1, roi[0] // 10)]
    part[...] = np.random.default_rng(0).random(part.shape, dtype=np.float32)
    return windows


def check_scores(found: Floats, expected: Floats, engine: str) -> None:
    """Refuse a converted network whose scores are not PyTorch's.

    Raises
    ------
    UnsupportedNetworkError
        With the largest difference.
    """
    largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not largest <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        msg = f"converted to {engine} it gives other scores than PyTorch (by {largest:.2g})"
        raise UnsupportedNetworkError(msg)
