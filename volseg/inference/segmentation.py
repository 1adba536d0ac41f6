"""A finished segmentation: the label on the scan's grid, and the record of how it came to be."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io import Volume, save_label, save_probability
from volseg.io.dicom.objects.segments import Algorithm, Segment
from volseg.io.tally import count_values
from volseg.provenance import software_versions

if TYPE_CHECKING:
    from volseg.io.dicom.objects.seg.write import Kind

REPORT_VERSION = 1
"""Raised whenever a field of the report changes its meaning."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The label of one scan.

    Attributes
    ----------
    label : ndarray
        Label map (uint8, or uint16 above 255 labels), axes ``(i, j, k)`` of ``volume.grid``.
    volume : Volume
        The scan.
    labels : mapping of int to str
        Name of every label value but the background.
    bundle : mapping
        Name, version, path, and weights with their SHA-256.
    engine : mapping
        Engine, device, precision, windows, patch, spacing of the network's input.
    timings_s : mapping of str to float
        Seconds per stage.
    peak_memory_bytes : int or None
        Highest resident memory of the process so far.
    warnings : tuple of str
        Of the scan and of the run.
    segments : mapping of int to Segment
        What each label stands for in DICOM's terms.
    probabilities : mapping of int to ndarray, or None
        Probability of each label but the background (axes of ``label``; float32, or uint8 in steps of 1/255), where they were asked for.
    forecast : mapping or None
        Windows, seconds and peak memory foretold before the run (see :class:`volseg.inference.forecast.Forecast`).
    """

    label: npt.NDArray[np.unsignedinteger[Any]]
    volume: Volume
    labels: Mapping[int, str]
    bundle: Mapping[str, Any]
    engine: Mapping[str, Any]
    timings_s: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    segments: Mapping[int, Segment] = field(default_factory=dict)
    probabilities: Mapping[int, npt.NDArray[Any]] | None = None
    forecast: Mapping[str, Any] | None = None

    def statistics(self) -> list[dict[str, Any]]:
        """For each label: value, name, number of voxels and volume in millilitres."""
        counts = dict(enumerate(count_values(self.label).tolist()))
        unit = self.volume.grid.voxel_volume_ml
        return [{"value": value, "name": name, "voxels": counts.get(value, 0), "volume_ml": round(counts.get(value, 0) * unit, 4)} for value, name in sorted(self.labels.items())]

    def save(self, path: str | Path) -> Path:
        """Write the label on exactly the scan's grid (see :func:`volseg.io.save_label`)."""
        return save_label(self.label, self.volume, path)

    def save_probability(self, value: int, path: str | Path) -> Path:
        """Write the probability of a label on exactly the scan's grid, as NIfTI (see :func:`volseg.io.save_probability`).

        Raises
        ------
        InputError
            When no probabilities were asked for, or none of this label.
        """
        if self.probabilities is None or value not in self.probabilities:
            msg = f"{path}: there are no probabilities of label {value}; segment with probabilities=True"
            raise InputError(msg)
        return save_probability(self.probabilities[value], self.volume, path)

    @property
    def algorithm(self) -> Algorithm:
        """The bundle, as DICOM objects name what made them."""
        return Algorithm(str(self.bundle.get("name", "")), str(self.bundle.get("version", "")), _joined(self.bundle.get("weights_sha256", "")))

    def save_dicom_seg(self, path: str | Path, kind: Kind = "binary") -> Path | None:
        """Write a DICOM Segmentation that refers to the scan's series; None, and no file, when nothing is segmented (see :func:`volseg.io.dicom.objects.seg.write_seg`)."""
        from volseg.io.dicom.objects.seg import write_seg

        return write_seg(self.label, self.volume, Path(path), segments=self.segments, algorithm=self.algorithm, kind=kind, probabilities=self.probabilities)

    def save_rtstruct(self, path: str | Path) -> Path | None:
        """Write a DICOM RT Structure Set on the scan's slices; None, and no file, when nothing is segmented (see :func:`volseg.io.dicom.objects.rtstruct.write_rtstruct`)."""
        from volseg.io.dicom.objects.rtstruct import write_rtstruct

        return write_rtstruct(self.label, self.volume, Path(path), segments=self.segments, algorithm=self.algorithm)

    def report(self) -> dict[str, Any]:
        """Everything that makes the result traceable, ready for JSON; ``input`` is one object, or of several channels a list of them, that of the label's grid first."""
        inputs = [_describe(channel) for channel in self.volume.channels]
        return {
            "report_version": REPORT_VERSION,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "input": inputs if self.volume.further else inputs[0],
            "labels": self.statistics(),
            "bundle": dict(self.bundle),
            "engine": dict(self.engine),
            "timings_s": {stage: round(seconds, 4) for stage, seconds in self.timings_s.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
            "forecast": None if self.forecast is None else dict(self.forecast),
            "software": {"python": platform.python_version(), "platform": platform.platform(), **software_versions()},
            "warnings": list(self.warnings),
        }


def _joined(digests: str | Sequence[str]) -> str:
    """The digests of an ensemble as one text."""
    return digests if isinstance(digests, str) else ", ".join(digests)


def _describe(channel: Volume) -> dict[str, Any]:
    """Identity and place of one channel, ready for JSON."""
    source, grid = channel.source, channel.grid
    return {
        **({} if source.channel is None else {"channel": source.channel}),
        "path": str(source.path),
        "kind": source.kind,
        "sha256": source.sha256,
        "series_instance_uid": source.series_instance_uid,
        "modality": source.modality,
        "shape": list(grid.shape),
        "spacing_mm": [round(s, 6) for s in grid.spacing],
        "orientation": grid.orientation,
        "affine_ras_mm": grid.affine.tolist(),
        "details": {key: value for key, value in source.details.items() if key != "sop_instance_uids"},
    }
