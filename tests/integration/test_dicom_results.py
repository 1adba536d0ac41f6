"""A DICOM series through ``volseg infer`` to DICOM objects, and such objects as references and labels."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import volseg
from tests.bundle_factory import edit_config, threshold_bundle, tiny_bundle
from tests.dicom_factory import Scan, write
from volseg.bundle import read_bundle
from volseg.cli import main
from volseg.cli.job import Job, chosen_formats
from volseg.cli.results import write_results
from volseg.dataset import Case, check_cases, convert_cases, read_datalist
from volseg.dataset.convert import read_reference
from volseg.errors import DatasetError, InputError
from volseg.inference import Segmentation, Segmenter
from volseg.io import load_label, save_label, save_volume
from volseg.io.dicom.objects.rtstruct import write_rtstruct
from volseg.io.dicom.objects.seg import write_seg
from volseg.io.dicom.objects.segments import Algorithm, describe_segments
from volseg.training import train
from volseg.training.folds.held_out import predict_fold
from volseg.training.progress import SilentReporter

OBLIQUE = tuple(np.round([0.96, 0.28, 0.0, -0.28 * 0.8, 0.96 * 0.8, 0.6], 6).tolist())
"""Row and column cosines of a stack turned about two axes."""

ALGORITHM = Algorithm("test", "1.0.0")


def series(folder: Path, *, ball: bool = True, seed: int = 0) -> Path:
    """A CT series of a bright ball (150 HU) in -50 HU."""
    k, j, i = np.meshgrid(np.arange(14), np.arange(40), np.arange(44), indexing="ij")
    centre = np.random.default_rng(seed).uniform(-2, 2, 3) + np.array([7, 20, 22])
    inside = ((k - centre[0]) * 3) ** 2 + ((j - centre[1]) * 1.5) ** 2 + ((i - centre[2]) * 1.5) ** 2 < 15**2
    stored = np.where(inside & ball, 150, -50).astype(np.int16)
    return write(Scan(stored, cosines=OBLIQUE, spacing=(1.5, 1.5), step=3.0, tags={"Modality": "CT", "PatientBirthDate": "19700101", "PatientSex": "O"}).datasets(), folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return threshold_bundle(tmp_path_factory.mktemp("bundles"))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


ALL = ("--format", "nifti", "--format", "dicom-sr", "--format", "rtstruct")


def test_every_format_says_the_same(bundle, tmp_path):
    scan = series(tmp_path / "case" / "images")
    out = tmp_path / "case" / "out"
    assert run("infer", scan, "-b", bundle, "-o", out, "--device", "cpu", *ALL) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {f"images{end}" for end in ("_seg.nii.gz", "_seg.dcm", "_rtstruct.dcm", "_sr.dcm", "_seg.json", "_seg.csv", "_seg.png", "_seg.html")}
    label = load_label(out / "images_seg.nii.gz")
    assert label.array.sum() > 500
    for name in ("images_seg.dcm", "images_rtstruct.dcm"):
        found = load_label(out / name)
        assert found.grid.isclose(label.grid, 1e-3)
        np.testing.assert_array_equal(found.array, label.array, err_msg=name)
    report = json.loads((out / "images_seg.json").read_text())
    assert {Path(path).name for path in report["outputs"]} == names
    (tumour,) = report["labels"]
    assert tumour["volume_ml"] == pytest.approx(label.array.sum() * 1.5 * 1.5 * 3 / 1000, rel=1e-4)
    # Every voxel called tumour is above the threshold or mixed at the rim.
    assert -50 < tumour["intensity"]["mean"] <= 150
    rows = list(csv.DictReader((out / "images_seg.csv").open()))
    assert float(rows[0]["volume_ml"]) == pytest.approx(tumour["volume_ml"], rel=1e-3)
    assert run("evaluate", out / "images_seg.dcm", out / "images_rtstruct.dcm", "-o", tmp_path / "e.json") == 0
    assert json.loads((tmp_path / "e.json").read_text())["mean_dice"] == 1.0


def test_the_measurement_report_holds_the_numbers_of_the_record_and_the_page_its_intended_use(bundle, tmp_path):
    import pydicom

    assert run("infer", series(tmp_path / "scan"), "-b", bundle, "-o", tmp_path, "--device", "cpu", "--format", "dicom-sr") == 0
    (tumour,) = json.loads((tmp_path / "scan_seg.json").read_text())["labels"]
    document = pydicom.dcmread(tmp_path / "scan_sr.dcm")
    found = [item.MeasuredValueSequence[0].NumericValue for item in _items(document) if item.get("ValueType") == "NUM"]
    assert found == [tumour["volume_ml"], tumour["longest_axial_diameter"]["length_mm"], tumour["intensity"]["mean"], tumour["intensity"]["sd"]]
    stated = json.loads((bundle / "configs" / "metadata.json").read_text())["intended_use"]
    assert stated in (tmp_path / "scan_seg.html").read_text()


def test_a_label_that_lies_between_the_slices_is_left_out_of_the_objects_with_a_warning(tmp_path):
    import pydicom

    # One slice is missing: mending fills its place with one that no slice of the series shows.
    heights = [0, 2, 4, 6, 10, 12, 14]
    positions = np.array([(0.0, 0.0, z) for z in heights])
    volume = volseg.load(write(Scan(np.full((7, 12, 10), 40, np.int16), positions=positions).datasets(), tmp_path / "scan"), fix_geometry=True)
    assert volume.grid.shape == (10, 12, 8)
    label = np.zeros(volume.grid.shape, np.uint8)
    label[2:6, 2:6, 1:3], label[2:4, 2:4, 4] = 1, 2
    names = {1: "tumor", 2: "node"}
    result = Segmentation(label, volume, names, {"name": "test", "version": "1"}, {}, segments=describe_segments(names))
    report = result.report()
    job = Job(tmp_path / "scan", "scan", tmp_path / "out", chosen_formats(["dicom-sr"]), preview=False, report=False)
    job.folder.mkdir()
    write_results(job, result, report)
    assert [warning for warning in report["warnings"] if warning.startswith("node: ")]
    assert [s.SegmentLabel for s in pydicom.dcmread(job.place("_seg.dcm")).SegmentSequence] == ["tumor"]
    findings = [item.ConceptCodeSequence[0].CodeMeaning for item in _items(pydicom.dcmread(job.place("_sr.dcm"))) if _concept(item) == "Finding"]
    assert findings == ["Neoplasm"]


def _items(content):
    for item in content.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _concept(item):
    names = item.get("ConceptNameCodeSequence")
    return names[0].CodeMeaning if names else None


@pytest.mark.parametrize("kind", ["labelmap", "fractional"])
def test_other_kinds_of_segmentation(kind, bundle, tmp_path):
    scan = series(tmp_path / "scan")
    assert run("infer", scan, "-b", bundle, "-o", tmp_path, "--device", "cpu", "--format", "dicom-seg", "--format", "nifti", "--seg-type", kind, "--no-report", "--no-preview") == 0
    assert not (tmp_path / "scan_seg.html").exists()
    label, found = load_label(tmp_path / "scan_seg.nii.gz").array, load_label(tmp_path / "scan_seg.dcm").array
    if kind == "labelmap":
        np.testing.assert_array_equal(label, found)
        return
    # A fractional object holds probabilities in 255 steps: voxels within a step of 0.5 may fall to either side.
    probability = Segmenter(bundle, device="cpu").segment(scan, probabilities=True).probabilities[1]
    assert label.any()
    assert np.abs(probability[label != found] - 0.5).max(initial=0) <= 1 / 255


def test_nothing_segmented_leaves_no_dicom_object_and_says_so(bundle, tmp_path, capsys):
    full, empty = series(tmp_path / "full" / "scan"), series(tmp_path / "empty" / "scan", ball=False)
    out = tmp_path / "out"
    assert run("infer", full, "-b", bundle, "-o", out, "--device", "cpu", *ALL) == 0
    assert run("infer", empty, "-b", bundle, "-o", out, "--device", "cpu", *ALL) == 0
    assert "nothing is segmented" in capsys.readouterr().err
    # The objects of the first run must not stand beside the second run's empty label.
    assert not list(out.glob("*.dcm"))
    assert load_label(out / "scan_seg.nii.gz").array.max() == 0
    report = json.loads((out / "scan_seg.json").read_text())
    assert not [path for path in report["outputs"] if path.endswith(".dcm")]
    assert any("nothing is segmented" in warning for warning in report["warnings"])


def test_dicom_objects_need_a_dicom_series(bundle, tmp_path, capsys):
    volume = volseg.load(series(tmp_path / "scan"))
    save_label(np.zeros(volume.grid.shape, np.uint8), volume, tmp_path / "scan.nii.gz")
    assert run("infer", tmp_path / "scan.nii.gz", "-b", bundle, "-o", tmp_path / "out", "--format", "dicom-seg") == 2
    assert "--format dicom-seg refers to the slices of a DICOM series" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_no_object_can_refer_to_is_refused_before_the_network_runs(keyword, bundle, tmp_path, capsys, monkeypatch):
    datasets = Scan(np.full((6, 12, 10), 40, np.int16)).datasets()
    for ds in datasets:
        delattr(ds, keyword)
    scan = write(datasets, tmp_path / "scan")
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("the network ran"))
    assert run("infer", scan, "-b", bundle, "-o", tmp_path / "out", "--device", "cpu", "--format", "nifti", "--format", "rtstruct") == 2
    assert f"has no {keyword}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tilted_series_is_mended_on_request_and_its_objects_lie_on_the_tilted_slices(bundle, tmp_path, capsys):
    stored = np.full((16, 40, 40), -50, np.int16)
    stored[4:12, 10:30, 10:30] = 150
    positions = np.array([(-30.0, -30.0 + 0.6 * k, 3.0 * k) for k in range(16)])
    scan = write(Scan(stored, spacing=(1.5, 1.5), positions=positions).datasets(), tmp_path / "scan")
    assert run("infer", scan, "-b", bundle, "-o", tmp_path / "out", "--device", "cpu") == 2
    assert "--fix-geometry" in capsys.readouterr().err
    assert run("infer", scan, "-b", bundle, "-o", tmp_path / "out", "--device", "cpu", "--fix-geometry", "--format", "nifti", "--format", "dicom-seg") == 0
    report = json.loads((tmp_path / "out" / "scan_seg.json").read_text())
    assert report["input"]["details"]["geometry_correction"]
    import pydicom

    seg = pydicom.dcmread(tmp_path / "out" / "scan_seg.dcm")
    found = {tuple(float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient) for frame in seg.PerFrameFunctionalGroupsSequence}
    assert found <= {tuple(p) for p in positions.tolist()}
    # The block fills slices 4 to 11; interpolation and the network's 2 mm grid reach at most one slice further.
    assert {tuple(p) for p in positions[5:11].tolist()} <= found <= {tuple(p) for p in positions[3:13].tolist()}


def test_prediction_and_reference_may_name_their_regions_differently_and_lie_far_from_the_scan(tmp_path, capsys):
    volume = volseg.load(series(tmp_path / "pacs" / "scan"))
    ball = (volume.array > 60).astype(np.uint8)
    # The reference holds the same ball as label 3, named otherwise, and a second region that overlaps it.
    drawn = np.where(ball, 3, 0).astype(np.uint8)
    drawn[2:4, 2:4, 2:4] = 5
    for folder in ("ours/today", "theirs/today"):
        (tmp_path / folder).mkdir(parents=True)
    prediction, reference = tmp_path / "ours" / "today" / "scan_seg.dcm", tmp_path / "theirs" / "today" / "rs.dcm"
    write_seg(ball, volume, prediction, segments=describe_segments({1: "tumor"}), algorithm=ALGORITHM)
    write_rtstruct(drawn, volume, reference, segments=describe_segments({3: "GTV", 5: "body"}), algorithm=ALGORITHM)
    assert run("evaluate", prediction, reference, "--roi", "GTV=1") == 2
    assert "--scans" in capsys.readouterr().err
    chosen = ("--scans", tmp_path / "pacs", "-o", tmp_path / "e.json")
    assert run("evaluate", prediction, reference, "--roi", "GTV=1", *chosen) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert [(label["label"], label["dice"]["mean"]) for label in report["summary"]] == [(1, 1.0)]
    assert run("evaluate", prediction, reference, "--roi", "GTV=7", "--roi", "tumor=7", *chosen) == 0
    assert [label["label"] for label in json.loads((tmp_path / "e.json").read_text())["summary"]] == [7]
    capsys.readouterr()
    assert run("evaluate", prediction, reference, "--roi", "CTV=1", *chosen) == 2
    assert "neither it nor rs.dcm holds a segment or ROI 'CTV'" in capsys.readouterr().err


def test_regions_can_only_be_chosen_in_dicom_objects(tmp_path, capsys):
    volume = volseg.load(series(tmp_path / "scan"))
    for name in ("a.nii.gz", "b.nii.gz"):
        save_label((volume.array > 60).astype(np.uint8), volume, tmp_path / name)
    assert run("evaluate", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--roi", "GTV=1") == 2
    assert "neither is a DICOM object" in capsys.readouterr().err


@pytest.fixture
def labelled(tmp_path):
    """Four cases as DICOM series, labelled by SEG and RTSTRUCT in turn, the latter with a second, overlapping ROI."""
    items = []
    for number in range(4):
        folder = tmp_path / "data" / f"case{number}"
        volume = volseg.load(series(folder / "CT", seed=number))
        label = (volume.array > 60).astype(np.uint8)
        if number % 2:
            write_seg(label, volume, folder / "seg.dcm", segments=describe_segments({1: "GTV"}), algorithm=ALGORITHM)
        else:
            both = label.copy()
            both[2:4, 2:4, 2:4] = 2
            write_rtstruct(both, volume, folder / "rs.dcm", segments=describe_segments({1: "GTV", 2: "other"}), algorithm=ALGORITHM)
        items.append({"image": f"case{number}/CT", "label": f"case{number}/{'seg' if number % 2 else 'rs'}.dcm", "fold": number % 2})
    path = tmp_path / "data" / "datalist.json"
    path.write_text(json.dumps({"training": items, "rois": {"GTV": 1}}))
    return path


def test_cases_in_dicom_become_images_for_the_bundle(labelled, tmp_path):
    cases = read_datalist(labelled).cases
    check_cases(cases, {0, 1})
    converted = convert_cases(cases, tmp_path / "converted")
    assert len({case.name for case in converted}) == 4
    for case, now in zip(cases, converted, strict=True):
        image, label, scan = volseg.load(now.images[0]), volseg.load(now.label), volseg.load(case.images[0])
        np.testing.assert_array_equal(image.array, scan.array)
        assert image.grid.isclose(scan.grid, 1e-3)
        assert label.grid.isclose(scan.grid, 1e-3)
        np.testing.assert_array_equal(label.array, scan.array > 60)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "converted").iterdir()}
    assert convert_cases(cases, tmp_path / "converted", reuse=True) == converted
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "converted").iterdir()} == stamps


def test_changed_objects_are_converted_anew_in_a_resumed_run(labelled, tmp_path):
    """Else the old contours would go on, and into the preprocessed cache as the new ones."""
    cases = read_datalist(labelled).cases
    first = convert_cases(cases, tmp_path / "converted")
    again = convert_cases([replace(case, rois={"GTV": 2}) for case in cases], tmp_path / "converted", reuse=True)
    assert [case.label for case in again] == [case.label for case in first]
    for case in again:
        assert set(np.unique(volseg.load(case.label).array)) == {0, 2}


def test_two_readers_of_one_scan_are_predicted_once(labelled, tmp_path):
    cases = read_datalist(labelled).cases
    bundle = tiny_bundle(tmp_path, weights=True)
    found = predict_fold(
        read_bundle(bundle), bundle / "models" / "model.pt", [cases[0], cases[0], cases[1]], tmp_path / "out", device="cpu", precision="fp32", reporter=SilentReporter()
    )
    assert found[0] == found[1] != found[2]
    assert all(path.is_file() for path in found)


def test_a_bundle_takes_the_series_of_its_modality(tmp_path):
    """A CT and a PET in one folder, as archives deliver them; also where no command line says which."""
    stored = np.full((12, 20, 20), 7, np.int16)
    write(Scan(stored, uid="2.25.71", spacing=(4.0, 4.0), step=4.0, tags={"Modality": "PT", "Units": "BQML"}).datasets(), tmp_path / "study" / "PET")
    shutil.copytree(series(tmp_path / "CT"), tmp_path / "study" / "CT")
    with Segmenter(tiny_bundle(tmp_path, weights=True), device="cpu") as segmenter:
        assert segmenter.segment(tmp_path / "study").volume.source.modality == "CT"
    write_rtstruct(np.ones((44, 40, 14), np.uint8), volseg.load(tmp_path / "CT"), tmp_path / "study" / "rs.dcm", segments=describe_segments({1: "GTV"}), algorithm=ALGORITHM)
    reference = read_reference(Case((tmp_path / "study",), tmp_path / "study" / "rs.dcm", channels=("CT",)))
    assert reference.grid.shape == (44, 40, 14)


def test_an_object_drawn_on_a_series_is_the_label_of_its_nifti(labelled, tmp_path):
    """The scan as NIfTI, the contours in DICOM beside the series they were drawn on."""
    (case, *_) = read_datalist(labelled).cases
    scan = volseg.load(case.images[0])
    nifti = replace(case, images=(save_volume(scan.array, scan.grid, tmp_path / "scan.nii.gz"),))
    check_cases([nifti], {0, 1})
    (converted,) = convert_cases([nifti], tmp_path / "converted")
    assert converted.images == nifti.images
    for label in (volseg.load(converted.label), read_reference(nifti)):
        np.testing.assert_array_equal(label.array, scan.array > 60)


def test_train_takes_dicom_cases(labelled, tmp_path):
    bundle = tiny_bundle(tmp_path)
    edit_config(bundle, "train", train__trainer__max_epochs=1)
    result = train(bundle, labelled, tmp_path / "run", fold=0, device="cpu", epochs=1)
    assert result.epochs == 1
    assert result.weights.is_file()


def test_labels_that_are_not_there_are_named(labelled, tmp_path):
    content = json.loads(labelled.read_text()) | {"rois": {"CTV": 1}}
    labelled.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="CTV"):
        check_cases(read_datalist(labelled).cases, {0, 1})
    labelled.write_text(json.dumps(content | {"rois": {"CTV": "one"}}))
    with pytest.raises(DatasetError, match="rois"):
        read_datalist(labelled)


def test_object_far_from_its_images_is_refused(labelled, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.copy(labelled.parent / "case1" / "seg.dcm", tmp_path / "far" / "away" / "seg.dcm")
    with pytest.raises(InputError, match="SeriesInstanceUID"):
        load_label(tmp_path / "far" / "away" / "seg.dcm")


def test_two_readers_of_one_scan_keep_their_own_labels(tmp_path):
    volume = volseg.load(series(tmp_path / "CT"))
    drawn = [(volume.array > 60).astype(np.uint8), np.zeros(volume.grid.shape, np.uint8)]
    drawn[1][20:24, 18:22, 5:8] = 1
    for number, label in enumerate(drawn):
        write_seg(label, volume, tmp_path / f"reader{number}.dcm", segments=describe_segments({1: "GTV"}), algorithm=ALGORITHM)
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": "CT", "label": f"reader{number}.dcm"} for number in (0, 1)]}))
    converted = convert_cases(read_datalist(tmp_path / "d.json").cases, tmp_path / "out")
    assert converted[0].images == converted[1].images
    for case, label in zip(converted, drawn, strict=True):
        np.testing.assert_array_equal(load_label(case.label).array, label)


def test_a_label_value_of_rois_is_a_number(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": "CT", "label": "seg.dcm"}], "rois": {"GTV": True}}))
    with pytest.raises(DatasetError, match="expected names and label values"):
        read_datalist(tmp_path / "d.json")


def test_predictions_named_after_dicom_folders_find_their_references_in_a_dataset(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    items = []
    for number in (1, 2):
        volume = volseg.load(series(data / f"P{number}" / "CT" / "image", seed=number))
        label = (volume.array > 60).astype(np.uint8)
        mask = data / f"P{number}" / "CT" / "mask"
        mask.mkdir()
        both = label.copy()
        both[2:4, 2:4, 2:4] = 2
        write_rtstruct(both, volume, mask / "RS.dcm", segments=describe_segments({1: "GTV", 2: "other"}), algorithm=ALGORITHM)
        save_label(label, volume, out / f"P{number}_CT_image_seg.nii.gz")
        # One label is named as a file, the other by its folder.
        items.append({"image": f"P{number}/CT/image", "label": f"P{number}/CT/mask" + ("/RS.dcm" if number == 1 else "")})
    (data / "dataset.json").write_text(json.dumps({"training": items, "labels": {"0": "background", "1": "GTV"}}))
    assert run("evaluate", out, data, "--roi", "GTV=1", "-o", tmp_path / "e.json") == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert (report["n_cases"], report["mean_dice"]) == (2, 1.0)
    assert len({case["case"] for case in report["cases"]}) == 2
