"""Make sure that labelled cases can be trained on, before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from volseg.dataset.datalist import Case
from volseg.errors import DatasetError, InputError
from volseg.io import load, load_label

GRID_TOLERANCE_MM = 1e-2
"""NIfTI keeps affines in float32, which places voxels a metre from the origin within about 1e-4 mm; tools that round spacings add up to some thousandths over a stack."""

READERS = 2


def check_cases(cases: Sequence[Case], labels: Collection[int]) -> None:
    """Read every image and label once, and refuse what cannot be trained on.

    Parameters
    ----------
    cases : sequence of Case
        All cases of a run.
    labels : collection of int
        Values a label map may hold.

    Raises
    ------
    DatasetError
        When a file cannot be read, a label lies on another grid than its first image, or holds values that are not labels. The first such case is named, the others counted.
    """
    with ThreadPoolExecutor(READERS) as pool:
        problems = [problem for problem in pool.map(lambda case: _problem(case, labels), cases) if problem]
    if problems:
        more = f" (and {len(problems) - 1} more of {len(cases)} cases)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more)


def _problem(case: Case, labels: Collection[int]) -> str:
    try:
        images = [load(image) for image in case.images]
        label = load_label(case.label, scan=images[0] if images[0].source.kind == "dicom" else None, rois=case.rois)
    except InputError as error:
        return str(error)
    grids = [image.grid for image in images]
    if not label.grid.isclose(grids[0], GRID_TOLERANCE_MM):
        return f"{case.label}: the label lies on {label.grid}, its image {case.images[0].name} on {grids[0]}; resample the label to the image's grid"
    values = np.unique(label.array)
    foreign = [f"{value:g}" for value in values.tolist() if value not in labels]
    if foreign:
        return (
            f"{case.label}: holds the values {', '.join(foreign[:5])}, but the bundle's labels are {', '.join(map(str, sorted(labels)))}; correct the label or use another bundle"
        )
    return ""
