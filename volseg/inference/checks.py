"""What is looked at in a scan before a bundle runs on it: enough channels, a field of view that a patient may fill, values of the right kind."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from volseg.bundle import Bundle
from volseg.bundle.read import SUV
from volseg.errors import InputError
from volseg.io import Volume
from volseg.io.intensity import lowest_finite
from volseg.io.modality import expected_modality, plain_modality

LARGEST_MEAN_SUV = 50.0
"""SUV is activity over its mean in the body, so the mean of a whole body is below 1 and that of a crop rarely above 10. In Bq/ml the mean of a body is above 100: 100 MBq or more
in less than 200 kg, an hour or two of fluorine-18's decay, and as much air around it."""

LARGEST_EXTENT_MM = 3000.0
"""A whole-body scan is about 2 m long; a longer field of view comes from a wrong spacing."""

SMALLEST_EXTENT_MM = 10.0
"""Less than a few voxels of any clinical scan."""


def check_scan(bundle: Bundle, volume: Volume) -> list[str]:
    """Refuse a scan that a bundle cannot mean anything on, and say what is doubtful about one.

    Parameters
    ----------
    bundle : Bundle
        What will run.
    volume : Volume
        The scan.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    InputError
        For another number of channels than the bundle takes, a field of view larger than any patient, or no finite voxel.
    """
    if len(volume.channels) != bundle.input_channels:
        raise InputError(_wrong_number(bundle, volume))
    notes = [*_check_extent(volume), *_check_units(bundle, volume)]
    for channel, name in zip(volume.channels, bundle.channel_names, strict=True):
        if bundle.input_channels > 1:
            notes += _check_values(channel, expected_modality(name), f"channel {name} wants", f"{name}: ")
        else:
            notes += _check_values(channel, plain_modality(bundle.modality), f"bundle {bundle.name} was made for")
    return notes


def _wrong_number(bundle: Bundle, volume: Volume) -> str:
    found = "one image" if not volume.further else f"{len(volume.channels)} channels"
    names = bundle.channel_names
    if bundle.input_channels == 1:
        return f"{volume.source.path}: {found}, but bundle {bundle.name} takes one ({names[0]}); give a scan of one channel, or use another bundle"
    inputs = " ".join(f"--input '{name}=PATH'" if " " in name else f"--input {name}=PATH" for name in names)
    takes = f"takes {bundle.input_channels} channels ({', '.join(names)})"
    return f"{volume.source.path}: {found}, but bundle {bundle.name} {takes}; give each channel's scan by {inputs}, or all of them in one 4D NIfTI file"


def _check_values(channel: Volume, wanted: str | None, whose: str, prefix: str = "") -> Iterator[str]:
    """What is doubtful about one channel's modality and values; refuses one without a finite voxel."""
    found = channel.source.modality
    if wanted and found and wanted.upper() != found.upper():
        yield f"{whose} {wanted}, but this series says {found}"
    lowest = lowest_finite(channel.array)
    if lowest is None:
        msg = f"{channel.source.path}: no voxel has a finite value; export the scan again"
        raise InputError(msg)
    if wanted == "CT" and lowest >= 0:
        yield f"{prefix}no voxel is negative, so the values do not look like Hounsfield units; check the rescale slope and intercept of the scan"


def _check_units(bundle: Bundle, volume: Volume) -> Iterator[str]:
    """What cannot be SUV where SUV is wanted."""
    for channel, unit in zip(volume.channels, bundle.channel_units, strict=False):
        mean = float(np.mean(channel.array, dtype=np.float64)) if unit == SUV else 0.0
        if LARGEST_MEAN_SUV < mean < math.inf:
            whose = f"channel {channel.source.channel}" if channel.source.channel else "the scan"
            yield (
                f"{whose} cannot be in SUV (g/ml), which bundle {bundle.name} was made for: its mean is {mean:.4g}; give the DICOM series, or convert it with "
                "volseg dicom convert --suv"
            )


def _check_extent(volume: Volume) -> list[str]:
    """Refuse a field of view that no patient fills: resampled to the network's spacing it would take all memory. Doubt one that is too small to show anything."""
    extent = [n * mm for n, mm in zip(volume.grid.shape, volume.grid.spacing, strict=True)]
    size = " x ".join(f"{mm:.4g}" for mm in extent)
    if max(extent) > LARGEST_EXTENT_MM:
        msg = f"{volume.source.path}: the scan is {size} mm large, more than any patient; its spacing is probably wrong: correct the header and try again"
        raise InputError(msg)
    if min(extent) < SMALLEST_EXTENT_MM:
        return [f"the scan is only {size} mm large; check its spacing, the result probably means nothing"]
    return []
