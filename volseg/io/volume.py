"""What a scan becomes once it is read: an array, the :class:`~volseg.geometry.Grid` it lies on, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from volseg.errors import GeometryError
from volseg.geometry import Grid


@dataclass(frozen=True)
class Source:
    """Where a volume came from; everything but ``header`` can be written to JSON.

    Parameters
    ----------
    path : Path
        File or folder as the user gave it.
    kind : str
        ``"nifti"``, ``"nrrd"``, ``"mha"`` or ``"dicom"``.
    name : str
        Stem for outputs: ``scan.nii.gz`` is ``"scan"``; a DICOM series has its folder's name.
    sha256 : str, optional
        SHA-256 of the file's bytes (hex), for file inputs. Of a header with one detached data file (``.nhdr``, ``.mhd``): header, then data.
    series_instance_uid : str, optional
        SeriesInstanceUID (0020,000E), for DICOM.
    modality : str, optional
        Modality (0008,0060), e.g. ``"CT"``, ``"MR"``, ``"PT"``, when known.
    details : mapping
        What the reader decided and found, e.g. the NIfTI form used and both codes, or the DICOM series description.
    channel : str, optional
        Name of the channel it is of an image of several, e.g. ``"PET"``.
    header : object, optional
        The nibabel header of a NIfTI input, so that outputs can repeat both forms and codes; the :class:`~volseg.io.dicom.Series` of a DICOM input, so that objects written for
        it can refer to its slices; None otherwise.
    """

    path: Path
    kind: str
    name: str
    sha256: str | None = None
    series_instance_uid: str | None = None
    modality: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    channel: str | None = None
    header: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan in memory.

    Parameters
    ----------
    array : ndarray
        Axes ``(i, j, k)`` of ``grid``; rescaled values (HU for CT), in the smallest dtype that holds them exactly (int16 for usual CT), else float32.
    grid : Grid
        Where the voxels lie, RAS+ millimetres.
    source : Source
        Where the scan came from.
    warnings : tuple of str
        What a user should know about this scan, one line each.
    further : tuple of Volume
        Further channels of the image, in order, each on its own grid in the same frame; the network sees all of them on this volume's grid (:mod:`volseg.io.alignment`).

    Raises
    ------
    GeometryError
        If the array's shape is not the grid's.
    """

    array: npt.NDArray[Any]
    grid: Grid
    source: Source
    warnings: tuple[str, ...] = ()
    further: tuple[Volume, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            msg = f"{self.source.path}: the array's shape {self.array.shape} is not the grid's {self.grid.shape}; give an array of one value per voxel"
            raise GeometryError(msg)

    @property
    def channels(self) -> tuple[Volume, ...]:
        """All channels of the image in order: this volume, then the further ones."""
        return (self, *self.further)

    def __str__(self) -> str:
        own = f"{self.source.name} ({self.source.modality or self.source.kind}): {self.grid}, {self.array.dtype}"
        return "; ".join([own, *map(str, self.further)])
