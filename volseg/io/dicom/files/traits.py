"""The attributes by which several images at one position differ: echo, inversion, diffusion, phase, time, kind of image."""

from __future__ import annotations

from volseg.io.dicom.files.elements import Elements

TRAITS = (
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "ImageType",
    "StackID",
    "AcquisitionNumber",
    "ConvolutionKernel",
)
"""In the order in which they are tried, the most telling first."""

TIMES = ("AcquisitionTime", "ContentTime")
"""Tried last, and only where whole stacks follow each other in time. Text ``YYYYMMDDHHMMSS.FFFFFF``."""

UNITS = {"EchoTime": " ms", "InversionTime": " ms", "TriggerTime": " ms", "DiffusionBValue": " s/mm2", "NominalPercentageOfCardiacPhase": " %"}
"""What stands behind a value for a person to read (PS3.3 C.8.3.1, C.7.6.16, C.8.13.5)."""

_NUMBERS = frozenset(TRAITS[:9]) - {"DiffusionGradientOrientation"} | {"AcquisitionNumber"}


def traits_of(elements: Elements) -> dict[str, str]:
    """The traits of a classic image (or of one item of functional groups that holds classic attributes).

    Returns
    -------
    dict of str to str
        Keyword of :data:`TRAITS` or :data:`TIMES` to value, numbers in their shortest form; what is absent or empty has no entry.
    """
    traits = {keyword: tidy(keyword, elements.text(keyword)) for keyword in TRAITS if keyword in elements}
    day = elements.text("AcquisitionDate")
    traits["AcquisitionTime"] = elements.text("AcquisitionDateTime") or (day + elements.text("AcquisitionTime") if "AcquisitionTime" in elements else "")
    traits["ContentTime"] = elements.text("ContentDate") + elements.text("ContentTime") if "ContentTime" in elements else ""
    return {keyword: value for keyword, value in traits.items() if value}


def tidy(keyword: str, value: str) -> str:
    """One value in a form in which equal numbers are equal texts."""
    if keyword not in _NUMBERS:
        return value
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value
