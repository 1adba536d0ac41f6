from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from volseg.dataset import Case
from volseg.dataset.cache import FOREGROUND, entry_name, open_cache, read_entry, remove_leftovers, source_of, write_entry, writing
from volseg.errors import DatasetError, WriteError

SHAPE = (40, 37, 21)


def write(folder: Path, image: np.ndarray, label: np.ndarray, name: str = "case", seed: int = 0):
    return write_entry(folder / f"{name}-0123", image, label, name=name, affine=np.diag([2.0, 2, 2, 1]), interior=None, source={"made": "here"}, seed=seed)


def noise(seed: int = 0, channels: int = 1, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *SHAPE)).astype(dtype)


def some_label(dtype: str = "float32") -> np.ndarray:
    label = np.zeros((1, *SHAPE), dtype)
    label[0, 5:12, 6:9, 3:20] = 1
    label[0, 30:, 30:, :4] = 2
    return label


def test_any_window_is_what_was_written(tmp_path):
    image, label = noise(channels=2), some_label()
    case = write(tmp_path, image, label)
    generator = np.random.default_rng(1)
    for _ in range(20):
        starts = [int(generator.integers(0, n - 1)) for n in SHAPE]
        window = tuple(slice(start, int(generator.integers(start + 1, n + 1))) for start, n in zip(starts, SHAPE, strict=True))
        part = case.read("image", window)
        # IEEE 754 half precision has 11 significant bits.
        np.testing.assert_allclose(part, image[(slice(None), *window)], rtol=2**-11, atol=1e-7)
        assert part.dtype == np.float32
        np.testing.assert_array_equal(case.read("label", window), label[(slice(None), *window)])
    assert case.read("label").dtype == np.float32
    assert (case.shape, case.channels, case.counts["1"], case.counts["2"]) == (SHAPE, 2, 7 * 3 * 17, 10 * 7 * 4)
    assert case.counts[FOREGROUND] == case.counts["1"] + case.counts["2"]


@pytest.mark.parametrize(
    "image",
    [30000 + noise() * 0.01, np.where(noise() > 2, np.nan, noise()), noise() * 1e6, (noise() * 1000).astype(np.int16), np.full((1, *SHAPE), 0.1, np.float32)],
    ids=["large offset", "NaN", "beyond half precision", "integers", "one value"],
)
def test_images_that_half_precision_would_change_are_kept_exactly(tmp_path, image):
    case = write(tmp_path, image.astype(image.dtype if image.dtype.kind == "i" else np.float32), some_label())
    np.testing.assert_array_equal(case.read("image"), image.astype(case.read("image").dtype))


@pytest.mark.parametrize(("values", "dtype"), [((0, 255), "uint8"), ((0, 300), "uint16"), ((-1, 3), "int16"), ((-1, -2), "int8")])
def test_labels_take_the_smallest_type(tmp_path, values, dtype):
    import blosc2

    label = np.where(some_label() == 1, *values[::-1]).astype(np.float32)
    case = write(tmp_path, noise(), label)
    # int8 and uint8 have int16 as the smallest common type.
    assert blosc2.open(str(case.folder / "label.b2nd"), mode="r").dtype == dtype
    np.testing.assert_array_equal(case.read("label"), label)


def test_locations_are_the_voxels_of_the_class(tmp_path, monkeypatch):
    label = some_label()
    case = write(tmp_path, noise(), label)
    for name, mask in (("1", label == 1), ("2", label == 2), (FOREGROUND, label > 0)):
        np.testing.assert_array_equal(case.locations(name), np.flatnonzero(mask))
    assert len(case.locations("7")) == 0
    monkeypatch.setattr(writing, "MOST_LOCATIONS", 50)
    case = write(tmp_path, noise(), label, name="capped")
    background = case.locations("0")
    assert len(np.unique(background)) == 50
    assert not label.ravel()[background].any()
    assert case.counts["0"] == int((label == 0).sum())


def test_kept_locations_are_drawn_evenly(monkeypatch):
    monkeypatch.setattr(writing, "MOST_LOCATIONS", 100)
    counts = np.zeros(1000)
    for seed in range(300):
        positions, kept, _ = writing._locate(np.zeros((1, 10, 10, 10), np.uint8), seed)
        start, stop = kept["0"]
        counts[positions[start:stop]] += 1
    # Each voxel is kept with probability 0.1 in each of 300 draws; chi squared of 999 degrees of freedom lies below its mean + 5 standard deviations (2 * 999 is its variance).
    expected = 30.0
    assert ((counts - expected) ** 2 / (expected * 0.9)).sum() < 999 + 5 * np.sqrt(2 * 999)


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="the system does not count what a process reads")
def test_a_patch_is_read_without_the_rest(tmp_path):
    shape = (128, 128, 64)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    case = write_entry(
        tmp_path / "large-00", image, np.zeros((1, *shape), np.uint8), name="large", affine=np.eye(4), interior=None, source={}, seed=0
    )  # the noise is incompressible, so bytes read tell voxels read

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    case.read("image", (slice(0, 1),) * 3)
    before = bytes_read()
    case.read("image", (slice(64, 80), slice(64, 80), slice(32, 48)))
    used = bytes_read() - before
    # One block of 16 x 16 x 16 half-precision voxels is 8 KiB; the file holds 256 of them.
    assert used < 0.1 * (case.folder / "image.b2nd").stat().st_size


def test_damaged_entries_are_not_cases(tmp_path):
    case = write(tmp_path, noise(), some_label())
    assert list(open_cache(tmp_path)) == [case.folder.name]
    shutil.copytree(case.folder, tmp_path / "short")
    (tmp_path / "short" / "image.b2nd").write_bytes((case.folder / "image.b2nd").read_bytes()[:-1])
    shutil.copytree(case.folder, tmp_path / "old")
    (tmp_path / "old" / "case.json").write_text((case.folder / "case.json").read_text().replace('"layout": 1', '"layout": 0'))
    shutil.copytree(case.folder, tmp_path / "gone")
    (tmp_path / "gone" / "locations.npy").unlink()
    (tmp_path / "foreign").mkdir()
    assert list(open_cache(tmp_path)) == [case.folder.name]
    assert open_cache(tmp_path / "nowhere") == {}


def test_a_spoilt_file_is_named(tmp_path):
    case = write(tmp_path, noise(), some_label())
    path = case.folder / "image.b2nd"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DatasetError, match=re.escape(str(path))) as caught:
        case.read("image")
    assert "delete the folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="no space left"):
        write(tmp_path, noise(), some_label())
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_faster_keeps_its_entry_and_a_bad_entry_is_replaced(tmp_path):
    first = write(tmp_path, noise(1), some_label())
    second = write(tmp_path, noise(2), some_label())
    np.testing.assert_array_equal(second.read("image"), first.read("image"))
    (first.folder / "label.b2nd").unlink()
    third = write(tmp_path, noise(3), some_label())
    np.testing.assert_allclose(third.read("image"), noise(3), atol=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    number = int(Path("/proc/sys/kernel/pid_max").read_text()) if Path("/proc/sys/kernel/pid_max").is_file() else 2**22
    dead, own, elsewhere = (tmp_path / f".new-{host}-{pid}-aa" for host, pid in ((socket.gethostname(), number + 1), (socket.gethostname(), os.getpid()), ("far.away", number + 1)))
    for folder in (dead, own, elsewhere):
        folder.mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own.name, elsewhere.name}


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_labels_between_whole_numbers_are_refused(tmp_path, value):
    label = some_label()
    label[0, 0, 0, 0] = value
    with pytest.raises(DatasetError, match=r"case odd: .* 'nearest'"):
        write(tmp_path, noise(), label, name="odd")


def test_label_on_other_voxels_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"case odd: .*\(1, 40, 37, 20\)"):
        write(tmp_path, noise(), some_label()[..., :-1], name="odd")


def test_an_entry_belongs_to_its_files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "label.nii.gz"):
        (tmp_path / name).write_bytes(b"content")
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "slice1").write_bytes(b"1")

    def name_of(*images: str, rois: dict[str, int] | None = None) -> str:
        case = Case(tuple(tmp_path / image for image in images), tmp_path / "label.nii.gz", rois=rois)
        return entry_name(case, source_of(case))

    names = {name_of("a.nii.gz"), name_of("b.nii.gz"), name_of("a.nii.gz", "b.nii.gz"), name_of("b.nii.gz", "a.nii.gz"), name_of("series"), name_of("series", rois={"GTV": 1})}
    assert len(names) == 6
    assert name_of("a.nii.gz") in names
    before = name_of("a.nii.gz"), name_of("series")
    os.utime(tmp_path / "a.nii.gz", ns=(0, 5))
    (folder / "slice2").write_bytes(b"2")
    assert name_of("a.nii.gz") != before[0]
    assert name_of("series") != before[1]
    with pytest.raises(DatasetError, match=r"gone\.nii: cannot be read"):
        name_of("gone.nii")


def test_long_and_odd_names_stay_readable(tmp_path):
    path = tmp_path / ("x" * 200 + " ü.nii")
    path.touch()
    case = Case((path,), path)
    name = entry_name(case, source_of(case))
    assert len(name.encode()) < 255
    assert name.startswith("xxx")
    assert read_entry(tmp_path / name) is None
