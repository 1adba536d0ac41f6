"""What ``volseg infer`` is to leave for one scan: which files, and whether they can be made of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.io.dicom.objects.seg.write import Kind

FORMATS = {
    "nifti": "_seg.nii.gz",
    "nrrd": "_seg.nrrd",
    "mha": "_seg.mha",
    "dicom-seg": "_seg.dcm",
    "rtstruct": "_rtstruct.dcm",
    "dicom-sr": "_sr.dcm",
}
"""Format of a result -> what stands behind the scan's name."""

DICOM_FORMATS = ("dicom-seg", "rtstruct", "dicom-sr")
"""Formats that refer to the slices of a DICOM series."""

NEEDED_UIDS = {"study": "StudyInstanceUID (0020,000D)", "frame": "FrameOfReferenceUID (0020,0052)"}
"""What anonymisers leave out and no DICOM result can do without, by key of :attr:`~volseg.io.dicom.files.header.SliceHeader.text`."""

MOST_OF_NAME = 80
"""Characters of a label's name that a file name holds: file systems end at 255 bytes."""

SEGMENTATION_KINDS = ("binary", "labelmap", "fractional")


@dataclass(frozen=True)
class Job:
    """One scan and what is to be written for it.

    Parameters
    ----------
    scan : Path
        As the user gave it.
    stem : str
        Start of every result's name.
    folder : Path
        Where the results go.
    formats : tuple of str
        Keys of :data:`FORMATS`, each once.
    preview, report : bool
        Whether a picture, and whether the HTML report and the CSV, are written.
    kind : str
        Of a DICOM Segmentation: binary, labelmap or fractional.
    probabilities : tuple of (int, str)
        Label values whose probability is written, and what stands behind the scan's name.
    channels : tuple of (str, Path)
        Where the image is put together from several scans: channel and scan, in the bundle's order, ``scan`` being the first.
    """

    scan: Path
    stem: str
    folder: Path
    formats: tuple[str, ...]
    preview: bool = True
    report: bool = True
    kind: Kind = "binary"
    probabilities: tuple[tuple[int, str], ...] = ()
    channels: tuple[tuple[str, Path], ...] = ()

    @property
    def given(self) -> str | list[str]:
        """The scan as the JSON document names it; of an image put together from several, all of them."""
        return [str(path) for _, path in self.channels] or str(self.scan)

    def place(self, ending: str) -> Path:
        """Path of the result with this ending."""
        return self.folder / f"{self.stem}{ending}"

    @property
    def json(self) -> Path:
        """The record of the run."""
        return self.place("_seg.json")

    def labels(self) -> list[Path]:
        """The segmentation, in every format."""
        return [self.place(FORMATS[name]) for name in self.formats]

    def outputs(self) -> list[Path]:
        """Everything that may be written, the record last: where it is, everything is."""
        extra = [*(["_seg.csv", "_seg.html"] if self.report else []), *(["_seg.png"] if self.preview else [])]
        return [*self.labels(), *(self.place(ending) for _, ending in self.probabilities), *map(self.place, extra), self.json]


def chosen_formats(given: Sequence[str]) -> tuple[str, ...]:
    """The formats once each; a measurement report refers to a DICOM Segmentation, which is then written too, and first."""
    formats = list(dict.fromkeys(given))
    if "dicom-sr" in formats:
        formats = [name for name in formats if name not in ("dicom-seg", "dicom-sr")] + ["dicom-seg", "dicom-sr"]
    return tuple(formats)


def probability_endings(labels: Mapping[int, str]) -> tuple[tuple[int, str], ...]:
    """Value of each label but the background, and the end of its probability's file name: the label's name where a file can have it, e.g. ``_prob_left_kidney.nii.gz``."""
    names = {value: re.sub(r"[^\w-]+", "_", name).strip("_")[:MOST_OF_NAME] or f"label_{value}" for value, name in labels.items() if value != 0}
    shared = Counter(name.casefold() for name in names.values())
    told = {value: f"{name}_{value}" if shared[name.casefold()] > 1 else name for value, name in names.items()}
    if len({name.casefold() for name in told.values()}) < len(told):
        # One label's name may be another's with its number.
        told = {value: f"{name}_{value}" for value, name in names.items()}
    return tuple((value, f"_prob_{name}.nii.gz") for value, name in sorted(told.items()))


def check_source(job: Job, kind: str, header: Any = None) -> None:
    """Refuse a DICOM result for a scan it cannot refer to, before any work is done.

    Parameters
    ----------
    job : Job
        The scan and the formats.
    kind, header
        Of the scan's :class:`~volseg.io.volume.Source`.

    Raises
    ------
    InputError
        Naming the format.
    """
    wanted = next((name for name in job.formats if name in DICOM_FORMATS), None)
    if wanted and kind != "dicom":
        msg = f"{job.scan}: --format {wanted} refers to the slices of a DICOM series, and this scan is {kind}; give the DICOM series, or use --format nifti, nrrd or mha"
        raise InputError(msg)
    lacking = [tag for key, tag in NEEDED_UIDS.items() if header is not None and not all(s.text[key] for s in header.slices)]
    if wanted and lacking:
        msg = f"{job.scan}: has no {' and no '.join(lacking)}, which --format {wanted} must refer to; repair the headers (dcmtk's dcmodify), or use --format nifti, nrrd or mha"
        raise InputError(msg)
