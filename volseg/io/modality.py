"""What kind of image a channel is, from its name."""

from __future__ import annotations

import re

MODALITY_OF_WORD = {"CT": "CT", "CBCT": "CT", "PET": "PT", "PT": "PT", "SUV": "PT", "MR": "MR", "MRI": "MR"}
"""Word in a channel's name -> Modality (0008,0060), PS3.3 C.7.3.1.1.1."""

MRI_CONTRAST = re.compile(r"(T1|T2|PD|FLAIR|DWI|ADC)[A-Z0-9]*")
"""Words that name a contrast of MRI, such as ``T1w`` and ``T2_FLAIR``."""


def plain_modality(said: str | None) -> str | None:
    """Modality (0008,0060) of what a bundle's metadata says, e.g. ``"MR"`` of ``"MRI"``; what names none comes back as it is."""
    return expected_modality(said) or said


def expected_modality(channel: str | None) -> str | None:
    """Modality (0008,0060) that a channel's name speaks of, e.g. ``"PT"`` of ``"FDG-PET"``; None when it names none."""
    for word in re.split(r"[^A-Z0-9]+", (channel or "").upper()):
        if word in MODALITY_OF_WORD:
            return MODALITY_OF_WORD[word]
        if MRI_CONTRAST.fullmatch(word):
            return "MR"
    return None
