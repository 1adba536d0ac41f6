"""Statistics per label and lesion: analytic phantoms, a brute-force search, and SimpleITK and scipy as oracles."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import GeometryError, InputError, OutputError
from volseg.evaluation import LabelStatistics, label_statistics, write_statistics_csv
from volseg.evaluation.regions import lesions, statistics
from volseg.evaluation.regions.label_record import DECIMALS
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume
from volseg.synthetic.scan import scanner_axes, scanner_grid

CENTRE = np.array([12.0, -31.0, 407.0])


def scan(array: np.ndarray, grid: Grid, modality: str | None = "CT", **details: object) -> Volume:
    return Volume(array, grid, Source(Path("scan"), "dicom", "scan", modality=modality, details=details))


def blank(grid: Grid) -> Volume:
    return scan(np.zeros(grid.shape, np.int16), grid)


def plain_grid(shape: tuple[int, int, int] = (12, 10, 8), spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def positions(grid: Grid) -> np.ndarray:
    return grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


def only(statistics: list[LabelStatistics]) -> LabelStatistics:
    assert len(statistics) == 1
    return statistics[0]


GRIDS = {
    "axial": scanner_grid((80, 80, 40), (1.0, 1.0, 2.0), CENTRE),
    "anisotropic": scanner_grid((100, 70, 24), (0.7, 1.1, 4.0), CENTRE),
    "sagittal": scanner_grid((70, 70, 50), (1.0, 1.2, 1.5), CENTRE, scanner_axes("PSR")),
    "coronal": scanner_grid((70, 70, 50), (1.0, 1.2, 1.5), CENTRE, scanner_axes("LSP")),
    "oblique": scanner_grid((80, 80, 40), (1.0, 1.0, 2.0), CENTRE, scanner_axes("LPS", 25)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_ball_measures_the_same_in_every_scan(name: str) -> None:
    grid, radius = GRIDS[name], 21.3
    centre = CENTRE + np.array([1.7, -2.2, 3.1])
    found = only(label_statistics((np.linalg.norm(positions(grid) - centre, axis=-1) <= radius).astype(np.uint8), blank(grid), {1: "ball"}))
    voxel = max(grid.spacing)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)
    assert found.centroid_mm == pytest.approx(centre, abs=0.15)
    assert found.diameter is not None and found.bounding_box is not None
    axis = grid.world_axes.index(2)
    in_plane = [grid.spacing[other] for other in range(3) if other != axis]
    # Off the great circle by at most half a slice; outline points lie within half a voxel of a centre that is inside.
    lowest = 2 * np.sqrt(radius**2 - (grid.spacing[axis] / 2) ** 2) - np.hypot(*in_plane)
    assert lowest <= found.diameter.length_mm <= 2 * radius + max(in_plane)
    assert found.diameter.slice_axis == axis
    start, end = np.array(found.diameter.start_mm), np.array(found.diameter.end_mm)
    assert np.linalg.norm(end - start) == pytest.approx(found.diameter.length_mm)
    assert grid.to_voxel([start, end])[:, axis] == pytest.approx([found.diameter.slice_index] * 2)
    if name != "oblique":
        assert np.array(found.bounding_box.low_mm) == pytest.approx(centre - radius, abs=voxel)
        assert np.array(found.bounding_box.high_mm) == pytest.approx(centre + radius, abs=voxel)


def test_an_ellipsoid_is_as_long_as_its_longest_axis_in_the_axial_plane() -> None:
    grid, semi = GRIDS["anisotropic"], np.array([22.0, 9.0, 35.0])
    turn = np.deg2rad(33)
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    local = (positions(grid) - CENTRE) @ axes
    found = only(label_statistics((np.square(local / semi).sum(axis=-1) <= 1).astype(np.uint8), blank(grid), {1: "mass"}))
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * semi.prod() / 1000, rel=0.02)
    assert found.diameter is not None
    # The long axis (35 mm) runs along z and is not what an axial diameter measures.
    assert found.diameter.length_mm == pytest.approx(44.0, abs=1.1)
    line = np.subtract(found.diameter.end_mm, found.diameter.start_mm) / found.diameter.length_mm
    assert abs(float(line @ axes[:, 0])) > 0.995


def test_a_box_is_measured_to_its_outline() -> None:
    grid = Grid((20, 20, 9), np.diag([0.8, 1.5, 3.0, 1.0]))
    label = np.zeros(grid.shape, np.uint8)
    label[3:13, 5:11, 2:7] = 1
    found = only(label_statistics(label, blank(grid), {1: "box"}))
    assert (found.voxels, found.components) == (300, 1)
    assert found.volume_ml == pytest.approx(300 * 0.8 * 1.5 * 3.0 / 1000)
    assert found.bounding_box is not None
    assert (found.bounding_box.first, found.bounding_box.last) == ((3, 5, 2), (12, 10, 6))
    assert found.bounding_box.low_mm == pytest.approx((2.5 * 0.8, 4.5 * 1.5, 1.5 * 3))
    assert found.bounding_box.high_mm == pytest.approx((12.5 * 0.8, 10.5 * 1.5, 6.5 * 3))
    assert found.centroid_mm == pytest.approx((7.5 * 0.8, 7.5 * 1.5, 4 * 3))
    # Face midpoints of the outermost voxels: the whole size along one axis, one voxel less along the other.
    assert found.longest_axial_diameter_mm == pytest.approx(max(np.hypot(10 * 0.8, 5 * 1.5), np.hypot(9 * 0.8, 6 * 1.5)))


def test_a_single_voxel_measures_its_own_width() -> None:
    label = np.zeros((5, 5, 5), np.uint8)
    label[2, 3, 1] = 1
    found = only(label_statistics(label, blank(Grid((5, 5, 5), np.diag([0.9, 0.6, 7.0, 1]))), {1: "dot"}))
    assert found.longest_axial_diameter_mm == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(6))
def test_the_diameter_is_the_longest_of_all_pairs_of_outline_points(seed: int) -> None:
    random = np.random.default_rng(seed)
    # A sheared affine too: a gantry tilt does not lie in the plane, but in-plane shear must not matter either.
    affine = np.eye(4)
    affine[:3, :3] = scanner_axes("LPS", 20) @ np.array([[0.8, 0.2, 0], [0, 1.3, 0], [0, 0.4, 2.5]])
    grid = Grid((14, 12, 4), affine)
    label = (random.random(grid.shape) < 0.15).astype(np.uint8)
    found = only(label_statistics(label, blank(grid), {1: "noise"}, connectivity=26))
    numbered, count = scipy_pieces(label, 3)
    longest = 0.0
    for piece in range(1, count + 1):
        for k in range(grid.shape[2]):
            places = [(i + di, j + dj, k) for i, j in np.argwhere(numbered[:, :, k] == piece) for di, dj in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
            world = grid.to_world(np.array(places).reshape(-1, 3))
            longest = max([longest, *(float(np.linalg.norm(a - b)) for a, b in combinations(world, 2))])
    assert found.longest_axial_diameter_mm == pytest.approx(longest)
    assert (found.components, len(found.lesions)) == (count, count)
    sizes = sorted(np.bincount(numbered.ravel())[1:].tolist(), reverse=True)
    assert [lesion.voxels for lesion in found.lesions] == sizes
    for lesion in found.lesions:
        inside = numbered == numbered[tuple(lesion_voxel(lesion, numbered, grid))]
        assert lesion.voxels == inside.sum()
        assert lesion.centroid_mm == pytest.approx(grid.to_world(np.argwhere(inside).mean(axis=0)))


def scipy_pieces(label: np.ndarray, rank: int) -> tuple[np.ndarray, int]:
    from scipy.ndimage import generate_binary_structure
    from scipy.ndimage import label as find_pieces

    return find_pieces(label, generate_binary_structure(3, rank))


def lesion_voxel(lesion: lesions.Lesion, numbered: np.ndarray, grid: Grid) -> np.ndarray:
    """A voxel of the lesion: of the pieces in its box, the one with its bounding box."""
    for piece in np.unique(numbered[numbered > 0]):
        voxels = np.argwhere(numbered == piece)
        if tuple(voxels.min(axis=0)) == lesion.bounding_box.first and tuple(voxels.max(axis=0)) == lesion.bounding_box.last and len(voxels) == lesion.voxels:
            middle = grid.to_world(voxels.mean(axis=0))
            if np.allclose(middle, lesion.centroid_mm):
                return voxels[0]
    pytest.fail(f"no piece is {lesion}")


def test_what_touches_is_one_lesion() -> None:
    grid = plain_grid()
    for second, by_connectivity in {(4, 3, 3): (1, 1, 1), (4, 4, 3): (2, 1, 1), (4, 4, 4): (2, 2, 1), (5, 3, 3): (2, 2, 2)}.items():
        label = np.zeros(grid.shape, np.uint8)
        label[3, 3, 3] = label[second] = 1
        counts = tuple(only(label_statistics(label, blank(grid), {1: "a"}, connectivity=n)).components for n in (6, 18, 26))
        assert counts == by_connectivity, second


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 41, 41), (3, 3, 3), (7, 5, 1), (5, 6, 9)])
def test_as_many_lesions_as_fit_are_counted(shape: tuple[int, int, int]) -> None:
    label = np.zeros(shape, np.uint8)
    label[::2, ::2, ::2] = 1
    found = only(label_statistics(label, blank(plain_grid(shape)), {1: "dots"}))
    assert found.components == int(np.prod([(side + 1) // 2 for side in shape]))


def test_lesions_are_ordered_by_size_and_the_label_is_never_measured_across_them() -> None:
    grid = plain_grid((60, 20, 8))
    label, image = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.int16)
    label[2:5, 4, 3], label[50:54, 4:8, 2:6] = 1, 1
    image[2:5, 4, 3], image[50:54, 4:8, 2:6] = 100, -30
    found = only(label_statistics(label, scan(image, grid), {1: "nodes"}))
    assert [(lesion.number, lesion.voxels, lesion.mean_intensity) for lesion in found.lesions] == [(1, 64, -30.0), (2, 3, 100.0)]
    assert [lesion.diameter.length_mm for lesion in found.lesions] == pytest.approx([5.0, 3.0])
    assert found.longest_axial_diameter_mm == pytest.approx(5.0)
    assert found.lesions[1].centroid_mm == pytest.approx((3, 4, 3))
    assert found.lesions[1].bounding_box.first == (2, 4, 3)
    assert sum(lesion.volume_ml for lesion in found.lesions) == pytest.approx(found.volume_ml)


def test_unlisted_lesions_are_counted_and_the_longest_of_them_still_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesions, "MAX_LESIONS", 2)
    grid = plain_grid((40, 20, 12))
    label = np.zeros(grid.shape, np.uint8)
    label[2:6, 2:6, 2:6] = label[10:14, 2:6, 2:6] = 1
    label[2:32, 12, 2] = label[2, 16, 2] = label[6, 16, 2] = 1
    found = only(label_statistics(label, blank(grid), {1: "a"}))
    assert (found.components, len(found.lesions), found.lesions_not_listed) == (5, 2, 3)
    assert found.longest_axial_diameter_mm == pytest.approx(30.0)


def test_intensities_of_a_ramp() -> None:
    grid = plain_grid((50, 8, 6))
    slope, first, last = 7, 11, 40
    image = np.broadcast_to((slope * np.arange(50) - 100).astype(np.int16)[:, None, None], grid.shape)
    label = np.zeros(grid.shape, np.uint8)
    label[first : last + 1, 2:5, 1:4] = 1
    found = only(label_statistics(label, scan(image, grid), {1: "ramp"})).intensity
    assert found is not None
    n = last - first + 1
    assert found.mean == found.median == pytest.approx(slope * (first + last) / 2 - 100)
    assert found.sd == pytest.approx(slope * np.sqrt((n**2 - 1) / 12))
    assert (found.minimum, found.maximum) == (slope * first - 100, slope * last - 100)
    inside = image[label == 1].astype(float)
    assert [found.percentile_5, found.percentile_25, found.percentile_75, found.percentile_95] == pytest.approx(np.percentile(inside, [5, 25, 75, 95]).tolist())


def test_only_finite_values_count_and_the_scan_is_not_changed() -> None:
    grid = plain_grid()
    image = np.random.default_rng(0).normal(3, 1, grid.shape).astype(np.float32)
    label = np.zeros(grid.shape, np.uint8)
    label[2:8, 2:8, 2:6], label[9:11, 8, 2:4] = 1, 2
    image[3, 3, 3], image[4, 4, 4], image[9:11, 8, 2:4] = np.nan, np.inf, np.nan
    before = image.copy()
    one, two = label_statistics(label, scan(image, grid, "PT", units="SUVbw"), {1: "a", 2: "b"})
    finite = image[(label == 1) & np.isfinite(image)].astype(np.float64)
    assert one.intensity is not None and finite.size == 142
    assert (one.intensity.mean, one.intensity.sd) == pytest.approx((finite.mean(), finite.std()), rel=1e-6)
    assert one.lesions[0].mean_intensity == pytest.approx(finite.mean(), rel=1e-6)
    assert (two.voxels, two.intensity, two.lesions[0].mean_intensity) == (4, None, None)
    assert np.array_equal(image, before, equal_nan=True)


def test_units() -> None:
    grid = plain_grid()
    label = np.zeros(grid.shape, np.uint8)
    label[2, 2, 2] = 1
    array = np.zeros(grid.shape, np.float32)
    cases = {("CT", ""): "HU", ("PT", "SUVbw"): "SUVbw", ("PT", "BQML"): None, ("MR", ""): None, (None, ""): None}
    for (modality, units), expected in cases.items():
        found = only(label_statistics(label, scan(array, grid, modality, units=units), {1: "a"}))
        assert found.intensity_unit == expected
        assert found.measurements().unit == {"HU": "[hnsf'U]", "SUVbw": "{SUVbw}g/ml", None: None}[expected]


def test_measurements_repeat_the_statistics() -> None:
    grid = plain_grid()
    label, image = np.zeros(grid.shape, np.uint8), np.full(grid.shape, 5, np.int16)
    label[2:5, 2, 2] = 3
    image[2, 2, 2] = 8
    first, second = label_statistics(label, scan(image, grid), {3: "a", 4: "b"})
    measured = first.measurements()
    assert (measured.value, measured.volume_ml, measured.longest_axial_diameter_mm, measured.mean) == (3, pytest.approx(0.003), pytest.approx(3.0), pytest.approx(6.0))
    assert measured.sd == round(np.sqrt(2), DECIMALS)
    assert (second.measurements().mean, second.measurements().longest_axial_diameter_mm) == (None, None)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_way_a_scan_is_stored_does_not_change_its_measurements(codes: str, order: str) -> None:
    random = np.random.default_rng(1)
    grid = scanner_grid((20, 18, 14), (0.9, 1.1, 2.5), CENTRE, scanner_axes("LPS", 10))
    label = (random.random(grid.shape) < 0.03).astype(np.uint16) * 300
    label[4:9, 4:12, 3:8] = 2
    image = random.normal(40, 30, grid.shape).astype(np.int16)
    reference = label_statistics(label, scan(image, grid), {2: "a"})
    turned_image, turned_grid = reorient(image, grid, codes)
    turned_label = np.asarray(reorient(label, grid, codes)[0], order=order)
    found = label_statistics(turned_label, scan(turned_image, turned_grid), {2: "a"})
    assert [(f.value, f.name, f.voxels, f.components) for f in found] == [(f.value, f.name, f.voxels, f.components) for f in reference]
    assert [f.value for f in found] == [2, 300]
    for one, other in zip(found, reference, strict=True):
        assert one.intensity == other.intensity
        assert one.centroid_mm == pytest.approx(other.centroid_mm)
        assert one.longest_axial_diameter_mm == pytest.approx(other.longest_axial_diameter_mm)
        assert one.bounding_box is not None and other.bounding_box is not None
        assert one.bounding_box.low_mm == pytest.approx(other.bounding_box.low_mm)


def test_simpleitk_agrees() -> None:
    import SimpleITK as sitk

    random = np.random.default_rng(2)
    grid = GRIDS["oblique"]
    near = np.linalg.norm(positions(grid) - CENTRE, axis=-1)
    label = np.where(near < 12, 1, np.where(near < 18, 2, 0)).astype(np.uint8)
    image = random.normal(40, 30, grid.shape).astype(np.int16)
    pictures = [sitk.GetImageFromArray(array.transpose(2, 1, 0)) for array in (label, image)]
    for picture in pictures:
        picture.SetSpacing(grid.spacing)
        picture.SetOrigin(grid.lps_affine[:3, 3].tolist())
        picture.SetDirection((grid.lps_affine[:3, :3] / np.array(grid.spacing)).ravel().tolist())
    shape, values = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelStatisticsImageFilter()
    shape.Execute(pictures[0])
    values.Execute(pictures[1], pictures[0])
    for found in label_statistics(label, scan(image, grid), {1: "core", 2: "shell"}):
        n = shape.GetNumberOfPixels(found.value)
        assert found.voxels == n
        assert found.volume_ml * 1000 == pytest.approx(shape.GetPhysicalSize(found.value))
        assert np.array(found.centroid_mm) * (-1, -1, 1) == pytest.approx(shape.GetCentroid(found.value))
        assert found.bounding_box is not None and found.intensity is not None
        box = shape.GetBoundingBox(found.value)
        assert found.bounding_box.first == box[:3]
        assert tuple(np.subtract(found.bounding_box.last, found.bounding_box.first) + 1) == box[3:]
        assert found.intensity.mean == pytest.approx(values.GetMean(found.value))
        # ITK divides by one less.
        assert found.intensity.sd == pytest.approx(values.GetSigma(found.value) * np.sqrt((n - 1) / n))
        assert (found.intensity.minimum, found.intensity.maximum) == (values.GetMinimum(found.value), values.GetMaximum(found.value))


def test_an_empty_label_has_zeros_and_nothing_else() -> None:
    found = only(label_statistics(np.zeros((12, 10, 8), np.uint8), blank(plain_grid()), {0: "background", 1: "tumor"}))
    assert found == LabelStatistics(1, "tumor", "HU")
    content = found.as_dict()
    assert (content["voxels"], content["volume_ml"], content["components"], content["lesions"]) == (0, 0.0, 0, [])
    assert [content[key] for key in ("bounding_box", "centroid_mm", "longest_axial_diameter", "intensity")] == [None] * 4


def test_the_json_holds_plain_numbers() -> None:
    grid = GRIDS["oblique"]
    label = (np.linalg.norm(positions(grid) - CENTRE, axis=-1) < 10).astype(np.uint8)
    found = only(label_statistics(label, blank(grid), {1: "a"}))
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content == found.as_dict()
    assert found.diameter is not None
    assert content["longest_axial_diameter"]["length_mm"] == pytest.approx(found.diameter.length_mm, abs=1e-4)
    assert content["lesions"][0]["longest_axial_diameter"]["slice_index"] == found.diameter.slice_index
    assert content["lesions_not_listed"] == 0


def test_masks_and_what_is_no_label() -> None:
    grid, mask = plain_grid(), np.zeros((12, 10, 8), bool)
    mask[2:4, 2, 2] = True
    assert only(label_statistics(mask, blank(grid), {})).voxels == 2
    with pytest.raises(GeometryError, match=r"scan: the label of shape \(12, 10, 7\) does not fit"):
        label_statistics(mask[..., :-1], blank(grid), {})
    with pytest.raises(InputError, match="connectivity must be 6, 18 or 26 neighbours, got 8"):
        label_statistics(mask, blank(grid), {}, connectivity=8)
    with pytest.raises(InputError, match="holds integers"):
        label_statistics(mask.astype(np.float32), blank(grid), {})


def test_the_table_has_a_row_for_each_label_and_lesion(tmp_path: Path) -> None:
    grid = plain_grid((20, 10, 8), (1.0, 2.0, 3.0))
    label, image = np.zeros(grid.shape, np.uint8), np.full(grid.shape, 50, np.int16)
    label[2:5, 2:5, 2:5], label[9:11, 2, 2] = 1, 1
    names = {1: 'tumour, "left"\nlobe', 2: "=HYPERLINK(1)"}
    path = write_statistics_csv(label_statistics(label, scan(image, grid), names), tmp_path / "scan_seg.csv")
    assert path.read_bytes().count(b"\r\n") == 5
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, strict=True))
    assert [(row["label"], row["lesion"], row["voxels"]) for row in rows] == [("1", "", "29"), ("1", "1", "27"), ("1", "2", "2"), ("2", "", "0")]
    assert [row["name"] for row in rows] == [names[1]] * 3 + ["'=HYPERLINK(1)"]
    assert [row["components"] for row in rows] == ["2", "", "", "0"]
    assert {row["intensity_unit"] for row in rows} == {"HU"}
    assert [row["mean"] for row in rows] == ["50.0", "50.0", "50.0", ""]
    assert [row["sd"] for row in rows] == ["0.0", "", "", ""]
    lesion = rows[2]
    assert [float(lesion[f"centroid_{axis}_mm"]) for axis in "xyz"] == [9.5, 4.0, 6.0]
    assert [int(lesion[f"first_{axis}"]) for axis in "ijk"] == [9, 2, 2]
    assert [int(lesion[f"last_{axis}"]) for axis in "ijk"] == [10, 2, 2]
    assert [float(lesion[f"high_{axis}_mm"]) for axis in "xyz"] == [10.5, 5.0, 7.5]
    assert (float(lesion["volume_ml"]), float(lesion["longest_axial_diameter_mm"]), lesion["diameter_slice_axis"]) == (0.012, pytest.approx(np.hypot(1, 2), abs=1e-4), "k")
    assert [rows[3][column] for column in ("longest_axial_diameter_mm", "centroid_x_mm", "first_i", "median")] == [""] * 4


def test_a_table_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        write_statistics_csv([], tmp_path)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize(("dtype", "order"), [(np.int16, "F"), (np.uint16, "C"), (np.float32, "F")])
def test_scattered_labels_measured_together_are_those_measured_in_turn(monkeypatch: pytest.MonkeyPatch, connectivity: int, dtype: type, order: str) -> None:
    rng = np.random.default_rng(connectivity)
    grid = scanner_grid((27, 22, 19), (0.9, 1.1, 2.5), CENTRE, scanner_axes("LPS", 20))
    label = np.array(np.repeat(rng.integers(0, 7, (27, 11, 19)), 2, axis=1) * (rng.random(grid.shape) < 0.8), np.uint8, order=order)
    label[label == 5] = 0
    label[2, 3, 4] = 9
    image = (rng.normal(100, 300, grid.shape) if dtype is not np.uint16 else rng.integers(0, 4000, grid.shape)).astype(dtype)
    if dtype is np.float32:
        image[rng.random(grid.shape) < 0.01] = np.nan
    names = {1: "one", 5: "nowhere", 9: "a single voxel"}
    results = []
    for turns in (0.0, np.inf):
        monkeypatch.setattr(statistics, "TURNS_OF_ONE_WALK", turns)
        results.append([entry.as_dict() for entry in label_statistics(label, scan(image, grid), names, connectivity=connectivity)])
    together, in_turn = results
    assert [entry["value"] for entry in together] == [1, 2, 3, 4, 5, 6, 9]
    # Sums are taken in another order: the last of the written decimals may differ.
    assert together == approximately(in_turn, 2 * 10.0**-DECIMALS)


def approximately(value: object, tolerance: float) -> object:
    if isinstance(value, dict):
        return {key: approximately(item, tolerance) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [approximately(item, tolerance) for item in value]
    return pytest.approx(value, abs=tolerance) if isinstance(value, float) else value


def test_ordinary_organs_are_measured_in_turn_and_speckle_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    together = statistics.measure_together
    monkeypatch.setattr(statistics, "measure_together", lambda label, *rest: asked.append(label.size) or together(label, *rest))
    organs = np.zeros((40, 10, 10), np.uint8)
    for value in range(1, 9):
        organs[5 * value - 5 : 5 * value - 1] = value
    label_statistics(organs, blank(plain_grid(organs.shape)), {})
    assert not asked
    speckle = np.random.default_rng(0).integers(0, 9, organs.shape).astype(np.uint8)
    label_statistics(speckle, blank(plain_grid(organs.shape)), {})
    assert asked == [speckle.size]
