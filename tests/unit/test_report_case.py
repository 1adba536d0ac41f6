"""The case report: a page that stands alone, is safe with hostile names, and whose pictures show what is in the label."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volseg.errors import GeometryError, OutputError
from volseg.evaluation import label_statistics
from volseg.geometry import Grid, reorient
from volseg.io import Source, Volume
from volseg.report import write_case_report
from volseg.report.case import DEFAULT_NOTICE
from volseg.report.case_pictures import spread_slices
from volseg.report.palette import PALETTE

SHAPE = (60, 50, 30)
HOSTILE = '<script>alert("x")</script>&\'"><img src=http://example.org/x>'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that elements close in order, and gathers elements and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


def scan(**details: object) -> Volume:
    grid = Grid(SHAPE, np.array([[-1.0, 0, 0, 30], [0, -1.2, 0, 40], [0, 0, 3.0, -100], [0, 0, 0, 1]]))
    array = np.random.default_rng(0).normal(40, 30, SHAPE).astype(np.int16)
    return Volume(array, grid, Source(Path("/data/DOE_JOHN/scan"), "dicom", "scan", modality="CT", series_instance_uid="1.2.3", details=details))


def mass(first: tuple[int, int, int] = (10, 12, 5), last: tuple[int, int, int] = (29, 21, 24), value: int = 1) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = value
    return label


def write(path: Path, volume: Volume, label: np.ndarray, names: dict[int, str], report: dict[str, Any] | None = None, **more: Any) -> tuple[str, Page]:
    statistics = label_statistics(label, volume, names)
    text = write_case_report(volume, label, path / "scan_seg.html", report=report or {}, statistics=statistics, label_names=names, **more).read_text(encoding="utf-8")
    return text, Page(text)


def images(page: Page) -> list[np.ndarray]:
    from PIL import Image

    found = []
    for image in page.all("image"):
        start, _, content = image["href"].partition(",")
        assert start == "data:image/jpeg;base64"
        found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True)))))
    return found


def test_the_page_stands_alone_and_is_well_formed(tmp_path: Path) -> None:
    text, page = write(tmp_path, scan(), mass(), {1: "tumor"})
    assert "script" not in {name for name, _ in page.elements}
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "data:").startswith("data:")
        assert not [key for key in attributes if key.startswith("on")]
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    # Three planes, and ten of the label's twenty slices.
    assert len(images(page)) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["scan_seg.html"]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    report = {
        "input": {"modality": HOSTILE, "details": {"series_description": HOSTILE, "geometry_correction": {HOSTILE: HOSTILE}}},
        "bundle": {"name": HOSTILE, "version": HOSTILE, "weights": HOSTILE, "intended_use": HOSTILE},
        "engine": {HOSTILE: HOSTILE},
        "software": {HOSTILE: HOSTILE},
        "warnings": [HOSTILE],
        "created": HOSTILE,
    }
    volume = scan(series_description=HOSTILE)
    hostile = Volume(volume.array, volume.grid, Source(volume.source.path, "dicom", HOSTILE, modality=HOSTILE, details=volume.source.details))
    plain_text, plain = write(tmp_path, scan(series_description="a"), mass(), {1: "a"}, {"warnings": ["a"]})
    text, page = write(tmp_path, hostile, mass(), {1: HOSTILE}, report)
    assert "<script" not in text and "<script" not in plain_text
    assert {name for name, _ in page.elements} == {name for name, _ in plain.elements}
    assert page.all("img") == []
    shown = " ".join(page.texts)
    assert shown.count("<script>alert(") >= 10
    # The bundle's weights are a path, of which only the name is shown.
    assert sum('alert("x")' in line for line in page.texts) >= 10


def test_no_path_and_no_patient(tmp_path: Path) -> None:
    details = {"patient_name": "DOE^JOHN", "patient_id": "4711", "study_instance_uid": "1.9.9", "series_description": "thigh"}
    report = {"input": {"path": "/data/DOE_JOHN/scan", "details": details}, "bundle": {"path": "/home/doe/b", "weights": "/home/doe/b/models/model.pt"}, "outputs": ["/data/doe"]}
    text, page = write(tmp_path, scan(**details), mass(), {1: "tumor"}, report)
    assert not re.search("doe|4711|1\\.9\\.9", text, re.IGNORECASE)
    assert "model.pt" in page.texts and "thigh" in page.texts


def test_notice_warnings_and_provenance(tmp_path: Path) -> None:
    correction = {"findings": ["gantry tilt"], "tilt_degrees": 18.5, "resampled": True}
    report = {
        "created": "2026-01-02T03:04:05+00:00",
        "input": {"series_instance_uid": "1.2.840.1", "sha256": "c0ffee", "details": {"geometry_correction": correction}},
        "bundle": {"name": "ct_tumor", "version": "0.1.0", "weights_sha256": "ab12"},
        "engine": {"device_name": "a GPU", "precision": "bf16"},
        "timings_s": {"network": 2.5},
        "peak_memory_bytes": 3 * 2**29,
        "software": {"torch": "2.8.0"},
        "warnings": ["slices are uneven"],
    }
    _, page = write(tmp_path, scan(), mass(), {1: "tumor"}, report, intended_use="For mice only.")
    for expected in (
        "1.2.840.1",
        "c0ffee",
        "ab12",
        "a GPU",
        "bf16",
        "2.50 s",
        "1.50 GiB",
        "2.8.0",
        "ct_tumor 0.1.0",
        "2026-01-02 03:04:05 UTC",
        "slices are uneven",
        "For mice only.",
    ):
        assert expected in page.texts, expected
    note = "The scan's geometry was corrected before segmentation; see the provenance below."
    assert note in page.texts and "findings gantry tilt; tilt degrees 18.5; resampled True" in page.texts
    _, told = write(tmp_path, scan(), mass(), {1: "tumor"}, report | {"warnings": ["gantry tilt: the series was resampled"]})
    assert note not in told.texts, "said once is enough"
    assert page.texts.index("slices are uneven") < page.texts.index("Measurements"), "warnings come first"
    _, page = write(tmp_path, scan(), mass(), {1: "tumor"}, {"bundle": {"intended_use": "For rats only."}})
    assert "For rats only." in page.texts
    _, page = write(tmp_path, scan(), mass(), {1: "tumor"})
    assert DEFAULT_NOTICE in page.texts and "Warnings" not in page.texts and "Provenance" not in page.texts


def test_the_tables_say_what_was_measured(tmp_path: Path) -> None:
    label = mass()
    label[50:52, 40, 2] = 1
    _, page = write(tmp_path, scan(), label, {1: "tumor", 2: "node"})
    # 20 x 10 x 20 voxels and 2, of 3.6 mm3; the outline of 20 x 10 voxels of 1 x 1.2 mm.
    row = page.texts.index("tumor")
    assert page.texts[row + 1 : row + 4] == [f"{4002 * 3.6 / 1000:.1f}", f"{max(np.hypot(20, 9 * 1.2), np.hypot(19, 12)):.1f}", "2"]
    row = page.texts.index("node")
    assert page.texts[row + 1 : row + 4] == ["0.0", "\N{EN DASH}", "0"]
    lesions = page.texts[page.texts.index("Lesions", page.texts.index("Pictures")) :]
    second = [number for number, text in enumerate(lesions) if text == "tumor"][1]
    assert lesions[second + 1 : second + 4] == ["2", "0.007", "2.0"]


def test_an_empty_label_says_so(tmp_path: Path) -> None:
    _, page = write(tmp_path, scan(), np.zeros(SHAPE, np.uint8), {1: "tumor"})
    assert "Nothing was segmented." in page.texts
    assert len(images(page)) == 3
    assert page.all("path") == [] and "Lesions" not in page.texts[page.texts.index("Pictures") :]


def svgs(text: str) -> list[str]:
    return re.findall("<svg.*?</svg>", text)


def outline_box_mm(svg: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the outline from the picture's corner (mm)."""
    scale = re.search(r"scale\(([\d.e-]+) ([\d.e-]+)\)", svg)
    path = re.search(r'<path d="M([^"]*)"', svg)
    assert scale and path
    points = np.array([[float(v) for v in pair.split()] for pair in re.split("[MLZ]+", path[1]) if pair]) * (float(scale[1]), float(scale[2]))
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
def test_outlines_lie_where_the_label_is(tmp_path: Path, codes: str) -> None:
    volume, label = scan(), mass()
    array, grid = reorient(volume.array, volume.grid, codes)
    turned = Volume(array, grid, volume.source)
    text, _ = write(tmp_path, turned, np.ascontiguousarray(reorient(label, volume.grid, codes)[0]), {1: "tumor"})
    axial, coronal, sagittal = svgs(text)[:3]
    # In LPS storage i runs to the patient's left and j to the back, as the axial picture's columns and rows; z is seen from the top.
    left, right, front, back, top, bottom = 10 * 1.0, 30 * 1.0, 12 * 1.2, 22 * 1.2, (30 - 25) * 3.0, (30 - 5) * 3.0
    assert outline_box_mm(axial) == pytest.approx((left, front, right, back))
    assert outline_box_mm(coronal) == pytest.approx((left, top, right, bottom))
    assert outline_box_mm(sagittal) == pytest.approx((front, top, back, bottom))
    assert re.findall("<text[^>]*>(.)</text>", axial) == ["R", "L", "A", "P"]
    assert f'stroke="{PALETTE[0]}"' in axial


def test_the_measured_line_ends_on_the_outline(tmp_path: Path) -> None:
    text, page = write(tmp_path, scan(), mass(), {1: "tumor"})
    measured = [svg for svg in svgs(text) if "caliper" in svg]
    assert len(measured) == 1
    line = re.search(r'class="caliper" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', measured[0])
    assert line
    x1, y1, x2, y2 = map(float, line.groups())
    length = max(np.hypot(20, 9 * 1.2), np.hypot(19, 12))
    assert np.hypot(x2 - x1, y2 - y1) == pytest.approx(length, abs=0.02)
    left, top, right, bottom = outline_box_mm(measured[0])
    assert (min(x1, x2), max(x1, x2)) == pytest.approx((left, right), abs=0.02)
    assert (min(y1, y2), max(y1, y2)) == pytest.approx((top + 0.6, bottom - 0.6), abs=0.02)
    # Slices 5 to 24 lie at z = -85 to -28 mm, shown from the head down.
    heights = [float(match[1]) for match in (re.match(r"z (-?[\d.]+) mm", text) for text in page.texts) if match]
    assert heights[0] == -28 and heights[-1] == -85 and heights == sorted(heights, reverse=True)
    assert any(caption.endswith(f"longest diameter {length:.1f} mm") for caption in page.texts)


def test_tiles_show_the_slice_they_name(tmp_path: Path) -> None:
    volume = scan()
    ramp = np.broadcast_to(np.linspace(-160, 240, SHAPE[2]), SHAPE).astype(np.int16)
    _, page = write(tmp_path, Volume(ramp, volume.grid, volume.source), mass(), {1: "tumor"})
    greys = [float(image.mean()) for image in images(page)[3:]]
    slices = [(float(match[1]) + 100) / 3 for match in (re.match(r"z (-?[\d.]+) mm", text) for text in page.texts) if match]
    assert greys == pytest.approx([255 * k / (SHAPE[2] - 1) for k in slices], abs=1.5)


def test_many_labels_stay_small_and_are_all_in_the_table(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    names = {value: f"organ {value}" for value in range(1, 13)}
    for value in names:
        label[4 * value : 4 * value + 3, 10:30, 3:25] = value
    text, page = write(tmp_path, scan(), label, names)
    assert all(name in page.texts for name in names.values())
    assert len(images(page)) == 3 + 6 * 6
    assert "6 more labels are segmented and not shown slice by slice." in page.texts
    assert len(text) < 1_500_000


def test_speckle_is_counted_not_listed(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[::4, ::4, ::4] = 1
    pieces = 15 * 13 * 8
    _, page = write(tmp_path, scan(), label, {1: "speckle"})
    assert f"{pieces - 20} smaller lesions are counted above and not listed here." in page.texts


def test_slices_are_spread_from_end_to_end() -> None:
    chosen = spread_slices(np.arange(5, 25), 5, None)
    assert (len(chosen), chosen[0], chosen[-1]) == (5, 5, 24)
    assert set(np.diff(chosen)) <= {4, 5}, "19 steps in four parts"
    assert spread_slices(np.array([3, 4, 9]), 10, 4) == [3, 4, 9]
    assert 11 in spread_slices(np.arange(5, 25), 5, 11) and len(spread_slices(np.arange(5, 25), 5, 11)) == 5


def test_bad_shapes_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="does not fit the scan"):
        write_case_report(scan(), mass()[1:], tmp_path / "p.html", report={}, statistics=[], label_names={})
    with pytest.raises(OutputError, match="is a folder"):
        write_case_report(scan(), mass(), tmp_path, report={}, statistics=[], label_names={})
    assert list(tmp_path.iterdir()) == []
