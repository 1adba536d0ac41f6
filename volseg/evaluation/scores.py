"""Scores of one label in one case, and of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.errors import GeometryError, InputError
from volseg.evaluation.labels import label_array
from volseg.evaluation.overlap import Overlap, count_overlaps
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume

GRID_TOLERANCE_MM = 1e-2
"""Two label maps lie on one grid when no voxel centre differs by more than this (mm).

A NIfTI sform is float32: with 24 bits, a position 1 m from the origin is kept to 6e-5 mm. A qform is float32 quaternion components, from which the fourth is computed; unless a
rotation is within half a degree of a half turn, that moves a voxel 0.5 m away by less than 0.01 mm. DICOM's 16-character decimal strings lose less. And 0.01 mm is a tenth of the
smallest voxel of a clinical scan (about 0.1 mm), so maps that are shifted by a voxel are never accepted.
"""


@dataclass(frozen=True)
class LabelScore:
    """Agreement of one label in one case.

    Parameters
    ----------
    label : int
        Label value.
    name : str
        Its name, or the value as text.
    overlap : Overlap
        Voxel counts; Dice, IoU, precision and sensitivity are its properties.
    voxel_volume_ml : float
        Volume of a voxel (ml).
    """

    label: int
    name: str
    overlap: Overlap
    voxel_volume_ml: float

    @property
    def predicted_ml(self) -> float:
        """Volume of the prediction (ml)."""
        return self.overlap.predicted * self.voxel_volume_ml

    @property
    def reference_ml(self) -> float:
        """Volume of the reference (ml)."""
        return self.overlap.referenced * self.voxel_volume_ml

    @property
    def volume_difference_ml(self) -> float:
        """Predicted minus reference volume (ml); positive when too much was segmented."""
        return (self.overlap.predicted - self.overlap.referenced) * self.voxel_volume_ml

    @property
    def note(self) -> str:
        """``"both empty"``, ``"missed"`` (prediction empty), ``"spurious"`` (reference empty), or nothing."""
        if self.overlap.predicted == 0:
            return "both empty" if self.overlap.referenced == 0 else "missed"
        return "spurious" if self.overlap.referenced == 0 else ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an undefined metric is None."""
        overlap = self.overlap
        return {
            "label": self.label,
            "name": self.name,
            "dice": overlap.dice,
            "iou": overlap.iou,
            "precision": overlap.precision,
            "sensitivity": overlap.sensitivity,
            "true_positive_voxels": overlap.true_positive,
            "false_positive_voxels": overlap.false_positive,
            "false_negative_voxels": overlap.false_negative,
            "prediction_ml": self.predicted_ml,
            "reference_ml": self.reference_ml,
            "volume_difference_ml": self.volume_difference_ml,
            "false_positive_ml": overlap.false_positive * self.voxel_volume_ml,
            "false_negative_ml": overlap.false_negative * self.voxel_volume_ml,
            "note": self.note,
        }


@dataclass(frozen=True)
class CaseOverlap:
    """Everything measured on one pair of label maps, before labels are named.

    Parameters
    ----------
    case : str
        Name of the case.
    prediction, reference : Source
        Where the two label maps were read, with the SHA-256 of the files.
    grid : Grid
        The reference's grid.
    overlaps : mapping of int to Overlap
        Counts of every label found in either map.
    """

    case: str
    prediction: Source
    reference: Source
    grid: Grid
    overlaps: Mapping[int, Overlap]

    def score(self, names: Mapping[int, str]) -> tuple[LabelScore, ...]:
        """Scores for exactly the labels of ``names``; one that occurs in neither map counts as two empty masks."""
        volume = self.grid.voxel_volume_ml
        return tuple(LabelScore(label, name, self.overlaps.get(label, Overlap()), volume) for label, name in names.items())


def compare_volumes(prediction: Volume, reference: Volume, case: str | None = None) -> CaseOverlap:
    """Count the overlaps of two label maps that must lie on the same grid.

    A prediction stored with other axis order or directions than the reference (say LPS and RAS) is the same grid when its voxel centres coincide; its axes are then permuted and
    flipped, which changes no value.

    Parameters
    ----------
    prediction, reference : Volume
        Label maps.
    case : str, optional
        Name of the case; the reference's name when omitted.

    Raises
    ------
    GeometryError
        If the grids differ by more than ``GRID_TOLERANCE_MM``.
    InputError
        If either holds anything but labels.
    """
    array, grid = reorient(label_array(prediction), prediction.grid, reference.grid.orientation)
    distance = grid.distance(reference.grid)
    if distance > GRID_TOLERANCE_MM:
        # Shapes that differ have no largest distance to tell; the two sizes already say what is wrong.
        apart = "their sizes differ" if grid.shape != reference.grid.shape else f"voxel centres lie up to {distance:.4g} mm apart, allowed are {GRID_TOLERANCE_MM:g} mm"
        msg = (
            f"{prediction.source.path}: not on the grid of the reference {reference.source.path}: {_describe(prediction.grid)} against {_describe(reference.grid)}; {apart}; "
            "resample the prediction onto the reference's grid, or compare it with the right reference"
        )
        raise GeometryError(msg)
    try:
        overlaps = count_overlaps(array, label_array(reference))
    except InputError as error:
        msg = f"{prediction.source.path} against {reference.source.path}: {error}"
        raise InputError(msg) from error
    return CaseOverlap(case or reference.source.name, prediction.source, reference.source, reference.grid, overlaps)


def _describe(grid: Grid) -> str:
    origin = ", ".join(f"{value:.6g}" for value in grid.origin)
    return f"{grid}, first voxel at ({origin}) mm RAS+"
