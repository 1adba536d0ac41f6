"""What ``volseg infer`` is given: how scans are read, and with what they are segmented."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from volseg.cli.job import Job, check_source
from volseg.errors import BundleError, InputError

if TYPE_CHECKING:
    from volseg.inference import Segmenter
    from volseg.io import Volume


@dataclass(frozen=True)
class Settings:
    """Options of the command that hold for every scan.

    Parameters
    ----------
    bundle : Path
        Its folder.
    device, precision, engine : str
        As the options take them.
    weights : tuple of Path
        Other weights for the bundle's network; of several the scores are averaged.
    tta : bool
        Whether each window is also run in the flips the bundle was trained to see.
    overlap : float or None
        Of the sliding windows; None is the bundle's own.
    series : str or None
        SeriesInstanceUID, where a DICOM folder holds several volumes.
    fix_geometry, suv : bool
        Whether an uneven or tilted scan is resampled; whether PET values become SUV.
    probabilities : bool
        Whether the probability of every label is kept.
    max_memory : int or None
        Bytes the process may use.
    """

    bundle: Path
    device: str
    precision: str
    engine: str
    weights: tuple[Path, ...]
    tta: bool
    overlap: float | None
    series: str | None
    fix_geometry: bool
    suv: bool
    probabilities: bool
    max_memory: int | None

    @cached_property
    def made_for(self) -> tuple[str | None, int, bool]:
        """Modality (0008,0060) and number of channels the bundle was made for, and whether for PET in SUV; a bundle that cannot be read is told of when it is loaded."""
        from volseg.bundle import read_bundle
        from volseg.io.modality import plain_modality

        try:
            bundle = read_bundle(self.bundle)
        except BundleError:
            return None, 1, False
        return plain_modality(bundle.modality), bundle.input_channels, bundle.wants_suv

    def segmenter(self, *, preload: bool) -> Segmenter:
        """The bundle; with ``preload`` it goes on in a thread with what the network needs, beside the reading of the first scan."""
        from volseg.inference import Segmenter

        segmenter = Segmenter(
            self.bundle,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            weights=self.weights,
            tta=self.tta,
            overlap=self.overlap,
            max_memory=self.max_memory,
        )
        if preload:
            segmenter.preload()
        return segmenter


@dataclass(frozen=True)
class ReadScan:
    """A scan in memory, and the seconds it took to get there."""

    job: Job
    volume: Volume
    read_s: float


@dataclass(frozen=True)
class Unusable:
    """A scan that cannot be segmented, and why."""

    job: Job
    error: InputError


def read_scan(job: Job, settings: Settings) -> ReadScan | Unusable:
    """Read the scan of a job; whatever is wrong with it is kept until its turn comes."""
    from volseg.io import load
    from volseg.io.channels import load_channels

    began = perf_counter()
    try:
        modality, channels, wants_suv = settings.made_for
        suv: bool | Literal["pet"] = settings.suv or ("pet" if wants_suv else False)
        if job.channels:
            volume = load_channels(job.channels, [name for name, _ in job.channels], fix_geometry=settings.fix_geometry, suv=suv)
        else:
            volume = load(job.scan, series=settings.series, modality=modality, fix_geometry=settings.fix_geometry, suv=suv, channels=channels)
        check_source(job, volume.source.kind, volume.source.header if volume.source.kind == "dicom" else None)
    except InputError as error:
        return Unusable(job, error)
    return ReadScan(job, volume, perf_counter() - began)
