"""Which slices of a scan to show, and how to lay them out as a radiologist expects: the numbers behind a preview, without any drawing.

Everything here takes arrays whose axes point to RAS+ (see :func:`volseg.geometry.reorient`), so axis 0 is sagittal, 1 coronal and 2 axial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.evaluation.extent import labelled_areas
from volseg.geometry import Grid

AnyArray = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Plane:
    """One of the three orthogonal views, in the radiological convention (the patient seen from the feet, or from the front).

    Parameters
    ----------
    name : str
        Axial, coronal or sagittal.
    axis : int
        Axis of the RAS+ array that a slice is taken across.
    left, right, top, bottom : str
        Patient directions at the edges of the picture.
    """

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    def picture(self, array: AnyArray, index: int) -> AnyArray:
        """Return slice ``index`` as rows from the top and columns from the left of the picture; both run against their RAS+ axis, as the edges' letters say."""
        rows: AnyArray = np.moveaxis(array, self.axis, 0)[index].T
        return rows[::-1, ::-1]

    def size_mm(self, grid: Grid) -> tuple[float, float]:
        """Width and height of the picture (mm), from edge to edge of the outer voxels."""
        across, up = (axis for axis in range(3) if axis != self.axis)
        return grid.shape[across] * grid.spacing[across], grid.shape[up] * grid.spacing[up]


PLANES = (
    Plane("axial", 2, left="R", right="L", top="A", bottom="P"),
    Plane("coronal", 1, left="R", right="L", top="S", bottom="I"),
    Plane("sagittal", 0, left="A", right="P", top="S", bottom="I"),
)
"""The three views; the patient's left is on the right of the picture, anterior is on the left of the sagittal one."""


def choose_slices(label: AnyArray) -> tuple[int, int, int]:
    """Index along each axis of the slice with the largest labelled area; the middle slice when nothing is labelled.

    Where several slices share the largest area, the one in the middle of them is taken.
    """
    first, second, third = (_largest(area) for area in labelled_areas(label))
    return first, second, third


def _largest(area: npt.NDArray[np.int64]) -> int:
    if area.max() == 0:
        return (len(area) - 1) // 2
    best = np.flatnonzero(area == area.max())
    return int(best[(len(best) - 1) // 2])
