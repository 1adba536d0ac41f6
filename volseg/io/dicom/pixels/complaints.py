"""What C decoders say on stderr, which for libjpeg is the only place where it says that it made pixels up."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

INVENTED = re.compile(r"Corrupt JPEG data|Premature end of JPEG file")
"""libjpeg's warnings (jerror.h, JWRN_*) after which it goes on with pixels of its own invention."""

PADDED = re.compile(r"Corrupt JPEG data: [1-4] extraneous bytes before marker 0xd9")
"""Behind a complete image lie a few bytes more: some encoders fill up a word. More of them are the zeros of a file that was only half copied."""

EXPECTED = "Unsupported JPEG data precision"
"""GDCM's 8-bit decoder says this before the 12-bit one is asked; it means nothing."""

_STDERR = Lock()


@contextmanager
def complaints_raised() -> Iterator[None]:
    """Run a decoder, for one thread at a time, with stderr caught.

    GDCM holds Python's lock while it decodes, so nothing is lost by decoding one frame at a time. What other threads wrote meanwhile, such as a progress bar, is passed on.

    Raises
    ------
    RuntimeError
        If the decoder said that data were missing or made no sense, or failed; the message holds what it said.
    """
    said: list[str] = []
    try:
        with _stderr_kept(said):
            yield
    except RuntimeError as error:
        if reasons := _lines(said):
            msg = f"{error}; the decoder says: {reasons[0]}"
            raise RuntimeError(msg) from error
        raise
    lines = _lines(said)
    invented = [line for line in lines if INVENTED.search(line)]
    if any(not PADDED.search(line) for line in invented):
        msg = f"data are missing or damaged; the decoder says: {invented[0]}"
        raise RuntimeError(msg)
    if others := "".join(text for text in said if not INVENTED.search(text) and EXPECTED not in text):
        with suppress(OSError):
            os.write(2, others.encode(errors="surrogateescape"))


def _lines(said: list[str]) -> list[str]:
    return [line.strip() for line in said if line.strip() and EXPECTED not in line]


@contextmanager
def _stderr_kept(said: list[str]) -> Iterator[None]:
    with _STDERR, tempfile.TemporaryFile() as kept:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            saved = os.dup(2)
        except OSError:
            # A daemon may have closed its stderr, or given its number to another file.
            saved = None
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            if saved is None:
                os.close(2)
            else:
                os.dup2(saved, 2)
                os.close(saved)
            kept.seek(0)
            said += kept.read().decode(errors="surrogateescape").splitlines(keepends=True)
