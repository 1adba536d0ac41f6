"""Probabilities as NIfTI files that are filled while the network runs, so that no volume of them is ever held in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid
from volseg.io.atomic import written_beside

VOXELS_AT = 352
"""Where the voxels start in a single-file NIfTI-1 without extensions (NIfTI-1 standard, ``vox_offset``)."""

STORED: dict[str, tuple[np.dtype[Any], float]] = {"float32": (np.dtype("<f4"), 1.0), "uint8": (np.dtype("u1"), 1 / 255)}
"""How probabilities are stored: voxel type and ``scl_slope``. NIfTI has no half floats; eight bits are exact to 0.002 and a quarter of the size."""


@contextmanager
def probability_files(paths: Mapping[int, Path], grid: Grid, stored: str = "uint8") -> Iterator[Mapping[int, npt.NDArray[Any]]]:
    """Files of zeros to be filled; they appear, all of them, when the block ends well.

    Parameters
    ----------
    paths : mapping of int to Path
        Where the file of each channel of the scores is to appear; uncompressed, so the names end in ``.nii``.
    grid : Grid
        Of the scan.
    stored : str
        ``"uint8"`` (0 to 255 with a slope of 1/255) or ``"float32"``.

    Yields
    ------
    dict of int to ndarray
        (i, j, k) arrays mapped onto the files. The system writes their pages out and takes their memory back as it needs it.

    Raises
    ------
    OutputError, WriteError
        If a file cannot be made or there is no room for it.
    """
    from nibabel.nifti1 import Nifti1Header

    dtype, slope = STORED[stored]
    header = Nifti1Header()
    header.set_data_shape(grid.shape)
    header.set_data_dtype(dtype)
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1, strip_shears=True)
    header.set_slope_inter(slope, 0)
    header.set_xyzt_units("mm")
    header["magic"] = b"n+1"
    header["vox_offset"] = VOXELS_AT
    with ExitStack() as files:
        arrays: dict[int, np.memmap[Any, np.dtype[Any]]] = {}
        for number, path in paths.items():
            temporary = files.enter_context(written_beside(path))
            with temporary.open("wb") as file:
                file.write(header.binaryblock.ljust(VOXELS_AT, b"\0"))
                _reserve(file.fileno(), VOXELS_AT + grid.shape[0] * grid.shape[1] * grid.shape[2] * dtype.itemsize)
            arrays[number] = np.memmap(temporary, dtype=dtype, mode="r+", offset=VOXELS_AT, shape=grid.shape, order="F")
        yield arrays
        for array in arrays.values():
            array.flush()


def _reserve(descriptor: int, length: int) -> None:
    """Make a file that long; a full disk is told now rather than by a signal when a page is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
    else:
        os.ftruncate(descriptor, length)
