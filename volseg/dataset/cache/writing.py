"""Write preprocessed cases so that they are small on disk and quick to read by patch."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from volseg.dataset.cache.entry import FACTS, FOREGROUND, LAYOUT, LOCATIONS, CachedCase, read_entry
from volseg.errors import DatasetError
from volseg.io.atomic import named_error

MOST_LOCATIONS = 20_000
"""Voxels kept of each class, drawn at random where there are more; nnU-Net keeps 10,000 or 1 %."""

ROUNDING_LIMIT = 1e-3
"""An image is kept in half precision where that changes a channel by less than this share of its standard deviation (root mean square): scanner noise is far above it."""

BLOCK_EDGE, CHUNK_EDGE = 16, 64
"""Voxels a side of what is decompressed at once, and of what lies together on disk."""


def write_entry(
    entry: Path,
    image: npt.NDArray[Any],
    label: npt.NDArray[Any],
    *,
    name: str,
    affine: npt.NDArray[np.floating[Any]],
    interior: tuple[tuple[int, int], ...] | None,
    source: Mapping[str, Any],
    seed: int,
) -> CachedCase:
    """Write a case beside its entry, then rename.

    Parameters
    ----------
    entry : Path
        Folder that appears; another process may have been faster, then its entry stays.
    image : (C, x, y, z) array
        Numbers of any type.
    label : (1, x, y, z) array
        Whole numbers of any type; 0 is background.
    name, affine, interior, source
        See :class:`CachedCase`.
    seed : int
        Of the locations that are kept where a class has more than :data:`MOST_LOCATIONS`.

    Raises
    ------
    DatasetError
        When the label is not one channel of whole numbers on the image's voxels.
    OutputError, WriteError
        When the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    small = _small_label(image, label, name)
    positions, kept, counts = _locate(small, seed)
    files = {"image.b2nd": _compress(_small_image(image)), "label.b2nd": _compress(small)}
    facts = {
        "name": name,
        "shape": list(image.shape[1:]),
        "affine": np.asarray(affine, float).tolist(),
        "interior": interior,
        "dtypes": {"image": str(image.dtype), "label": str(label.dtype)},
        "channels": len(image),
        "counts": counts,
        "kept": kept,
        "source": dict(source),
    }
    staged = entry.parent / f".new-{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
    try:
        staged.mkdir(parents=True)
        for file, content in files.items():
            (staged / file).write_bytes(content)
        np.save(staged / LOCATIONS, positions)
        sizes = {path.name: path.stat().st_size for path in staged.iterdir()}
        (staged / FACTS).write_text(json.dumps({"layout": LAYOUT, **facts, "bytes": sizes}), encoding="utf-8")
        _publish(staged, entry)
    except OSError as error:
        raise named_error(entry, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    written = read_entry(entry)
    if written is None:
        msg = f"{entry}: the preprocessed case vanished while it was written; another program cleans this folder: choose another cache folder"
        raise DatasetError(msg)
    return written


def remove_leftovers(folder: Path) -> None:
    """Delete what processes of this machine that no longer run left half-written."""
    for path in folder.glob(f".new-{socket.gethostname()}-*"):
        number = path.name.rsplit("-", 2)[-2]
        if number.isdigit() and not _runs(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    if os.name != "posix":
        # On Windows os.kill would end the process instead of asking after it.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _publish(staged: Path, entry: Path) -> None:
    if entry.exists() and read_entry(entry) is None:
        shutil.rmtree(entry, ignore_errors=True)
    try:
        staged.rename(entry)
    except OSError:
        if read_entry(entry) is None:
            raise


def _small_label(image: npt.NDArray[Any], label: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if image.ndim != 4 or label.shape != (1, *image.shape[1:]):
        msg = f"case {name}: the transforms give an image of shape {image.shape} and a label of {label.shape}; training needs (C, x, y, z) and (1, x, y, z)"
        raise DatasetError(msg)
    low, high = float(label.min()), float(label.max())
    # NaN is the smallest and the largest of what holds one.
    whole = np.isfinite([low, high]).all()
    small = label.astype(np.result_type(np.min_scalar_type(int(low)), np.min_scalar_type(int(high)))) if whole else label
    if not whole or not np.array_equal(small, label):
        msg = f"case {name}: after the transforms the label holds values that are not whole numbers ({low:g} to {high:g}); resample labels with mode 'nearest'"
        raise DatasetError(msg)
    return small


def _small_image(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if image.dtype.kind != "f":
        return image
    half = np.empty(image.shape, np.float16)
    for channel, values in enumerate(image):
        with np.errstate(over="ignore", invalid="ignore"):
            half[channel] = values
            error = np.sqrt(np.mean(np.square(half[channel].astype(np.float32) - values), dtype=np.float64))
        # Written so that a channel with NaN or inf, or of one value that float16 does not have, stays as it is.
        if not error <= ROUNDING_LIMIT * np.std(values, dtype=np.float64):
            return image
    return half


def _locate(label: npt.NDArray[Any], seed: int) -> tuple[npt.NDArray[Any], dict[str, tuple[int, int]], dict[str, int]]:
    flat = label.ravel()
    values = np.unique(flat)
    positions, kept, counts = [], {}, {}
    start = 0
    generator = np.random.default_rng(seed)
    for name, mask in [*((str(value), flat == value) for value in values.tolist()), (FOREGROUND, flat != 0)]:
        found = np.flatnonzero(mask)
        counts[name] = len(found)
        if len(found) > MOST_LOCATIONS:
            found = np.sort(generator.choice(found, MOST_LOCATIONS, replace=False, shuffle=False))
        positions.append(found)
        kept[name] = (start, start + len(found))
        start += len(found)
    return np.concatenate(positions).astype(np.uint32 if flat.size < 2**32 else np.int64), kept, counts


def _compress(array: npt.NDArray[Any]) -> bytes:
    import blosc2  # type: ignore[import-untyped]

    chunks = (1, *(min(n, CHUNK_EDGE) for n in array.shape[1:]))
    blocks = (1, *(min(n, BLOCK_EDGE) for n in array.shape[1:]))
    cparams = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    packed = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=cparams)
    return bytes(packed.to_cframe())
