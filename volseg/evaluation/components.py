"""The connected pieces of a mask or a label map, numbered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def number_pieces(mask: npt.NDArray[np.generic], connectivity: int) -> tuple[npt.NDArray[np.integer], int]:
    """Number the connected pieces of a mask, or of all the labels of a map: voxels of different labels never share a piece.

    connected-components-3d numbers 26-connected pieces about ten times as fast as ``scipy.ndimage.label`` (0.08 s against 0.95 s in 26 million voxels).

    Parameters
    ----------
    mask : ndarray of bool or unsigned integers, (i, j, k)
        The region, or the label map; 0 is outside.
    connectivity : int
        6 (faces), 18 (and edges) or 26 (and corners).

    Returns
    -------
    pieces : ndarray of unsigned integers
        1, 2, ... inside, 0 outside; each axis may be longer by one voxel of background than the mask's.
    count : int
        How many there are.
    """
    import cc3d

    # cc3d 4.1.1 expects one piece in eight voxels at most, which is true of even sides only: one row of three voxels with two pieces overruns its table.
    even = np.pad(mask, [(0, side % 2) for side in mask.shape]) if any(side % 2 for side in mask.shape) else mask
    pieces, count = cc3d.connected_components(even, connectivity=connectivity, return_N=True)
    return pieces, int(count)
