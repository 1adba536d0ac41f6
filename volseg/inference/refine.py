"""Corrections of a finished label map: keep the largest piece, remove small ones, fill holes; the answers are those of MONAI's transforms of these names on one channel.

They work on the label on the scan's grid, as MONAI's do: connected-components-3d numbers pieces many times faster than scikit-image, and holes are looked for in the box around a
label only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from volseg.evaluation.extent import Box

Labels = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]

LARGEST, SMALL, HOLES = "KeepLargestConnectedComponent", "RemoveSmallObjects", "FillHoles"

ARGUMENTS: Mapping[str, frozenset[str]] = {
    LARGEST: frozenset({"applied_labels", "is_onehot", "independent", "connectivity", "num_components"}),
    SMALL: frozenset({"min_size", "connectivity", "independent_channels", "by_measure"}),
    HOLES: frozenset({"applied_labels", "connectivity"}),
}
"""Corrections and the arguments of theirs that are known."""

NEIGHBOURS = {None: 26, 1: 6, 2: 18, 3: 26}
"""``connectivity`` of scikit-image (hops) to the number of neighbours."""


@dataclass(frozen=True)
class Refinement:
    """One correction.

    Parameters
    ----------
    name : str
        MONAI's class without the ``d``: a key of :data:`ARGUMENTS`.
    arguments : mapping
        As MONAI takes them.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def as_config(self) -> dict[str, Any]:
        """The stock MONAI transform of a bundle's config."""
        return {"_target_": f"{self.name}d", "keys": "pred", **self.arguments}

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The labels it is for; None for all."""
        given = self.arguments.get("applied_labels")
        return (given,) if isinstance(given, int) else tuple(given) if given else None


def refine(label: Labels, refinements: Sequence[Refinement], spacing: Sequence[float]) -> Labels:
    """Apply corrections in order.

    Parameters
    ----------
    label : ndarray of unsigned integers, (i, j, k)
        Changed in place.
    refinements : sequence of Refinement
        See :data:`ARGUMENTS`.
    spacing : sequence of 3 float
        Voxel size (mm), for sizes by volume.

    Returns
    -------
    ndarray
        ``label``.
    """
    for refinement in refinements:
        if refinement.name == LARGEST:
            _keep_largest(label, refinement)
        elif refinement.name == SMALL:
            _remove_small(label, refinement.arguments, math.prod(spacing))
        else:
            _fill_holes(label, refinement)
    return label


def _present(label: Labels, wanted: Iterable[int] | None) -> list[int]:
    present = [int(value) for value in np.flatnonzero(np.bincount(label.ravel(order="K"))) if value]
    return present if wanted is None else [value for value in wanted if value in present]


def _keep_largest(label: Labels, refinement: Refinement) -> None:
    from volseg.evaluation.extent import labelled_box

    neighbours, labels = NEIGHBOURS[refinement.arguments.get("connectivity")], _present(label, refinement.labels)
    groups = [[value] for value in labels] if refinement.arguments.get("independent", True) else [labels]
    for group in groups:
        mask = np.isin(label, group)
        box = labelled_box(mask)
        if box is None:
            continue
        pieces, sizes = _pieces(mask[box], neighbours)
        if len(sizes) > 2:
            part = label[box]
            part[(pieces > 0) & (pieces != int(sizes.argmax()))] = 0


def _remove_small(label: Labels, arguments: Mapping[str, Any], voxel_mm3: float) -> None:
    from volseg.evaluation.extent import labelled_box

    least = math.ceil(arguments["min_size"] / voxel_mm3) if arguments.get("by_measure", False) else arguments["min_size"]
    box = labelled_box(label)
    if box is None:
        return
    part = label[box]
    if arguments.get("independent_channels", True) and int(part.max()) > 1:
        # scikit-image takes each value of a label map for one object, however many pieces it has.
        counts = np.bincount(part.ravel(order="K"))
        part[(counts < least)[part]] = 0
        return
    pieces, sizes = _pieces(part != 0, NEIGHBOURS[arguments.get("connectivity", 1)])
    small = sizes < least
    small[0] = False
    part[small[pieces]] = 0


def _fill_holes(label: Labels, refinement: Refinement) -> None:
    from volseg.evaluation.extent import labelled_box

    neighbours = NEIGHBOURS[refinement.arguments.get("connectivity")]
    for value in sorted(_present(label, refinement.labels)):
        box = labelled_box(label == value)
        assert box is not None
        part = label[_grown(box, label.shape)]
        pieces, sizes = _pieces(part != value, neighbours)
        # Everything around the label's box is connected to the scan's edge, so what reaches the grown box's edge is open.
        edges = [pieces[tuple(edge if axis == number else slice(None) for number in range(3))] for axis in range(3) for edge in (0, -1)]
        closed = np.ones(len(sizes), dtype=bool)
        closed[0] = False
        for edge in edges:
            closed[np.unique(edge)] = False
        part[closed[pieces]] = value


def _pieces(mask: Mask, neighbours: int) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.intp]]:
    """Pieces numbered from 1, on exactly the mask's shape, and the voxels of each; the count of what is outside is 0."""
    from volseg.evaluation.components import number_pieces

    numbered, count = number_pieces(mask.astype(np.uint8), neighbours)
    pieces = numbered[tuple(slice(0, side) for side in mask.shape)]
    sizes = np.bincount(pieces.ravel(order="K"), minlength=count + 1)
    sizes[0] = 0
    return pieces, sizes


def _grown(box: Box, shape: Sequence[int]) -> Box:
    first, second, third = (slice(max(0, part.start - 1), min(side, part.stop + 1)) for part, side in zip(box, shape, strict=True))
    return first, second, third
