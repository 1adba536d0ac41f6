"""Pictures of one evaluated case: prediction and reference where they differ most, on the scan where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from volseg.evaluation.extent import Box, labelled_box
from volseg.evaluation.scores import GRID_TOLERANCE_MM
from volseg.geometry import Grid, reorient
from volseg.io import Volume
from volseg.report.case_pictures import Shown
from volseg.report.palette import label_colour
from volseg.report.planes import PLANES, AnyArray, Plane, choose_slices
from volseg.report.svg import Outline, Picture
from volseg.report.window import Window, window_of

MARGIN = 0.25
LEAST_MM = 80.0
"""A picture shows so much more than what is labelled, and no less than this, for the anatomy around it."""

LARGEST_SIDE = 420
"""Pixels of a picture; three stand side by side."""

PLAIN_GREY = 40
"""Ground of a picture without a scan."""


def draw_disagreement(prediction: AnyArray, reference: AnyArray, grid: Grid, names: Mapping[int, str], scan: Volume | None = None) -> list[Shown]:
    """Draw an axial, a coronal and a sagittal slice, each where prediction and reference differ in most voxels.

    Parameters
    ----------
    prediction, reference : ndarray of integers, axes (i, j, k) of ``grid``
        Label maps; the prediction is filled in the label's colour, the reference a dashed white line.
    grid : Grid
        Of both.
    names : mapping of int to str
        Names by label value, shown on hovering.
    scan : Volume, optional
        Drawn beneath; left out where it does not lie on ``grid`` (see :func:`fits`).

    Returns
    -------
    list of Shown
    """
    labels, truth = (reorient(array, grid, "RAS")[0] for array in (prediction, reference))
    turned = grid.reoriented("RAS")
    box = _around((labels != 0) | (truth != 0), turned)
    ground = _ground(scan, reference, grid, box) if scan is not None and fits(scan, grid) else None
    labels, truth = labels[box], truth[box]
    shown = turned.crop([part.start for part in box], [part.stop for part in box])
    differs = labels != truth
    slices = choose_slices(differs if differs.any() else truth)
    pictures = []
    for plane in PLANES:
        index, size = slices[plane.axis], plane.size_mm(shown)
        outlines = _outlines(plane.picture(labels, index), plane.picture(truth, index), names)
        letters = (plane.left, plane.right, plane.top, plane.bottom)
        picture = Picture(_grey(ground, plane, index, shown), size, outlines, f"{plane.name} slice with prediction and reference", letters, largest_side=LARGEST_SIDE)
        caption = f"{plane.name.capitalize()}, slice {box[plane.axis].start + index + 1} of {turned.shape[plane.axis]}"
        pictures.append(Shown(picture.to_svg(), caption, size[0]))
    return pictures


def fits(scan: Volume, grid: Grid) -> bool:
    """Whether the scan's voxels, in whatever order, are those of the grid."""
    return scan.grid.reoriented(grid.orientation).distance(grid) <= GRID_TOLERANCE_MM


def _ground(scan: Volume, reference: AnyArray, grid: Grid, box: Box) -> tuple[AnyArray, Window]:
    """What is seen of the scan, and how its values become greys."""
    label = reorient(reference, grid, scan.grid.orientation)[0]
    return reorient(scan.array, scan.grid, "RAS")[0][box], window_of(scan, label)


def _grey(ground: tuple[AnyArray, Window] | None, plane: Plane, index: int, grid: Grid) -> npt.NDArray[np.uint8]:
    if ground is None:
        across, up = (size for axis, size in enumerate(grid.shape) if axis != plane.axis)
        return np.full((up, across), PLAIN_GREY, dtype=np.uint8)
    image, window = ground
    return window.to_grey(plane.picture(image, index))


def _around(labelled: AnyArray, grid: Grid) -> Box:
    box = labelled_box(labelled) or tuple(slice(0, size) for size in grid.shape)
    parts = []
    for part, size, step in zip(box, grid.shape, grid.spacing, strict=True):
        length = part.stop - part.start
        more = max(MARGIN * length, (LEAST_MM / step - length) / 2, 0)
        parts.append(slice(max(0, int(part.start - more)), min(size, int(np.ceil(part.stop + more)))))
    return parts[0], parts[1], parts[2]


def _outlines(labels: AnyArray, truth: AnyArray, names: Mapping[int, str]) -> list[Outline]:
    found, expected = (np.unique(array[array != 0]).tolist() for array in (labels, truth))
    return [Outline(labels == value, label_colour(value), names.get(value, str(value))) for value in found] + [
        Outline(truth == value, "#FFFFFF", f"reference {names.get(value, str(value))}", reference=True) for value in expected
    ]
