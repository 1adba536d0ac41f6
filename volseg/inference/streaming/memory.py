"""How much memory the streaming engine takes, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from volseg.inference.streaming.blending import SPILLED_CLASSES, SPILLED_PLANES
from volseg.inference.streaming.planes import GROUP
from volseg.inference.streaming.sliding import SlidingWindow, slab_axis
from volseg.inference.windows import window_sizes

FLOAT = 4
"""Bytes of a float32."""

PLANE_COPIES = 8
"""Arrays of a plane's size and dtype float32 or intp that one thread of the restoring holds: positions, corners and interpolated values of the voxels in mixed cells."""


def engine_memory(
    window: SlidingWindow,
    scan_shape: Sequence[int],
    network_shape: Sequence[int],
    *,
    channels: int,
    classes: int,
    batch: int,
    threads: int,
    float_scan: bool = False,
    spill: bool = False,
) -> int:
    """Most bytes the engine holds at once beside the scan itself and what the network takes.

    Parameters
    ----------
    window : SlidingWindow
        How windows are laid.
    scan_shape, network_shape : sequence of 3 int
        Voxels of the scan, axes as the network wants them, and of the network's input.
    channels, classes : int
        Of the network's input and output.
    batch : int
        Windows at once.
    threads : int
        Threads that blend and restore.
    float_scan : bool
        Whether the scan, all channels of it, is needed in float32 before it is resampled.
    spill : bool
        Whether the scores are kept in a file.

    Returns
    -------
    int
        Bytes; grows with classes times a slab, never with classes times the volume.
    """
    roi = window_sizes(network_shape, window.roi)
    axis = slab_axis(network_shape, window.roi)
    padded = [max(length, wanted) for length, wanted in zip(network_shape, roi, strict=True)]
    plane = prod(length for n, length in enumerate(padded) if n != axis)
    image = channels * prod(network_shape) * FLOAT
    image += channels * prod(padded) * FLOAT if padded != list(network_shape) else 0
    label = prod(scan_shape) * (1 if classes <= 256 else 2)
    label_plane = prod(length for n, length in enumerate(scan_shape) if n != axis)
    # Scores (of a spilled slab what is mapped at a time), their weights, and the best class of each voxel of the planes taken out of them.
    held = SPILLED_CLASSES * roi[axis] + SPILLED_PLANES * classes if spill else classes * roi[axis]
    taken = min(roi[axis], GROUP) + 1
    slab = plane * (held + roi[axis]) * FLOAT + plane * taken * (1 if classes <= 256 else 2)
    # A batch in and out, the scores kept for constant windows, and the importance of a window's voxels.
    windows = prod(roi) * FLOAT * (batch * (channels + classes) + classes + 1)
    # Planes taken out of the ring, with the last of those before them; shares of two planes and their change at the corners of mixed cells, at worst everywhere.
    restoring = taken * classes * plane * FLOAT + threads * (3 * classes * plane * FLOAT + PLANE_COPIES * label_plane * FLOAT)
    # Of several channels one at a time is brought to the scan's grid.
    preparing = prod(scan_shape) * FLOAT * (channels * float_scan + (channels > 1))
    return image + max(preparing, label + slab + windows + restoring)
