"""What is known of a case and of a whole dataset before it is planned for, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Triple = tuple[float, float, float]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Intensities:
    """Values of one channel inside the foreground (every label but 0).

    Attributes
    ----------
    mean, sd, median, percentile_00_5, percentile_99_5 : float
        In the unit of the files (HU for CT).
    """

    mean: float
    sd: float
    median: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class LabelFacts:
    """One label of one case.

    Attributes
    ----------
    volume_ml : float
        Volume of all of it.
    components : int
        Connected pieces (26 neighbours).
    component_ml : tuple of float
        Volumes of the largest of them, largest first.
    skipped_slices : int
        Slices without the label between two that have it at the same place: slices that were probably not drawn on.
    """

    volume_ml: float
    components: int
    component_ml: tuple[float, ...]
    skipped_slices: int


@dataclass(frozen=True)
class CaseFacts:
    """One labelled scan; axes are x, y, z in the nearest RAS+ order.

    Attributes
    ----------
    name : str
        Of the case.
    shape : tuple of 3 int
        Voxels.
    spacing_mm : tuple of 3 float
        Voxel size.
    orientation : str
        Axis codes of the file as stored.
    nonzero_shape : tuple of 3 int
        Voxels of the box around everything that is not 0 in the first channel.
    intensities : tuple of Intensities or None
        Per channel; None where the case has no foreground.
    labels : mapping of int to LabelFacts
        Labels that occur.
    identity : tuple of str
        Content of the files: SHA-256 or Series Instance UID of each channel, then of the label.
    modality : str or None
        DICOM modality, where the files tell it.
    """

    name: str
    shape: Size
    spacing_mm: Triple
    orientation: str
    nonzero_shape: Size
    intensities: tuple[Intensities | None, ...]
    labels: Mapping[int, LabelFacts]
    identity: tuple[str, ...]
    modality: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the identity is left out, since it says nothing to a reader."""
        content = asdict(self)
        content.pop("identity")
        content["labels"] = {str(value): facts for value, facts in content["labels"].items()}
        return content


@dataclass(frozen=True)
class ClassFacts:
    """One label over the dataset.

    Attributes
    ----------
    name : str
        As the dataset names it.
    cases : int
        Cases it occurs in.
    volume_ml : tuple of 3 float
        Least, median and greatest volume in those cases.
    components : float
        Median number of connected pieces in those cases.
    component_ml : tuple of 3 float
        Least, median and greatest volume of a piece; specks (below a thousandth of the label in their case) do not count.
    voxel_share : float
        Its share of all voxels.
    """

    name: str
    cases: int
    volume_ml: Triple
    components: float
    component_ml: Triple
    voxel_share: float


@dataclass(frozen=True)
class Fingerprint:
    """What the planner knows of a dataset.

    Attributes
    ----------
    dataset : str
        Its name.
    channels : tuple of str
        Name of each channel as the dataset gives it; empty text where it gives none.
    labels : mapping of int to str
        Names by value, background included.
    cases : tuple of CaseFacts
        In the order of the datalist.
    intensities : tuple of Intensities
        Of each channel over all cases, each case with the same weight.
    classes : mapping of int to ClassFacts
        Without the background.
    warnings : tuple of str
        What is odd about the data, one line each.
    training, validation : int
        Cases of fold 0, which the estimates of time count on.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    cases: tuple[CaseFacts, ...]
    intensities: tuple[Intensities, ...]
    classes: Mapping[int, ClassFacts]
    warnings: tuple[str, ...] = ()
    training: int = 0
    validation: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as written to ``docs/fingerprint.json``."""
        return {
            "dataset": self.dataset,
            "channels": list(self.channels),
            "labels": {str(value): name for value, name in self.labels.items()},
            "number_of_cases": len(self.cases),
            "axes": "x, y, z (nearest RAS+ order), mm and voxels",
            "intensities_of_foreground": [asdict(entry) for entry in self.intensities],
            "classes": {str(value): asdict(entry) for value, entry in self.classes.items()},
            "warnings": list(self.warnings),
            "cases": [case.as_dict() for case in self.cases],
        }
