"""Amounts of memory: read from the command line, written for people, measured in this process."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path
from types import TracebackType

from volseg.errors import InputError
from volseg.provenance import peak_memory_bytes

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
"""SI prefixes are decimal, IEC 80000-13 prefixes binary."""

SMALLEST_LIMIT = 10**7
"""No Python process with numpy fits into less; such a limit is a forgotten unit."""

AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)

SAMPLING_S = 0.002
"""Between two looks at the resident memory: a layer of any network worth a forecast takes longer."""

RESULT_LIBRARIES = {"scipy.spatial": 68 * 10**6, "matplotlib.figure": 28 * 10**6}
"""What measures and what draws results, and the resident memory that each brings with all it imports (scipy 1.17, matplotlib 3.11, Linux): it comes while the network runs."""

STATM = Path("/proc/self/statm")


def parse_bytes(text: str, option: str = "--max-memory") -> int:
    """Turn ``4G``, ``800M``, ``1.5GiB`` or a number of bytes into bytes; ``option`` is named in messages.

    Raises
    ------
    InputError
        When it is no amount, or so small that a unit was forgotten.
    """
    match = AMOUNT.fullmatch(text.strip())
    if match is None:
        msg = f"{option} {text!r}: not an amount of memory; write a number and a unit, e.g. 4G, 800M or 3.5GiB"
        raise InputError(msg)
    amount = int(float(match[1]) * UNITS[(match[2] or "").lower()])
    if amount < SMALLEST_LIMIT:
        msg = f"{option} {text!r}: {amount} bytes is less than an empty program takes; write a larger unit, e.g. 4G or 800M"
        raise InputError(msg)
    return amount


def format_bytes(amount: int) -> str:
    """``2100000000`` as ``"2.1 GB"`` (decimal, as :func:`parse_bytes` reads ``G``)."""
    return f"{amount / 1e9:.1f} GB" if amount >= 10**9 else f"{amount / 1e6:.0f} MB"


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM now; where the system does not tell, its peak so far (macOS) or None (Windows)."""
    try:
        pages = int(STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def coming_bytes() -> int:
    """Memory that libraries will take which a run imports beside its network or after it, and which are not there yet."""
    return sum(amount for name, amount in RESULT_LIBRARIES.items() if name not in sys.modules)


class PeakMeter:
    """Measures how far the resident memory of this process rises within a block.

    Attributes
    ----------
    rise : int
        Bytes over those at the start of the block; 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self.rise = 0
        self._start = self._mark = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMeter:
        self._start, self._mark = resident_bytes() or 0, peak_memory_bytes() or 0
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        mark = peak_memory_bytes() or 0
        if mark > self._mark:
            # The process was never larger than within this block, so the kernel's mark, which misses nothing, is of this block.
            self.rise = max(self.rise, mark - self._start)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING_S):
            self._look()

    def _look(self) -> None:
        # The kernel's own high-water mark cannot be reset for this: the run reports it.
        self.rise = max(self.rise, (resident_bytes() or 0) - self._start)
