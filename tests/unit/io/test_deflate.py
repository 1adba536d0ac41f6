"""Inflating and deflating, with ISA-L and without: zlib and other readers are the oracles."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.io import deflate, load, save_volume
from volseg.io.deflate import BLOCK, Inflater, TrailingBytesError, codec, write_deflated

DATA = np.random.default_rng(0).integers(0, 9, 300_000).astype(np.uint8).tobytes() + bytes(200_000)
"""Noise, then a run that deflate packs a thousandfold."""


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with ISA-L, and as where it is not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    name: str = request.param
    return name


def inflate(packed: bytes, size: int, chunk: int = 1 << 20) -> bytes:
    file, parts = io.BytesIO(packed), []
    stream = Inflater(lambda wanted: file.read(min(wanted, chunk)))
    while part := stream.read(size):
        assert len(part) <= size
        parts.append(part)
    assert stream.complete
    return b"".join(parts)


def packed(wrapper: str, parts: list[bytes]) -> bytes:
    file = io.BytesIO()
    write_deflated(file, lambda number: parts[number], len(parts), wrapper)  # type: ignore[arg-type]
    return file.getvalue()


def test_the_fallback_is_what_it_says(library: str) -> None:
    assert (codec() is zlib) == (library == "zlib")


@pytest.mark.parametrize("size", [1, 100_000, 300_000, 500_000, 1 << 22])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_inflates_what_python_deflated(pack: Callable[[bytes], bytes], size: int) -> None:
    data = DATA if size > 1 else DATA[-300:]
    assert inflate(pack(data), size, chunk=70_000 if size > 1 else 7) == data


def test_members_in_a_row_and_zeros_behind_them_are_one_stream() -> None:
    assert inflate(gzip.compress(b"one") + gzip.compress(b"two") + bytes(600), 2, chunk=1) == b"onetwo"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda w: w[:-1], EOFError),
        (lambda w: w[:-8], EOFError),
        (lambda w: w[: len(w) // 2], EOFError),
        (lambda w: w[:5], EOFError),
        (lambda w: w + w[:6], EOFError),
        (lambda w: w + w[:1], EOFError),
        (lambda w: w[:-6] + bytes([w[-6] ^ 1]) + w[-5:], gzip.BadGzipFile),
        (lambda w: w[:-1] + bytes([w[-1] ^ 1]), gzip.BadGzipFile),
        (lambda w: w[:10] + b"\xff\xff" + w[12:], gzip.BadGzipFile),
        (lambda w: w[:2] + b"\x07" + w[3:], gzip.BadGzipFile),
        (lambda w: w + b"garbage", TrailingBytesError),
        (lambda w: w + b"\0\0g", TrailingBytesError),
    ],
    ids=["no length", "no trailer", "half", "header only", "second cut", "second cut to a byte", "crc", "length", "impossible code", "method", "garbage", "garbage after padding"],
)
@pytest.mark.parametrize("size", [1000, 1 << 22])
def test_damage_is_told_from_truncation(change: Callable[[bytes], bytes], error: type[Exception], size: int) -> None:
    with pytest.raises(error) as caught:
        inflate(change(gzip.compress(DATA)), size)
    assert caught.type is error


def test_wrong_adler_is_damage() -> None:
    whole = zlib.compress(DATA)
    with pytest.raises(gzip.BadGzipFile):
        inflate(whole[:-1] + bytes([whole[-1] ^ 1]), 1 << 22)


@pytest.mark.parametrize("parts", [[b""], [b"a"], [DATA[:1000], b"", DATA[1000:]], [DATA] * 13])
def test_python_inflates_what_was_deflated_in_blocks(parts: list[bytes]) -> None:
    assert gzip.decompress(packed("gzip", parts)) == b"".join(parts)
    assert zlib.decompress(packed("zlib", parts)) == b"".join(parts)


def test_bytes_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for threads in (1, 2, 7):
        monkeypatch.setattr(deflate, "_threads", lambda threads=threads: threads)
        found.add(packed("gzip", [DATA] * 9))
    assert len(found) == 1


def test_an_error_in_a_part_is_the_callers() -> None:
    def part(number: int) -> bytes:
        if number == 5:
            raise MemoryError
        return DATA

    with pytest.raises(MemoryError):
        write_deflated(io.BytesIO(), part, 9, "gzip")


def test_few_parts_are_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "_threads", lambda: 2)
    written = 0
    made = []

    class Slow(io.BytesIO):
        def write(self, data: object) -> int:
            nonlocal written
            written += 1
            return super().write(data)  # type: ignore[arg-type]

    def part(number: int) -> bytes:
        made.append(number - written)
        return b"x"

    write_deflated(Slow(), part, 50, "gzip")
    assert max(made) <= 2 + 1


@pytest.mark.parametrize("kind", ["F", "C"])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_every_reader_reads_several_blocks(tmp_path: Path, name: str, kind: str) -> None:
    """Uneven last block; both memory orders; ours, ITK, nibabel and the command-line gzip."""
    shape = (97, 101, 128)
    array = np.asarray(np.random.default_rng(1).integers(-1024, 3000, shape).astype(np.int16), order=kind)  # type: ignore[call-overload]
    assert array.nbytes > 2 * BLOCK
    path = save_volume(array, Grid(shape, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / name)
    np.testing.assert_array_equal(load(path).array, array)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).transpose(2, 1, 0), array)
    if name.endswith(".nii.gz"):
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), array)  # type: ignore[attr-defined]
        if shutil.which("gzip"):
            subprocess.run(["gzip", "--test", str(path)], check=True, capture_output=True)
        assert load(path).source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    array, grid = np.random.default_rng(2).integers(0, 4, (90, 80, 70)).astype(np.uint8), Grid((90, 80, 70), np.eye(4))
    first, second = save_volume(array, grid, tmp_path / "a.nii.gz"), save_volume(np.asfortranarray(array), grid, tmp_path / "b.nii.gz")
    assert first.read_bytes() == second.read_bytes()


def test_bytes_behind_packed_nrrd_voxels_are_left_alone_and_damage_is_not(tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(0, 4, (20, 21, 22)).astype(np.uint8)
    path = save_volume(array, Grid(array.shape, np.eye(4)), tmp_path / "a.nrrd")  # type: ignore[arg-type]
    whole = path.read_bytes()
    path.write_bytes(whole + b"signature")
    np.testing.assert_array_equal(load(path).array, array)
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        load(path)
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    with pytest.raises(InputError, match="damaged"):
        load(path)
