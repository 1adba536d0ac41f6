"""One preprocessed case on disk: compressed arrays of which a patch is read without the rest, and where each class lies.

An entry is a folder named after its case and a hash of everything it depends on. It holds ``image.b2nd`` and ``label.b2nd`` (Blosc2 arrays), ``locations.npy`` (voxels of each
class) and ``case.json`` (the facts, and the size of each file). It appears complete, by a rename, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from volseg.errors import DatasetError

LAYOUT = 1
"""Raised whenever the files of an entry change their meaning."""

FACTS = "case.json"
LOCATIONS = "locations.npy"
FOREGROUND = "foreground"
"""Name of the locations of every voxel whose label is not 0."""

Key = Literal["image", "label"]
Window = Sequence[slice]


@dataclass(frozen=True)
class CachedCase:
    """One preprocessed case.

    Attributes
    ----------
    folder : Path
        Its entry.
    name : str
        Name of the case.
    shape : tuple of int
        Voxels along the three axes, in the orientation the transforms gave.
    affine : tuple of tuple of float
        4x4, voxel index of the interior to RAS+ mm.
    interior : tuple of (start, stop), or None
        Where the volume lies as it was before the last transforms padded it; None where they did more than pad.
    dtypes : mapping of str to str
        Number type that the transforms gave ``image`` and ``label``, in which they are read; on disk it may be smaller.
    channels : int
        Channels of the image.
    counts : mapping of str to int
        Voxels of each class (``"0"``, ``"1"``, ...) and of ``"foreground"``.
    kept : mapping of str to (start, stop)
        Where in ``locations.npy`` the voxels of each class are.
    source : mapping
        Which files the case was made from.
    """

    folder: Path
    name: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    interior: tuple[tuple[int, int], ...] | None
    dtypes: Mapping[str, str]
    channels: int
    counts: Mapping[str, int]
    kept: Mapping[str, tuple[int, int]]
    source: Mapping[str, Any] = field(default_factory=dict)

    def read(self, key: Key, window: Window | None = None) -> npt.NDArray[Any]:
        """Read a part of the image or the label.

        Parameters
        ----------
        key : ``"image"`` or ``"label"``
        window : sequence of three slices, optional
            Voxels along each axis (bounds within the volume); the whole volume when omitted. Only blocks that it touches are read and decompressed.

        Returns
        -------
        ndarray
            Channel first, ``(C, x, y, z)``.

        Raises
        ------
        DatasetError
            When the file is gone or damaged.
        """
        import blosc2  # type: ignore[import-untyped]

        path = self.folder / f"{key}.b2nd"
        try:
            array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
            part = array[(slice(None), *window)] if window is not None else array[:]
        except (OSError, RuntimeError, ValueError) as error:
            msg = f"{path}: a preprocessed case that cannot be read ({' '.join(str(error).split())}); delete the folder {self.folder} and run again"
            raise DatasetError(msg) from error
        return np.asarray(part).astype(self.dtypes[key], copy=False)

    def locations(self, name: str) -> npt.NDArray[np.integer[Any]]:
        """Voxels of a class (``"1"``) or of the ``"foreground"``.

        Returns
        -------
        ndarray of int
            Sorted indices into the flattened volume (C order): all of them, or :data:`~volseg.dataset.cache.writing.MOST_LOCATIONS` drawn at random; none of an absent class.
        """
        start, stop = self.kept.get(name, (0, 0))
        found: npt.NDArray[np.integer[Any]] = np.load(self.folder / LOCATIONS, mmap_mode="r")[start:stop]
        return found

    @property
    def size_on_disk(self) -> int:
        """Bytes of the entry."""
        return sum(path.stat().st_size for path in self.folder.iterdir())


def open_cache(folder: Path) -> dict[str, CachedCase]:
    """Complete cases of a folder by the name of their entry; what is incomplete or of another layout is left out."""
    entries = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")) if folder.is_dir() else []
    return {entry.name: case for entry in entries if (case := read_entry(entry)) is not None}


def read_entry(entry: Path) -> CachedCase | None:
    """The case of an entry, or None where it is absent, incomplete, cut short or of another layout."""
    try:
        facts = json.loads((entry / FACTS).read_text(encoding="utf-8"))
        if facts.pop("layout") != LAYOUT or any((entry / name).stat().st_size != size for name, size in facts.pop("bytes").items()):
            return None
        facts["shape"] = tuple(facts["shape"])
        facts["affine"] = tuple(tuple(row) for row in facts["affine"])
        facts["interior"] = None if facts["interior"] is None else tuple((start, stop) for start, stop in facts["interior"])
        facts["kept"] = {name: (start, stop) for name, (start, stop) in facts["kept"].items()}
        return CachedCase(folder=entry, **facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
