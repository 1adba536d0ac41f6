"""Reading a plain or gzip-compressed file once, front to back: checked for truncation, hashed on the way, never allocating what the file cannot hold."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from volseg.errors import InputError
from volseg.io.deflate import Inflater, TrailingBytesError

GZIP_MAGIC = b"\x1f\x8b"
"""First two bytes of a gzip member (RFC 1952, 2.3.1)."""

DEFLATE_MAX_RATIO = 1032
"""Deflate cannot expand more than this (zlib technical details: one bit pair per 258-byte match), so a header that claims more is wrong."""

CHUNK = 1 << 22
"""Bytes asked for at a time: large enough to be fast, small beside a scan."""

TRAILING_LIMIT = 1 << 24
"""Bytes behind the image that are still decompressed to reach the checksum; beyond it a file is only hashed (gzip bombs)."""


class ByteStream:
    """A file read in order, decompressed when it starts with the gzip magic, whatever its suffix.

    Parameters
    ----------
    path : Path
        File to read.

    Raises
    ------
    InputError
        When the file cannot be opened or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file_size = path.stat().st_size
            self._file = path.open("rb")
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
            raise InputError(msg) from error
        if self.file_size == 0:
            self._file.close()
            msg = f"{path}: the file is empty (0 bytes); copy or export it again"
            raise InputError(msg)
        self.compressed = self._file.read(2) == GZIP_MAGIC
        self._file.seek(0)
        self._hashing = _HashingReader(self._file)
        self._stream: Inflater | _HashingReader = Inflater(self._hashing.read) if self.compressed else self._hashing

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def capacity(self) -> int:
        """The most bytes this file can possibly hold once decompressed."""
        return self.file_size * (DEFLATE_MAX_RATIO if self.compressed else 1)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or fewer at the end.

        Raises
        ------
        InputError
            When the compressed data is cut off or damaged.
        """
        parts: list[bytes] = []
        while size > 0:
            part = self._read_once(min(size, CHUNK))
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes without keeping them; return how many there were."""
        passed = 0
        while passed < size:
            part = self._read_once(min(size - passed, CHUNK))
            if not part:
                break
            passed += len(part)
        return passed

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` (bytes) and return how many bytes there were."""
        filled = 0
        while filled < len(buffer):
            part = self._read_once(min(len(buffer) - filled, CHUNK))
            if not part:
                break
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def finish(self) -> tuple[str, int]:
        """Read to the end, which verifies the gzip checksum.

        Returns
        -------
        sha256 : str
            Hex SHA-256 of the file as it lies on disk.
        trailing : int
            Decompressed bytes that were left (counted up to a limit).
        """
        trailing = self.skip(TRAILING_LIMIT)
        while self._hashing.read(CHUNK):
            pass
        return self._hashing.sha256.hexdigest(), trailing

    def _read_once(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except EOFError as error:
            msg = f"{self.path}: the compressed file is truncated (it ends before its gzip end marker, {self.file_size} bytes on disk); copy or export it again"
            raise InputError(msg) from error
        except gzip.BadGzipFile as error:
            msg = f"{self.path}: the compressed data is damaged ({error}); copy or export it again"
            raise InputError(msg) from error
        except OSError as error:
            msg = f"{self.path}: cannot be read ({error.strerror or error}); check the disk or the network share"
            raise InputError(msg) from error


class _HashingReader:
    """A file, with every byte hashed as it passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


def sha256_of(*paths: Path) -> str:
    """Hex SHA-256 of the bytes of one file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    return digest.hexdigest()


def check_deflated(path: Path, start: int, claimed: int, length: int) -> None:
    """Decompress gzip or zlib data once, keeping nothing, because ITK answers with wrong voxels where a compressed MetaImage is cut off or damaged.

    Parameters
    ----------
    path : Path
        File that holds the data.
    start : int
        Byte at which the compressed data begins.
    claimed : int
        Bytes it must give.
    length : int
        Compressed bytes.

    Raises
    ------
    InputError
        If it ends early, its checksum is wrong, or it gives fewer bytes.
    """
    total, left = 0, length
    with path.open("rb") as file:
        file.seek(start)

        def within(size: int) -> bytes:
            nonlocal left
            data = file.read(min(size, left))
            left -= len(data)
            return data

        stream = Inflater(within)
        try:
            while total <= claimed and (part := stream.read(CHUNK)):
                total += len(part)
        except TrailingBytesError:
            # ITK reads as many voxels as the header claims and leaves the rest, and so do other readers.
            pass
        except gzip.BadGzipFile as error:
            msg = f"{path}: the compressed data is damaged ({error}); copy or export it again"
            raise InputError(msg) from error
        except EOFError:
            total = min(total, claimed)
    if total < claimed or (total == claimed and not stream.complete):
        msg = f"{path}: the file is truncated ({total} of the {claimed} bytes of voxels its header describes, or its end marker is missing); copy or export it again"
        raise InputError(msg)
