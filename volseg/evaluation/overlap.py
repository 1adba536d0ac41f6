"""How far two label maps overlap: true/false positives and negatives per label, and the ratios that follow from them.

Empty cases, used the same way everywhere in volseg:

=============  =============  ==========================================================================
prediction     reference      Dice and IoU
=============  =============  ==========================================================================
empty          empty          undefined (``None``): left out of means, but counted and shown
empty          not empty      0 (the structure was missed)
not empty      empty          0 (spurious; the false-positive volume says by how much)
=============  =============  ==========================================================================

Precision is undefined where the prediction is empty, sensitivity where the reference is. MONAI (``ignore_empty``) and nnU-Net give NaN for two empty masks, which is the same rule;
:data:`volseg.evaluation.metrics.catalogue.EMPTY_CASES` says how the other metrics and the statistics follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.io.tally import count_values

MAX_LABEL = 65535
"""Largest label value accepted; it bounds the lookup table, and segmentation formats store no more (uint16)."""

MAX_LABELS = 2048
"""Different values accepted in one comparison; more are an image, not a segmentation, and the table of all pairs of labels (32 MiB at this size) would fill the memory."""

CHUNK_VOXELS = 1 << 22
"""Voxels compared at a time, so that ``numpy.bincount`` (which needs int64) holds 32 MiB and not eight bytes for every voxel of the scan."""

AnyArray = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one label in a prediction and a reference.

    Parameters
    ----------
    true_positive, false_positive, false_negative : int
        Voxels with the label in both, in the prediction only, in the reference only.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    @property
    def predicted(self) -> int:
        """Voxels of the label in the prediction."""
        return self.true_positive + self.false_positive

    @property
    def referenced(self) -> int:
        """Voxels of the label in the reference."""
        return self.true_positive + self.false_negative

    @property
    def dice(self) -> float | None:
        """``2 TP / (2 TP + FP + FN)`` (Dice, 1945); None when both are empty."""
        return _ratio(2 * self.true_positive, self.predicted + self.referenced)

    @property
    def iou(self) -> float | None:
        """``TP / (TP + FP + FN)`` (Jaccard, 1912); None when both are empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def precision(self) -> float | None:
        """``TP / (TP + FP)``; None when the prediction is empty."""
        return _ratio(self.true_positive, self.predicted)

    @property
    def sensitivity(self) -> float | None:
        """``TP / (TP + FN)``; None when the reference is empty."""
        return _ratio(self.true_positive, self.referenced)


def count_overlaps(prediction: AnyArray, reference: AnyArray) -> dict[int, Overlap]:
    """Count the voxels of every label found in either array, all labels in one pass.

    Parameters
    ----------
    prediction, reference : ndarray of bool or integers
        Label maps of the same shape; 0 is background. They must lie on the same grid, which is for the caller to check.

    Returns
    -------
    dict of int to Overlap
        Every label other than 0 that occurs in either array, in ascending order.

    Raises
    ------
    GeometryError
        If the shapes differ.
    InputError
        If an array does not hold integers from 0 to ``MAX_LABEL``, or they hold more than ``MAX_LABELS`` different ones.
    """
    require_same_shape(prediction, reference)
    present = [np.flatnonzero(count_labels(array)) for array in (prediction, reference)]
    labels = np.unique(np.concatenate([np.zeros(1, dtype=np.intp), *present]))
    size = len(labels)
    if size > MAX_LABELS:
        msg = f"{size} different values are no label map (at most {MAX_LABELS}); give the segmentation, not an image"
        raise InputError(msg)
    index = np.zeros(int(labels[-1]) + 1, dtype=np.intp)
    index[labels] = np.arange(size)
    counts = np.zeros(size * size, dtype=np.int64)
    for one, other in _chunks(prediction, reference):
        counts += np.bincount(index[one] * size + index[other], minlength=size * size)
    table = counts.reshape(size, size)
    agree, predicted, referenced = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return {int(label): Overlap(int(agree[row]), int(predicted[row] - agree[row]), int(referenced[row] - agree[row])) for row, label in enumerate(labels) if label != 0}


def require_same_shape(prediction: AnyArray, reference: AnyArray) -> None:
    """Refuse arrays that cannot lie on one grid.

    Raises
    ------
    GeometryError
        If the shapes differ.
    """
    if prediction.shape != reference.shape:
        msg = f"prediction and reference have different shapes, {prediction.shape} and {reference.shape}; bring both onto one grid first"
        raise GeometryError(msg)


def count_labels(array: AnyArray) -> npt.NDArray[np.int64]:
    """Voxels of every label value, 0 included: element ``n`` counts the voxels that are ``n``.

    Raises
    ------
    InputError
        If the array does not hold booleans or integers from 0 to ``MAX_LABEL``.
    """
    if array.dtype.kind not in "bui":
        msg = f"a label map holds integers, got an array of {array.dtype}; give the segmentation, not an image or probabilities"
        raise InputError(msg)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > MAX_LABEL:
        msg = f"a label map holds integers from 0 to {MAX_LABEL}, got values from {low} to {high}; give the segmentation, not an image"
        raise InputError(msg)
    return count_values(array)


def dice(prediction: AnyArray, reference: AnyArray) -> float | None:
    """Dice coefficient of two masks (non-zero is inside); None when both are empty, 0 when one is. See :class:`Overlap`."""
    return count_overlaps(prediction != 0, reference != 0).get(1, Overlap()).dice


def iou(prediction: AnyArray, reference: AnyArray) -> float | None:
    """Intersection over union of two masks (non-zero is inside); None when both are empty, 0 when one is. See :class:`Overlap`."""
    return count_overlaps(prediction != 0, reference != 0).get(1, Overlap()).iou


def _chunks(*arrays: AnyArray) -> Iterator[list[npt.NDArray[np.intp]]]:
    """Yield matching flat pieces of arrays of one shape as indices, walking along the first array's memory so that Fortran-ordered NIfTI data is not gathered voxel by voxel."""
    order = np.argsort([-abs(stride) for stride in arrays[0].strides], kind="stable")
    views = [array.transpose(*order) for array in arrays]
    shape = views[0].shape
    thickness = max(1, CHUNK_VOXELS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], thickness):
        yield [view[start : start + thickness].astype(np.intp).ravel() for view in views]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
