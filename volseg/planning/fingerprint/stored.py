"""Examined cases kept from one planning to the next, by the identity of their files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from volseg.dataset import Case
from volseg.dataset.cache.identity import entry_name, source_of
from volseg.errors import VolsegError
from volseg.inference.executors.compiled import cache_folder
from volseg.io.text import write_bytes
from volseg.planning.fingerprint.case import Examined
from volseg.planning.fingerprint.facts import CaseFacts, Intensities, LabelFacts

LAYOUT = 2
"""Raised whenever what is measured of a case changes."""


def read_examined(case: Case, labels: Collection[int], ignored: int | None) -> Examined | None:
    """What was found in a case before, if its files are the same as then (place, size and time of change); None otherwise."""
    try:
        with np.load(_place(case, labels, ignored), allow_pickle=False) as stored:
            content = json.loads(str(stored["content"]))
            return Examined((), tuple(content["warnings"]), _facts(content["facts"]), stored["samples"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, VolsegError):
        return None


def keep_examined(case: Case, labels: Collection[int], ignored: int | None, examined: Examined) -> None:
    """Keep a case without problems; a cache that cannot be written to is no reason to stop."""
    if examined.facts is None:
        return
    content = json.dumps({"warnings": examined.warnings, "facts": asdict(examined.facts)})
    stream = io.BytesIO()
    np.savez_compressed(stream, content=np.array(content), samples=examined.samples)
    try:
        write_bytes(_place(case, labels, ignored), stream.getvalue())
    except VolsegError:
        return


def _place(case: Case, labels: Collection[int], ignored: int | None) -> Path:
    source = source_of(case) | {"layout": LAYOUT, "labels": sorted(labels), "ignored": ignored, "channels": case.channels}
    return cache_folder() / "fingerprints" / f"{entry_name(case, source)}.npz"


def _facts(content: dict[str, Any]) -> CaseFacts:
    content["shape"] = tuple(content["shape"])
    content["spacing_mm"] = tuple(content["spacing_mm"])
    content["nonzero_shape"] = tuple(content["nonzero_shape"])
    content["identity"] = tuple(content["identity"])
    content["intensities"] = tuple(None if entry is None else Intensities(**entry) for entry in content["intensities"])
    content["labels"] = {int(value): LabelFacts(**entry | {"component_ml": tuple(entry["component_ml"])}) for value, entry in content["labels"].items()}
    return CaseFacts(**content)
