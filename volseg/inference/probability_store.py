"""Room for probabilities that no volume of has to fit in memory: a file without a name, filled while the network runs and read back label by label."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import WriteError
from volseg.inference.streaming.probabilities import store_shares
from volseg.inference.streaming.scratch import give_back, scratch_file


class ProbabilityStore(Mapping[int, npt.NDArray[Any]]):
    """The probability of each label at every voxel of a scan, by label value.

    Parameters
    ----------
    labels : sequence of int
        Whose probabilities are kept.
    shape : tuple of 3 int
        Voxels of the scan.
    folder : Path, optional
        With a folder they lie in an unnamed file on its disk, as uint8 in steps of 1/255, a byte for each voxel and label, and what is not being worked on takes no memory.
        Without one they lie in memory, as float32, four bytes each.
    """

    def __init__(self, labels: Sequence[int], shape: tuple[int, int, int], folder: Path | None = None) -> None:
        self._labels, self._shape, self._folder = tuple(labels), shape, folder
        self._file: mmap.mmap | None = None
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self._axis: int | None = None

    @property
    def in_file(self) -> bool:
        """Whether they lie on a disk."""
        return self._folder is not None

    def __getitem__(self, label: int) -> npt.NDArray[Any]:
        """Probabilities of one label (i, j, k); what was looked at before need not stay in memory."""
        array = self.arrays()[label]
        self.settle()
        return array

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, label: object) -> bool:
        return label in self._labels

    def arrays(self, axis: int | None = None) -> Mapping[int, npt.NDArray[Any]]:
        """Arrays (i, j, k) to be filled, zeros at first.

        Parameters
        ----------
        axis : int, optional
            Axis of the scan along which they will be filled: a plane across it is one stretch of the file. Asking for another axis starts anew.

        Raises
        ------
        WriteError
            When there is no room.
        """
        if self._axis is None or axis not in (None, self._axis):
            self._allocate(2 if axis is None else axis)
        return self._arrays

    def fill(self, label: int, shares: npt.NDArray[np.float32]) -> None:
        """Take all probabilities (i, j, k) of one label, 0 to 1 but for rounding."""
        for plane, target in zip(np.moveaxis(shares, 2, 0), np.moveaxis(self.arrays(2)[label], 2, 0), strict=True):
            store_shares(np.clip(plane, 0, 1), target)
        self.settle()

    def settle(self) -> None:
        """Let go of the memory of what was written or read."""
        if self._file is not None:
            give_back(self._file)

    def _allocate(self, axis: int) -> None:
        order = [axis, *(other for other in (2, 1, 0) if other != axis)]
        shape = [len(self._labels), *(self._shape[n] for n in order)]
        try:
            if self._folder is None:
                room: npt.NDArray[Any] = np.zeros(shape, dtype=np.float32)
            else:
                self._file = scratch_file(prod(shape), self._folder)
                room = np.frombuffer(self._file, dtype=np.uint8).reshape(shape)
        except (OSError, MemoryError) as error:
            where = "memory" if self._folder is None else str(self._folder)
            size = prod(shape) * (4 if self._folder is None else 1)
            msg = f"{where}: no room for {size / 1e9:.2f} GB of probabilities ({getattr(error, 'strerror', None) or error}); free some, choose another folder, or leave them out"
            raise WriteError(msg) from error
        back = np.argsort(order)
        self._arrays = {label: array.transpose(back) for label, array in zip(self._labels, room, strict=True)}
        self._axis = axis
