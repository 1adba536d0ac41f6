"""Which images an object that is no scan (RTSTRUCT, SEG, SR, ...) refers to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

REFERENCE_KEYWORDS = (
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "ReferencedStructureSetSequence",
    "ReferencedRTPlanSequence",
    "ReferencedImageSequence",
    "SourceImageSequence",
)
"""Sequences by which RT objects (PS3.3 C.8.8.5, C.8.8.9), registrations and presentation states (C.12.1.1.1) and reports (C.17.2) name the images they are about."""

MAX_DEPTH = 12
"""No standard object nests references deeper than six; a deeper one is hostile."""


def references_of(dataset: Any) -> tuple[frozenset[str], frozenset[str]]:
    """SeriesInstanceUIDs and SOPInstanceUIDs that an object names.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Holds at least the sequences of :data:`REFERENCE_KEYWORDS`.
    """
    items = list(_items(dataset, REFERENCE_KEYWORDS, MAX_DEPTH))
    series, instances = ([str(item[keyword].value) for item in items if keyword in item] for keyword in ("SeriesInstanceUID", "ReferencedSOPInstanceUID"))
    return frozenset(series), frozenset(instances)


def _items(dataset: Any, keywords: tuple[str, ...] | None, depth: int) -> Iterator[Any]:
    """Items of the named sequences (of all, for None) and of the sequences within them."""
    for element in dataset:
        if element.VR != "SQ" or not depth or (keywords is not None and element.keyword not in keywords):
            continue
        for item in element.value:
            yield item
            yield from _items(item, None, depth - 1)
