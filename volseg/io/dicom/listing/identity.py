"""What in a header tells who the patient is, and taking it out of free text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from volseg.io.dicom.files.dataset import text_of

IDENTITY_KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientName", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber")
"""Elements that name the patient or the visit, from the Basic Application Level Confidentiality Profile (PS3.15 table E.1-1)."""

MIN_WORD = 2
"""Shorter parts of a name or ID stand in too many other words to be taken out of a text."""


@dataclass(frozen=True)
class Identity:
    """Who a header belongs to; never printed unless asked for.

    Parameters
    ----------
    patient_id, issuer, name : str
        PatientID, IssuerOfPatientID and PatientName; ``""`` where absent.
    words : tuple of str
        Everything whose appearance in a text gives the patient away, longest first.
    """

    patient_id: str
    issuer: str
    name: str
    words: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...] | None:
        """Equal for two headers of one patient: the ID with its issuer, else the name; None where the header names nobody."""
        if self.patient_id:
            return (self.patient_id, self.issuer)
        return (self.name,) if self.name else None

    def hidden_in(self, text: str) -> str:
        """The text without the patient's ID, name, birth date and accession number, which technicians and anonymisers write into descriptions."""
        hidden = text
        for word in self.words:
            hidden = re.sub(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", "", hidden, flags=re.IGNORECASE)
        # What stood between the words taken out is left behind twice.
        return text if hidden == text else re.sub(r"([\s_^,-])[\s_^,-]+", r"\1", hidden).strip(" _^,-")


def identity_of(dataset: Any) -> Identity:
    """Read the elements of :data:`IDENTITY_KEYWORDS`."""
    texts = {keyword: text_of(dataset, keyword) for keyword in IDENTITY_KEYWORDS}
    names = re.split(r"[\^=\\,\s]+", texts["PatientName"])
    whole = [texts["PatientID"], *texts["OtherPatientIDs"].split("\\"), texts["AccessionNumber"], texts["PatientBirthDate"], texts["PatientName"].replace("^", " ").strip()]
    words = {word for word in (*whole, *names) if len(word) >= MIN_WORD}
    return Identity(texts["PatientID"], texts["IssuerOfPatientID"], texts["PatientName"], tuple(sorted(words, key=lambda word: (-len(word), word))))
