"""One scan and one network as numbers, and the seconds that the stages around the network take of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid
from volseg.inference.plan import InferencePlan
from volseg.inference.streaming import SlidingWindow, match_monai
from volseg.inference.streaming.sliding import slab_axis
from volseg.inference.windows import count_windows, padding, window_sizes, window_starts

READ_S = 1.5e-8
"""For each voxel of a gzipped CT: 0.8 and 1.4 s were seen for 512x512x300. All times here are those of two cores of an AMD EPYC (AVX2); a run teaches a machine's own."""

PREPARE_SCAN_S, PREPARE_NETWORK_S = 3e-9, 2e-8
"""For each voxel of the scan, and of the network's grid: reorienting, resampling and scaling took 0.37 s from 512x512x300 to 180x180x150 voxels."""

PLACE_S = 1.2e-9
"""For each voxel of the scan: its label where nothing is near a border (500x500x48 voxels in 0.015 s)."""

DECIDE_S = 1.4e-9
"""For each voxel of the network's grid and class: taking scores out and finding the best (25 classes of 200x200x24 voxels in 0.034 s)."""

INTERPOLATE_S = 1e-8
"""For each voxel of the scan at a border between classes, and each class: 0.8e-8 to 1.4e-8 were seen for 25, 3 and 2 classes."""

BORDER_SHARE = 0.1
"""Voxels at a border, an assumption: of 25 random classes with borders as smooth as organs' (Gaussian fields of 8 to 24 mm) 34 to 11 % lay there, of 3 classes 14 to 3 %."""

WRITE_S = 3e-8
"""For each voxel of the scan: an estimate between a smooth label (compressing it takes 1e-9) and a ragged one of 3 classes (statistics and all took 6.7 s for 512x512x300)."""


@dataclass(frozen=True)
class Workload:
    """One scan and one network, as numbers.

    Parameters
    ----------
    scan_shape : tuple of 3 int
        Voxels of the scan, axes as the network wants them.
    network_shape : tuple of 3 int
        Voxels of the network's input.
    channels, classes : int
        Of the network's input and output.
    window : SlidingWindow
        How windows are laid.
    float_scan : bool
        Whether the scan is needed in float32 before it is resampled.
    repeated : int
        Windows that need no network since an equal one was computed.
    """

    scan_shape: tuple[int, int, int]
    network_shape: tuple[int, int, int]
    channels: int
    classes: int
    window: SlidingWindow
    float_scan: bool = False
    repeated: int = 0

    @property
    def voxels(self) -> int:
        """Of the scan."""
        return prod(self.scan_shape)

    @property
    def windows(self) -> int:
        """In all."""
        return count_windows(self.network_shape, self.window.roi, self.window.overlap)

    @property
    def windows_at_once(self) -> int:
        """As many as a batch can hold: it never reaches beyond the windows that start at one place of the axis the scan is worked along."""
        axis = slab_axis(self.network_shape, self.window.roi)
        across = [(length, roi, share) for n, (length, roi, share) in enumerate(zip(self.network_shape, self.window.roi, self.window.overlap, strict=True)) if n != axis]
        return count_windows(*zip(*across, strict=True))


def workload(plan: InferencePlan, grid: Grid, *, channels: int, classes: int, float_scan: bool = False) -> Workload | None:
    """Shapes of a run.

    Parameters
    ----------
    plan : InferencePlan
        What the bundle asks for.
    grid : Grid
        Of the scan.
    channels, classes : int
        Of the network.
    float_scan : bool
        Whether the scan must be copied to float32 whatever the plan says (NaN or infinite voxels).

    Returns
    -------
    Workload or None
        None for a grid the engine cannot resample.
    """
    oriented = grid if plan.orientation is None else grid.reoriented(plan.orientation)
    if plan.spacing is None:
        return Workload(oriented.shape, oriented.shape, channels, classes, plan.window, float_scan or bool(plan.before))
    spacing = match_monai(oriented, plan.spacing)
    return None if spacing is None else Workload(oriented.shape, spacing.grid.shape, channels, classes, plan.window, float_scan or bool(plan.before))


def count_repeated(image: npt.NDArray[np.float32], window: SlidingWindow) -> int:
    """Windows of a prepared image that hold one value only, that of the constant window before: the engine keeps the scores of one.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        The network's input.
    window : SlidingWindow
        How windows are laid.
    """
    size = image.shape[1:]
    roi = window_sizes(size, window.roi)
    padded = any(before or after for before, after in padding(size, roi))
    # Where an axis is shorter than a window, every window holds some of the padding.
    fill = (float(np.float32(window.cval)),) * len(image) if padded and window.padding_mode == "constant" else None
    axis = slab_axis(size, window.roi)
    starts = [window_starts(length, wanted, share) for length, wanted, share in zip(size, roi, window.overlap, strict=True)]
    repeated, last = 0, None
    for lane in starts[axis]:
        for x, y, z in product(*([lane] if n == axis else starts[n] for n in range(3))):
            value = _one_value(image[:, x : x + roi[0], y : y + roi[1], z : z + roi[2]])
            if value is None or (fill is not None and value != fill):
                continue
            repeated += value == last
            last = value
    return repeated


def _one_value(part: npt.NDArray[np.float32]) -> tuple[float, ...] | None:
    """The value of each channel where a window holds nothing else, or None."""
    corner = part[:, :1, :1, :1]
    # Most windows are told by a few voxels.
    return tuple(corner.ravel().tolist()) if (part[:, ::7, ::7, ::7] == corner).all() and (part == corner).all() else None


def expected_seconds(work: Workload) -> dict[str, float]:
    """Seconds of each stage but the network's, where no run of this network on this machine has been learnt from.

    Parameters
    ----------
    work : Workload
        The run.

    Returns
    -------
    dict of str to float
        For ``read``, ``preprocess``, ``restore`` and ``write``.
    """
    network = prod(work.network_shape)
    return {
        "read": READ_S * work.voxels * work.channels,
        "preprocess": (PREPARE_SCAN_S * work.voxels + PREPARE_NETWORK_S * network) * work.channels,
        "restore": PLACE_S * work.voxels + DECIDE_S * network * work.classes + INTERPOLATE_S * BORDER_SHARE * work.voxels * work.classes,
        "write": WRITE_S * work.voxels,
    }
