"""The pictures of a case report: three planes, and for each label a strip of axial slices with its longest diameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.geometry import Grid, reorient
from volseg.io import Volume
from volseg.report.palette import label_colour
from volseg.report.planes import PLANES, AnyArray, choose_slices
from volseg.report.svg import Outline, Picture
from volseg.report.window import Window, window_of

AXIAL = PLANES[0]

MAX_STRIPS = 6
"""Labels with a strip of slices, the largest first; the table has them all."""

MAX_TILES, MIN_TILES, ALL_TILES = 10, 4, 36
"""Slices in a strip, at most, at least, and in all strips together; they bound the size of the report."""

TILE_PIXELS = 230
TILE_MARGIN = 1.4
MIN_TILE_MM = 60.0
"""A tile shows so much more than the label's width, and no less than this, for the anatomy around it."""


@dataclass(frozen=True)
class Shown:
    """A picture with its caption, and its width in mm by which pictures side by side are scaled alike."""

    svg: str
    caption: str
    width_mm: float


@dataclass(frozen=True)
class Strip:
    """Axial slices through one label, from the head down; ``step`` says which of its slices are shown."""

    name: str
    colour: str
    step: str
    tiles: tuple[Shown, ...]


@dataclass(frozen=True)
class Scene:
    """What is drawn, along RAS+ axes; ``stored`` is the scan's own grid."""

    image: AnyArray
    label: AnyArray
    grid: Grid
    window: Window
    names: Mapping[int, str]
    stored: Grid

    def turned(self, index: tuple[int, int, int]) -> tuple[int, int, int]:
        """A voxel of the scan as stored, along RAS+ axes."""
        order, flips = self.stored.reorientation("RAS")
        i, j, k = (self.grid.shape[axis] - 1 - index[old] if axis in flips else index[old] for axis, old in enumerate(order))
        return i, j, k

    def outlines(self, index: int, plane: int, part: tuple[slice, slice]) -> list[Outline]:
        """The labels in a slice, cut to a part of the picture."""
        labels = PLANES[plane].picture(self.label, index)[part]
        return [Outline(labels == value, label_colour(value), self.names.get(value, str(value))) for value in np.unique(labels[labels != 0]).tolist()]


def make_scene(volume: Volume, label: AnyArray, names: Mapping[int, str]) -> Scene:
    """Turn scan and label to RAS+ and choose the window; nothing is copied."""
    image, grid = reorient(volume.array, volume.grid, "RAS")
    return Scene(image, reorient(label, volume.grid, "RAS")[0], grid, window_of(volume, label), names, volume.grid)


def draw_planes(scene: Scene) -> list[Shown]:
    """An axial, a coronal and a sagittal slice where the labelled area is largest; the middle ones where nothing is labelled."""
    shown, slices = [], choose_slices(scene.label)
    for number, plane in enumerate(PLANES):
        index = slices[plane.axis]
        grey = scene.window.to_grey(plane.picture(scene.image, index))
        size = plane.size_mm(scene.grid)
        whole = (slice(None), slice(None))
        letters = (plane.left, plane.right, plane.top, plane.bottom)
        picture = Picture(grey, size, scene.outlines(index, number, whole), f"{plane.name} slice with the segmentation", letters)
        shown.append(Shown(picture.to_svg(), f"{plane.name.capitalize()}, slice {index + 1} of {scene.grid.shape[plane.axis]}", size[0]))
    return shown


def draw_strips(scene: Scene, statistics: Sequence[LabelStatistics]) -> list[Strip]:
    """Axial slices through the largest labels, evenly spaced over those a label occurs in; the one with its longest diameter is always among them."""
    present = sorted((label for label in statistics if label.voxels), key=lambda label: -label.voxels)[:MAX_STRIPS]
    count = min(MAX_TILES, max(MIN_TILES, ALL_TILES // max(1, len(present))))
    return [_draw_strip(scene, label, count) for label in sorted(present, key=lambda label: label.value)]


def _draw_strip(scene: Scene, label: LabelStatistics, count: int) -> Strip:
    low, high = _extent(scene, label)
    inside = scene.label[low[0] : high[0], low[1] : high[1], low[2] : high[2]] == label.value
    occupied = low[2] + np.flatnonzero(inside.any(axis=(0, 1)))
    measured = _measured_slice(scene, label)
    chosen = spread_slices(occupied, count, measured)
    part = _crop(scene.grid, low, high)
    tiles = tuple(_draw_tile(scene, label, index, part, measured) for index in reversed(chosen))
    step = "every slice" if len(chosen) == len(occupied) else f"{len(chosen)} of {len(occupied)} slices"
    return Strip(label.name, label_colour(label.value), step, tiles)


def spread_slices(occupied: npt.NDArray[np.integer], count: int, always: int | None) -> list[int]:
    """At most ``count`` of the slices, evenly spread from the first to the last, with ``always`` in place of the one nearest to it."""
    chosen = [int(occupied[place]) for place in np.unique(np.rint(np.linspace(0, len(occupied) - 1, min(count, len(occupied)))).astype(int))]
    if always is not None and always not in chosen:
        nearest = min(range(len(chosen)), key=lambda place: abs(chosen[place] - always))
        chosen[nearest] = always
    return sorted(chosen)


def _draw_tile(scene: Scene, label: LabelStatistics, index: int, part: tuple[slice, slice], measured: int | None) -> Shown:
    rows, columns = part
    grey = scene.window.to_grey(AXIAL.picture(scene.image, index)[part])
    x, y, _ = scene.grid.spacing
    size = ((columns.stop - columns.start) * x, (rows.stop - rows.start) * y)
    line, caption = None, f"z {_height(scene.grid, index):.1f} mm"
    if index == measured and label.diameter:
        ends = scene.grid.to_voxel([label.diameter.start_mm, label.diameter.end_mm])
        across = (scene.grid.shape[0] - 0.5 - ends[:, 0] - columns.start) * x
        down = (scene.grid.shape[1] - 0.5 - ends[:, 1] - rows.start) * y
        line = (float(across[0]), float(down[0]), float(across[1]), float(down[1]))
        caption += f", longest diameter {label.diameter.length_mm:.1f} mm"
    picture = Picture(grey, size, scene.outlines(index, 0, part), f"axial slice at {caption}", line_mm=line, largest_side=TILE_PIXELS)
    return Shown(picture.to_svg(), caption, size[0])


def _height(grid: Grid, index: int) -> float:
    """World z (RAS+ mm) of the middle of an axial slice."""
    return float(grid.to_world([(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, index])[2])


def _measured_slice(scene: Scene, label: LabelStatistics) -> int | None:
    return None if label.diameter is None else round(float(scene.grid.to_voxel(label.diameter.start_mm)[2]))


def _extent(scene: Scene, label: LabelStatistics) -> tuple[list[int], list[int]]:
    """First voxel and the one past the last, along RAS+ axes."""
    assert label.bounding_box is not None
    first, last = (scene.turned(index) for index in (label.bounding_box.first, label.bounding_box.last))
    return [min(pair) for pair in zip(first, last, strict=True)], [max(pair) + 1 for pair in zip(first, last, strict=True)]


def _crop(grid: Grid, low: list[int], high: list[int]) -> tuple[slice, slice]:
    """Rows and columns of the axial picture around a label: a square in mm, as far as the scan reaches."""
    side = max(MIN_TILE_MM, TILE_MARGIN * max((high[axis] - low[axis]) * grid.spacing[axis] for axis in (0, 1)))
    parts = []
    for axis in (1, 0):
        size = min(grid.shape[axis], max(1, round(side / grid.spacing[axis])))
        # The picture runs against the RAS+ axis.
        middle = grid.shape[axis] - (low[axis] + high[axis]) / 2
        first = min(max(0, round(middle - size / 2)), grid.shape[axis] - size)
        parts.append(slice(first, first + size))
    return parts[0], parts[1]
