"""One DICOM object's header as a frozen record, read without its pixels, with the reason why it can be no slice of a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from volseg.errors import GeometryError, InputError, VolsegError
from volseg.io.dicom.archive import Member
from volseg.io.dicom.dataset import NATIVE_SYNTAXES, TagError, damaged, integer_of, numbers_of, open_dataset, parse_errors, printable, text_of
from volseg.io.dicom.geometry import check_cosines

NOT_SCANS = ("Segmentation Storage", "Surface Segmentation Storage", "Label Map", "RT Dose Storage", "Parametric Map Storage", "Raw Data Storage")
"""Starts of SOP class names whose objects may hold pixels but are no slices of a scan (PS3.6 table A-1)."""

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
"""Photometric interpretations whose values are a measured quantity (PS3.3 C.7.6.3.1.2); the others are colours."""


@dataclass(frozen=True)
class SliceHeader:
    """What the header of one DICOM object says.

    Parameters
    ----------
    member : Member
        Where the object is.
    uid, sop_uid : str
        SeriesInstanceUID and SOPInstanceUID; ``""`` where absent.
    sop_class : str
        Name of the SOP class, e.g. ``"CT Image Storage"``.
    transfer_syntax : str
        UID of the encoding of the pixels.
    text : dict of str to str
        ``study``, ``frame``, ``modality``, ``description``, ``manufacturer``, ``units``, ``tilt``; ``""`` where absent.
    image_type : tuple of str
        ImageType (0008,0008).
    rows, columns, bits_allocated, bits_stored : int
        Matrix and bits; 0 where absent.
    signed : bool
        PixelRepresentation is 1 (two's complement).
    photometric : str
        PhotometricInterpretation.
    padding : int or None
        PixelPaddingValue as stored, before rescaling.
    position, orientation, spacing : tuple of float
        ImagePositionPatient (LPS+ mm), ImageOrientationPatient, PixelSpacing (between rows, between columns; mm); ``()`` where there is an error.
    slope, intercept : float
        Stored values times slope plus intercept are the volume's values; 1 and 0 where absent.
    is_object : bool
        Not an image at all (RTSTRUCT, SR, PDF, SEG, ...).
    frame : int or None
        Which frame (from 0) of a multi-frame object this is; None for a single-frame object.
    error : VolsegError or None
        Why this cannot be a slice of a volume.
    """

    member: Member
    uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    text: dict[str, str]
    image_type: tuple[str, ...]
    rows: int = 0
    columns: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    signed: bool = False
    photometric: str = ""
    padding: int | None = None
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing: tuple[float, float] = (0.0, 0.0)
    slope: float = 1.0
    intercept: float = 0.0
    is_object: bool = False
    frame: int | None = None
    error: VolsegError | None = None

    @property
    def is_localiser(self) -> bool:
        """ImageType calls this a localiser (PS3.3 C.8.2.1.1.1 and C.8.3.1.1.1 value 3)."""
        return "LOCALIZER" in self.image_type or "SCOUT" in self.image_type

    @property
    def frame_bytes(self) -> int:
        """Size of the unpacked pixels in bytes."""
        return self.rows * self.columns * self.bits_allocated // 8


def read_header(member: Member) -> SliceHeader | None:
    """Read one object's header.

    Returns
    -------
    SliceHeader or None
        None for what is not DICOM, and for a DICOMDIR (an index that holds no data of its own).

    Raises
    ------
    InputError
        If the file begins as DICOM and cannot be parsed.
    """
    dataset = open_dataset(member, pixels=False)
    if dataset is None:
        return None
    try:
        return _interpret(dataset, member)
    except parse_errors() as error:
        raise damaged(member, error) from error


def _interpret(dataset: Any, member: Member) -> SliceHeader | None:
    known = _identity(dataset, member)
    if known["sop_class"] == "Media Storage Directory Storage":
        return None
    if "Rows" not in dataset and (known["sop_class"].endswith("Image Storage") or not known["sop_class"]):
        msg = f"{member}: damaged DICOM (its header ends before Rows (0028,0010)); copy it again from its source"
        if not known["uid"]:
            raise InputError(msg)
        return SliceHeader(**known, error=InputError(msg))
    if "Rows" not in dataset or known["sop_class"].startswith(NOT_SCANS):
        msg = f"{member}: is no scan but an object of class {known['sop_class']}; give the CT or MR images it belongs to"
        return SliceHeader(**known, is_object=True, error=InputError(msg))
    try:
        known.update(_pixel_facts(dataset))
        _check_pixels(dataset, member, known)
        return SliceHeader(**known, **_plane_facts(dataset), **_rescale_facts(dataset))
    except TagError as reason:
        return SliceHeader(**known, error=InputError(f"{member}: {reason}"))
    except GeometryError as error:
        return SliceHeader(**known, error=GeometryError(f"{member}: {error}"))


def _identity(dataset: Any, member: Member) -> dict[str, Any]:
    meta = getattr(dataset, "file_meta", {})
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    texts = {
        "study": "StudyInstanceUID",
        "frame": "FrameOfReferenceUID",
        "modality": "Modality",
        "description": "SeriesDescription",
        "manufacturer": "Manufacturer",
        "units": "Units",
        "tilt": "GantryDetectorTilt",
    }
    return {
        "member": member,
        "uid": text_of(dataset, "SeriesInstanceUID"),
        "sop_uid": text_of(dataset, "SOPInstanceUID"),
        "sop_class": printable(str(getattr(sop_class, "name", ""))),
        "transfer_syntax": printable(str(meta.get("TransferSyntaxUID", ""))),
        "text": {key: text_of(dataset, keyword) for key, keyword in texts.items()},
        "image_type": tuple(text_of(dataset, "ImageType").upper().split("\\")),
    }


def _pixel_facts(dataset: Any) -> dict[str, Any]:
    allocated = integer_of(dataset, "BitsAllocated", 0)
    return {
        "rows": integer_of(dataset, "Rows", 0),
        "columns": integer_of(dataset, "Columns", 0),
        "bits_allocated": allocated,
        "bits_stored": integer_of(dataset, "BitsStored", allocated),
        "signed": integer_of(dataset, "PixelRepresentation", 0) == 1,
        "photometric": text_of(dataset, "PhotometricInterpretation"),
    }


def _check_pixels(dataset: Any, member: Member, known: dict[str, Any]) -> None:
    frames = integer_of(dataset, "NumberOfFrames", 1)
    if frames != 1 or "Enhanced" in known["sop_class"]:
        msg = f"is a multi-frame object ({known['sop_class']}, {frames} frames), which this version cannot read; convert it first, e.g. with dcm2niix"
        raise TagError(msg)
    samples = integer_of(dataset, "SamplesPerPixel", 1)
    if samples != 1 or known["photometric"] not in PHOTOMETRIC:
        msg = f"is a colour image ({samples} samples per pixel, {known['photometric'] or 'no PhotometricInterpretation'}), not measured values; give the original series"
        raise TagError(msg)
    if "MOSAIC" in known["image_type"]:
        msg = "is a Siemens mosaic (all slices tiled in one image), which this version cannot read; convert it first, e.g. with dcm2niix"
        raise TagError(msg)
    allocated, stored = known["bits_allocated"], known["bits_stored"]
    if known["rows"] < 1 or known["columns"] < 1 or allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        msg = f"has {known['rows']} rows, {known['columns']} columns, {stored} of {allocated} bits; a slice has at least one pixel of 8, 16 or 32 bits; repair the header"
        raise TagError(msg)
    high = integer_of(dataset, "HighBit", stored - 1)
    if high != stored - 1:
        msg = f"keeps its values in bits {high - stored + 1} to {high} (HighBit (0028,0102)), which DICOM forbids since 2014; convert it, e.g. with dcmtk's dcmconv"
        raise TagError(msg)
    if "ModalityLUTSequence" in dataset:
        msg = "maps its values through a Modality LUT Sequence (0028,3000), which this version cannot apply; export it with rescale slope and intercept"
        raise TagError(msg)
    _check_length(member, known)


def _check_length(member: Member, known: dict[str, Any]) -> None:
    needed = known["rows"] * known["columns"] * known["bits_allocated"] // 8
    if known["transfer_syntax"] in NATIVE_SYNTAXES and member.size < needed:
        msg = f"truncated: the file has {member.size} bytes, its {known['rows']}x{known['columns']} pixels of {known['bits_allocated']} bits alone need {needed}; copy it again"
        raise TagError(msg)


def _plane_facts(dataset: Any) -> dict[str, Any]:
    position = numbers_of(dataset, "ImagePositionPatient", 3)
    orientation = numbers_of(dataset, "ImageOrientationPatient", 6)
    spacing = numbers_of(dataset, "PixelSpacing", 2)
    if min(spacing) <= 0:
        msg = f"PixelSpacing (0028,0030) is {list(spacing)} mm; both must be positive; repair the header"
        raise GeometryError(msg)
    wrong = check_cosines(orientation)
    if wrong:
        msg = f"{wrong}; repair the header"
        raise GeometryError(msg)
    return {"position": position, "orientation": orientation, "spacing": spacing}


def _rescale_facts(dataset: Any) -> dict[str, Any]:
    slope = numbers_of(dataset, "RescaleSlope", 1)[0] if dataset.get("RescaleSlope") not in (None, "") else 1.0
    intercept = numbers_of(dataset, "RescaleIntercept", 1)[0] if dataset.get("RescaleIntercept") not in (None, "") else 0.0
    if slope == 0:
        msg = "RescaleSlope (0028,1053) is 0, which makes every value the same; repair the header"
        raise TagError(msg)
    padding = integer_of(dataset, "PixelPaddingValue", 0) if dataset.get("PixelPaddingValue") not in (None, "") else None
    return {"slope": slope, "intercept": intercept, "padding": padding}
