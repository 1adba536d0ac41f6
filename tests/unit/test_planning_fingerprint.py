"""What is measured of a dataset, on boxes and ramps whose answer is known, and what is found wrong with one."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from tests.plan_factory import edit, items, save, write_boxes
from volseg.dataset import Case, check_cases, read_datalist
from volseg.dataset.listing import check_listing
from volseg.errors import DatasetError
from volseg.io import load
from volseg.planning.fingerprint import stored, take_fingerprint
from volseg.planning.fingerprint.case import SAMPLES, examine_case, measure_labels, nonzero_shape, sample_foreground, skipped_slices


def test_volumes_and_pieces_of_labels():
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    label[10:12, 10:12, 10:12] = 1
    # Touches the second box by a corner only: of another label, so no piece of it; 26 neighbours join its own two voxels.
    label[12, 12, 12] = label[13, 13, 13] = 2
    found = measure_labels(label, 0.5, 2)
    assert found[1].volume_ml == (64 + 8) * 0.5
    assert found[1].components == 2
    assert found[1].component_ml == (32.0, 4.0)
    assert (found[2].volume_ml, found[2].components) == (1.0, 1)
    assert measure_labels(np.zeros((4, 4, 4), np.uint8), 1.0, 0) == {}


def test_slices_forgotten_between_two_are_counted():
    mask = np.zeros((9, 6, 6), bool)
    mask[1:8, 2:4, 2:4] = True
    assert skipped_slices(mask) == 0
    mask[3] = False
    assert skipped_slices(mask) == 1
    # Ends and begins again elsewhere: two findings, no gap.
    elsewhere = np.zeros((5, 6, 6), bool)
    elsewhere[1, 0:2, 0:2] = elsewhere[3, 4:6, 4:6] = True
    assert skipped_slices(elsewhere) == 0
    # Two empty slices in a row are no slip of the pen.
    mask[4] = False
    assert skipped_slices(mask) == 0


def test_skipped_slices_are_looked_for_across_the_thickest_voxels():
    label = np.zeros((8, 8, 8), np.uint8)
    label[:, 2:5, 2:5] = 1
    label[4] = 0
    assert measure_labels(label, 1.0, 0)[1].skipped_slices == 1
    assert measure_labels(label, 1.0, 2)[1].skipped_slices == 0


def test_box_of_what_is_not_zero():
    image = np.zeros((10, 12, 14), np.int16)
    image[2, 3, 4] = -5
    image[6, 3, 13] = 7
    assert nonzero_shape(image) == (5, 1, 10)
    assert nonzero_shape(np.zeros((3, 4, 5))) == (3, 4, 5)


def test_channels_on_other_grids_are_sampled_at_the_same_places(tmp_path):
    # Both hold the world x coordinate, on grids of different spacing and origin: linear interpolation gives the same value at the same place.
    first = load(save(tmp_path / "a.nii.gz", np.broadcast_to(np.arange(20.0)[:, None, None] * 2, (20, 8, 8)).astype(np.float32), (2, 2, 2)))
    second = load(save(tmp_path / "b.nii.gz", np.broadcast_to(np.arange(30.0)[:, None, None] * 3 - 9, (30, 10, 10)).astype(np.float32), (3, 3, 3), (-9, -9, -9)))
    label = np.zeros((20, 8, 8), np.uint8)
    label[3:18, 2:6, 2:6] = 1
    values = sample_foreground((first, second), label)
    assert values.shape == (2, SAMPLES)
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)
    # Drawn with replacement from 15 equally frequent values, 6 to 34.
    assert set(np.unique(values[0])) == set(np.arange(6.0, 36.0, 2.0))
    assert values[0].mean() == pytest.approx(20.0, abs=0.3)


def test_fingerprint_of_boxes(tmp_path):
    found = take_fingerprint(write_boxes(tmp_path / "set", 6))
    assert [case.shape for case in found.cases] == [(24, 20, 16)] * 6
    assert found.cases[0].spacing_mm == (1.0, 1.0, 2.0)
    assert found.classes[1].cases == 6
    assert found.classes[1].volume_ml == pytest.approx((0.432, 0.432, 0.432))
    assert found.classes[1].voxel_share == pytest.approx(216 / (24 * 20 * 16))
    # Values 100 to 105, each plus -5 to 5 evenly: mean 102.5, variance 35/12 + 10.
    assert found.intensities[0].mean == pytest.approx(102.5, abs=0.5)
    assert found.intensities[0].sd == pytest.approx((35 / 12 + 10) ** 0.5, rel=0.05)
    assert 95 <= found.intensities[0].percentile_00_5 <= 97
    assert 108 <= found.intensities[0].percentile_99_5 <= 110
    assert found.warnings == ("folds 1, 2, 3, 4 hold one case each: a validation on one case says little",)
    assert (found.training, found.validation) == (4, 2)


def test_axes_are_named_in_the_patients_directions(tmp_path):
    folder = write_boxes(tmp_path / "set", 2)
    affine = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1.0]])
    import nibabel as nib

    for kind, name in (("imagesTr", "case_0_0000"), ("labelsTr", "case_0")):
        path = folder / kind / f"{name}.nii.gz"
        array = np.asanyarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(array, affine), path)
    # Array axes i, j, k run towards P, S, R: along x, y, z lie axes k, i, j.
    case = take_fingerprint(folder).cases[0]
    assert case.orientation == "PSR"
    assert case.shape == (16, 24, 20)
    assert case.spacing_mm == (2.0, 1.0, 3.0)


def test_cases_whose_files_are_called_alike_are_told_apart(tmp_path):
    folder = write_boxes(tmp_path / "set", 2)
    for case in range(2):
        (folder / f"patient_{case}").mkdir()
        (folder / "imagesTr" / f"case_{case}_0000.nii.gz").rename(folder / f"patient_{case}" / "ct.nii.gz")
    edit(folder, training=[{"image": f"patient_{case}/ct.nii.gz", "label": f"labelsTr/case_{case}.nii.gz"} for case in range(2)])
    assert [case.name for case in take_fingerprint(folder).cases] == ["patient_0_ct", "patient_1_ct"]


def test_a_second_look_reads_no_scan(tmp_path, monkeypatch):
    folder = write_boxes(tmp_path / "set", 3)
    first = take_fingerprint(folder)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("volseg.planning.fingerprint.take.examine_case", refuse)
    assert take_fingerprint(folder) == first
    image = folder / "imagesTr" / "case_1_0000.nii.gz"
    save(image, np.asanyarray(__import__("nibabel").load(image).dataobj) + 1, (1, 1, 2))
    with pytest.raises(AssertionError):
        take_fingerprint(folder)


def test_a_damaged_memory_of_a_case_is_read_anew(tmp_path):
    case = read_datalist(write_boxes(tmp_path / "set", 2)).cases[0]
    stored.keep_examined(case, [0, 1], None, examine_case(case, [0, 1]))
    place = stored._place(case, [0, 1], None)
    assert stored.read_examined(case, [0, 1], None) is not None
    place.write_bytes(place.read_bytes()[:100])
    assert stored.read_examined(case, [0, 1], None) is None


def test_several_processes_give_the_same_fingerprint(tmp_path, monkeypatch):
    folder = write_boxes(tmp_path / "set", 3)
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "one"))
    alone = take_fingerprint(folder)
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "two"))
    seen: list[str] = []

    def track(names):
        for name in names:
            seen.append(name)
            yield name

    assert take_fingerprint(folder, workers=2, track=track) == alone
    assert seen == ["case_0_0000", "case_1_0000", "case_2_0000"]


def test_a_process_that_dies_is_one_line(tmp_path, monkeypatch):
    class Dying:
        def __init__(self, *_: object, **__: object) -> None:
            raise BrokenProcessPool

    monkeypatch.setattr("volseg.planning.fingerprint.take.ProcessPoolExecutor", Dying)
    with pytest.raises(DatasetError, match=r"a process that reads cases died .* run again with one worker"):
        take_fingerprint(write_boxes(tmp_path / "set", 3), workers=2)


def problems_of(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        take_fingerprint(folder)
    return "\n".join(caught.value.problems or (str(caught.value),))


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    folder = write_boxes(tmp_path / "set", 9)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    (images / "case_0_0000.nii.gz").unlink()
    (labels / "case_1.nii.gz").unlink()
    save(labels / "case_2.nii.gz", np.ones((24, 20, 15), np.uint8), (1, 1, 2))
    wrong = np.zeros((24, 20, 16), np.uint8)
    wrong[5:8, 5:8, 5:8] = 7
    save(labels / "case_3.nii.gz", wrong, (1, 1, 2))
    odd = np.zeros((24, 20, 16), np.float32)
    odd[0, 0, :2] = np.nan, np.inf
    save(images / "case_4_0000.nii.gz", odd, (1, 1, 2))
    (images / "case_5_0000.nii.gz").write_bytes(b"not a scan")
    (images / "case_7_0000.nii.gz").write_bytes((images / "case_6_0000.nii.gz").read_bytes())
    (labels / "case_7.nii.gz").write_bytes((labels / "case_6.nii.gz").read_bytes())
    found = problems_of(folder)
    assert len(found.splitlines()) == 7
    for expected in (
        "case_0.nii.gz: a label without an image",
        "case_1_0000.nii.gz: an image without a label",
        "case_2.nii.gz: the label lies on 24x20x15",
        "case_3.nii.gz: holds the values 7",
        "case_4_0000.nii.gz: 2 of 7680 voxels are NaN or infinite",
        "case_5_0000.nii.gz",
        "cases case_6_0000, case_7_0000: the same image and label (content) 2 times",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "names no labels"),
        ({"1": "box"}, "label 0 is not named"),
        ({"0": "background", "1": "box", "3": "other"}, "leave out 2"),
        ({"0": "background"}, "no label beside the background"),
    ],
)
def test_labels_that_do_not_add_up(tmp_path, labels, message):
    folder = write_boxes(tmp_path / "set", 2)
    edit(folder, labels=labels)
    assert message in problems_of(folder)


def test_a_case_listed_twice_is_refused_and_two_readers_are_told_of(tmp_path):
    folder = write_boxes(tmp_path / "set", 4)
    listed = items(folder)
    edit(folder, training=[*listed, listed[0]])
    assert "the same image and label (file) 2 times" in problems_of(folder)
    edit(folder, training=[*listed, {"image": listed[0]["image"], "label": listed[1]["label"]}])
    warnings = take_fingerprint(folder).warnings
    assert any("one image (file) with 2 labels" in warning for warning in warnings)
    assert any("one label (file) for 2 images" in warning for warning in warnings)


def test_channels_that_differ(tmp_path):
    folder = write_boxes(tmp_path / "set", 4, channels=("T1", "T2", "FLAIR"))
    listed = items(folder)
    listed[1]["image"] = listed[1]["image"][:2]
    listed[2]["image"] = listed[2]["image"][0]
    elsewhere = save(folder / "far.nii.gz", np.zeros((24, 20, 16), np.int16), (1, 1, 2), (500, 0, 0))
    listed[3]["image"][2] = f"./{elsewhere.name}"
    edit(folder, training=listed)
    found = problems_of(folder)
    assert "case case_1_0000: 2 images, but the dataset names 3 (T1, T2, FLAIR)" in found
    assert "case_2_0000.nii.gz: 1 channel, but the dataset names 3" in found
    assert "does not overlap" in found


def test_cases_of_several_channels_and_no_names(tmp_path):
    folder = write_boxes(tmp_path / "set", 3, channels=("T1", "T2"))
    listed = items(folder)
    listed[2]["image"] = listed[2]["image"][:1]
    edit(folder, training=listed, modality=None)
    assert "case case_2_0000: 1 channels, most cases have 2" in problems_of(folder)


def test_folds_given_to_some_cases_only(tmp_path):
    folder = write_boxes(tmp_path / "set", 3)
    listed = items(folder)
    listed[0]["fold"] = 0
    edit(folder, training=listed)
    assert "1 of 3 cases name a fold" in problems_of(folder)


def test_one_case_is_not_enough(tmp_path):
    assert "there is one case" in problems_of(write_boxes(tmp_path / "set", 1))


def test_label_maps_that_are_all_empty(tmp_path):
    folder = write_boxes(tmp_path / "set", 2)
    for path in (folder / "labelsTr").iterdir():
        save(path, np.zeros((24, 20, 16), np.uint8), (1, 1, 2))
    assert "every label map is empty" in problems_of(folder)


def test_what_is_only_odd_is_a_warning(tmp_path):
    folder = write_boxes(tmp_path / "set", 10)
    save(folder / "labelsTr" / "case_0.nii.gz", np.zeros((24, 20, 16), np.uint8), (1, 1, 2))
    skipped = np.zeros((24, 20, 16), np.uint8)
    skipped[4:10, 4:10, 4:10] = 1
    skipped[:, :, 6] = 0
    save(folder / "labelsTr" / "case_1.nii.gz", skipped, (1, 1, 2))
    save(folder / "imagesTr" / "left_over.nii.gz", skipped, (1, 1, 2))
    edit(folder, labels={"0": "background", "1": "box", "2": "never"})
    warnings = "\n".join(take_fingerprint(folder).warnings)
    for expected in (
        "case_0.nii.gz: the label map is empty",
        "case_1.nii.gz: label 1 skips slices",
        "1 file named by no case (left_over.nii.gz)",
        "label 2 (never) occurs in 0 of 10 cases",
    ):
        assert expected in warnings
    # They go into documents of a bundle, which say nothing of where the data lay.
    assert str(tmp_path) not in warnings
    assert "imagesTr: 1 file" in warnings


def test_voxels_to_be_ignored_are_no_foreground(tmp_path):
    folder = write_boxes(tmp_path / "set", 2)
    for case in range(2):
        label = np.zeros((24, 20, 16), np.uint8)
        label[4 + case : 10 + case, 4:10, 4:10] = 1
        label[15:, :, :] = 255
        save(folder / "labelsTr" / f"case_{case}.nii.gz", label, (1, 1, 2))
    edit(folder, ignore_label=255)
    found = take_fingerprint(folder)
    assert found.cases[0].labels.keys() == {1}
    assert found.intensities[0].mean == pytest.approx(100.5, abs=0.5)


def test_malformed_items_are_all_named(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"image": "a"}, {"image": "a", "label": "b"}, {"label": "c"}]}))
    with pytest.raises(DatasetError, match=r"item 0 .*1 more of 3 items") as caught:
        read_datalist(path)
    assert [problem.split("training item ")[1][0] for problem in caught.value.problems] == ["0", "2"]


def test_training_refuses_what_planning_refuses(tmp_path):
    folder = write_boxes(tmp_path / "set", 3)
    odd = np.zeros((24, 20, 16), np.float32)
    odd[0, 0, 0] = np.nan
    for case in (0, 2):
        save(folder / "imagesTr" / f"case_{case}_0000.nii.gz", odd, (1, 1, 2))
    with pytest.raises(DatasetError, match=r"case_0_0000.*1 more in 3 cases") as caught:
        check_cases(read_datalist(folder).cases, [0, 1])
    assert len(caught.value.problems) == 2


def test_a_good_list_has_no_findings(tmp_path):
    listing = check_listing(read_datalist(write_boxes(tmp_path / "set", 10)))
    assert listing.problems == listing.warnings == ()


def test_one_file_of_several_channels(tmp_path):
    import nibabel as nib

    array = np.stack([np.full((12, 12, 12), 1, np.int16), np.full((12, 12, 12), 2, np.int16)], axis=-1)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "both.nii.gz")
    label = np.zeros((12, 12, 12), np.uint8)
    label[4:8, 4:8, 4:8] = 1
    save(tmp_path / "label.nii.gz", label, (1, 1, 1))
    found = examine_case(Case((tmp_path / "both.nii.gz",), tmp_path / "label.nii.gz", channels=("T1", "T2")), [0, 1])
    assert found.problems == ()
    assert [found.samples[0].mean(), found.samples[1].mean()] == [1, 2]
