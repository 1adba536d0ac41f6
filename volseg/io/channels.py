"""Images of several channels (CT and PET, T1 and T2), each from its own scan: named, read, checked against each other and put together.

Where their voxels lie on different grids, :mod:`~volseg.io.alignment` brings them to that of the first when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from volseg.errors import GeometryError, InputError
from volseg.io.alignment import SAME_GRID_MM, covered_share, outside_value
from volseg.io.load import load
from volseg.io.modality import expected_modality
from volseg.io.volume import Volume

COVERED = 0.999
"""A channel that covers this share needs no warning."""

Item = TypeVar("Item")


def in_order(given: Iterable[tuple[str, Item]], names: Sequence[str]) -> dict[str, Item]:
    """Sort named channels as a bundle wants them.

    Parameters
    ----------
    given : iterable of (name, anything)
        Names in any case and order.
    names : sequence of str
        The bundle's channels.

    Returns
    -------
    dict
        By the bundle's names, in its order.

    Raises
    ------
    InputError
        When one is missing, given twice or unknown.
    """
    wanted = {name.casefold(): name for name in names}
    found: dict[str, Item] = {}
    known = ", ".join(names)
    for name, item in given:
        own = wanted.get(name.strip().casefold())
        if own is None:
            msg = f"channel {name!r}: the bundle has no such input; it takes {known}"
            raise InputError(msg)
        if own in found:
            msg = f"channel {name!r}: is given twice; give each of {known} once"
            raise InputError(msg)
        found[own] = item
    missing = [name for name in names if name not in found]
    if missing:
        msg = f"channel {', '.join(missing)}: is missing; the bundle takes {known}, so add --input {missing[0]}=PATH (in Python: segment({{{missing[0]!r}: path, ...}}))"
        raise InputError(msg)
    return {name: found[name] for name in names}


def load_channels(inputs: Iterable[tuple[str, Volume | str | Path]], names: Sequence[str], *, fix_geometry: bool = False, suv: bool | Literal["pet"] = False) -> Volume:
    """Read the channels of one image.

    Parameters
    ----------
    inputs : iterable of (name, volume or path)
        In any order; paths are read by :func:`volseg.io.load`, of a DICOM folder with several series the one of the modality that the name speaks of.
    names : sequence of str
        The bundle's channels, in its order.
    fix_geometry : bool
        As for :func:`~volseg.io.load`.
    suv : bool or "pet"
        Turn the PET channels into body-weight SUV (g/ml); with ``"pet"`` those that are DICOM PETs.

    Returns
    -------
    Volume
        The first channel, with the others as ``further``; see :func:`combine`.

    Raises
    ------
    InputError, GeometryError, SeriesError
        When a name does not fit the bundle, a channel cannot be read, or they do not fit together.
    """
    ordered = in_order(inputs, names)
    pets = [name for name in ordered if expected_modality(name) == "PT"]
    if suv is True and not pets:
        msg = f"--suv: none of the channels {', '.join(ordered)} is a PET; leave it out"
        raise InputError(msg)
    return combine(
        {
            name: given
            if isinstance(given, Volume)
            else load(given, modality=expected_modality(name), fix_geometry=fix_geometry, suv=suv if name in pets or suv == "pet" else False)
            for name, given in ordered.items()
        }
    )


def combine(channels: Mapping[str, Volume]) -> Volume:
    """Put channels together, on whatever grids they lie.

    Parameters
    ----------
    channels : mapping of str to Volume
        In the order of the network's input.

    Returns
    -------
    Volume
        The first channel with the others as ``further``, and warnings of all of them, among them how much of the first one's field of view each of the others covers.

    Raises
    ------
    InputError
        When a channel holds several itself.
    GeometryError
        When two DICOM channels lie in different frames of reference, or one does not overlap the first.
    """
    named = [replace(volume, source=replace(volume.source, channel=name)) for name, volume in channels.items()]
    for volume in named:
        if volume.further:
            msg = f"{volume.source.path}: holds {len(volume.channels)} channels, but is given as channel {volume.source.channel} alone; split it, or give the file alone"
            raise InputError(msg)
    first, *further = named
    notes = [note if len(named) == 1 else f"{volume.source.channel}: {note}" for volume in named for note in volume.warnings]
    for number, volume in enumerate(further, start=1):
        _check_frame(first, volume)
        twice = (other.source.channel for other in named[:number] if _same(other, volume))
        notes += [f"channels {other} and {volume.source.channel} are one and the same scan ({volume.source.path})" for other in twice]
        notes += _check_coverage(first, volume)
    return replace(first, warnings=tuple(notes), further=tuple(further))


def with_names(volume: Volume, names: Sequence[str]) -> Volume:
    """Name the channels of an image that was read from one file, in their order; names already there stay."""
    if not volume.further:
        return volume
    named = [replace(channel, source=replace(channel.source, channel=channel.source.channel or name), further=()) for channel, name in zip(volume.channels, names, strict=True)]
    return replace(named[0], further=tuple(named[1:]))


def _same(one: Volume, other: Volume) -> bool:
    """Whether two channels were read from the same content; a bundle may want that, a slip of the hand is likelier."""
    known = one.source.sha256 or one.source.series_instance_uid
    return known is not None and known == (other.source.sha256 or other.source.series_instance_uid)


def _check_frame(first: Volume, other: Volume) -> None:
    ours, theirs = _frame(first), _frame(other)
    if ours and theirs and ours != theirs:
        msg = (
            f"{other.source.path}: channel {other.source.channel} lies in another frame of reference ({theirs}) than channel {first.source.channel} "
            f"({first.source.path}: {ours}), so which voxels belong together is not known; give two series of one examination, or register them and give NIfTI files"
        )
        raise GeometryError(msg)


def _frame(volume: Volume) -> str:
    """FrameOfReferenceUID (0020,0052) of a DICOM series, ``""`` where there is none."""
    slices = getattr(volume.source.header, "slices", ()) if volume.source.kind == "dicom" else ()
    return next((str(one.text["frame"]) for one in slices), "")


def _check_coverage(first: Volume, other: Volume) -> list[str]:
    if other.grid.isclose(first.grid, SAME_GRID_MM):
        return []
    share = covered_share(first.grid, other.grid)
    ours, theirs = first.source.channel, other.source.channel
    if share == 0:
        apart = float(np.linalg.norm(first.grid.corners().mean(axis=0) - other.grid.corners().mean(axis=0)))
        msg = (
            f"{other.source.path}: channel {theirs} does not overlap channel {ours} ({first.source.path}): their centres are {apart:.0f} mm apart; "
            "give scans of one patient in one frame, registered if they must be"
        )
        raise GeometryError(msg)
    if share >= COVERED:
        return []
    return [f"channel {theirs} covers {100 * share:.1f} % of the field of view of channel {ours}; the rest of it is taken as {outside_value(other):g}"]
