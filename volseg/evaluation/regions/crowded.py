"""Labels that are scattered over the same place, measured in one walk over all of them instead of one over the whole place for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from volseg.evaluation.extent import Box, enclosing
from volseg.evaluation.regions.intensity import Intensity, count_pairs, describe_counts, describe_values, values_inside
from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.evaluation.regions.lesions import NumberedPieces, as_point, bounding_box, measure_pieces, tabulate_pieces
from volseg.io import Volume

Identity = tuple[int, str, str | None]
"""Label value, its name, and the unit of the scan's values."""


def measure_together(label: npt.NDArray[np.generic], volume: Volume, boxes: Mapping[int, Box], identities: Sequence[Identity], connectivity: int) -> dict[int, LabelStatistics]:
    """Measure all labels of a segmentation at once.

    Parameters
    ----------
    label : ndarray of unsigned integers, axes (i, j, k) of ``volume.grid``
        0 is background.
    volume : Volume
        The scan.
    boxes : mapping of int to Box
        By label value, where each lies; those that do not occur are missing.
    identities : sequence of Identity
        Labels to measure.
    connectivity : int
        6, 18 or 26.

    Returns
    -------
    dict of int to LabelStatistics
        Of those that occur; the same that measuring them in turn gives, to rounding.
    """
    around = enclosing(boxes.values())
    numbers = np.asarray(label[around]).astype(label.dtype if label.dtype.kind == "u" else np.uint16, copy=False)
    image = volume.array[around]
    start = np.array([part.start for part in around])
    pieces = tabulate_pieces(numbers, connectivity)
    members = _members(pieces, numbers)
    pairs = count_pairs(numbers, image)
    measured = {}
    for identity in identities:
        box = boxes.get(identity[0])
        if box is None:
            continue
        mine = members[identity[0]]
        found = measure_pieces(pieces, mine, image, volume.grid, [int(n) for n in start])
        voxels = int(pieces.voxels[mine].sum())
        measured[identity[0]] = LabelStatistics(
            *identity,
            voxels=voxels,
            volume_ml=voxels * volume.grid.voxel_volume_ml,
            bounding_box=bounding_box(volume.grid, np.array([part.start for part in box]), np.array([part.stop - 1 for part in box])),
            centroid_mm=as_point(volume.grid.to_world(pieces.voxels[mine] @ pieces.centroids[mine] / voxels + start)),
            intensity=_intensity(identity[0], pairs, label[box], volume.array[box]),
            components=found.count,
            lesions=found.lesions,
            diameter=found.longest,
        )
    return measured


def _members(pieces: NumberedPieces, numbers: npt.NDArray[np.unsignedinteger]) -> dict[int, npt.NDArray[np.int64]]:
    """For each label, the ascending numbers of its pieces."""
    owner = np.zeros(len(pieces.voxels), numbers.dtype)
    order = sorted(range(3), key=lambda axis: -abs(numbers.strides[axis]))
    inner = tuple(slice(side) for side in numbers.shape)
    for labels, numbered in zip(numbers.transpose(order), pieces.array[inner].transpose(order), strict=True):
        owner[numbered] = labels
    sorted_pieces = np.argsort(owner, kind="stable")
    values, firsts = np.unique(owner[sorted_pieces], return_index=True)
    return {int(value): part for value, part in zip(values, np.split(sorted_pieces, firsts[1:]), strict=True) if value}


def _intensity(value: int, pairs: tuple[int, npt.NDArray[np.int64]] | None, label: npt.NDArray[np.generic], image: npt.NDArray[np.generic]) -> Intensity | None:
    """From the table of labels by values where there is one, else from the values themselves."""
    if pairs is not None:
        return describe_counts(pairs[0], pairs[1][value])
    return describe_values(values_inside(image, label == value))
