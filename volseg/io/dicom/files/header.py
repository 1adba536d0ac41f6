"""One DICOM object's header as a frozen record, read without its pixels, with the reason why it can be no slice of a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from volseg.errors import GeometryError, InputError, VolsegError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import NATIVE_SYNTAXES, TagError
from volseg.io.dicom.files.elements import Elements, class_name, read_elements
from volseg.io.dicom.files.facts import check_pixels, pixel_facts, plane_facts, rescale_facts
from volseg.io.dicom.files.frames import frame_facts
from volseg.io.dicom.files.traits import traits_of

NOT_SCANS = ("Segmentation Storage", "Surface Segmentation Storage", "Label Map", "RT Dose Storage", "Parametric Map Storage", "Raw Data Storage")
"""Starts of SOP class names whose objects may hold pixels but are no slices of a scan (PS3.6 table A-1)."""

SECONDARY_CAPTURE = "Secondary Capture Image Storage"
"""End of the SOP class names of pictures of a screen or a scanned film (PS3.6 table A-1); reports pasted into a series are such."""

STANDARD_ROOT = "1.2.840.10008."
"""Start of all UIDs that DICOM itself defines (PS3.5 9)."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_TEXTS = {
    "study": "StudyInstanceUID",
    "frame": "FrameOfReferenceUID",
    "modality": "Modality",
    "description": "SeriesDescription",
    "manufacturer": "Manufacturer",
    "units": "Units",
    "tilt": "GantryDetectorTilt",
}


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
    rescaled : bool
        Whether the file names a slope or an intercept.
    is_object : bool
        Not an image at all (RTSTRUCT, SR, PDF, SEG, ...).
    traits : dict of str to str
        What may tell one of several stacks at the same positions from another, as :func:`~volseg.io.dicom.files.traits.traits_of` says.
    pixel_offset : int or None
        Byte of the member at which this slice's stored values start, ``frame_bytes`` long, in the byte order of the transfer syntax; None where they are compressed or deflated.
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
    rescaled: bool = False
    is_object: bool = False
    traits: dict[str, str] = field(default_factory=dict)
    pixel_offset: int | None = None
    frame: int | None = None
    error: VolsegError | None = None

    @property
    def is_localiser(self) -> bool:
        """ImageType calls this a localiser (PS3.3 C.8.2.1.1.1 and C.8.3.1.1.1 value 3)."""
        return "LOCALIZER" in self.image_type or "SCOUT" in self.image_type

    @property
    def is_derived(self) -> bool:
        """Computed from other images (ImageType value 1, PS3.3 C.7.6.1.1.2), or a secondary capture."""
        return self.image_type[0] == "DERIVED" or self.sop_class.endswith(SECONDARY_CAPTURE)

    @property
    def frame_bytes(self) -> int:
        """Size of the unpacked pixels in bytes."""
        return self.rows * self.columns * self.bits_allocated // 8


def read_headers(member: Member) -> list[SliceHeader]:
    """Read one object's header.

    Returns
    -------
    list of SliceHeader
        A single one for a classic image or an object that is no scan; one a frame, in the order of the frames, for a multi-frame object whose frames are placed in space.
        Empty for what is not DICOM, and for a DICOMDIR (an index that holds no data of its own).

    Raises
    ------
    InputError
        If the file begins as DICOM and cannot be parsed.
    """
    try:
        elements = read_elements(member)
        return [] if elements is None else _interpret(elements, member)
    except TagError as error:
        msg = f"{member}: {error}"
        raise InputError(msg) from error


def _interpret(elements: Elements, member: Member) -> list[SliceHeader]:
    known = _identity(elements, member)
    if known["sop_class"] == "Media Storage Directory Storage":
        return []
    if "Rows" not in elements and (known["sop_class"].endswith("Image Storage") or _is_remnant(known)):
        msg = f"{member}: damaged DICOM (its header ends before Rows (0028,0010)); copy it again from its source"
        if not known["uid"]:
            raise InputError(msg)
        return [SliceHeader(**known, error=InputError(msg))]
    if "Rows" not in elements or known["sop_class"].startswith(NOT_SCANS):
        msg = f"{member}: is no scan but an object of class {known['sop_class']}; give the CT or MR images it belongs to"
        return [SliceHeader(**known, is_object=True, error=InputError(msg))]
    try:
        known.update(pixel_facts(elements))
        multi_frame = "PerFrameFunctionalGroupsSequence" in elements or "SharedFunctionalGroupsSequence" in elements
        frames = check_pixels(elements, known, member.size, multi_frame=multi_frame)
        if multi_frame:
            return _frames(elements, known, frames)
        return [SliceHeader(**known, **plane_facts(elements), **rescale_facts(elements), traits=traits_of(elements), pixel_offset=_pixels_at(elements))]
    except TagError as reason:
        return [SliceHeader(**known, error=InputError(f"{member}: {reason}"))]
    except GeometryError as error:
        return [SliceHeader(**known, error=GeometryError(f"{member}: {error}"))]


def _is_remnant(known: dict[str, Any]) -> bool:
    """Whether what has no rows is what damage left of any object, maybe of an image: its class is none of the standard's and no vendor's, or no vendor's with a series."""
    if "Storage" in known["sop_class"]:
        return False
    of_a_vendor = _UID.fullmatch(known["sop_class"]) and not known["sop_class"].startswith(STANDARD_ROOT)
    return not (of_a_vendor and known["uid"])


def _frames(elements: Elements, known: dict[str, Any], frames: int) -> list[SliceHeader]:
    size = known["rows"] * known["columns"] * known["bits_allocated"] // 8
    start = _pixels_at(elements)
    facts = frame_facts(elements, frames)
    return [SliceHeader(**{**known, **facts[n]}, frame=n, pixel_offset=None if start is None else start + n * size) for n in range(frames)]


def _pixels_at(elements: Elements) -> int | None:
    return elements.pixels[0] if elements.pixels is not None and elements.syntax in NATIVE_SYNTAXES else None


def _identity(elements: Elements, member: Member) -> dict[str, Any]:
    return {
        "member": member,
        "uid": elements.text("SeriesInstanceUID"),
        "sop_uid": elements.text("SOPInstanceUID"),
        "sop_class": class_name(elements.text("SOPClassUID") or elements.stored_class),
        "transfer_syntax": elements.syntax,
        "text": {key: elements.text(keyword) for key, keyword in _TEXTS.items()},
        "image_type": tuple(elements.text("ImageType").upper().split("\\")),
    }
