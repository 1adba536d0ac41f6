"""How each channel's values are brought to a common scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from volseg.dataset.entries import channel_key
from volseg.planning.fingerprint import Fingerprint, Intensities

Kind = Literal["ct", "suv", "zscore"]

CT_NAMES = frozenset({"ct", "cta", "cect", "ldct", "cbct"})
PET_NAMES = frozenset({"pet", "pt", "suv", "suvbw", "fdg", "psma"})

LARGEST_SUV = 100.0
"""Largest 99.5th percentile of the foreground (g/ml) that is taken for SUV; in Bq/ml, the unit scanners store, ordinary tissue has thousands."""

NONZERO_SHARE = 0.75
"""Scans whose part that is not zero fills less than this of the box (median of the set) are normalised inside it only (nnU-Net)."""


@dataclass(frozen=True)
class Channel:
    """One input channel and its normalisation.

    Attributes
    ----------
    name : str
        As the dataset gives it, with what is no letter, digit or underscore replaced, so that it can be part of a key.
    kind : ``"ct"``, ``"suv"`` or ``"zscore"``
        Rule.
    low, high, sd : float
        For ``ct`` and ``suv``: values are clipped to ``low`` .. ``high``, then mapped so that ``low`` is 0 and ``sd`` is 1.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    sd: float = 1.0

    @property
    def top(self) -> float:
        """Largest value after normalisation with fixed limits."""
        return (self.high - self.low) / self.sd

    @property
    def modality(self) -> str:
        """DICOM modality."""
        return {"ct": "CT", "suv": "PT"}.get(self.kind) or ("PT" if _words(self.name) & PET_NAMES else "MR")


def plan_channels(fingerprint: Fingerprint) -> tuple[Channel, ...]:
    """Choose the rule of each channel by its name (``dataset.json``'s modality), else by the DICOM modality of the files.

    CT is clipped to the 0.5th and 99.5th percentile of the foreground and divided by its standard deviation, both of the whole set, because Hounsfield units mean the same in every
    scan. PET in SUV likewise, from 0: SUV is quantitative too, and a z-score of each case would depend on how much of the body is in view. Everything else (MR, PET in Bq/ml) has
    no common unit and is brought to mean 0 and standard deviation 1 case by case.
    """
    return tuple(_plan_channel(fingerprint, number, name, entry) for number, (name, entry) in enumerate(zip(fingerprint.channels, fingerprint.intensities, strict=True)))


def _plan_channel(fingerprint: Fingerprint, number: int, name: str, found: Intensities) -> Channel:
    modalities = {case.modality for case in fingerprint.cases} - {None} if number == 0 else set()
    known = _words(name) or {str(modality).lower() for modality in modalities}
    clean = channel_key(name) or (f"channel_{number}" if len(fingerprint.channels) > 1 else "image")
    spread = found.sd if found.sd > 0 else 1.0
    if known & CT_NAMES and found.percentile_99_5 > found.percentile_00_5:
        return Channel(clean, "ct", found.percentile_00_5, found.percentile_99_5, spread)
    if known & PET_NAMES and 0 < found.percentile_99_5 <= LARGEST_SUV:
        return Channel(clean, "suv", 0.0, found.percentile_99_5, spread)
    return Channel(clean, "zscore")


def is_named(fingerprint: Fingerprint) -> bool:
    """Whether the dataset (or its DICOM files) says what every channel is."""
    return all(fingerprint.channels) or (len(fingerprint.channels) == 1 and all(case.modality for case in fingerprint.cases))


def inside_nonzero(fingerprint: Fingerprint, channels: Sequence[Channel]) -> bool:
    """Whether scans are cropped to, and normalised inside, what is not zero (skull-stripped brains); never with CT or PET in SUV, where 0 is a value like any other."""
    if any(channel.kind != "zscore" for channel in channels):
        return False
    shares = sorted(_share(case.nonzero_shape, case.shape) for case in fingerprint.cases)
    middle = len(shares) // 2
    return (shares[middle] + shares[~middle]) / 2 < NONZERO_SHARE


def _share(part: Sequence[int], whole: Sequence[int]) -> float:
    share = 1.0
    for one, other in zip(part, whole, strict=True):
        share *= one / other
    return share


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", name.lower()))
