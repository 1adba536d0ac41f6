from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import (
    Compose,
    RandCropByLabelClassesd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandSpatialCropd,
    RandSpatialCropSamplesd,
    SpatialPadd,
)
from torch.utils.data import RandomSampler, SequentialSampler

from volseg.dataset.cache import write_entry, writing
from volseg.errors import DatasetError
from volseg.training.patches import CachedPatches, CachedVolumes, SeededSampler, draw_windows
from volseg.training.randomness import SharedRandomness

SHAPE = (30, 26, 22)
BOTH = ["image", "label"]


def volume(seed: int = 0, channels: int = 2) -> dict[str, np.ndarray]:
    """An image of whole numbers, which half precision holds exactly, and a label of two small boxes, the second at the border."""
    image = np.random.default_rng(seed).integers(-500, 500, (channels, *SHAPE)).astype(np.float32)
    label = np.zeros((1, *SHAPE), np.float32)
    label[0, 9:13, 10:15, 8:11] = 1
    label[0, 26:30, 0:3, 19:22] = 2
    return {"image": image, "label": label}


def write(folder, name: str = "case", seed: int = 0, interior=None):
    item = volume(seed)
    source = {"images": [{"path": f"{name}.nii"}], "label": {"path": f"{name}_label.nii"}}
    return write_entry(folder / f"{name}-00", item["image"], item["label"], name=name, affine=np.diag([2.0, 2, 3, 1]), interior=interior, source=source, seed=seed)


def tensors(item: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in item.items()}


CROPS = {
    "foreground and background": lambda: RandCropByPosNegLabeld(BOTH, "label", (16, 12, 10), pos=2, neg=1, num_samples=1),
    "several samples": lambda: RandCropByPosNegLabeld(BOTH, "label", (15, 13, -1), pos=1, neg=0, num_samples=3),
    "larger than the volume": lambda: RandCropByPosNegLabeld(BOTH, "label", (40, 12, 40), num_samples=2, allow_smaller=True),
    "by class": lambda: RandCropByLabelClassesd(BOTH, "label", 12, ratios=[1, 2, 5], num_classes=3, num_samples=2),
    "absent class": lambda: RandCropByLabelClassesd(BOTH, "label", 12, num_classes=5, num_samples=2, warn=False),
    "anywhere": lambda: RandSpatialCropd(BOTH, (16, 12, 10)),
    "anywhere, any size": lambda: RandSpatialCropd(BOTH, (8, 8, 8), random_size=True),
}
WHOLE = {
    "seen voxels": lambda: RandCropByPosNegLabeld(BOTH, "label", 12, image_key="image", image_threshold=400.0),
    "unknown": lambda: RandSpatialCropSamplesd(BOTH, (16, 12, 10), num_samples=2, random_size=False),
    "centre": lambda: RandSpatialCropd(BOTH, (16, 12, 10), random_center=False),
    "image only": lambda: RandSpatialCropd("image", (16, 12, 10)),
}


@pytest.mark.parametrize("name", [*CROPS, *WHOLE])
def test_draws_are_those_of_stock_monai(name, tmp_path):
    """Where every location of a class is kept, the patches are the stock pipeline's own, voxel for voxel."""
    case = write(tmp_path)
    item = tensors(volume())
    crop = (CROPS | WHOLE)[name]
    stock = Compose([crop(), RandFlipd(BOTH, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)])
    dataset = CachedPatches([case.folder], Compose([crop(), RandFlipd(BOTH, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)]))
    assert (draw_windows(dataset.transform.transforms[0], case) is None) is (name in WHOLE)
    for seed in range(8):
        SharedRandomness(stock.transforms).seed(seed)
        expected, got = stock(dict(item)), dataset[(seed, 0)]
        assert type(expected) is type(got)
        samples = list(zip(expected, got, strict=True)) if isinstance(expected, list) else [(expected, got)]
        for ours, theirs in samples:
            for key in BOTH:
                assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])), (seed, key)
                assert ours[key].dtype == theirs[key].dtype


def test_a_seed_sets_every_transform_whoever_seeded_them_before():
    from monai.transforms import OneOf, RandAffined

    nested = OneOf([RandGaussianNoised("image", prob=1.0), RandFlipd(BOTH, prob=0.5)])
    compose = Compose([RandAffined(BOTH, prob=0.5, rotate_range=[1, 1, 1]), nested, RandGaussianNoised("image", prob=0.5)])
    randomness = SharedRandomness(compose.transforms)

    def draw() -> list[float]:
        item = compose(tensors(volume()))
        return [float(item["image"].sum()), float(item["image"].std())]

    randomness.seed(5)
    first, other = draw(), draw()
    compose.set_random_state(seed=9)
    draw()
    randomness.seed(5)
    assert draw() == first != other


def test_without_a_seed_the_transforms_state_is_drawn_from(tmp_path):
    dataset = CachedPatches([write(tmp_path).folder], Compose([CROPS["anywhere"]()]))
    dataset.transform.set_random_state(seed=3)
    first, second = dataset[0], dataset[0]
    dataset.transform.set_random_state(seed=3)
    assert torch.equal(first["image"], dataset[0]["image"])
    assert not torch.equal(first["image"], second["image"])


def test_distribution_with_locations_left_out(tmp_path, monkeypatch):
    """Two thirds of the patches lie around foreground; their centres spread over the whole volume and never leave it."""
    monkeypatch.setattr(writing, "MOST_LOCATIONS", 400)
    case = write(tmp_path)
    crop = RandCropByPosNegLabeld(BOTH, "label", (5, 5, 5), pos=2, neg=1, num_samples=500)
    label = volume()["label"][0]
    hits, centres = 0, []
    for seed in range(6):
        crop.set_random_state(seed=seed)
        for window in draw_windows(crop, case):
            assert all(part.start >= 0 and part.stop <= n and part.stop - part.start == 5 for part, n in zip(window, SHAPE, strict=True))
            centre = tuple(part.start + 2 for part in window)
            inside = label[9:13, 10:15, 8:11].any() and (9 <= centre[0] < 13 and 10 <= centre[1] < 15 and 8 <= centre[2] < 11)
            # Centres near the border are moved inwards, so those of the second box lie within two voxels of it.
            hits += inside or (centre[0] >= 24 and centre[1] <= 4 and centre[2] >= 17)
            centres.append(centre)
    # 3000 draws: 2/3 with a standard error of 0.0086; a few background draws fall beside the boxes, too.
    assert 2 / 3 - 0.03 < hits / 3000 < 2 / 3 + 0.04
    background = np.array([c for c in centres if not (9 <= c[0] < 13 and 10 <= c[1] < 15 and 8 <= c[2] < 11) and not (c[0] >= 24 and c[1] <= 4 and c[2] >= 17)])
    for axis, n in enumerate(SHAPE):
        # About 1000 uniform draws have a mean with a standard error of n / sqrt(12 * 1000), about a hundredth of n.
        assert abs(background[:, axis].mean() - (n - 1) / 2) < 0.06 * n
        assert background[:, axis].min() == 2
        assert background[:, axis].max() == n - 3


def make_set(tmp_path, count: int = 5) -> CachedPatches:
    entries = [write(tmp_path, f"case{number}", number).folder for number in range(count)]
    return CachedPatches(entries, Compose([CROPS["foreground and background"](), RandGaussianNoised("image", prob=1.0)]))


@pytest.mark.parametrize("sampler", ["random", "sequential", "replacement"])
def test_an_epoch_is_the_same_with_any_number_of_processes(tmp_path, sampler):
    dataset = make_set(tmp_path)
    kind = {"random": RandomSampler(dataset), "sequential": SequentialSampler(dataset), "replacement": RandomSampler(dataset, replacement=True, num_samples=7)}[sampler]

    def epoch(workers: int, seed: int) -> list[torch.Tensor]:
        loader = DataLoader(dataset, batch_size=2, sampler=SeededSampler(kind), num_workers=workers)
        torch.manual_seed(seed)
        return [batch["image"] for batch in loader]

    here = epoch(0, 1)
    assert len(here) == (4 if sampler == "replacement" else 3)
    for ours, theirs in zip(here, epoch(1, 1), strict=True):
        assert torch.equal(ours, theirs)
    if sampler != "sequential":
        assert any(not torch.equal(ours, theirs) for ours, theirs in zip(here, epoch(0, 2), strict=True))


def test_an_epoch_does_not_depend_on_what_was_drawn_before(tmp_path):
    loader = DataLoader(make_set(tmp_path), batch_size=1, sampler=SeededSampler(RandomSampler(range(5))))
    torch.manual_seed(4)
    first = [batch["image"] for batch in loader]
    torch.manual_seed(4)
    torch.rand(100)
    assert all(torch.equal(ours, theirs["image"]) for ours, theirs in zip(first, loader, strict=True))


def test_several_ranks_draw_together_what_one_would_draw():
    from volseg.training.distributed import RankSampler

    def drawn(rank: int, count: int) -> list[tuple[int, int]]:
        sampler = RankSampler(SeededSampler(RandomSampler(range(7), replacement=True, num_samples=12)), rank, count)
        sampler.set_seed(3)
        return list(sampler)

    alone = drawn(0, 1)
    assert drawn(0, 2) == alone[0::2]
    assert drawn(1, 2) == alone[1::2]


def test_seeds_within_an_epoch_differ(tmp_path):
    torch.manual_seed(0)
    drawn = list(SeededSampler(RandomSampler(range(3), replacement=True, num_samples=200)))
    assert len({seed for seed, _ in drawn}) == 200
    assert {index for _, index in drawn} == {0, 1, 2}


def test_volumes_come_without_the_padding(tmp_path):
    item = tensors(volume())
    padded = SpatialPadd(BOTH, (40, 30, 22))(item)
    source = {"images": [{"path": "a.nii"}], "label": {"path": "b.nii"}}
    case = write_entry(
        tmp_path / "case-00",
        padded["image"].numpy(),
        padded["label"].numpy(),
        name="case",
        affine=np.diag([2.0, 2, 3, 1]),
        interior=((5, 35), (2, 28), (0, 22)),
        source=source,
        seed=0,
    )
    got = CachedVolumes([case.folder], Compose([]))[0]
    assert torch.equal(got["image"].as_tensor(), item["image"])
    assert torch.equal(got["label"].as_tensor(), item["label"])
    assert got["image"].affine.diagonal().tolist() == [2, 2, 3, 1]
    assert got["label"].meta["filename_or_obj"] == "b.nii"


def test_missing_entries_are_named(tmp_path):
    with pytest.raises(DatasetError, match="nothing-00: there is no complete preprocessed case"):
        CachedPatches([tmp_path / "nothing-00"], Compose([]))


MEASURE = """
import sys
from pathlib import Path
from monai.transforms import Compose, RandCropByPosNegLabeld
from volseg.provenance import peak_memory_bytes
from volseg.training.patches import CachedPatches
entries = sorted(Path(sys.argv[1]).iterdir())
data = CachedPatches(entries, Compose([RandCropByPosNegLabeld(["image", "label"], "label", (32, 32, 32))]))
data[(0, 0)]
before = peak_memory_bytes()
for index in range(len(data)):
    data[(index, index)]
print(peak_memory_bytes() - before)
"""


def test_memory_does_not_grow_with_the_dataset(tmp_path):
    shape = (96, 96, 64)
    generator = np.random.default_rng(0)
    label = (generator.random((1, *shape)) < 0.01).astype(np.uint8)
    case = write_entry(tmp_path / "set" / "case-00", generator.normal(size=(1, *shape)).astype(np.float32), label, name="case", affine=np.eye(4), interior=None, source={}, seed=0)
    copies = 60
    for number in range(copies):
        shutil.copytree(case.folder, tmp_path / "set" / f"copy{number}-00")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / "set")], capture_output=True, text=True, timeout=120, check=True)
    volume_bytes = 4 * int(np.prod(shape))
    # Less than ten of the 61 volumes: the set as a whole would take 144 MB as float32, a patch takes 0.1 MB.
    assert int(done.stdout) < 10 * volume_bytes
