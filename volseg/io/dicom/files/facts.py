"""What the elements of one image say of its pixels, its plane and its scale, or why it can be no slice of a volume."""

from __future__ import annotations

from typing import Any

from volseg.errors import GeometryError
from volseg.io.dicom.files.dataset import NATIVE_SYNTAXES, TagError
from volseg.io.dicom.files.elements import Elements
from volseg.io.dicom.geometry import check_cosines

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
"""Photometric interpretations whose values are a measured quantity (PS3.3 C.7.6.3.1.2); the others are colours."""

MAX_FRAME_BYTES = 2**30
"""Largest frame (1 GiB): one of 8192x8192 at 32 bit, more than any detector has, is a quarter of it."""

MAX_COMPRESSION = 2**16
"""Most bytes of pixels that one byte of a compressed file may stand for: an even 2048x2048 image at 16 bit shrinks 8 000 times as JPEG 2000 (gdcmconv, header counted)."""


def pixel_facts(elements: Elements) -> dict[str, Any]:
    """Matrix, bits, sign and photometric interpretation; raises TagError for what is no number."""
    allocated = elements.integer("BitsAllocated", 0)
    return {
        "rows": elements.integer("Rows", 0),
        "columns": elements.integer("Columns", 0),
        "bits_allocated": allocated,
        "bits_stored": elements.integer("BitsStored", allocated),
        "signed": elements.integer("PixelRepresentation", 0) == 1,
        "photometric": elements.text("PhotometricInterpretation"),
    }


def check_pixels(elements: Elements, known: dict[str, Any], file_size: int, *, multi_frame: bool) -> int:
    """Refuse pixels that are no measured values, cannot be read, or are not all there.

    Parameters
    ----------
    elements : Elements
        Of the whole object.
    known : dict
        What :func:`pixel_facts` found, with ``sop_class``, ``image_type`` and ``transfer_syntax``.
    file_size : int
        Bytes.
    multi_frame : bool
        Whether the object has functional groups, which place each frame.

    Returns
    -------
    int
        How many frames there are.

    Raises
    ------
    TagError
        If so.
    """
    frames = elements.integer("NumberOfFrames", 1)
    if not multi_frame and (frames != 1 or "Enhanced" in known["sop_class"]):
        msg = (
            f"is a multi-frame object ({known['sop_class']}, {frames} frame{'s' if frames != 1 else ''}) without a place for each frame "
            "(Per-Frame Functional Groups Sequence (5200,9230)), so its frames are no slices of a volume; give a CT, MR or PET series"
        )
        raise TagError(msg)
    samples = elements.integer("SamplesPerPixel", 1)
    if samples != 1 or known["photometric"] not in PHOTOMETRIC:
        msg = f"is a colour image ({samples} samples per pixel, {known['photometric'] or 'no PhotometricInterpretation'}), not measured values; give the original series"
        raise TagError(msg)
    if "MOSAIC" in known["image_type"]:
        msg = "is a Siemens mosaic (all slices tiled in one image), which this version cannot read; convert it first, e.g. with dcm2niix"
        raise TagError(msg)
    _check_bits(elements, known)
    if "ModalityLUTSequence" in elements:
        msg = "maps its values through a Modality LUT Sequence (0028,3000), which this version cannot apply; export it with rescale slope and intercept"
        raise TagError(msg)
    _check_length(elements, known, frames, file_size)
    return frames


def _check_bits(elements: Elements, known: dict[str, Any]) -> None:
    allocated, stored = known["bits_allocated"], known["bits_stored"]
    if known["rows"] < 1 or known["columns"] < 1 or allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        msg = f"has {known['rows']} rows, {known['columns']} columns, {stored} of {allocated} bits; a slice has at least one pixel of 8, 16 or 32 bits; repair the header"
        raise TagError(msg)
    high = elements.integer("HighBit", stored - 1)
    if high != stored - 1:
        msg = f"keeps its values in bits {high - stored + 1} to {high} (HighBit (0028,0102)), which DICOM forbids since 2014; convert it, e.g. with dcmtk's dcmconv"
        raise TagError(msg)


def _check_length(elements: Elements, known: dict[str, Any], frames: int, file_size: int) -> None:
    """Hold what the header claims against what the file has, before anything is given memory for it."""
    frame = known["rows"] * known["columns"] * known["bits_allocated"] // 8
    needed = frame * frames
    matrix = f"{known['rows']} rows x {known['columns']} columns x {known['bits_allocated']} bits" + (f" x {frames} frames" if frames != 1 else "")
    if elements.pixels is None:
        msg = "has no complete PixelData (7FE0,0010); the file may be cut short; copy it again"
        raise TagError(msg)
    start, length = elements.pixels
    if elements.syntax in NATIVE_SYNTAXES:
        have = max(min(length or 0, file_size - start), 0)
        if have < needed:
            msg = f"truncated: {have} bytes of pixels where {matrix} need {needed}; copy it again"
            raise TagError(msg)
    elif needed > file_size * MAX_COMPRESSION:
        msg = f"claims {matrix} ({needed} bytes) in a file of {file_size} bytes; no scan shrinks like that; copy it again from its source"
        raise TagError(msg)
    if frame > MAX_FRAME_BYTES:
        msg = f"claims {matrix} ({frame / 2**30:.1f} GiB a frame), more than the limit of {MAX_FRAME_BYTES >> 30} GiB; the header may be damaged"
        raise TagError(msg)


def plane_facts(elements: Elements) -> dict[str, Any]:
    """Position (LPS+ mm), orientation and pixel spacing (mm) of a classic image.

    Raises
    ------
    TagError, GeometryError
        If they are missing or make no plane.
    """
    return checked_plane(elements.numbers("ImagePositionPatient", 3), elements.numbers("ImageOrientationPatient", 6), elements.numbers("PixelSpacing", 2))


def checked_plane(position: tuple[float, ...], orientation: tuple[float, ...], spacing: tuple[float, ...]) -> dict[str, Any]:
    """The three as facts of a slice; raises GeometryError when they make no plane."""
    if min(spacing) <= 0:
        msg = f"PixelSpacing (0028,0030) is {list(spacing)} mm; both must be positive; repair the header"
        raise GeometryError(msg)
    wrong = check_cosines(orientation)
    if wrong:
        msg = f"{wrong}; repair the header"
        raise GeometryError(msg)
    return {"position": position, "orientation": orientation, "spacing": spacing}


def rescale_facts(elements: Elements) -> dict[str, Any]:
    """Slope, intercept and padding of an image; raises TagError when they are no numbers or the slope is 0."""
    return {**scale_facts(elements), "padding": padding_of(elements)}


def scale_facts(elements: Elements) -> dict[str, Any]:
    """Slope (1 where absent), intercept (0 where absent), and whether either is there."""
    slope = elements.numbers("RescaleSlope", 1)[0] if elements.filled("RescaleSlope") else 1.0
    intercept = elements.numbers("RescaleIntercept", 1)[0] if elements.filled("RescaleIntercept") else 0.0
    if slope == 0:
        msg = "RescaleSlope (0028,1053) is 0, which makes every value the same; repair the header"
        raise TagError(msg)
    return {"slope": slope, "intercept": intercept, "rescaled": elements.filled("RescaleSlope") or elements.filled("RescaleIntercept")}


def padding_of(elements: Elements) -> int | None:
    """PixelPaddingValue in the sign of the pixels: PS3.3 C.7.5.1.1.2 gives it their representation, whatever VR was written."""
    if not elements.filled("PixelPaddingValue"):
        return None
    value = elements.integer("PixelPaddingValue", 0)
    if elements.integer("PixelRepresentation", 0) == 1:
        return value - 2**16 if 2**15 <= value < 2**16 else value
    return value + 2**16 if value < 0 else value
