"""Write a phantom as a classic series of single-frame images, as a scanner would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError, InputError
from volseg.io.staging import staged_folder
from volseg.synthetic.scan import SyntheticScan
from volseg.synthetic.scanner.modules import CLASSES, Identity, add_ct, add_mr, add_patient_and_study, add_pet, add_pixel_format, add_pixels, add_plane, new_dataset
from volseg.synthetic.scanner.pixels import Stored, echo, store
from volseg.synthetic.scanner.planes import Field3D, Planes, laid_down, seen_on, slice_planes
from volseg.synthetic.scanner.settings import ScannerSettings

ECHO_TIME_MS = 2.98
"""Echo time of a series without a choice of its own."""


def write_series(
    scan: SyntheticScan,
    folder: Path,
    *,
    settings: ScannerSettings | None = None,
    description: str | None = None,
    series_number: int = 1,
    field: Field3D | None = None,
) -> list[Path]:
    """Write one file per slice along ``k`` (and echo): columns run along ``i``, rows along ``j``.

    Parameters
    ----------
    scan : SyntheticScan
        The phantom. CT is stored unsigned with an intercept of -1024 unless the settings say otherwise, MR without rescaling, PET (``"PT"``, values in Bq/ml) with a slope for
        each slice.
    folder : Path
        Where ``IM0001.dcm`` and on are written, numbered by InstanceNumber unless names are shuffled; must be absent or empty.
    settings : ScannerSettings, optional
        How the series is taken and written; the plainest when omitted.
    description : str, optional
        Put behind ``"synthetic"`` in SeriesDescription; the seed when omitted.
    series_number : int
        SeriesNumber (0020,0011); part of the UIDs' seed.
    field : callable, optional
        The anatomy as a function of world position ((n, 3) RAS+ mm to values), instead of the scan's voxels.

    Returns
    -------
    list of Path
        The files in the order of the slices along the table, echo by echo.

    Raises
    ------
    GeometryError
        If the grid is sheared, which a series of parallel slices cannot say.
    InputError
        If the settings do not fit the scan, or its values the stored bits.
    OutputError, WriteError
        If the folder cannot be written; nothing half-written is left.
    """
    settings = settings or ScannerSettings()
    with naming(folder):
        settings.check(scan)
        taken = laid_down(scan, settings.patient_position)
        planes = slice_planes(taken.grid, settings)
        images = [(k, n, time, stored) for n, time, stored_slices in stored_echoes(taken, planes, settings, field) for k, stored in enumerate(stored_slices)]
    identity = Identity(scan, settings, series_number)
    numbers = instance_numbers(len(images), settings)
    names = [f"IM{n:04d}.dcm" for n in (np.random.default_rng(1).permutation(len(images)) + 1 if settings.shuffled_names else numbers)]
    with staged_folder(folder) as stage:
        for name, instance, (k, n, time, stored) in zip(names, numbers, images, strict=True):
            dataset = new_dataset(CLASSES[scan.modality], identity.uid(f"instance {k} echo {n}"))
            add_patient_and_study(dataset, taken, identity, series_number, description or f"seed {scan.seed}", settings.patient_position)
            dataset.AcquisitionNumber, dataset.InstanceNumber = 1, int(instance)
            add_plane(dataset, planes, k)
            add_pixel_format(dataset, planes, settings)
            add_pixels(dataset, stored.values)
            _add_modality(dataset, scan.modality, stored, planes, k, (n, time))
            dataset.save_as(stage / name, enforce_file_format=True)
    return [folder / name for name in names]


def instance_numbers(count: int, settings: ScannerSettings) -> npt.NDArray[np.intp]:
    """InstanceNumber (from 1) of each image or frame in the order of the slices along the table."""
    numbers = np.arange(1, count + 1)
    if settings.numbering == "reversed":
        return numbers[::-1]
    return np.random.default_rng(0).permutation(numbers) if settings.numbering == "shuffled" else numbers


def stored_echoes(scan: SyntheticScan, planes: Planes, settings: ScannerSettings, field: Field3D | None) -> Iterator[tuple[int, float, list[Stored]]]:
    """Number (from 1), time (ms) and encoded slices of each echo; one echo where the settings ask for none."""
    images = seen_on(planes, scan, field)
    times = settings.echo_times_ms or (ECHO_TIME_MS,)
    for number, time in enumerate(times, 1):
        yield number, time, [store(echo(image, time, times[0]), scan.modality, settings) for image in images]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path that was to be written in front of what is wrong with the scan or the settings."""
    try:
        yield
    except (GeometryError, InputError) as error:
        msg = f"{path}: {error}"
        raise type(error)(msg) from error


def _add_modality(dataset: Any, modality: str, stored: Stored, planes: Planes, k: int, number_and_echo_time: tuple[int, float]) -> None:
    if modality == "CT":
        add_ct(dataset, stored, planes)
    elif modality == "MR":
        add_mr(dataset, stored, *number_and_echo_time)
    else:
        add_pet(dataset, stored, k, len(planes.positions))
