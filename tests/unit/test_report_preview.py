"""The preview picture: sides, slices, proportions and colours, read back from the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from volseg.errors import GeometryError, OutputError
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume
from volseg.report import write_preview
from volseg.report.palette import PALETTE
from volseg.report.planes import PLANES, choose_slices
from volseg.report.window import Window, choose_window

SHAPE = (40, 36, 20)
SPACING = (1.0, 1.0, 3.0)


def scan(modality: str | None = "CT", **details: object) -> Volume:
    random = np.random.default_rng(0)
    affine = np.diag([*SPACING, 1.0])
    return Volume(random.normal(40, 30, SHAPE).astype(np.int16), Grid(SHAPE, affine), Source(Path("scan.nii.gz"), "nifti", "scan", modality=modality, details=details))


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    """Where the contour's pure colour is, to two grey levels."""
    from matplotlib.colors import to_rgb

    return np.abs(picture - np.array(to_rgb(colour))).max(axis=2) < 2.5 / 255


def panels(picture: np.ndarray) -> list[tuple[slice, slice]]:
    """Rows and columns of the three slices, found as the areas brighter than the black page."""
    # Noise of SD 30 HU about 40 HU makes soft tissue mid-grey on average; titles and letters are too thin to lift a column's median.
    bright = picture.mean(axis=2) > 0.15
    columns = np.flatnonzero(bright.mean(axis=0) > 0.3)
    found = []
    for group in np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1):
        rows = np.flatnonzero(bright[:, group[0] : group[-1] + 1].mean(axis=1) > 0.5)
        found.append((slice(rows[0], rows[-1] + 1), slice(group[0], group[-1] + 1)))
    return found


def test_the_patients_left_is_on_the_right_of_axial_and_coronal(tmp_path: Path) -> None:
    volume, label = scan(), np.zeros(SHAPE, np.uint8)
    # RAS+: low x is the patient's left, high y anterior, high z superior.
    label[4:12, 24:32, 13:18] = 1
    picture = pixels(write_preview(volume, label, tmp_path / "p.png", label_names={1: "mass"}))
    axial, coronal, sagittal = panels(picture)
    found = coloured(picture, PALETTE[0])
    centre = {}
    for name, (rows, columns) in zip(("axial", "coronal", "sagittal"), (axial, coronal, sagittal), strict=True):
        y, x = np.nonzero(found[rows, columns])
        assert len(x) > 50, name
        centre[name] = (x.mean() / (columns.stop - columns.start), y.mean() / (rows.stop - rows.start))
    left, anterior, superior = 1 - 8 / 40, 1 - 28 / 36, 1 - 15.5 / 20
    assert centre["axial"] == pytest.approx((left, anterior), abs=0.03)
    assert centre["coronal"] == pytest.approx((left, superior), abs=0.03)
    assert centre["sagittal"] == pytest.approx((anterior, superior), abs=0.03)


def test_slices_keep_their_proportions_in_millimetres(tmp_path: Path) -> None:
    picture = pixels(write_preview(scan(), np.zeros(SHAPE, np.uint8), tmp_path / "p.png", label_names={}))
    widths, heights = zip(*[(columns.stop - columns.start, rows.stop - rows.start) for rows, columns in panels(picture)], strict=True)
    x, y, z = (n * s for n, s in zip(SHAPE, SPACING, strict=True))
    scale = widths[0] / x
    assert np.array(widths) / scale == pytest.approx(np.array([x, x, y]), rel=0.03)
    assert np.array(heights) / scale == pytest.approx(np.array([y, z, z]), rel=0.03)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_the_way_a_scan_is_stored_does_not_change_its_picture(tmp_path: Path, codes: str) -> None:
    volume, label = scan(), np.zeros(SHAPE, np.uint8)
    label[4:12, 24:32, 3:8], label[20:25, 10:20, 4:9] = 1, 2
    reference = np.roll(label, 2, axis=1)
    array, grid = reorient(volume.array, volume.grid, codes)
    turned = [np.ascontiguousarray(reorient(a, volume.grid, codes)[0]) for a in (label, reference)]
    first = write_preview(volume, label, tmp_path / "first.png", label_names={1: "a"}, reference=reference)
    second = write_preview(Volume(array, grid, volume.source), turned[0], tmp_path / "second.png", label_names={1: "a"}, reference=turned[1])
    assert np.array_equal(pixels(first), pixels(second))


def test_every_label_has_its_colour_and_the_reference_is_drawn(tmp_path: Path) -> None:
    volume, label = scan(), np.zeros(SHAPE, np.uint8)
    label[4:12, 10:25, 3:8], label[20:30, 10:25, 3:8] = 1, 2
    plain = pixels(write_preview(volume, label, tmp_path / "plain.png", label_names={}))
    assert [bool(coloured(plain, colour).sum() > 100) for colour in PALETTE] == [True, True] + [False] * 5
    compared = pixels(write_preview(volume, label, tmp_path / "compared.png", label_names={}, reference=np.roll(label, 5, axis=1)))
    rows, columns = panels(compared)[0]
    white = coloured(compared, "#FFFFFF")[rows, columns].sum() - coloured(plain, "#FFFFFF")[rows, columns].sum()
    assert white > 100


def test_nothing_segmented_shows_the_middle_or_the_reference() -> None:
    empty, reference = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[:, :, 14] = 1
    reference[:5, :5, 2] = 1
    assert [choose_slices(empty)[plane.axis] for plane in PLANES] == [9, 17, 19]
    assert choose_slices(reference)[2] == 14


def test_an_empty_label_is_cut_through_the_reference(tmp_path: Path) -> None:
    volume, empty, reference = scan(), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[10:20, 10:20, 15] = 1
    compared = pixels(write_preview(volume, empty, tmp_path / "p.png", label_names={}, reference=reference))
    rows, columns = panels(compared)[0]
    assert coloured(compared, "#FFFFFF")[rows, columns].sum() > 100


def test_of_equal_slices_the_middle_one_is_taken() -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 5:9, 6:13] = 1
    assert choose_slices(label)[2] == 9


def ends(window: Window) -> tuple[float, float, bool]:
    return window.low, window.high, window.inverted


def test_windows() -> None:
    ct = np.linspace(-1000, 2000, 8000).reshape(20, 20, 20)
    level, width = 40, 400
    soft = (level - width / 2, level + width / 2, False)
    assert ends(choose_window(ct, "CT")) == ends(choose_window(ct, None)) == soft
    ramp = np.linspace(0, 1000, 8000).reshape(20, 20, 20)
    assert ends(choose_window(ramp, "MR")) == (pytest.approx(10, abs=1), pytest.approx(990, abs=1), False)
    assert ends(choose_window(np.full((4, 4, 4), np.nan), "MR"))[:2] == (0, 1)
    for modality in (None, "MR", "PT"):
        window = choose_window(np.zeros((4, 4, 4)), modality)
        assert window.high > window.low


def test_a_segmentation_in_the_lung_is_shown_in_the_lung_window() -> None:
    level, width = -600, 1500
    ct = np.full((20, 20, 20), 50, np.int16)
    ct[:10] = -850
    lung, muscle, mostly_lung = (np.zeros(ct.shape, np.uint8) for _ in range(3))
    lung[2:8, 5:9, 5:9], muscle[12:18, 5:9, 5:9], mostly_lung[6:13, 5:9, 5:9] = 1, 1, 2
    assert ends(choose_window(ct, "CT", label=lung)) == ends(choose_window(ct, "CT", label=mostly_lung)) == (level - width / 2, level + width / 2, False)
    assert ends(choose_window(ct, "CT", label=muscle)) == ends(choose_window(ct, "CT", label=muscle * 0)) == (-160, 240, False)


def test_pet_is_dark_where_it_is_avid() -> None:
    quiet = np.linspace(0, 2, 8000).reshape(20, 20, 20)
    assert ends(choose_window(quiet, "PT", units="SUVbw")) == (0, 5, True)
    assert ends(choose_window(quiet * 10, "PT", units="SUVbw")) == (0, pytest.approx(19.8, abs=0.1), True)
    assert ends(choose_window(quiet * 10_000, "PT", units="BQML")) == (0, pytest.approx(19_800, rel=0.01), True)
    assert choose_window(quiet, "PT", units="SUVbw").to_grey(np.array([-1, 0, 2.5, 5, 9, np.nan])).tolist() == [255, 255, 128, 0, 0, 255]
    assert Window(-160, 240).to_grey(np.array([-1000, -160, 40, 240, 3000])).tolist() == [0, 0, 128, 255, 255]


def test_the_preview_of_pet_is_inverted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    hot = Volume(random.uniform(3, 5, SHAPE).astype(np.float32), scan().grid, Source(Path("pet"), "dicom", "pet", modality="PT", details={"units": "SUVbw"}))
    cold = Volume(random.uniform(0, 0.5, SHAPE).astype(np.float32), hot.grid, hot.source)
    empty = np.zeros(SHAPE, np.uint8)
    dark, bright = (pixels(write_preview(volume, empty, tmp_path / "p.png", label_names={})) for volume in (hot, cold))
    rows, columns = panels(bright)[0]
    assert bright[rows, columns].mean() > 0.9
    assert dark[rows, columns].mean() < 0.25


def test_names_with_formula_characters_and_synthetic_scans_are_drawn(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 5:9, 6:13] = 1
    plain = pixels(write_preview(scan(), label, tmp_path / "plain.png", label_names={1: r"$\broken"}))
    marked = pixels(write_preview(scan(synthetic=True), label, tmp_path / "marked.png", label_names={1: r"$\broken"}))
    differs = np.abs(plain - marked).max(axis=2) > 0
    assert differs.any()
    assert np.flatnonzero(differs.any(axis=1)).max() < panels(plain)[1][0].start, "only the title may differ"


def test_bad_shapes_and_places_are_refused(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    with pytest.raises(GeometryError, match="the label of shape"):
        write_preview(scan(), label[1:], tmp_path / "p.png", label_names={})
    with pytest.raises(GeometryError, match="the reference of shape"):
        write_preview(scan(), label, tmp_path / "p.png", label_names={}, reference=label[1:])
    with pytest.raises(OutputError, match="is a folder"):
        write_preview(scan(), label, tmp_path, label_names={})
    assert list(tmp_path.iterdir()) == []
