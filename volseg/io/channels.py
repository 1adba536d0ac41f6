"""Images of several channels (CT and PET, T1 and T2): put together, checked, and brought to one grid.

A network sees all channels on the grid of the first. The others may lie on other grids of the same frame; they are interpolated linearly at the first one's voxel centres. A
channel's field of view is that of its voxels, edge to edge; outside it a CT gets its lowest finite value (air), anything else 0. The same is done before training and before
inference, so that a bundle stays plain MONAI and sees the same voxels in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.geometry import FloatArray, Grid
from volseg.io.intensity import finite
from volseg.io.load import load
from volseg.io.resample import Axis, resample
from volseg.io.volume import Volume

SAME_GRID_MM = 1e-2
"""NIfTI keeps affines in float32 and tools round spacings; two grids whose voxels are nowhere further apart than this are one."""

PARALLEL_TOLERANCE = 1e-3
"""Axes are parallel when following one of them leads nowhere further than this (voxels) along another."""

EDGE = 0.5 + 1e-3
"""How far from its centre the outermost voxel still reaches (voxels), with room for rounding."""

SAMPLES = 64
"""Voxel centres looked at along each axis to tell how much of a field of view is covered: a per cent is two thirds of a step."""

COVERED = 0.999
"""A channel that covers this share needs no warning."""

MODALITY_OF_WORD = {"CT": "CT", "CBCT": "CT", "PET": "PT", "PT": "PT", "SUV": "PT", "MR": "MR", "MRI": "MR"}
"""Word in a channel's name -> Modality (0008,0060), PS3.3 C.7.3.1.1.1."""

MRI_CONTRAST = re.compile(r"(T1|T2|PD|FLAIR|DWI|ADC)[A-Z0-9]*")
"""Words that name a contrast of MRI, such as ``T1w`` and ``T2_FLAIR``."""

Item = TypeVar("Item")


def expected_modality(channel: str | None) -> str | None:
    """Modality (0008,0060) that a channel's name speaks of, e.g. ``"PT"`` of ``"FDG-PET"``; None when it names none."""
    for word in re.split(r"[^A-Z0-9]+", (channel or "").upper()):
        if word in MODALITY_OF_WORD:
            return MODALITY_OF_WORD[word]
        if MRI_CONTRAST.fullmatch(word):
            return "MR"
    return None


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


def load_channels(inputs: Iterable[tuple[str, Volume | str | PathLike[str]]], names: Sequence[str], *, fix_geometry: bool = False, suv: bool = False) -> Volume:
    """Read the channels of one image.

    Parameters
    ----------
    inputs : iterable of (name, volume or path)
        In any order; paths are read by :func:`volseg.io.load`, of a DICOM folder with several series the one of the modality that the name speaks of.
    names : sequence of str
        The bundle's channels, in its order.
    fix_geometry : bool
        As for :func:`~volseg.io.load`.
    suv : bool
        Turn the PET channels into body-weight SUV (g/ml).

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
    if suv and not pets:
        msg = f"--suv: none of the channels {', '.join(ordered)} is a PET; leave it out"
        raise InputError(msg)
    return combine(
        {
            name: given if isinstance(given, Volume) else load(given, modality=expected_modality(name), fix_geometry=fix_geometry, suv=suv and name in pets)
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
    for volume in further:
        _check_frame(first, volume)
        notes += _check_coverage(first, volume)
    return replace(first, warnings=tuple(notes), further=tuple(further))


def with_names(volume: Volume, names: Sequence[str]) -> Volume:
    """Name the channels of an image that was read from one file, in their order; names already there stay."""
    if not volume.further:
        return volume
    named = [replace(channel, source=replace(channel.source, channel=channel.source.channel or name), further=()) for channel, name in zip(volume.channels, names, strict=True)]
    return replace(named[0], further=tuple(named[1:]))


def align(volumes: Sequence[Volume], threads: int = 1) -> tuple[Volume, ...]:
    """Bring channels to the grid of the first.

    Parameters
    ----------
    volumes : sequence of Volume
        At least one; ``source.channel`` (else ``source.modality``) tells what is a CT.
    threads : int
        Slices computed at the same time.

    Returns
    -------
    tuple of Volume
        All on the first one's grid. Those that lay there are unchanged (but for NaN and infinite voxels, which become the lowest finite value), the others are float32.
    """
    first, *others = volumes
    aligned = [Volume(voxels_on(v, first.grid, threads), first.grid, replace(v.source, header=None), v.warnings) for v in others]
    return (first, *aligned)


def voxels_on(volume: Volume, grid: Grid, threads: int = 1) -> npt.NDArray[Any]:
    """Voxels of one channel on a grid.

    Parameters
    ----------
    volume : Volume
        Its ``further`` channels are not looked at.
    grid : Grid
        Any grid of the same frame.
    threads : int
        Slices computed at the same time.

    Returns
    -------
    ndarray, (i, j, k) of ``grid``
        The volume's own array where it lies on the grid and is finite, else a new one: float32 where it was interpolated. NaN and infinite voxels count as the lowest finite value.
    """
    array = finite(volume.array)
    if volume.grid.isclose(grid, SAME_GRID_MM):
        return array
    matrix: FloatArray = np.linalg.solve(volume.grid.affine, grid.affine)
    partners = _parallel_axes(matrix, grid.shape)
    if partners is None:
        return _interpolated(array, matrix, grid.shape, outside_value(volume))
    out = np.full(grid.shape, outside_value(volume), dtype=np.float32)
    box, axes = [], []
    for axis, own in enumerate(partners):
        step, shift, length = float(matrix[own, axis]), float(matrix[own, 3]), array.shape[own]
        at = np.arange(grid.shape[axis]) * step + shift
        inside = np.flatnonzero((at >= -EDGE) & (at <= length - 1 + EDGE))
        if not inside.size:
            return out
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
        axes.append(Axis.linear(length, inside.size, step, float(at[inside[0]])))
    resample(array.transpose(partners), axes, threads, out[tuple(box)])
    return out


def outside_value(volume: Volume) -> float:
    """What stands for a channel outside its field of view: the lowest finite value of a CT, 0 of anything else."""
    channel = volume.source.channel
    modality = expected_modality(channel) if channel is not None else volume.source.modality
    return float(finite(volume.array).min()) if modality == "CT" else 0.0


def covered_share(grid: Grid, other: Grid) -> float:
    """Share of a grid's voxels whose centres lie in another's field of view, from at most 64 along each axis."""
    index = np.meshgrid(*(np.linspace(0, n - 1, min(n, SAMPLES)) for n in grid.shape), indexing="ij")
    at = other.to_voxel(grid.to_world(np.stack(index, axis=-1)))
    inside = ((at >= -EDGE) & (at <= np.array(other.shape) - 1 + EDGE)).all(axis=-1)
    return float(inside.mean())


def _parallel_axes(matrix: FloatArray, shape: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """For each axis of the target the source axis it runs along; None when an axis runs between two. ``matrix`` maps target indices to source indices."""
    # How far (source voxels) each source index moves along the whole of each target axis.
    moved = np.abs(matrix[:3, :3]) * (np.array(shape) - 1).clip(1)
    main = np.abs(matrix[:3, :3]).argmax(axis=0)
    i, j, k = (int(n) for n in main)
    if len({i, j, k}) < 3:
        return None
    moved[main, [0, 1, 2]] = 0
    return (i, j, k) if moved.max() <= PARALLEL_TOLERANCE else None


def _interpolated(array: npt.NDArray[Any], matrix: FloatArray, shape: tuple[int, int, int], outside: float) -> npt.NDArray[np.float32]:
    """An array at the places that ``matrix`` gives for the voxels of another shape, whatever the angle."""
    from scipy.ndimage import affine_transform

    out: npt.NDArray[np.float32] = affine_transform(array, matrix[:3, :3], matrix[:3, 3], output_shape=shape, output=np.float32, order=1, mode="nearest")
    last = np.array(array.shape)[:, None, None] - 1
    j, k = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij", sparse=True)
    in_plane = matrix[:3, 1, None, None] * j + matrix[:3, 2, None, None] * k + matrix[:3, 3, None, None]
    for number, plane in enumerate(out):
        at = in_plane + matrix[:3, 0, None, None] * number
        plane[((at < -EDGE) | (at > last + EDGE)).any(axis=0)] = outside
    return out


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
