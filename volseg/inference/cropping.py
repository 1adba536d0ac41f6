"""``CropForegroundd`` and its inverse: the box around what is above zero, and where the label of that box lies on the scan.

MONAI's inverse puts zeros around the scores and then undoes the earlier transforms. Zero for every class changes no arg-max where it is mixed in, and leaves the first
class where it is all there is. So the label is restored for the voxels the box reaches, from the box alone, and is 0 everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io.resample import Axis

STEP = "CropForeground"
"""Name of the step in a plan, among the intensity steps, since it looks at their values."""


@dataclass(frozen=True)
class Box:
    """First voxel and the one behind the last, per axis; a box may reach outside its image, where the crop is padded with 0."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]


def foreground_box(image: npt.NDArray[np.float32], arguments: Mapping[str, Any]) -> Box:
    """The box ``CropForeground`` takes.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        Foreground is above 0 in any channel.
    arguments : mapping
        ``margin``, ``allow_smaller`` and ``k_divisible``, with MONAI's defaults (1.6: 0, False, 1).

    Raises
    ------
    InputError
        When nothing is above 0, so that nothing would be left.

    Notes
    -----
    Source: ``monai.transforms.CropForeground.compute_bounding_box`` and ``generate_spatial_bounding_box``.
    """
    inside: npt.NDArray[np.bool_] = np.any(image > 0, axis=0)
    margin, divisor = _three(arguments.get("margin", 0)), _three(arguments.get("k_divisible", 1))
    starts, stops = [], []
    for axis, (wide, k) in enumerate(zip(margin, divisor, strict=True)):
        found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if not found.size:
            msg = "nothing in the scan is above 0 once its intensities are scaled, so cropping to the foreground leaves nothing; check that the bundle is made for such scans"
            raise InputError(msg)
        start, stop = int(found[0]) - wide, int(found[-1]) + wide + 1
        if arguments.get("allow_smaller", False):
            start, stop = max(start, 0), min(stop, inside.shape[axis])
        length = -(-(stop - start) // k) * k if k > 0 else stop - start
        starts.append(start - (length - (stop - start)) // 2)
        stops.append(starts[-1] + length)
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def crop(image: npt.NDArray[np.float32], box: Box) -> npt.NDArray[np.float32]:
    """Cut a box out of an image (channels, x, y, z); zeros where it reaches outside."""
    size = image.shape[1:]
    limits = list(zip(box.start, box.stop, size, strict=True))
    part = image[(slice(None), *(slice(max(a, 0), min(b, n)) for a, b, n in limits))]
    pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in limits]
    return np.pad(part, [(0, 0), *pads]) if any(max(pad) for pad in pads) else np.ascontiguousarray(part)


def restored_part(axis: Axis, before: tuple[int, int], length: int, after: tuple[int, int]) -> tuple[slice, Axis]:
    """What of one axis of the scan is restored, and from where.

    Parameters
    ----------
    axis : Axis
        From the box taken before the resampling, if one was, to the whole resampled axis.
    before : tuple of 2 int
        That box on the scan; ``(0, length)`` for none.
    length : int
        Of the scan's axis.
    after : tuple of 2 int
        Box on the resampled axis, which the network saw; ``(0, axis.source)`` for none.

    Returns
    -------
    slice
        Of the scan's axis.
    Axis
        Where those voxels lie in the box; voxels less than one step outside take its border.
    """
    number = before[0] + np.arange(len(axis))
    at = axis.low + axis.weight.astype(np.float64)
    kept = np.flatnonzero((number >= 0) & (number < length) & (at > after[0] - 1) & (at < after[1]))
    source = after[1] - after[0]
    if not kept.size:
        return slice(0, 0), Axis(source, kept, kept, np.zeros(0, dtype=np.float32))
    at = np.clip(at[kept] - after[0], 0, source - 1)
    # A nearest neighbour stays one: it has no upper neighbour to mix with.
    nearest = bool((axis.low == axis.high).all())
    low = at.astype(np.intp) if nearest else np.minimum(np.floor(at), max(source - 2, 0)).astype(np.intp)
    high = low if nearest else np.minimum(low + 1, source - 1)
    return slice(int(number[kept[0]]), int(number[kept[-1]]) + 1), Axis(source, low, high, (at - low).astype(np.float32))


def _three(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(int(n) for n in value)
