"""What a label means in DICOM's terms: coded concepts for segments, who made them, and what was measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.errors import BundleError

METADATA_KEY = "dicom_segments"
"""Key of ours in a bundle's ``metadata.json``, by label value:
``{"1": {"category": CODE, "type": CODE, "type_modifier": CODE, "anatomic_region": CODE, "rgb": [r, g, b]}}`` where CODE is ``{"value", "scheme", "meaning"}``;
only ``type`` is required. MONAI ignores keys it does not know."""


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 8.8): value, coding scheme designator (``SCT`` is SNOMED CT, ``UCUM`` units) and meaning."""

    value: str
    scheme: str
    meaning: str


TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
LESION = Code("52988006", "SCT", "Lesion")
"""Categories and types of PS3.16 CID 7150 and 7151 and 7159."""

NAMED_TYPES = {
    "tumor": (ABNORMAL, NEOPLASM),
    "tumour": (ABNORMAL, NEOPLASM),
    "neoplasm": (ABNORMAL, NEOPLASM),
    "gtv": (ABNORMAL, NEOPLASM),
    "lesion": (ABNORMAL, LESION),
    "liver": (ANATOMY, Code("10200004", "SCT", "Liver")),
    "spleen": (ANATOMY, Code("78961009", "SCT", "Spleen")),
    "kidney": (ANATOMY, Code("64033007", "SCT", "Kidney")),
    "pancreas": (ANATOMY, Code("15776009", "SCT", "Pancreas")),
    "lung": (ANATOMY, Code("39607008", "SCT", "Lung")),
    "heart": (ANATOMY, Code("80891009", "SCT", "Heart")),
    "brain": (ANATOMY, Code("12738006", "SCT", "Brain")),
    "hippocampus": (ANATOMY, Code("5366008", "SCT", "Hippocampus")),
}
"""What a label's name tells where the bundle gives no code (PS3.16 annex L, SNOMED CT concepts); anything else is called tissue."""


@dataclass(frozen=True)
class Segment:
    """What one label value stands for.

    Parameters
    ----------
    value : int
        The label map's value, at least 1.
    name : str
        As in the bundle.
    category, type : Code
        Segmented Property Category and Type (PS3.3 C.8.20.4).
    type_modifier, anatomic_region : Code or None
        Further codes, where known.
    rgb : tuple of 3 int or None
        Recommended display colour, 0 to 255.
    """

    value: int
    name: str
    category: Code = TISSUE
    type: Code = TISSUE
    type_modifier: Code | None = None
    anatomic_region: Code | None = None
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation: the bundle's name and version, and the SHA-256 of its weights (``""`` where there is no network)."""

    name: str
    version: str
    weights_sha256: str = ""


@dataclass(frozen=True)
class SegmentMeasurements:
    """What was measured on one segment, for a measurement report.

    Parameters
    ----------
    value : int
        Label value.
    volume_ml : float
        Volume (ml).
    longest_axial_diameter_mm : float or None
        Longest diameter in an axial plane (mm).
    mean, sd : float or None
        Of the scan's values inside the segment.
    unit : str or None
        UCUM code of the values: ``"[hnsf'U]"`` for HU, ``"{SUVbw}g/ml"`` for SUV body weight; None where they have no unit, and are then left out of a report.
    """

    value: int
    volume_ml: float
    longest_axial_diameter_mm: float | None = None
    mean: float | None = None
    sd: float | None = None
    unit: str | None = None


def describe_segments(labels: Mapping[int, str], metadata: Mapping[str, Any] | None = None) -> dict[int, Segment]:
    """Describe every label but the background.

    Parameters
    ----------
    labels : mapping of int to str
        Names by label value.
    metadata : mapping, optional
        A bundle's metadata; its :data:`METADATA_KEY` gives the codes. Without one a label is what its name says (:data:`NAMED_TYPES`), else tissue.

    Raises
    ------
    BundleError
        If the key is there and malformed.
    """
    coded = (metadata or {}).get(METADATA_KEY, {})
    if not isinstance(coded, Mapping) or not all(isinstance(entry, Mapping) for entry in coded.values()):
        msg = f'metadata.json: {METADATA_KEY} must map label values to objects, e.g. {{"1": {{"type": {{"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}}}}}}'
        raise BundleError(msg)
    return {value: _segment(value, name, coded.get(str(value))) for value, name in sorted(labels.items()) if value != 0}


def _segment(value: int, name: str, entry: Mapping[str, Any] | None) -> Segment:
    category, kind = next((codes for word, codes in NAMED_TYPES.items() if word in name.casefold()), (TISSUE, TISSUE))
    if entry is None:
        return Segment(value, name, category, kind)
    kind = _code(entry, "type", value) or kind
    category = _code(entry, "category", value) or category
    return Segment(value, name, category, kind, _code(entry, "type_modifier", value), _code(entry, "anatomic_region", value), _rgb(entry, value))


def _code(entry: Mapping[str, Any], key: str, label: int) -> Code | None:
    given = entry.get(key)
    if given is None:
        return None
    try:
        code = Code(*(str(given[part]) for part in ("value", "scheme", "meaning")))
    except (KeyError, TypeError) as error:
        msg = f'metadata.json: {METADATA_KEY} of label {label}: {key} must be {{"value", "scheme", "meaning"}}, got {given!r}'
        raise BundleError(msg) from error
    # VR SH of Code Value and Coding Scheme Designator holds 16 characters, VR LO of Code Meaning 64 (PS3.3 8.8).
    if not (0 < len(code.value) <= 16 and 0 < len(code.scheme) <= 16 and 0 < len(code.meaning) <= 64):
        msg = f"metadata.json: {METADATA_KEY} of label {label}: {key} has a part that is empty or longer than DICOM allows (16, 16 and 64 characters): {given!r}"
        raise BundleError(msg)
    return code


def _rgb(entry: Mapping[str, Any], label: int) -> tuple[int, int, int] | None:
    given = entry.get("rgb")
    if given is None:
        return None
    if not isinstance(given, (list, tuple)) or len(given) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in given):
        msg = f"metadata.json: {METADATA_KEY} of label {label}: rgb must be three whole numbers from 0 to 255, got {given!r}"
        raise BundleError(msg)
    return (given[0], given[1], given[2])
