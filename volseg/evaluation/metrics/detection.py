"""Which lesions were found: connected pieces of a label (26 neighbours), matched one to one between prediction and reference.

A predicted and a reference lesion may match when they share a voxel and their intersection over union (IoU) is at least a threshold. Such pairs are taken by falling IoU, each
lesion once: a matched pair is a true positive, a predicted lesion left over a false positive, a reference lesion left over a false negative. So of two pieces that cover one lesion
only the better is right, and one piece that covers two lesions finds one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.components import number_pieces
from volseg.io.tally import count_values

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

CONNECTIVITY = 26
"""Voxels that touch at a corner are one lesion, as in the lesions that ``volseg infer`` lists."""


@dataclass(frozen=True)
class Detection:
    """Lesions of one label.

    Parameters
    ----------
    true_positive, false_positive, false_negative : int
        Lesions matched, predicted without a match, and of the reference without a match.
    false_positive_voxels : int
        Voxels of the predicted lesions that share no voxel with the reference (the false-positive volume of the autoPET challenge; Gatidis et al., 2022).
    false_negative_voxels : int
        Voxels of the reference lesions that share no voxel with the prediction.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    false_positive_voxels: int = 0
    false_negative_voxels: int = 0

    @property
    def f1(self) -> float | None:
        """``2 TP / (2 TP + FP + FN)``; None where neither has a lesion."""
        found = 2 * self.true_positive
        whole = found + self.false_positive + self.false_negative
        return found / whole if whole else None

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's lesions that were found; None where it has none."""
        whole = self.true_positive + self.false_negative
        return self.true_positive / whole if whole else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are right; None where there are none."""
        whole = self.true_positive + self.false_positive
        return self.true_positive / whole if whole else None

    def __add__(self, other: Detection) -> Detection:
        """Both together, as if the lesions were those of one case."""
        return Detection(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.false_positive_voxels + other.false_positive_voxels,
            self.false_negative_voxels + other.false_negative_voxels,
        )


def match_lesions(prediction: Mask, reference: Mask, least_iou: float) -> Detection:
    """Match the lesions of two masks; the rule is at the top of this module.

    Parameters
    ----------
    prediction, reference : ndarray of bool, (i, j, k)
        Of one shape and on one grid.
    least_iou : float
        Least intersection over union of a match, 0 to 1; a common voxel is always needed.
    """
    ours, count = number_pieces(prediction, CONNECTIVITY)
    theirs, other_count = number_pieces(reference, CONNECTIVITY)
    sizes, other_sizes = count_values(ours), count_values(theirs)
    pairs, common = _common_voxels(ours, theirs, count, other_count)
    one, other = np.divmod(pairs, other_count + 1)
    iou = common / (sizes[one] + other_sizes[other] - common)
    found = _count_matches(one, other, iou, least_iou)
    alone, other_alone = (np.setdiff1d(np.arange(1, n + 1), touched) for n, touched in ((count, one), (other_count, other)))
    return Detection(found, count - found, other_count - found, int(sizes[alone].sum()), int(other_sizes[other_alone].sum()))


def _common_voxels(ours: npt.NDArray[np.integer], theirs: npt.NDArray[np.integer], count: int, other_count: int) -> tuple[Counts, Counts]:
    """Pairs of lesions that overlap, as ``ours * (other_count + 1) + theirs``, and by how many voxels."""
    both = (ours != 0) & (theirs != 0)
    keys = ours[both].astype(np.int64) * (other_count + 1) + theirs[both]
    if count * other_count < len(keys):
        # Of a few large lesions, counting is ten times as fast as sorting.
        counts = np.bincount(keys)
        pairs = np.flatnonzero(counts)
        return pairs, counts[pairs]
    return np.unique(keys, return_counts=True)


def _count_matches(one: Counts, other: Counts, iou: npt.NDArray[np.float64], least_iou: float) -> int:
    taken: set[int] = set()
    other_taken: set[int] = set()
    for place in np.argsort(-iou, kind="stable").tolist():
        if iou[place] < least_iou:
            break
        if int(one[place]) not in taken and int(other[place]) not in other_taken:
            taken.add(int(one[place]))
            other_taken.add(int(other[place]))
    return len(taken)
