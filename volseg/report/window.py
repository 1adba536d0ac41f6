"""How a scan's values become greys: the window a reader of that modality expects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.extent import labelled_box
from volseg.evaluation.regions.intensity import values_inside
from volseg.io import Volume

AnyArray = npt.NDArray[np.generic]

CT_WINDOW = (-160.0, 240.0)
"""Soft-tissue window of CT (HU): level 40, width 400, the usual preset of viewers and PACS workstations."""

LUNG_WINDOW = (-1350.0, 150.0)
"""Lung window of CT (HU): level -600, width 1500, the usual preset."""

LUNG_BELOW_HU = -500.0
"""A segmentation whose median lies below this is in aerated lung, which the soft-tissue window shows black."""

PERCENTILES = (1.0, 99.0)
"""Grey range of images without a unit (MR): these percentiles of what is above the minimum. The upper one is also where PET turns black."""

PET_LEAST_SUV = 5.0
"""PET in SUV is shown from 0 to at least this, so that a scan without avid lesions does not look full of them."""

SAMPLED_VOXELS = 1_000_000
"""Percentiles and medians are taken from about so many voxels, evenly spread; more change nothing that can be seen."""


@dataclass(frozen=True)
class Window:
    """A range of values shown as grey.

    Parameters
    ----------
    low, high : float
        Values at the ends of the grey scale, in the scan's unit; ``high`` is greater.
    inverted : bool
        Whether high values are dark, as PET is read.
    name : str
        What to call it in a caption.
    """

    low: float
    high: float
    inverted: bool = False
    name: str = ""

    def to_grey(self, values: AnyArray) -> npt.NDArray[np.uint8]:
        """Grey levels, 0 black to 255 white; a value that is not a number is shown like the lowest."""
        share = np.clip((np.nan_to_num(values.astype(np.float32), nan=self.low) - self.low) / (self.high - self.low), 0, 1)
        return np.asarray(np.rint((1 - share if self.inverted else share) * 255), dtype=np.uint8)


def window_of(volume: Volume, label: AnyArray) -> Window:
    """The window of a scan with its segmentation; see :func:`choose_window`."""
    return choose_window(volume.array, volume.source.modality, units=volume.source.details.get("units"), label=label)


def choose_window(array: AnyArray, modality: str | None, *, units: str | None = None, label: AnyArray | None = None) -> Window:
    """Window for a scan.

    CT is shown in the soft-tissue window, or the lung window where the median inside the label is below -500 HU. PET is shown inverted (dark is avid), from 0 to the 99th
    percentile, in SUV at least to 5. Anything else is shown between the 1st and 99th percentile of what is above the minimum.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        Image values (HU for CT).
    modality : str or None
        DICOM modality; without one, an image that reaches below -500 is taken for CT in HU, because air is -1000 there and neither MR nor PET is so negative.
    units : str, optional
        ``"SUVbw"`` for PET in SUV (g/ml).
    label : ndarray, optional
        The segmentation, same shape; 0 is background.
    """
    step = max(1, round((array.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return Window(0.0, 1.0)
    if modality == "CT" or (modality is None and sample.min() < LUNG_BELOW_HU):
        return Window(*LUNG_WINDOW, name="lung window, -1350 to 150 HU") if _is_lung(array, label) else Window(*CT_WINDOW, name="soft-tissue window, -160 to 240 HU")
    above = sample[sample > sample.min()]
    low, high = (float(v) for v in np.percentile(above if above.size else sample, PERCENTILES))
    if modality == "PT":
        in_suv = units == "SUVbw"
        high = max(high, PET_LEAST_SUV if in_suv else 1e-6)
        return Window(0.0, high, inverted=True, name=f"inverted, 0 to {high:.3g}{' SUV' if in_suv else ''}")
    return Window(low, max(high, low + 1e-6), name=f"{low:.4g} to {high:.4g}")


def _is_lung(array: AnyArray, label: AnyArray | None) -> bool:
    box = None if label is None else labelled_box(label)
    if label is None or box is None:
        return False
    inside = values_inside(array[box], label[box] != 0)
    inside = inside[:: max(1, inside.size // SAMPLED_VOXELS)]
    return inside.size > 0 and float(np.nanmedian(np.asarray(inside, dtype=np.float32))) < LUNG_BELOW_HU
