"""All that is measured between two label maps, label by label."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from volseg.evaluation.extent import Box, label_boxes, labelled_box, union
from volseg.evaluation.metrics.detection import Detection, match_lesions
from volseg.evaluation.metrics.settings import Settings
from volseg.evaluation.metrics.surfaces import SurfaceAgreement, compare_surfaces
from volseg.evaluation.overlap import AnyArray, Overlap, count_labels, count_overlaps, require_same_shape

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """One label of a prediction and of a reference: in voxels, in surfaces and in lesions. The defaults are those of a label in neither."""

    overlap: Overlap = field(default_factory=Overlap)
    surface: SurfaceAgreement = field(default_factory=SurfaceAgreement)
    detection: Detection = field(default_factory=Detection)


def measure_agreement(
    prediction: AnyArray, reference: AnyArray, axes_mm: FloatArray, settings: Settings, *, labels: Collection[int] | None = None, threads: int = 1
) -> dict[int, Agreement]:
    """Measure every label found in either map.

    Each label is measured in the box around it in both maps, so time and memory grow with the labels and not with the scan: about 9 bytes for each voxel of the largest box.

    Parameters
    ----------
    prediction, reference : ndarray of bool or integers, (i, j, k)
        Label maps of one shape and on one grid; 0 is background.
    axes_mm : ndarray of float64, (3, 3)
        Columns are the steps along i, j and k (mm).
    settings : Settings
        Tolerances and the rule of detection.
    labels : collection of int, optional
        Measure only these; all by default.
    threads : int
        Threads of the search for neighbours; -1 for all processors.

    Returns
    -------
    dict of int to Agreement
        By ascending label value, without the background.

    Raises
    ------
    GeometryError
        If the shapes differ.
    InputError
        If an array does not hold labels (see :func:`~volseg.evaluation.overlap.count_overlaps`).
    """
    require_same_shape(prediction, reference)
    around = union(labelled_box(prediction), labelled_box(reference))
    if around is None:
        for array in (prediction, reference):
            count_labels(array)
        return {}
    # Along the memory of Fortran-ordered (NIfTI) arrays everything below is several times as fast.
    order = [int(axis) for axis in np.argsort([-abs(stride) for stride in reference.strides], kind="stable")]
    ours, theirs = (np.ascontiguousarray(array[around].transpose(order)) for array in (prediction, reference))
    overlaps = count_overlaps(ours, theirs)
    boxes, other_boxes = label_boxes(ours), label_boxes(theirs)
    agreements = {}
    for label, overlap in overlaps.items():
        if labels is not None and label not in labels:
            continue
        box = union(_of(boxes, label), _of(other_boxes, label))
        mask, other = ours[box] == label, theirs[box] == label
        surface = compare_surfaces(mask, other, axes_mm[:, order], settings.tolerance_of(label), threads=threads)
        agreements[label] = Agreement(overlap, surface, match_lesions(mask, other, settings.lesion_iou))
    return agreements


def _of(boxes: list[Box | None], label: int) -> Box | None:
    return boxes[label - 1] if label <= len(boxes) else None
