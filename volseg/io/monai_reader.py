"""volseg's file reading for any MONAI pipeline: ``LoadImaged(keys="image", reader="volseg.io.monai_reader.VolsegReader")``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from volseg.errors import InputError
from volseg.io.alignment import align
from volseg.io.channels import load_channels
from volseg.io.load import load
from volseg.io.volume import Volume

logger = logging.getLogger(__name__)

FilePath = str | PathLike[str]


class VolsegReader(ImageReader):  # type: ignore[misc]
    """Reads NIfTI, NRRD, MHA and DICOM (folder, file, zip) with volseg's checks.

    ``LoadImage`` swallows what a reader's ``read`` raises and goes on to MONAI's own readers, which read a tilted or gapped series without a word. So ``read`` only notes the
    paths and ``get_data`` does the work: its errors reach the user.

    Parameters
    ----------
    series : str, optional
        SeriesInstanceUID to read where a DICOM folder holds several.
    fix_geometry : bool
        Resample tilted, unevenly spaced or sheared scans to an orthogonal, even grid instead of refusing them.
    suv : bool
        Read DICOM PET as body-weight SUV (g/ml); of several paths those whose name is that of a PET.
    channels : sequence of str
        Names of the channels where several paths are loaded as one image, e.g. ``("CT", "PET")``: they choose among the series of a DICOM folder, and a CT is air outside its field
        of view.
    """

    def __init__(self, series: str | None = None, fix_geometry: bool = False, suv: bool = False, channels: Sequence[str] = ()) -> None:
        super().__init__()
        self.series = series
        self.fix_geometry = fix_geometry
        self.suv = suv
        self.channels = tuple(channels)

    def verify_suffix(self, filename: Sequence[FilePath] | FilePath) -> bool:
        """Every path is accepted; what is in it is checked when it is loaded."""
        return True

    def read(self, data: Sequence[FilePath] | FilePath, **kwargs: Any) -> tuple[str, ...]:
        """Note the paths; see the class for why nothing is opened yet.

        Parameters
        ----------
        data : path or sequence of paths
            Several become the channels of one image, on the grid of the first (:mod:`volseg.io.alignment`); so do the volumes of a 4D NIfTI file.
        """
        return tuple(str(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Load what :meth:`read` noted.

        Returns
        -------
        array : ndarray
            (i, j, k) as on disk, or (channel, i, j, k) of several; the values' own dtype.
        meta : dict
            ``affine`` and ``original_affine`` (RAS+ mm, as ``NibabelReader`` gives them), ``spatial_shape``, ``original_channel_dim`` (NaN, MONAI's "no_channel", or 0 of several
            channels), ``space``, and ``modality`` and ``series_instance_uid`` (``""`` when unknown).

        Raises
        ------
        InputError
            If a path cannot be read.
        GeometryError
            If several paths do not lie in one place of one frame.
        """
        image = self._load(img)
        for note in image.warnings:
            logger.warning("%s: %s", img[0], note)
        aligned = align(image.channels)
        array = image.array if len(aligned) == 1 else np.stack([channel.array for channel in aligned])
        return array, _meta(image, len(aligned))

    def _load(self, paths: Sequence[str]) -> Volume:
        if len(paths) == 1:
            return load(paths[0], series=self.series, fix_geometry=self.fix_geometry, suv=self.suv, channels=None)
        names = self.channels or tuple(f"channel {number}" for number in range(len(paths)))
        if len(names) != len(paths):
            msg = f"{paths[0]}: {len(paths)} files are to become the channels {', '.join(names)}; give one file for each"
            raise InputError(msg)
        return load_channels(list(zip(names, paths, strict=True)), names, fix_geometry=self.fix_geometry, suv=self.suv)


def _meta(volume: Volume, count: int) -> dict[str, Any]:
    return {
        str(MetaKeys.AFFINE): np.array(volume.grid.affine),
        str(MetaKeys.ORIGINAL_AFFINE): np.array(volume.grid.affine),
        str(MetaKeys.SPATIAL_SHAPE): np.asarray(volume.grid.shape),
        str(MetaKeys.ORIGINAL_CHANNEL_DIM): float("nan") if count == 1 else 0,
        str(MetaKeys.SPACE): SpaceKeys.RAS,
        "modality": volume.source.modality or "",
        "series_instance_uid": volume.source.series_instance_uid or "",
    }
