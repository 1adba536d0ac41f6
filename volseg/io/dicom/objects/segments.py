"""What a label means in DICOM's terms: coded concepts for segments, who made them, and what was measured on them."""

from __future__ import annotations

import re
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
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
"""Segmented property categories (PS3.16 CID 7150; older objects have 123037004 for anatomical structures)."""

NEOPLASM = Code("108369006", "SCT", "Neoplasm")
LESION = Code("52988006", "SCT", "Lesion")
"""Segmented property types (PS3.16 CID 7159)."""

LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
"""Laterality (PS3.16 CID 244), as type modifiers."""

ABNORMAL_WORDS = {"tumor": NEOPLASM, "tumour": NEOPLASM, "neoplasm": NEOPLASM, "gtv": NEOPLASM, "lesion": LESION}
"""A name with one of these words is that abnormality, wherever it lies."""

ORGANS = {
    "adrenal gland": Code("23451007", "SCT", "Adrenal gland"),
    "aorta": Code("15825003", "SCT", "Aorta"),
    "brain": Code("12738006", "SCT", "Brain"),
    "colon": Code("71854001", "SCT", "Colon"),
    "duodenum": Code("38848004", "SCT", "Duodenum"),
    "esophagus": Code("32849002", "SCT", "Esophagus"),
    "gallbladder": Code("28231008", "SCT", "Gallbladder"),
    "heart": Code("80891009", "SCT", "Heart"),
    "hippocampus": Code("5366008", "SCT", "Hippocampus"),
    "kidney": Code("64033007", "SCT", "Kidney"),
    "liver": Code("10200004", "SCT", "Liver"),
    "lung": Code("39607008", "SCT", "Lung"),
    "pancreas": Code("15776009", "SCT", "Pancreas"),
    "prostate": Code("41216001", "SCT", "Prostate"),
    "spleen": Code("78961009", "SCT", "Spleen"),
    "stomach": Code("69695003", "SCT", "Stomach"),
    "trachea": Code("44567001", "SCT", "Trachea"),
}
"""Organs by the whole name of a label, sides aside (PS3.16 CID 7192). A part of an organ ("liver vessels", "brainstem") is not the organ and gets no code of its own."""


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
        A bundle's metadata; its :data:`METADATA_KEY` gives the codes. Without one a label is what its name says (:data:`ABNORMAL_WORDS`, :data:`ORGANS`), else tissue.

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
    named = _segment_of_name(value, name)
    if entry is None:
        return named
    kind = _code(entry, "type", value)
    category = _code(entry, "category", value) or named.category
    modifier = _code(entry, "type_modifier", value) or (named.type_modifier if kind is None else None)
    return Segment(value, name, category, kind or named.type, modifier, _code(entry, "anatomic_region", value), _rgb(entry, value))


def _segment_of_name(value: int, name: str) -> Segment:
    words = re.findall(r"[^\W\d_]+", name.casefold())
    for word in words:
        if word in ABNORMAL_WORDS:
            return Segment(value, name, ABNORMAL, ABNORMAL_WORDS[word])
    organ = ORGANS.get(" ".join(word for word in words if word not in ("left", "right")))
    if organ is None:
        return Segment(value, name)
    sides = [side for word, side in (("left", LEFT), ("right", RIGHT)) if word in words]
    return Segment(value, name, ANATOMY, organ, sides[0] if len(sides) == 1 else None)


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
