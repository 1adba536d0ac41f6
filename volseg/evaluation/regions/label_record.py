"""What was measured on one label, as a record: for the JSON report, the table, the case report and the DICOM measurement report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from volseg.evaluation.regions.diameter import Diameter
from volseg.evaluation.regions.intensity import Intensity
from volseg.evaluation.regions.lesions import BoundingBox, Lesion, Point

if TYPE_CHECKING:
    from volseg.io.dicom.objects.segments import SegmentMeasurements

DECIMALS = 4
"""Decimals in :meth:`LabelStatistics.as_dict`: a tenth of a micrometre, a tenth of a microlitre."""

UCUM = {"HU": "[hnsf'U]", "SUVbw": "{SUVbw}g/ml"}
"""UCUM codes of the intensity units, as :class:`~volseg.io.dicom.objects.segments.SegmentMeasurements` names them."""


@dataclass(frozen=True)
class LabelStatistics:
    """Measurements of one label; lengths in mm, positions in RAS+ mm.

    Parameters
    ----------
    value : int
        Label value.
    name : str
        Its name.
    intensity_unit : str or None
        ``"HU"``, ``"SUVbw"`` (g/ml) or None: unit of all intensities here.
    voxels : int
        Size in voxels.
    volume_ml : float
        Size in millilitres.
    components : int
        Number of connected pieces.
    bounding_box, centroid_mm, diameter, intensity : optional
        Where it lies, the longest axial diameter, and the scan's values inside; None for an empty label (``intensity`` also where no value is finite).
        The diameter is the longest of any single piece: a line from one lesion to another would measure the healthy tissue between them.
    lesions : tuple of Lesion
        Connected pieces, the largest first, at most :data:`~volseg.evaluation.regions.lesions.MAX_LESIONS`.
    """

    value: int
    name: str
    intensity_unit: str | None = None
    voxels: int = 0
    volume_ml: float = 0.0
    components: int = 0
    bounding_box: BoundingBox | None = None
    centroid_mm: Point | None = None
    diameter: Diameter | None = None
    intensity: Intensity | None = None
    lesions: tuple[Lesion, ...] = ()

    @property
    def longest_axial_diameter_mm(self) -> float | None:
        """Length of :attr:`diameter` (mm)."""
        return self.diameter.length_mm if self.diameter else None

    @property
    def lesions_not_listed(self) -> int:
        """Connected pieces beyond those in :attr:`lesions`."""
        return self.components - len(self.lesions)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, rounded to :data:`DECIMALS`, ready for JSON; never NaN."""
        content: dict[str, Any] = _plain(asdict(self))
        content["longest_axial_diameter"] = content.pop("diameter")
        for lesion in content["lesions"]:
            lesion["longest_axial_diameter"] = lesion.pop("diameter")
        lesions = content.pop("lesions")
        return {**content, "lesions": lesions, "lesions_not_listed": self.lesions_not_listed}

    def measurements(self) -> SegmentMeasurements:
        """What a DICOM measurement report says of this label, rounded as in :meth:`as_dict`: the same number wherever a reader looks."""
        from volseg.io.dicom.objects.segments import SegmentMeasurements

        mean, sd = (self.intensity.mean, self.intensity.sd) if self.intensity else (None, None)
        unit = UCUM[self.intensity_unit] if self.intensity_unit else None
        volume, diameter, mean, sd = _plain((self.volume_ml, self.longest_axial_diameter_mm, mean, sd))
        return SegmentMeasurements(self.value, volume, diameter, mean, sd, unit)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return round(content, DECIMALS) if isinstance(content, float) else content
