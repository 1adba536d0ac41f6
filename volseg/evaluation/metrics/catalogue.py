"""Every metric by name: its key in the JSON and CSV, its unit, which values are better, and its definition in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    key : str
        In JSON and CSV; ends in its unit.
    name : str
        In tables.
    unit : str
        ``"mm"``, ``"ml"``, ``"%"``, or nothing for a ratio from 0 to 1.
    better : str
        ``"higher"``, ``"lower"``, or ``"zero"`` for a signed error.
    definition : str
        What it is, with its empty cases.
    """

    key: str
    name: str
    unit: str
    better: str
    definition: str

    @property
    def title(self) -> str:
        """Name and unit: ``HD95 (mm)``."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def format(self, value: float | None) -> str:
        """The value for a table: four decimals of a ratio, two of anything else, a sign where the sign tells something; a dash where undefined."""
        if value is None:
            return "-"
        if not self.unit:
            return f"{value:.4f}"
        return f"{value:+.2f}" if self.better == "zero" else f"{value:.2f}"

    def to_dict(self) -> dict[str, str]:
        """JSON-ready values."""
        return asdict(self)


METRICS = (
    Metric("dice", "Dice", "", "higher", "2 TP / (2 TP + FP + FN) in voxels. Undefined where prediction and reference are both empty, 0 where one of them is."),
    Metric("iou", "IoU", "", "higher", "TP / (TP + FP + FN) in voxels, the Jaccard index. Empty cases as for Dice."),
    Metric(
        "nsd",
        "NSD",
        "",
        "higher",
        "Normalised surface distance (surface Dice): the share of the area of both surfaces that lies within the tolerance of the other. Empty cases as for Dice.",
    ),
    Metric(
        "hd95_mm",
        "HD95",
        "mm",
        "lower",
        "Of each surface, the distance within which 95 % of its area lies from the other; the greater of the two. Undefined where prediction or reference is empty.",
    ),
    Metric(
        "hd_mm", "HD", "mm", "lower", "Hausdorff distance: the greatest distance from a point of either surface to the other. Undefined where prediction or reference is empty."
    ),
    Metric(
        "assd_mm", "ASSD", "mm", "lower", "Average symmetric surface distance: the mean over the area of both surfaces together. Undefined where prediction or reference is empty."
    ),
    Metric("sensitivity", "Sensitivity", "", "higher", "TP / (TP + FN) in voxels. Undefined where the reference is empty."),
    Metric("precision", "Precision", "", "higher", "TP / (TP + FP) in voxels. Undefined where the prediction is empty."),
    Metric("volume_difference_ml", "Volume difference", "ml", "zero", "Predicted minus reference volume."),
    Metric("volume_error_percent", "Volume error", "%", "zero", "Predicted minus reference volume, relative to the reference. Undefined where the reference is empty."),
    Metric(
        "lesion_f1",
        "Lesion F1",
        "",
        "higher",
        "2 TP / (2 TP + FP + FN) in lesions: connected pieces (26 neighbours), matched one to one by falling IoU where it reaches the threshold. Empty cases as for Dice.",
    ),
    Metric("lesion_sensitivity", "Lesion sensitivity", "", "higher", "Share of the reference's lesions that were found. Undefined where it has none."),
    Metric("lesion_precision", "Lesion precision", "", "higher", "Share of the predicted lesions that match one of the reference. Undefined where there are none."),
    Metric("false_positive_lesions_ml", "False-positive lesions", "ml", "lower", "Volume of the predicted lesions that share no voxel with the reference."),
    Metric("false_negative_lesions_ml", "Missed lesions", "ml", "lower", "Volume of the reference's lesions that share no voxel with the prediction."),
)
"""All metrics, in the order of the tables."""

BY_KEY = {metric.key: metric for metric in METRICS}

EMPTY_CASES = (
    "Empty cases: as Metrics Reloaded (Maier-Hein et al., 2024) asks, what is undefined is not replaced by a number that looks good. Where neither prediction nor reference has "
    "the label, its metrics are undefined and the case is in no mean of it; where only one of them has it, ratios are 0 and distances undefined, and such cases are counted as "
    "missed or spurious. So read a mean distance together with these counts. In a comparison of two models a missed or spurious label ranks below every distance."
)
"""How undefined values are treated, in words."""

SURFACES = (
    "Surfaces are sampled between voxel centres: in each cell of eight neighbouring voxels that are not all alike, one point in its middle, weighted by the area of the "
    "marching-cubes surface in it (Nikolov et al., 2021). Distances are Euclidean, in mm, to the nearest point of the other surface."
)
"""How surface distances are measured, in words."""
