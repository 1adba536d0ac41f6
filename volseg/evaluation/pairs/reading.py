"""The two label maps of a pair, read for comparison: DICOM objects on their scans, and only the regions of interest that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from volseg.errors import InputError
from volseg.evaluation.labels import label_array
from volseg.evaluation.pairs.pairing import Pair
from volseg.evaluation.scores import on_grid_of
from volseg.io import Volume, load_label
from volseg.io.labels import label_object_kind, segment_names


def read_pair(pair: Pair, rois: Mapping[str, int] | None = None, scans: Path | None = None, ignore_label: int | None = None) -> tuple[Volume, Volume]:
    """Read prediction and reference.

    Parameters
    ----------
    pair : Pair
        Label maps: images, DICOM Segmentations or RT Structure Sets.
    rois : mapping of str to int, optional
        Segments or ROIs to take of DICOM objects, by name, and their label values. Prediction and reference seldom use the same names: each object gives those it holds, and an
        object that holds none of them is taken whole. Without them a reference gives those of the dataset's list (:attr:`Pair.rois`).
    scans : Path, optional
        Where to look first for the series of DICOM objects.
    ignore_label : int, optional
        Voxels of this value in the reference are background in both maps, so that nothing is said of them.

    Returns
    -------
    prediction, reference : Volume

    Raises
    ------
    InputError
        If a file cannot be read, or a name is in neither object.
    GeometryError
        If an object does not fit its scan, or voxels are to be ignored and the maps do not lie on one grid.
    """
    files = (pair.prediction, pair.reference)
    chosen = choose_rois(files, rois) if rois else (None, pair.rois if label_object_kind(pair.reference) is not None else None)
    prediction, reference = (load_label(file, rois=wanted, scans=scans) for file, wanted in zip(files, chosen, strict=True))
    return (prediction, reference) if ignore_label is None else _without(prediction, reference, ignore_label)


def _without(prediction: Volume, reference: Volume, value: int) -> tuple[Volume, Volume]:
    truth = label_array(reference)
    unknown = truth == value
    if not unknown.any():
        return prediction, reference
    found, known = (np.where(unknown, 0, array).astype(array.dtype) for array in (on_grid_of(reference, prediction), truth))
    return replace(prediction, array=found, grid=reference.grid), replace(reference, array=known)


def choose_rois(files: Sequence[Path], rois: Mapping[str, int]) -> list[dict[str, int] | None]:
    """Of each file, the regions it holds and their label values; None takes all of them.

    Raises
    ------
    InputError
        If a name is in none of the files.
    """
    held = [segment_names(file) for file in files]
    strange = [name for name in rois if not any(name in names for names in held if names is not None)]
    if strange:
        listed = "; ".join(f"{file.name} holds {', '.join(map(repr, names))}" for file, names in zip(files, held, strict=True) if names)
        msg = f"{files[0]}: neither it nor {files[1].name} holds a segment or ROI {strange[0]!r} ({listed or 'neither is a DICOM object'}); choose a name that is there"
        raise InputError(msg)
    return [{name: value for name, value in rois.items() if name in (names or ())} or None for names in held]
