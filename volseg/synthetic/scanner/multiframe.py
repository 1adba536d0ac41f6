"""Write phantoms as one enhanced multi-frame CT or MR object (PS3.3 A.38.1 and A.36.2): all slices in one file, what differs between them in functional groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volseg.errors import InputError
from volseg.io.atomic import written_beside
from volseg.synthetic.scan import SyntheticScan
from volseg.synthetic.scanner.enhanced import CLASSES, FrameFacts, add_enhanced_image, frame_groups, shared_groups
from volseg.synthetic.scanner.modules import Identity, add_patient_and_study, add_pixel_format, add_pixels, new_dataset
from volseg.synthetic.scanner.pixels import Stored
from volseg.synthetic.scanner.planes import Field3D, Planes, laid_down, slice_planes
from volseg.synthetic.scanner.series import instance_numbers, naming, stored_echoes
from volseg.synthetic.scanner.settings import ScannerSettings


@dataclass(frozen=True, eq=False)
class _Frame:
    facts: FrameFacts
    planes: Planes
    stored: Stored


def write_multiframe(
    scans: Sequence[SyntheticScan],
    path: Path,
    *,
    settings: ScannerSettings | None = None,
    description: str | None = None,
    series_number: int = 1,
    field: Field3D | None = None,
) -> Path:
    """Write one enhanced object with a stack of frames for each scan.

    Parameters
    ----------
    scans : sequence of SyntheticScan
        CT or MR, all of one modality, matrix and voxel size; they share a frame of reference, and the identity of the first.
    path : Path
        The file; replaced when it is there.
    settings : ScannerSettings, optional
        As for :func:`~volseg.synthetic.scanner.series.write_series`; ``numbering`` orders the frames.
    description : str, optional
        Put behind ``"synthetic"`` in SeriesDescription; the seed when omitted.
    series_number : int
        SeriesNumber (0020,0011); part of the UIDs' seed.
    field : callable, optional
        The anatomy as a function of world position, instead of the scans' voxels.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    GeometryError
        If a grid is sheared.
    InputError
        If the settings do not fit the scans, or the scans not each other.
    OutputError, WriteError
        If the file cannot be written; nothing half-written is left.
    """
    settings = settings or ScannerSettings()
    with naming(path):
        frames = _frames(scans, settings, field)
    scan = scans[0]
    identity = Identity(scan, settings, series_number)
    dataset = new_dataset(CLASSES[scan.modality], identity.uid("multi-frame"))
    add_patient_and_study(dataset, scan, identity, series_number, description or f"seed {scan.seed}", settings.patient_position)
    add_pixel_format(dataset, frames[0].planes, settings)
    add_enhanced_image(dataset, scan.modality, [frame.facts for frame in frames], identity.uid)
    dataset.SharedFunctionalGroupsSequence = [shared_groups(scan.modality, frames[0].planes, frames[0].stored)]
    dataset.PerFrameFunctionalGroupsSequence = [frame_groups(scan.modality, frame.facts, frame.planes) for frame in frames]
    add_pixels(dataset, np.stack([frame.stored.values for frame in frames]))
    with written_beside(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def _frames(scans: Sequence[SyntheticScan], settings: ScannerSettings, field: Field3D | None) -> list[_Frame]:
    if not scans or {scan.modality for scan in scans} not in ({"CT"}, {"MR"}) or len({(scan.grid.shape[:2], tuple(np.round(scan.grid.spacing, 6))) for scan in scans}) > 1:
        msg = f"a multi-frame object holds CT or MR of one matrix and voxel size, got {[(scan.modality, *scan.grid.shape[:2]) for scan in scans]}; write the others for themselves"
        raise InputError(msg)
    frames = []
    for stack, scan in enumerate(scans, 1):
        settings.check(scan)
        taken = laid_down(scan, settings.patient_position)
        planes = slice_planes(taken.grid, settings)
        for number, time, slices in stored_echoes(taken, planes, settings, field):
            frames += [_Frame(FrameFacts(stack, k, number, time), planes, stored) for k, stored in enumerate(slices)]
    return [frames[n] for n in np.argsort(instance_numbers(len(frames), settings))]
