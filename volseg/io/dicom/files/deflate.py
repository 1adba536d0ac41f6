"""Deflated data sets (PS3.5 A.5), unpacked no further than they may be: a file of 1 MB can name 1 GB."""

from __future__ import annotations

import zlib
from typing import IO

from volseg.errors import InputError
from volseg.io.dicom.files.archive import MAX_MEMBER_BYTES, Member
from volseg.io.dicom.files.dataset import DEFLATED, TagError, is_bare_dataset
from volseg.io.dicom.files.tags import TAGS
from volseg.io.dicom.files.walk import Encoding, Found, ShortError, looks_explicit, walk

MAX_INFLATION = 100
"""A deflated object may unpack to this many times its size, or to 64 MiB if that is more: scans shrink 2 to 10 times, while deflate's limit is 1032."""

CHUNK = 2**20
_LAST_META = 0x0002FFFF


def file_meta(start: bytes) -> tuple[Found, int]:
    """Where the file meta elements (group 0002) are in the first bytes of a DICOM file, and where the data set begins behind them."""
    found: Found = {}
    at = 0 if is_bare_dataset(start) else 132
    try:
        return found, walk(start, at, len(start), Encoding(not looks_explicit(start, at), "<"), found, _LAST_META)
    except ShortError:
        return found, len(start)


def check_inflation(stream: IO[bytes], start: bytes, member: Member) -> None:
    """Unpack a deflated file without keeping anything, before something unpacks it into memory; one that is damaged is left for its reader to name.

    Raises
    ------
    InputError
        If it would unpack to more than :data:`MAX_INFLATION` allows.
    """
    try:
        found, begin = file_meta(start)
    except TagError:
        return
    _, first, last = found.get(TAGS["TransferSyntaxUID"][0], (b"", 0, 0))
    if start[first:last].strip(b" \0") != DEFLATED.encode():
        return
    limit = min(max(MAX_INFLATION * member.size, 2**26), MAX_MEMBER_BYTES)
    stream.seek(begin)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    total, packed = 0, stream.read(CHUNK)
    while packed and not unpacker.eof:
        try:
            total += len(unpacker.decompress(packed, CHUNK))
        except zlib.error:
            return
        if total > limit:
            msg = f"{member}: would unpack to more than {limit >> 20} MiB from {member.size} bytes; no scan shrinks like that; copy it again from its source"
            raise InputError(msg)
        packed = unpacker.unconsumed_tail or stream.read(CHUNK)


def inflate_start(stream: IO[bytes], begin: int, count: int) -> bytes:
    """The first ``count`` bytes of a deflated data set that begins at ``begin``, fewer where it is shorter.

    Raises
    ------
    TagError
        If it is damaged.
    """
    stream.seek(begin)
    # Deflate adds at most 5 bytes to a block of 64 KiB, so this much input fills the output.
    packed = stream.read(count + count // 1000 + 1024)
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, count)
    except zlib.error as error:
        msg = f"damaged DICOM (its deflated data cannot be unpacked: {error}); copy it again from its source"
        raise TagError(msg) from error
