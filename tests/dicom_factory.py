"""A tiny writer of single-frame DICOM series for tests, independent of volseg's own code: it places each voxel by the equation of DICOM PS3.3 C.7.6.2.1.1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def decimal(value: float) -> str:
    """A DICOM decimal string (at most 16 characters, PS3.5 6.2)."""
    return next(text for digits in range(15, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


@dataclass
class Scan:
    """A series to be written; ``stored`` is (slices, rows, columns) as it goes into PixelData."""

    stored: np.ndarray
    cosines: tuple[float, ...] = AXIAL
    spacing: tuple[float, float] = (1.0, 1.0)
    origin: tuple[float, float, float] = (-10.0, -20.0, 30.0)
    step: float = 2.0
    positions: np.ndarray | None = None
    uid: str = field(default_factory=generate_uid)
    tags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions is None:
            normal = np.cross(self.cosines[:3], self.cosines[3:])
            self.positions = np.array(self.origin) + np.arange(len(self.stored))[:, None] * self.step * normal

    def slice(self, k: int) -> Dataset:
        """Slice ``k`` as a data set."""
        frame = np.ascontiguousarray(self.stored[k])
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        ds.PatientName, ds.PatientID, ds.Modality, ds.ImageType = "Test^Phantom", "phantom", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = self.uid, "1.2.3.4", "1.2.3.5"
        ds.SeriesDescription, ds.InstanceNumber, ds.SliceThickness = "phantom", 1, "9.9"
        ds.ImagePositionPatient = [decimal(v) for v in self.positions[k]]
        ds.ImageOrientationPatient = [decimal(v) for v in self.cosines]
        ds.PixelSpacing = [decimal(v) for v in self.spacing]
        ds.Rows, ds.Columns = frame.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 8 * frame.dtype.itemsize
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(frame.dtype.kind == "i")
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        ds.PixelData = frame.tobytes()
        for keyword, value in self.tags.items():
            setattr(ds, keyword, value)
        return ds

    def datasets(self) -> list[Dataset]:
        """All slices in order."""
        return [self.slice(k) for k in range(len(self.stored))]

    def world(self, i: int, j: int, k: int) -> np.ndarray:
        """RAS+ mm of column i, row j, slice k by the standard's equation."""
        row, column = np.array(self.cosines[:3]), np.array(self.cosines[3:])
        return (self.positions[k] + row * self.spacing[1] * i + column * self.spacing[0] * j) * (-1, -1, 1)


def ramp(slices: int = 5, rows: int = 4, columns: int = 6) -> np.ndarray:
    """int16 voxels that are all different, so that any swap or flip shows."""
    return np.arange(slices * rows * columns, dtype=np.int16).reshape(slices, rows, columns)


def write(datasets: list[Dataset], folder: Path, *, shuffle: int | None = 0) -> Path:
    """Save data sets under names that say nothing about their order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(shuffle).permutation(len(datasets)) if shuffle is not None else range(len(datasets))
    for name, ds in zip(names, datasets, strict=True):
        ds.save_as(folder / f"{name:04d}.dcm", enforce_file_format=True)
    return folder


def report(sop_class: UID, uid: str = "1.9.9") -> Dataset:
    """An object without pixels, e.g. an RTSTRUCT."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.Modality = sop_class, generate_uid(), uid, "RTSTRUCT"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds
