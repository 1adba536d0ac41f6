"""Write a phantom as a classic single-frame CT or MR series, as a scanner would.

Modules and attribute types are those of DICOM PS3.3: A.3 (CT Image IOD) and A.4 (MR Image IOD). Every type 1 attribute has a value and every type 2 attribute is present.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg import __version__
from volseg.errors import GeometryError
from volseg.synthetic.scan import NOTE, SyntheticScan
from volseg.synthetic.staging import staged_folder

CT_INTERCEPT = -1024
"""Stored value 0 is -1024 HU: the usual choice of scanners that store unsigned 12 bits."""

SHEAR_LIMIT = 1e-6
"""Rows and columns of Image Orientation (0020,0037) must be orthogonal (PS3.3 C.7.6.2.1.1), and slices of one series lie along their normal."""

DATE, TIME = "20000101", "120000"
"""A fixed, obviously made-up date, so that a seed gives the same bytes on any day."""


def write_series(scan: SyntheticScan, folder: Path, *, description: str | None = None, series_number: int = 1) -> list[Path]:
    """Write one file per slice along ``k``: columns run along ``i``, rows along ``j``.

    Parameters
    ----------
    scan : SyntheticScan
        The phantom; CT is stored unsigned with an intercept of -1024, MR unsigned without one.
    folder : Path
        Where ``IM0001.dcm`` and on are written; must be absent or empty.
    description : str, optional
        Put behind ``"synthetic"`` in SeriesDescription; the seed when omitted.
    series_number : int
        SeriesNumber (0020,0011); part of the UIDs' seed.

    Returns
    -------
    list of Path
        The files in the order of ``k``.

    Raises
    ------
    GeometryError
        If the grid is sheared, which a series of parallel slices cannot say.
    OutputError, WriteError
        If the folder cannot be written; nothing half-written is left.
    """
    if scan.grid.shear > SHEAR_LIMIT:
        msg = f"{folder}: a DICOM series needs orthogonal axes, this grid has a cosine of {scan.grid.shear:.2g} between two of them; resample it first"
        raise GeometryError(msg)
    names = [f"IM{k + 1:04d}.dcm" for k in range(scan.grid.shape[2])]
    identity = _identity(scan, series_number)
    with staged_folder(folder) as stage:
        for k, name in enumerate(names):
            dataset = _slice(scan, k, identity, series_number)
            dataset.SeriesDescription = f"synthetic {scan.modality} {description or f'seed {scan.seed}'}"[:64]
            dataset.save_as(stage / name, enforce_file_format=True)
    return [folder / name for name in names]


def _identity(scan: SyntheticScan, series_number: int) -> str:
    """What the UIDs are derived from: two scans share them only when every voxel and position agrees."""
    digest = hashlib.sha256(scan.image.tobytes())
    digest.update(scan.grid.affine.tobytes())
    return f"volseg synthetic {scan.modality} {scan.seed} {series_number} {digest.hexdigest()}"


def _slice(scan: SyntheticScan, k: int, identity: str, series_number: int) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    def uid(what: str) -> Any:
        return generate_uid(entropy_srcs=[identity, what])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if scan.modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid(f"instance {k}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame of reference")
    _add_patient_and_study(dataset, scan, series_number)
    _add_plane(dataset, scan, k)
    stored = _add_pixels(dataset, scan, k)
    if scan.modality == "CT":
        _add_ct(dataset)
    else:
        _add_mr(dataset, stored)
    return dataset


def _add_patient_and_study(dataset: Any, scan: SyntheticScan, series_number: int) -> None:
    """Patient, General Study, General Series, General Equipment, Frame of Reference and SOP Common (PS3.3 C.7.1-C.7.5, C.12.1)."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID = "SYNTHETIC^VOLSEG", f"SYNTHETIC-{scan.seed}"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.QualityControlSubject = "YES"
    dataset.PatientComments = dataset.ImageComments = NOTE
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = TIME
    dataset.ReferringPhysicianName, dataset.AccessionNumber, dataset.StudyID = "", "", "1"
    dataset.StudyDescription = f"synthetic {scan.modality}, not a patient"
    dataset.Modality, dataset.SeriesNumber, dataset.PatientPosition = scan.modality, series_number, "HFS"
    dataset.BodyPartExamined = "EXTREMITY" if scan.modality == "CT" else "BRAIN"
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "volseg", "synthetic phantom", f"volseg {__version__}"
    dataset.PositionReferenceIndicator = ""
    dataset.BurnedInAnnotation = "NO"


def _add_plane(dataset: Any, scan: SyntheticScan, k: int) -> None:
    """General Image and Image Plane (PS3.3 C.7.6.1, C.7.6.2), from the LPS affine of the grid."""
    affine = scan.grid.lps_affine
    spacing = scan.grid.spacing
    columns, rows = affine[:3, 0] / spacing[0], affine[:3, 1] / spacing[1]
    position = affine[:3, 3] + k * affine[:3, 2]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if scan.modality == "CT" else ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.InstanceNumber, dataset.AcquisitionNumber = k + 1, 1
    dataset.ImageOrientationPatient = _decimal([*columns, *rows])
    dataset.ImagePositionPatient = _decimal(position)
    dataset.PixelSpacing = _decimal([spacing[1], spacing[0]])
    dataset.SliceThickness = _decimal([spacing[2]])[0]
    dataset.SliceLocation = _decimal([float(position @ np.cross(columns, rows))])[0]


def _add_pixels(dataset: Any, scan: SyntheticScan, k: int) -> npt.NDArray[np.uint16]:
    """Image Pixel (PS3.3 C.7.6.3); the stored values, rows first, are returned."""
    offset = CT_INTERCEPT if scan.modality == "CT" else 0
    stored = np.ascontiguousarray(scan.image[:, :, k].T.astype(np.int32) - offset).astype("<u2")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return stored


def _add_ct(dataset: Any) -> None:
    """CT Image (PS3.3 C.8.2.1)."""
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = str(CT_INTERCEPT), "1", "HU"
    dataset.KVP = "120"
    dataset.ConvolutionKernel, dataset.GantryDetectorTilt = "SYNTHETIC", "0"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"


def _add_mr(dataset: Any, stored: npt.NDArray[np.uint16]) -> None:
    """MR Image (PS3.3 C.8.3.1), with the timing of an MP-RAGE at 3 T."""
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions, dataset.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "", "3D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.InversionTime, dataset.FlipAngle, dataset.EchoTrainLength = "2300", "2.98", "900", "9", "1"
    dataset.MagneticFieldStrength, dataset.ImagedNucleus = "3", "1H"
    top = max(1, int(stored.max()))
    dataset.WindowCenter, dataset.WindowWidth = str(top // 2), str(top)


def _decimal(values: Sequence[float] | npt.NDArray[np.float64]) -> list[str]:
    """Decimal strings (DS) of at most 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value) + 0.0) for value in values]
