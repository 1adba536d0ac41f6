"""What was measured on each label of a segmentation: size, place, longest diameter, intensities, and its separate lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.evaluation.extent import Box, enclosing, label_boxes
from volseg.evaluation.overlap import count_labels
from volseg.evaluation.regions.crowded import Identity, measure_together
from volseg.evaluation.regions.intensity import describe_values, intensity_unit, values_inside
from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.evaluation.regions.lesions import Point, as_point, bounding_box, find_lesions
from volseg.evaluation.regions.tables import write_statistics_csv
from volseg.geometry import Grid
from volseg.io import Volume

__all__ = ["LabelStatistics", "label_statistics", "write_statistics_csv"]

CONNECTIVITIES = (6, 18, 26)
"""Neighbours of a voxel: those that share a face, an edge too, or a corner too."""

TURNS_OF_ONE_WALK = 3
"""The walk over all labels at once costs about as much as so many over one of them: it numbers the pieces with 32 bits and tells whose each is."""


def label_statistics(label: npt.NDArray[np.generic], volume: Volume, names: Mapping[int, str], *, connectivity: int = 26) -> list[LabelStatistics]:
    """Measure every label of a segmentation.

    Memory beyond the two arrays: in the bounding box of one label at a time, a mask (1 byte a voxel), the numbered pieces (2 or 4 bytes a voxel) and a copy of the values inside;
    where many labels are scattered over the same place, the same once for all of them.

    Parameters
    ----------
    label : ndarray of bool or integers, axes (i, j, k) of ``volume.grid``
        0 is background.
    volume : Volume
        The scan; its values give the intensities.
    names : mapping of int to str
        Names by label value. Each gets an entry, also where nothing carries it; a value without a name is called by its number.
    connectivity : int
        Which voxels make one piece: 26 (default, they touch at a corner at least), 18 or 6.

    Returns
    -------
    list of LabelStatistics
        By ascending value.

    Raises
    ------
    GeometryError
        If the label does not have the scan's shape.
    InputError
        If it does not hold labels, or the connectivity is none of the three.
    """
    if label.shape != volume.grid.shape:
        msg = f"{volume.source.path}: the label of shape {label.shape} does not fit the scan of {volume.grid.shape} voxels; give one on the scan's grid"
        raise GeometryError(msg)
    if connectivity not in CONNECTIVITIES:
        msg = f"connectivity must be 6, 18 or 26 neighbours, got {connectivity}"
        raise InputError(msg)
    counts = count_labels(label)
    boxes = label_boxes(label)
    unit = intensity_unit(volume)
    values = sorted(({int(value) for value in np.flatnonzero(counts)} | set(names)) - {0})
    wanted = [(value, names.get(value, str(value)), unit) for value in values]
    found = {value: box for value, box in enumerate(boxes, 1) if box is not None}
    if _are_crowded(list(found.values())):
        measured = measure_together(label, volume, found, wanted, connectivity)
        return [measured.get(identity[0]) or LabelStatistics(*identity) for identity in wanted]
    return [_measure(label[box] == identity[0], volume, box, identity, connectivity) if (box := found.get(identity[0])) else LabelStatistics(*identity) for identity in wanted]


def _are_crowded(boxes: Sequence[Box]) -> bool:
    """Whether one walk over everything is less than a walk over the box of each label in turn: many labels scattered over the same place."""
    if len(boxes) < 2:
        return False
    volumes = [float(np.prod([part.stop - part.start for part in box])) for box in boxes]
    return sum(volumes) > TURNS_OF_ONE_WALK * float(np.prod([part.stop - part.start for part in enclosing(boxes)]))


def _measure(mask: npt.NDArray[np.bool_], volume: Volume, box: Box, identity: Identity, connectivity: int) -> LabelStatistics:
    grid = volume.grid
    start = np.array([part.start for part in box])
    image = volume.array[box]
    voxels = int(np.count_nonzero(mask))
    return LabelStatistics(
        *identity,
        voxels=voxels,
        volume_ml=voxels * grid.voxel_volume_ml,
        bounding_box=bounding_box(grid, start, np.array([part.stop - 1 for part in box])),
        centroid_mm=_centroid(mask, grid, start),
        intensity=describe_values(values_inside(image, mask)),
        **_pieces(mask, image, grid, start, connectivity),
    )


def _pieces(mask: npt.NDArray[np.bool_], image: npt.NDArray[np.generic], grid: Grid, start: npt.NDArray[np.integer], connectivity: int) -> dict[str, Any]:
    pieces = find_lesions(mask, image, grid, tuple(int(n) for n in start), connectivity)
    return {"components": pieces.count, "lesions": pieces.lesions, "diameter": pieces.longest}


def _centroid(mask: npt.NDArray[np.bool_], grid: Grid, start: npt.NDArray[np.integer]) -> Point:
    along = [np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    middle = np.array([float(np.dot(counts, np.arange(len(counts)))) / float(counts.sum()) for counts in along])
    return as_point(grid.to_world(middle + start))
