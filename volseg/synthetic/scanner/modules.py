"""The DICOM modules every synthetic image shares and those of each modality.

Modules and attribute types are those of DICOM PS3.3: A.3 (CT Image IOD), A.4 (MR Image IOD) and A.21 (PET Image IOD). Every type 1 attribute has a value and every type 2
attribute is present.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg import __version__
from volseg.geometry import FloatArray
from volseg.synthetic.scan import NOTE, SyntheticScan
from volseg.synthetic.scanner.pixels import Stored
from volseg.synthetic.scanner.planes import Planes
from volseg.synthetic.scanner.settings import ScannerSettings

DATE, TIME = "20000101", "120000"
"""A fixed, obviously made-up date, so that a seed gives the same bytes on any day."""

PET_DOSE_BQ, PET_DELAY_MIN, PET_WEIGHT_KG, FLUORINE_18_HALF_LIFE_S = 370e6, 60, 75.0, 6586.2
"""A usual FDG injection (10 mCi) an hour before the scan; fluorine-18's half-life is 109.77 minutes, which scanners write as 6586.2 s."""

PET_FRAME_MS = 180_000
"""Acquisition time of a bed position."""

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
"""SOP classes of single-frame images (PS3.4 B.5)."""

BODY_PARTS = {"CT": "EXTREMITY", "MR": "BRAIN", "PT": "EXTREMITY"}


POSTURES = {
    "S": ("40199007", "SCT", "supine"),
    "P": ("1240000", "SCT", "prone"),
    "DR": ("102535000", "SCT", "right lateral decubitus"),
    "DL": ("102536004", "SCT", "left lateral decubitus"),
}
"""Patient orientation modifiers (PS3.16 CID 20)."""

GANTRY = {"HF": ("102540008", "SCT", "headfirst"), "FF": ("102541007", "SCT", "feet-first")}
"""Patient gantry relationship (PS3.16 CID 21)."""


class Identity:
    """Makes UIDs: two series share them only when every voxel, position and setting agrees."""

    def __init__(self, scan: SyntheticScan, settings: ScannerSettings, series_number: int) -> None:
        digest = hashlib.sha256(scan.image.tobytes())
        digest.update(scan.grid.affine.tobytes())
        self.study = f"volseg synthetic {scan.modality} {scan.seed} {digest.hexdigest()}"
        self.series = f"{self.study} {series_number} {settings}"

    def uid(self, what: str) -> Any:
        """UID of the series or of something in it."""
        from pydicom.uid import generate_uid

        return generate_uid(entropy_srcs=[self.series, what])


def new_dataset(sop_class: str, sop_uid: str) -> Any:
    """An empty object of a class, to be written explicit little endian."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, sop_uid
    return dataset


def add_patient_and_study(dataset: Any, scan: SyntheticScan, identity: Identity, series_number: int, description: str, patient_position: str | None) -> None:
    """Patient, General Study, General Series, General Equipment, Frame of Reference and SOP Common (PS3.3 C.7.1-C.7.5, C.12.1)."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = identity.uid("study"), identity.uid("series"), identity.uid("frame of reference")
    dataset.PatientName, dataset.PatientID = "SYNTHETIC^VOLSEG", f"SYNTHETIC-{scan.seed}"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.QualityControlSubject = "YES"
    dataset.PatientComments = dataset.ImageComments = NOTE
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = TIME
    dataset.ReferringPhysicianName, dataset.AccessionNumber, dataset.StudyID = "", "", "1"
    dataset.StudyDescription = f"synthetic {scan.modality}, not a patient"
    dataset.Modality, dataset.SeriesNumber = scan.modality, series_number
    _add_patient_position(dataset, scan.modality, patient_position or "HFS")
    dataset.SeriesDescription = f"synthetic {scan.modality} {description}"[:64]
    dataset.BodyPartExamined = BODY_PARTS[scan.modality]
    if BODY_PARTS[scan.modality] == "EXTREMITY":
        dataset.Laterality = str(scan.facts.get("side", ""))
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "volseg", "synthetic phantom", f"volseg {__version__}"
    dataset.PositionReferenceIndicator = ""
    dataset.BurnedInAnnotation = "NO"


def _add_patient_position(dataset: Any, modality: str, patient_position: str) -> None:
    if modality != "PT":
        dataset.PatientPosition = patient_position
        return
    # PET says it in codes (NM/PET Patient Orientation, PS3.3 C.8.4.6), which forbid PatientPosition.
    recumbent = code("102538003", "SCT", "recumbent")
    recumbent.PatientOrientationModifierCodeSequence = [code(*POSTURES[patient_position[2:]])]
    dataset.PatientOrientationCodeSequence = [recumbent]
    dataset.PatientGantryRelationshipCodeSequence = [code(*GANTRY[patient_position[:2]])]


def add_plane(dataset: Any, planes: Planes, k: int) -> None:
    """Image Plane (PS3.3 C.7.6.2) of slice ``k``."""
    position = planes.positions[k]
    dataset.ImageOrientationPatient = decimal([*planes.along_row, *planes.along_column])
    dataset.ImagePositionPatient = decimal(position)
    dataset.PixelSpacing = decimal(planes.spacing)
    dataset.SliceThickness = decimal([planes.thickness])[0]
    dataset.SliceLocation = decimal([float(position @ planes.normal)])[0]


def add_pixel_format(dataset: Any, planes: Planes, settings: ScannerSettings) -> None:
    """Image Pixel without its data (PS3.3 C.7.6.3), and PixelPaddingValue (C.7.5.1.1.2)."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1" if settings.monochrome1 else "MONOCHROME2"
    dataset.PixelRepresentation = int(settings.signed)
    dataset.Rows, dataset.Columns = planes.rows, planes.columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, settings.bits_stored, settings.bits_stored - 1
    if settings.padding_value is not None:
        dataset.add_new("PixelPaddingValue", "SS" if settings.signed else "US", settings.padding_value)


def add_pixels(dataset: Any, values: npt.NDArray[Any]) -> None:
    """PixelData of values laid out as they are stored."""
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(values).tobytes())


def add_ct(dataset: Any, stored: Stored, planes: Planes) -> None:
    """CT Image (PS3.3 C.8.2.1)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    add_rescale(dataset, stored, "HU")
    dataset.KVP = "120"
    dataset.ConvolutionKernel, dataset.GantryDetectorTilt = "SYNTHETIC", decimal([planes.tilt_degrees])[0]
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"


def add_mr(dataset: Any, stored: Stored, echo_number: int, echo_time: float) -> None:
    """MR Image (PS3.3 C.8.3.1), with the timing of an MP-RAGE at 3 T."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions, dataset.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "", "3D"
    dataset.RepetitionTime, dataset.InversionTime, dataset.FlipAngle, dataset.EchoTrainLength = "2300", "900", "9", "1"
    dataset.EchoTime, dataset.EchoNumbers = decimal([echo_time])[0], echo_number
    dataset.MagneticFieldStrength, dataset.ImagedNucleus = "3", "1H"
    top = max(1, int(stored.values.max()))
    dataset.WindowCenter, dataset.WindowWidth = str(top // 2), str(top)


def add_pet(dataset: Any, stored: Stored, index: int, count: int) -> None:
    """PET Series, PET Isotope and PET Image (PS3.3 C.8.9.1, C.8.9.2, C.8.9.4): Bq/ml, attenuation and decay corrected to the start of the scan."""
    from pydicom.dataset import Dataset

    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    add_rescale(dataset, stored, None)
    dataset.Units, dataset.CountsSource, dataset.SeriesType, dataset.DecayCorrection = "BQML", "EMISSION", ["WHOLE BODY", "IMAGE"], "START"
    dataset.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    dataset.RandomsCorrectionMethod, dataset.AttenuationCorrectionMethod, dataset.ScatterCorrectionMethod = "DLYD", "measured", "model"
    dataset.ReconstructionMethod, dataset.CollimatorType = "synthetic", "NONE"
    dataset.NumberOfSlices, dataset.ImageIndex = count, index + 1
    dataset.FrameReferenceTime, dataset.ActualFrameDuration = decimal([PET_FRAME_MS / 2])[0], str(PET_FRAME_MS)
    dataset.DecayFactor = "1"
    dataset.AcquisitionNumber = 1
    dataset.PatientWeight, dataset.PatientSize = decimal([PET_WEIGHT_KG])[0], "1.75"
    scan_start = datetime.strptime(DATE + TIME, "%Y%m%d%H%M%S")
    injected = scan_start - timedelta(minutes=PET_DELAY_MIN)
    tracer = Dataset()
    tracer.Radiopharmaceutical, tracer.RadiopharmaceuticalRoute = "Fluorodeoxyglucose", "Intravenous route"
    tracer.RadiopharmaceuticalStartTime, tracer.RadiopharmaceuticalStartDateTime = injected.strftime("%H%M%S"), injected.strftime("%Y%m%d%H%M%S")
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife, tracer.RadionuclidePositronFraction = decimal([PET_DOSE_BQ])[0], decimal([FLUORINE_18_HALF_LIFE_S])[0], "0.967"
    tracer.RadionuclideCodeSequence = [code("77004003", "SCT", "^18^Fluorine")]
    tracer.RadiopharmaceuticalCodeSequence = [code("35321007", "SCT", "Fluorodeoxyglucose F^18^")]
    dataset.RadiopharmaceuticalInformationSequence = [tracer]


def add_rescale(dataset: Any, stored: Stored, kind: str | None) -> None:
    """RescaleIntercept, RescaleSlope and RescaleType (PS3.3 C.7.6.16.2.9, C.8.2.1)."""
    dataset.RescaleIntercept, dataset.RescaleSlope = decimal([stored.intercept, stored.slope])
    if kind is not None:
        dataset.RescaleType = kind


def code(value: str, scheme: str, meaning: str) -> Any:
    """A coded concept (PS3.3 8.8)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimal(values: Sequence[float] | FloatArray) -> list[str]:
    """Decimal strings (DS) of at most 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value) + 0.0) for value in values]
