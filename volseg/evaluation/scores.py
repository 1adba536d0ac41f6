"""Scores of one label in one case, and of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.evaluation.agreement import Agreement, measure_agreement
from volseg.evaluation.labels import label_array
from volseg.evaluation.metrics.catalogue import METRICS
from volseg.evaluation.metrics.settings import Settings
from volseg.evaluation.overlap import AnyArray, Overlap
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
    agreement : Agreement
        What was measured, in voxels, surfaces and lesions.
    voxel_volume_ml : float
        Volume of a voxel (ml).
    """

    label: int
    name: str
    agreement: Agreement
    voxel_volume_ml: float

    @property
    def overlap(self) -> Overlap:
        """Voxel counts; Dice, IoU, precision and sensitivity are its properties."""
        return self.agreement.overlap

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
    def volume_error_percent(self) -> float | None:
        """Predicted minus reference volume in per cent of the reference; None where the reference is empty."""
        overlap = self.overlap
        return 100 * (overlap.predicted - overlap.referenced) / overlap.referenced if overlap.referenced else None

    @property
    def note(self) -> str:
        """``"both empty"``, ``"missed"`` (prediction empty), ``"spurious"`` (reference empty), or nothing."""
        if self.overlap.predicted == 0:
            return "both empty" if self.overlap.referenced == 0 else "missed"
        return "spurious" if self.overlap.referenced == 0 else ""

    def metrics(self) -> dict[str, float | None]:
        """Every metric of :data:`~volseg.evaluation.metrics.catalogue.METRICS` by its key; None where it is undefined."""
        values = self.to_dict()
        return {metric.key: values[metric.key] for metric in METRICS}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an undefined metric is None."""
        overlap, surface, detection = self.overlap, self.agreement.surface, self.agreement.detection
        return {
            "label": self.label,
            "name": self.name,
            "dice": overlap.dice,
            "iou": overlap.iou,
            "precision": overlap.precision,
            "sensitivity": overlap.sensitivity,
            "nsd": surface.nsd,
            "hd95_mm": surface.hd95_mm,
            "hd_mm": surface.hd_mm,
            "assd_mm": surface.assd_mm,
            "true_positive_voxels": overlap.true_positive,
            "false_positive_voxels": overlap.false_positive,
            "false_negative_voxels": overlap.false_negative,
            "prediction_ml": self.predicted_ml,
            "reference_ml": self.reference_ml,
            "volume_difference_ml": self.volume_difference_ml,
            "volume_error_percent": self.volume_error_percent,
            "false_positive_ml": overlap.false_positive * self.voxel_volume_ml,
            "false_negative_ml": overlap.false_negative * self.voxel_volume_ml,
            "lesion_f1": detection.f1,
            "lesion_sensitivity": detection.sensitivity,
            "lesion_precision": detection.precision,
            "true_positive_lesions": detection.true_positive,
            "false_positive_lesions": detection.false_positive,
            "false_negative_lesions": detection.false_negative,
            "false_positive_lesions_ml": detection.false_positive_voxels * self.voxel_volume_ml,
            "false_negative_lesions_ml": detection.false_negative_voxels * self.voxel_volume_ml,
            "note": self.note,
        }


@dataclass(frozen=True)
class CaseAgreement:
    """Everything measured on one pair of label maps, before labels are named.

    Parameters
    ----------
    case : str
        Name of the case.
    prediction, reference : Source
        Where the two label maps were read, with the SHA-256 of the files.
    grid : Grid
        The reference's grid.
    agreements : mapping of int to Agreement
        Of every label found in either map.
    known : frozenset of int or None
        Labels the reference is annotated for; no other is scored. None for all.
    """

    case: str
    prediction: Source
    reference: Source
    grid: Grid
    agreements: Mapping[int, Agreement]
    known: frozenset[int] | None = None

    @property
    def overlaps(self) -> dict[int, Overlap]:
        """Voxel counts of every label found in either map."""
        return {label: agreement.overlap for label, agreement in self.agreements.items()}

    def score(self, names: Mapping[int, str]) -> tuple[LabelScore, ...]:
        """Scores for exactly the labels of ``names`` the reference is annotated for; one that occurs in neither map counts as two empty masks."""
        volume = self.grid.voxel_volume_ml
        scored = {label: name for label, name in names.items() if self.known is None or label in self.known}
        return tuple(LabelScore(label, name, self.agreements.get(label, Agreement()), volume) for label, name in scored.items())


def score_pair(
    prediction: AnyArray, reference: AnyArray, spacing: npt.ArrayLike, labels: Mapping[int, str], *, settings: Settings | None = None, threads: int = 1
) -> tuple[LabelScore, ...]:
    """Score two label maps that are in memory.

    Parameters
    ----------
    prediction, reference : ndarray of bool or integers, (i, j, k)
        Label maps of one shape and on one grid; 0 is background.
    spacing : array_like, (3,) or (3, 3)
        Distance between voxel centres along i, j and k (mm), or, for an oblique or sheared grid, ``grid.affine[:3, :3]``.
    labels : mapping of int to str
        Labels to score and their names; other values count as background.
    settings : Settings, optional
        Tolerances and the rule of detection.
    threads : int
        Threads of the search for neighbours; -1 for all processors.

    Returns
    -------
    tuple of LabelScore
        One for each of ``labels``, in their order; ``.metrics()`` gives its metrics by key.

    Raises
    ------
    GeometryError
        If the shapes differ.
    InputError
        If an array holds anything but labels, or the spacing is not that of three axes.
    """
    axes = np.asarray(spacing, dtype=np.float64)
    axes = np.diag(axes) if axes.shape == (3,) else axes
    if axes.shape != (3, 3) or not abs(np.linalg.det(axes)) > 0:
        msg = f"a spacing is three positive numbers of mm, or the 3x3 matrix of a grid's axes, got {np.asarray(spacing).tolist()}"
        raise InputError(msg)
    agreements = measure_agreement(prediction, reference, axes, settings or Settings(), labels=labels.keys(), threads=threads)
    volume = float(abs(np.linalg.det(axes))) / 1000
    return tuple(LabelScore(label, name, agreements.get(label, Agreement()), volume) for label, name in labels.items())


def compare_volumes(prediction: Volume, reference: Volume, case: str | None = None, settings: Settings | None = None, *, threads: int = 1) -> CaseAgreement:
    """Compare two label maps that must lie on the same grid.

    A prediction stored with other axis order or directions than the reference (say LPS and RAS) is the same grid when its voxel centres coincide; its axes are then permuted and
    flipped, which changes no value.

    Parameters
    ----------
    prediction, reference : Volume
        Label maps.
    case : str, optional
        Name of the case; the reference's name when omitted.
    settings : Settings, optional
        Tolerances and the rule of detection.
    threads : int
        Threads of the search for neighbours; -1 for all processors.

    Raises
    ------
    GeometryError
        If the grids differ by more than ``GRID_TOLERANCE_MM``.
    InputError
        If either holds anything but labels.
    """
    array = on_grid_of(reference, prediction)
    try:
        agreements = measure_agreement(array, label_array(reference), reference.grid.affine[:3, :3], settings or Settings(), threads=threads)
    except InputError as error:
        msg = f"{prediction.source.path} against {reference.source.path}: {error}"
        raise InputError(msg) from error
    return CaseAgreement(case or reference.source.name, prediction.source, reference.source, reference.grid, agreements)


def on_grid_of(reference: Volume, prediction: Volume) -> AnyArray:
    """The prediction's labels along the reference's axes.

    Raises
    ------
    GeometryError
        If the grids differ by more than ``GRID_TOLERANCE_MM``.
    InputError
        If the prediction holds anything but whole numbers.
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
    return array


def _describe(grid: Grid) -> str:
    origin = ", ".join(f"{value:.6g}" for value in grid.origin)
    return f"{grid}, first voxel at ({origin}) mm RAS+"
