"""Training patches and validation volumes out of the preprocessed cache, drawn as the bundle's own pipeline would draw them from whole cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandCropByLabelClassesd, RandCropByPosNegLabeld, RandSpatialCropd, SpatialCrop
from torch.utils.data import Dataset, Sampler

from volseg.dataset.cache import FOREGROUND, CachedCase, read_entry
from volseg.errors import DatasetError
from volseg.training.randomness import SharedRandomness

Index = int | tuple[int, int]
"""Number of a case, or (seed, number of a case)."""


class CachedPatches(Dataset[Any]):
    """Random patches of cached cases.

    The random crop that begins the random transforms draws where to cut by its own code, on the locations the cache holds; only that part is then read from disk. A crop that
    is not recognised is given the whole case. Everything after the crop is stock MONAI.

    Parameters
    ----------
    entries : sequence of str or Path
        Entries of the cache, one a case.
    transform : monai.transforms.Compose
        The random transforms, or the crop alone.
    seeded : bool
        Give each patch a ``"seed"``, drawn with it, for what is done to it later (:class:`volseg.training.augmentation.AugmentedBatch`).

    Attributes
    ----------
    transform : monai.transforms.Compose
        The same; whoever seeds a dataset's transform, as MONAI's loaders do, seeds this.
    """

    def __init__(self, entries: Sequence[str | Path], transform: Compose, seeded: bool = False) -> None:
        self._cases = open_entries(entries)
        self._seeded = seeded
        self._randomness = SharedRandomness(transform.transforms)
        self.transform = transform

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: Index) -> Any:
        """Draw from a case; with a seed, what is drawn follows from it and the case alone, whichever process draws it and whatever was drawn before."""
        if isinstance(index, tuple):
            seed, index = index
            self._randomness.seed(seed)
        drawn = self._draw(self._cases[index])
        if self._seeded:
            for item in drawn if isinstance(drawn, list) else [drawn]:
                item["seed"] = int(self.transform.transforms[0].R.randint(2**31 - 1))
        return drawn

    def _draw(self, case: CachedCase) -> Any:
        windows = draw_windows(self.transform.transforms[0], case)
        if windows is None:
            return self.transform(read_item(case))
        items: Any = [read_item(case, window) for window in windows]
        if isinstance(self.transform.transforms[0], RandSpatialCropd):
            # The other two crops give a list even for a single sample, and loaders make one batch of the lists.
            items = items[0]
        return self.transform(items, start=1)


class CachedVolumes(Dataset[Any]):
    """Whole cases of the cache, without the padding that training added, for validation.

    Parameters
    ----------
    entries : sequence of str or Path
        Entries of the cache, one a case, each with an interior.
    transform : monai.transforms.Compose
        What validation does after the transforms it shares with training.
    """

    def __init__(self, entries: Sequence[str | Path], transform: Compose) -> None:
        self._cases = open_entries(entries)
        self.transform = transform

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> Any:
        """One case; the affine comes with it, the file names stand in its metadata."""
        case = self._cases[index]
        window = None if case.interior is None else tuple(slice(start, stop) for start, stop in case.interior)
        affine = torch.tensor(case.affine, dtype=torch.float64)
        names = {"image": case.source["images"][0]["path"], "label": case.source["label"]["path"]}
        item = {key: MetaTensor(value, affine=affine, meta={"filename_or_obj": names[key]}) for key, value in read_item(case, window).items()}
        return self.transform(item)


class SeededSampler(Sampler[tuple[int, int]]):
    """Gives every draw of an epoch a seed of its own.

    The order of the cases and the seeds follow from torch's seed at the start of the epoch and the position in the epoch alone; so an epoch is the same with any number of
    loading processes, and in a resumed training.

    Parameters
    ----------
    sampler : sampler
        Says which cases are drawn.
    """

    def __init__(self, sampler: Sampler[int]) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        assert isinstance(self.sampler, Sized)  # as DataLoader needs it for the length of an epoch
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        seed = torch.initial_seed() % 2**63
        if hasattr(self.sampler, "generator"):
            # Left to itself it would draw from torch's global state, which a loader with processes of its own has advanced by then, or has not.
            self.sampler.generator = torch.Generator().manual_seed(seed)
        for position, index in enumerate(self.sampler):
            yield int(np.random.SeedSequence([seed, position]).generate_state(1)[0]), int(index)


def open_entries(entries: Sequence[str | Path]) -> tuple[CachedCase, ...]:
    """Cases of entries.

    Raises
    ------
    DatasetError
        When one is gone or incomplete.
    """
    cases = []
    for entry in entries:
        case = read_entry(Path(entry))
        if case is None:
            msg = f"{entry}: there is no complete preprocessed case; run again to make it"
            raise DatasetError(msg)
        cases.append(case)
    return tuple(cases)


def read_item(case: CachedCase, window: Sequence[slice] | None = None) -> dict[str, torch.Tensor]:
    """A part of a case (all of it without a window) as MONAI's transforms take it: channel-first tensors in the number types that the deterministic transforms gave."""
    return {"image": torch.from_numpy(case.read("image", window)), "label": torch.from_numpy(case.read("label", window))}


def draw_windows(crop: Any, case: CachedCase) -> list[tuple[slice, ...]] | None:
    """Draw where a random crop cuts a case, by the crop's own random state and rules.

    Returns
    -------
    list of tuple of three slices, or None
        One for each sample; None for a transform that is not known, or that must see the voxels to draw.
    """
    if not _takes_both(crop):
        return None
    # A tensor of the label's shape that takes no memory: the crops ask it for nothing but its shape when they are given the locations.
    stand_in = torch.zeros(1).expand(1, *case.shape)
    if type(crop) is RandCropByPosNegLabeld and crop.label_key == "label" and not (crop.image_key or crop.fg_indices_key or crop.bg_indices_key):
        crop.randomize(stand_in, case.locations(FOREGROUND), case.locations("0"))
        return _windows(crop.cropper.centers, crop.cropper.spatial_size, case.shape)
    if type(crop) is RandCropByLabelClassesd and crop.label_key == "label" and not (crop.image_key or crop.indices_key):
        classes: list[npt.NDArray[Any]] = [case.locations(str(value)) for value in range(crop.cropper.num_classes or 0)]
        crop.randomize(stand_in, classes)
        return _windows(crop.cropper.centers, crop.cropper.spatial_size, case.shape)
    if type(crop) is RandSpatialCropd and crop.cropper.random_center:
        crop.randomize(case.shape)
        return [tuple(crop.cropper._slices)]
    return None


def _takes_both(crop: Any) -> bool:
    return {"image", "label"} <= set(getattr(crop, "keys", ())) and not getattr(crop, "lazy", False)


def _windows(centers: Any, size: Any, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Slices around centers, as ``SpatialCrop`` lays them; a size of 0 or less means the whole axis."""
    from monai.utils import fall_back_tuple

    size = fall_back_tuple(size, shape)
    windows = []
    for center in centers:
        cut = SpatialCrop(roi_center=center, roi_size=size).slices
        windows.append(tuple(slice(part.start, min(part.stop, n)) for part, n in zip(cut, shape, strict=True)))
    return windows
