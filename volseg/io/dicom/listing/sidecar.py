"""The JSON beside a converted series: what the scanner was told, in BIDS' words, and where the voxels come from."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.dataset import damaged, open_dataset, parse_errors, printable, text_of
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.listing.identity import IDENTITY_KEYWORDS, Identity, identity_of
from volseg.io.dicom.series import Series
from volseg.io.volume import Volume

SIDECAR_VERSION = 1
"""Of the ``volseg`` part; it changes when a field does."""

TEXTS = {
    "Modality": "Modality",
    "Manufacturer": "Manufacturer",
    "ManufacturersModelName": "ManufacturerModelName",
    "SoftwareVersions": "SoftwareVersions",
    "BodyPart": "BodyPartExamined",
    "PatientPosition": "PatientPosition",
    "ProtocolName": "ProtocolName",
    "SeriesDescription": "SeriesDescription",
    "ScanningSequence": "ScanningSequence",
    "SequenceVariant": "SequenceVariant",
    "ScanOptions": "ScanOptions",
    "SequenceName": "SequenceName",
    "MRAcquisitionType": "MRAcquisitionType",
    "ConvolutionKernel": "ConvolutionKernel",
    "ReconstructionMethod": "ReconstructionMethod",
    "Units": "Units",
    "DecayCorrection": "DecayCorrection",
    "AttenuationCorrection": "AttenuationCorrectionMethod",
}
"""Sidecar key -> DICOM keyword, text. Keys as in BIDS 1.10 (MRI and PET, "hardware", "sequence specifics", "reconstruction") and, where BIDS has none, as dcm2niix writes them."""

NUMBERS = {
    "SeriesNumber": (("SeriesNumber",), 1.0),
    "AcquisitionNumber": (("AcquisitionNumber",), 1.0),
    "MagneticFieldStrength": (("MagneticFieldStrength",), 1.0),
    "ImagingFrequency": (("ImagingFrequency", "TransmitterFrequency"), 1.0),
    "EchoNumber": (("EchoNumbers",), 1.0),
    "EchoTime": (("EchoTime", "EffectiveEchoTime"), 1e-3),
    "RepetitionTime": (("RepetitionTime",), 1e-3),
    "InversionTime": (("InversionTime", "InversionTimes"), 1e-3),
    "FlipAngle": (("FlipAngle",), 1.0),
    "EchoTrainLength": (("EchoTrainLength",), 1.0),
    "DiffusionBValue": (("DiffusionBValue",), 1.0),
    "SliceThickness": (("SliceThickness",), 1.0),
    "SpacingBetweenSlices": (("SpacingBetweenSlices",), 1.0),
    "KVP": (("KVP",), 1.0),
    "XRayTubeCurrent": (("XRayTubeCurrent", "XRayTubeCurrentInmA"), 1.0),
    "XRayExposure": (("Exposure", "ExposureInmAs"), 1.0),
}
"""Sidecar key -> DICOM keywords (classic, then enhanced), and the factor to BIDS' unit: DICOM's milliseconds become seconds; T, MHz, degrees, mm, kV, mA and mAs stay."""

PRIVATE_KEYWORDS = (
    *(keyword for keyword in IDENTITY_KEYWORDS if keyword != "OtherPatientIDs"),
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "ReferringPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "StudyID",
    "StudyDescription",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
)
"""Left out unless asked for: who, when and where, from PS3.15 table E.1-1 (Basic Application Level Confidentiality Profile)."""

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
"""Where enhanced multi-frame objects keep what classic ones have at the top (PS3.3 C.7.6.16)."""


def describe_conversion(volume: Volume, *, keep_patient: bool) -> dict[str, Any]:
    """Describe a volume read from DICOM, for the JSON beside it.

    Parameters
    ----------
    volume : Volume
        From :func:`~volseg.io.dicom.read.read_found`.
    keep_patient : bool
        Whether to add the patient, dates, places, paths and SOP Instance UIDs; without it they are left out, and the patient's name, ID, birth date and accession number are taken
        out of free text.

    Returns
    -------
    dict
        JSON-able. BIDS keys at the top (times in s); under ``"volseg"`` the series' UIDs, the grid (RAS+ mm), the values, warnings and what was corrected.

    Raises
    ------
    InputError
        If the header of the first slice cannot be made sense of, so that who the patient is, and is to be hidden, is not known.
    """
    from volseg import __version__

    series = volume.source.header
    first = series.slices[0]
    try:
        with warnings.catch_warnings():
            # pydicom judges values only when they are looked at, and warns of every oddity on stderr.
            warnings.simplefilter("ignore")
            document, identity = _from_header(first, keep_patient)
    except parse_errors() as error:
        raise damaged(first.member, error) from error
    document["ImageType"] = [text for text in first.image_type if text]
    if volume.source.details.get("units"):
        document["Units"] = volume.source.details["units"]
    document |= {"ConversionSoftware": "volseg", "ConversionSoftwareVersion": __version__}
    notes = volume.warnings if keep_patient else [identity.hidden_in(_without_paths(text, volume)) for text in volume.warnings]
    document["volseg"] = {**_provenance(volume, series, keep_patient), "warnings": list(notes)}
    return document


def _from_header(first: SliceHeader, keep_patient: bool) -> tuple[dict[str, Any], Identity]:
    """What the header of the first slice says, and whom it names."""
    dataset = _header_of(first)
    if dataset is None:
        msg = f"{first.member}: is no DICOM any more; the file changed while it was read"
        raise InputError(msg)
    identity = identity_of(dataset)
    document = _acquisition(dataset, first.frame or 0)
    if keep_patient:
        return document | {keyword: text for keyword in PRIVATE_KEYWORDS if (text := text_of(dataset, keyword))}, identity
    return {key: shown for key, value in document.items() if (shown := identity.hidden_in(value) if isinstance(value, str) else value) != ""}, identity


def _header_of(first: SliceHeader) -> Any:
    keywords = {*TEXTS.values(), *(keyword for names, _ in NUMBERS.values() for keyword in names), *IDENTITY_KEYWORDS, *PRIVATE_KEYWORDS, *GROUPS}
    return open_dataset(first.member, pixels=False, keywords=sorted(keywords))


def _acquisition(dataset: Any, frame: int) -> dict[str, Any]:
    groups = _functional_groups(dataset, frame)
    document: dict[str, Any] = {}
    for key, keyword in TEXTS.items():
        if text := next((text for place in (dataset, *groups) if (text := _text(place, keyword))), ""):
            document[key] = text
    for key, (keywords, factor) in NUMBERS.items():
        value = next((value for keyword in keywords for place in (dataset, *groups) if (value := _number(place, keyword)) is not None), None)
        if value is not None:
            scaled = float(f"{value * factor:.12g}")
            document[key] = int(scaled) if scaled.is_integer() else scaled
    return document


def _functional_groups(dataset: Any, frame: int) -> list[Any]:
    """First items of all functional groups that hold for a frame, those of the frame itself first."""
    items = []
    for keyword, index in zip(reversed(GROUPS), (frame, 0), strict=True):
        sequence = dataset.get(keyword) or []
        if index < len(sequence):
            items += [element.value[0] for element in sequence[index] if element.VR == "SQ" and element.value]
    return items


def _text(dataset: Any, keyword: str) -> str:
    try:
        return text_of(dataset, keyword)
    except parse_errors():
        return ""


def _number(dataset: Any, keyword: str) -> float | None:
    """First value of an element as a finite number; None where absent or malformed, since nothing depends on it."""
    from math import isfinite

    try:
        value = dataset.get(keyword)
        value = value[0] if type(value).__name__ == "MultiValue" else value
        number = None if value in (None, "") else float(value)
    except parse_errors():
        return None
    return number if number is not None and isfinite(number) else None


def _provenance(volume: Volume, series: Series, keep_patient: bool) -> dict[str, Any]:
    first, grid, details = series.slices[0], volume.grid, volume.source.details
    uids = [s.sop_uid for s in series.slices]
    return {
        "sidecar_version": SIDECAR_VERSION,
        "series": series.key,
        "distinction": series.distinction,
        "series_instance_uid": series.uid,
        "study_instance_uid": first.text["study"],
        "frame_of_reference_uid": first.text["frame"],
        "sop_class": first.sop_class,
        "transfer_syntax_uids": sorted({s.transfer_syntax for s in series.slices}),
        "slices": len(series.slices),
        "sop_instance_uids_sha256": hashlib.sha256("\n".join(uids).encode()).hexdigest(),
        **({"sop_instance_uids": uids, "source": str(volume.source.path)} if keep_patient else {}),
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
        "orientation": grid.orientation,
        "affine_ras": grid.affine.tolist(),
        "dtype": volume.array.dtype.name,
        "geometry_correction": details.get("geometry_correction"),
        "suv": {key: value for key, value in details["suv"].items() if keep_patient or key != "weight_kg"} if "suv" in details else None,
    }


def _without_paths(text: str, volume: Volume) -> str:
    """The text without the files' paths, which often hold the patient's name."""
    for s in volume.source.header.slices:
        text = text.replace(str(s.member), "(file)")
    return printable(text)
