"""One case, looked at once: what is wrong with it, its facts, and a sample of its foreground for the statistics of the whole set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.dataset import Case
from volseg.dataset.checks import inspect_case
from volseg.geometry import reorient
from volseg.io import Volume
from volseg.planning.fingerprint.facts import CaseFacts, Intensities, LabelFacts, Size

SAMPLES = 10_000
"""Foreground voxels drawn from each case. nnU-Net draws 1e8 over the whole set, and each case equally often, so that a large tumour does not outvote a small one; with 10 000 a
case the 0.5th percentile of 20 cases rests on 1000 values, and a thousand cases take 40 MB."""

SEED = 1234
"""nnU-Net's (fingerprint_extractor.py); any would do."""

LARGEST_KEPT = 100
"""Pieces of a label whose volume is kept; a label with more is speckled."""

Samples = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Examined:
    """What came of one case.

    Attributes
    ----------
    problems, warnings : tuple of str
        One line each.
    facts : CaseFacts or None
        None where there are problems.
    samples : ndarray, float32, (channels, :data:`SAMPLES`)
        Foreground values, every channel at the same places; no columns where the case has no foreground.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: CaseFacts | None
    samples: Samples


def examine_case(case: Case, labels: Collection[int], ignored: int | None = None) -> Examined:
    """Read and measure one case.

    Parameters
    ----------
    case : Case
        Its files exist.
    labels : collection of int
        Values its label map may hold.
    ignored : int or None
        Label value of voxels of which nothing is known; they are not foreground.
    """
    found = inspect_case(replace(case, suv=True), [*labels, *([] if ignored is None else [ignored])])
    if found.problems or found.label is None:
        return Examined(found.problems, found.warnings, None, np.zeros((len(case.images), 0), np.float32))
    first, label = found.images[0], np.asarray(found.label.array)
    label = label if label.dtype.kind in "bu" else label.astype(np.uint8 if max(*labels, ignored or 0) < 256 else np.uint16)
    if ignored is not None:
        label = np.where(label == ignored, 0, label)
    samples = sample_foreground(found.images, label)
    grid = first.grid.reoriented("RAS")
    labels_found = measure_labels(label, first.grid.voxel_volume_ml, int(np.argmax(first.grid.spacing)))
    facts = CaseFacts(
        name=case.name,
        shape=grid.shape,
        spacing_mm=grid.spacing,
        orientation=first.grid.orientation,
        nonzero_shape=nonzero_shape(reorient(first.array, first.grid, "RAS")[0]),
        intensities=tuple(summarise(values) for values in samples),
        labels=labels_found,
        identity=tuple(_identity(volume) for volume in (*found.images, found.label)),
        modality=first.source.modality,
    )
    return Examined((), (*found.warnings, *_case_warnings(case, labels_found)), facts, samples)


def sample_foreground(images: tuple[Volume, ...], label: Labels) -> Samples:
    """Values of every channel at foreground voxels drawn with replacement (seeded); channels on other grids are interpolated linearly there.

    Parameters
    ----------
    images : tuple of Volume
        One per channel.
    label : ndarray of integers, axes (i, j, k) of the first image
        0 is background.

    Returns
    -------
    ndarray, float32, (channels, :data:`SAMPLES`)
        No columns where there is no foreground.
    """
    foreground = np.flatnonzero(label)
    if foreground.size == 0:
        return np.zeros((len(images), 0), np.float32)
    drawn = np.random.default_rng(SEED).choice(foreground, SAMPLES, replace=True)
    index = np.stack(np.unravel_index(drawn, label.shape))
    return np.stack([_values_at(image, images[0], index) for image in images]).astype(np.float32)


def _values_at(image: Volume, reference: Volume, index: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    if image.grid.isclose(reference.grid):
        same: npt.NDArray[Any] = np.asarray(image.array)[tuple(index)]
        return same
    from scipy.ndimage import map_coordinates

    there = image.grid.to_voxel(reference.grid.to_world(index.T)).T
    values: npt.NDArray[Any] = map_coordinates(np.asarray(image.array, dtype=np.float32), there, order=1, mode="nearest")
    return values


def summarise(values: npt.NDArray[Any]) -> Intensities | None:
    """Mean, SD and percentiles of some values; None of nothing."""
    if values.size == 0:
        return None
    exact = values.astype(np.float64)
    low, median, high = np.percentile(exact, (0.5, 50.0, 99.5))
    return Intensities(float(exact.mean()), float(exact.std()), float(median), float(low), float(high))


def nonzero_shape(image: npt.NDArray[Any]) -> Size:
    """Voxels along each axis of the box around everything that is not 0; the whole shape where all is 0."""
    sizes = []
    for axis in range(3):
        occupied = np.flatnonzero((image != 0).any(axis=tuple(other for other in range(3) if other != axis)))
        sizes.append(int(occupied[-1] - occupied[0]) + 1 if occupied.size else image.shape[axis])
    return sizes[0], sizes[1], sizes[2]


def measure_labels(label: Labels, voxel_ml: float, slice_axis: int) -> dict[int, LabelFacts]:
    """Volumes, connected pieces and skipped slices of each label that occurs.

    Parameters
    ----------
    label : ndarray of unsigned integers or bool, axes (i, j, k)
        0 is background.
    voxel_ml : float
        Volume of a voxel.
    slice_axis : int
        Axis across which readers draw: the one with the thickest voxels.
    """
    import cc3d

    occupied = [np.flatnonzero(label.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if occupied[0].size == 0:
        return {}
    box = label[tuple(slice(int(where[0]), int(where[-1]) + 1) for where in occupied)]
    box = np.ascontiguousarray(box.view(np.uint8) if box.dtype.kind == "b" else box)
    pieces, count = cc3d.connected_components(box, connectivity=26, return_N=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    first = _a_voxel_of_each(pieces, count)
    values = box.ravel(order="C")[first]
    facts = {}
    for value in sorted(set(values.tolist())):
        own = np.sort(sizes[1:][values == value])[::-1]
        skipped = skipped_slices(np.moveaxis(box == value, slice_axis, 0))
        volumes = tuple(float(size) * voxel_ml for size in own[:LARGEST_KEPT])
        facts[int(value)] = LabelFacts(float(own.sum()) * voxel_ml, len(own), volumes, skipped)
    return facts


def _a_voxel_of_each(pieces: Labels, count: int) -> npt.NDArray[np.int64]:
    """Flat index of one voxel of each piece, 1 to ``count``."""
    place = np.zeros(count + 1, np.int64)
    flat = pieces.ravel(order="C")
    inside = np.flatnonzero(flat)
    place[flat[inside]] = inside
    return place[1:]


def skipped_slices(mask: npt.NDArray[np.bool_]) -> int:
    """Empty slices (first axis) whose two neighbours are not empty and overlap.

    A label that ends and begins again elsewhere is no gap; one that is there before and after at the same place was most likely forgotten in between.
    """
    occupied = np.asarray(mask.any(axis=(1, 2)))
    empty = np.flatnonzero(~occupied[1:-1]) + 1
    return sum(bool(occupied[k - 1] and occupied[k + 1] and (mask[k - 1] & mask[k + 1]).any()) for k in empty)


def _case_warnings(case: Case, labels: dict[int, LabelFacts]) -> tuple[str, ...]:
    if not labels:
        return (f"{case.label}: the label map is empty; the case is trained on as one without any findings",)
    skipped = {value: facts.skipped_slices for value, facts in labels.items() if facts.skipped_slices}
    return tuple(f"{case.label}: label {value} skips slices between two that have it at the same place ({count}); fill in what was not drawn" for value, count in skipped.items())


def _identity(volume: Volume) -> str:
    """What the content is, whatever the file is called."""
    return volume.source.sha256 or volume.source.series_instance_uid or str(volume.source.path.resolve())
