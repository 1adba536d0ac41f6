from __future__ import annotations

import json
from pathlib import Path

import pytest

from volseg.dataset import Case, name_cases, read_datalist, split_fold
from volseg.errors import DatasetError
from volseg.io.modality import expected_modality


def cases(n: int, folds: list[int] | None = None) -> list[Case]:
    return [Case((Path(f"{k}.nii.gz"),), Path(f"{k}_label.nii.gz"), folds[k] if folds else None) for k in range(n)]


def write(folder: Path, content: object, files: tuple[str, ...] = ()) -> Path:
    for name in files:
        (folder / name).touch()
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_folds_are_those_of_monai():
    from monai.data import partition_dataset, select_cross_validation_folds

    items = list(range(23))
    parts = partition_dataset(items, num_partitions=5, shuffle=True, seed=0)
    for fold in range(5):
        training, validation = split_fold(cases(23), fold)
        assert sorted(int(case.name) for case in validation) == sorted(select_cross_validation_folds(parts, fold))
        assert len(training) + len(validation) == 23
        assert not set(training) & set(validation)


def test_given_folds_are_used():
    training, validation = split_fold(cases(4, [7, 7, 1, 2]), 7)
    assert [case.name for case in validation] == ["0", "1"]
    assert [case.name for case in training] == ["2", "3"]


def test_no_fold_trains_on_everything():
    assert split_fold(cases(3), None) == (cases(3), [])


def test_unknown_fold_and_half_given_folds_are_refused():
    with pytest.raises(DatasetError, match="fold 5"):
        split_fold(cases(10), 5)
    mixed = [*cases(2, [0, 1]), *cases(1)]
    with pytest.raises(DatasetError, match="2 of 3 cases"):
        split_fold(mixed, 0)


def test_decathlon_folder_with_channels_and_labels(tmp_path):
    content = {
        "name": "pair",
        "modality": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumor": 1},
        "training": [{"image": ["./a.nii.gz", "./b.nii.gz"], "label": "./l.nii.gz", "fold": 3}],
    }
    write(tmp_path, content, ("a.nii.gz", "b.nii.gz", "l.nii.gz"))
    datalist = read_datalist(tmp_path)
    assert datalist.labels == {0: "background", 1: "tumor"}
    assert datalist.channels == {0: "CT", 1: "PET"}
    case = datalist.cases[0]
    assert case.fold == 3
    assert case.as_item() == {"image": [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")], "label": str(tmp_path / "l.nii.gz")}


def test_channels_named_alike_are_told_apart(tmp_path):
    """nnU-Net chooses a channel's normalisation by its name, so its data sets have several of one name."""
    content = {
        "channel_names": {"0": "CT", "1": "ct ", "2": "MRI", "3": "CT"},
        "training": [{"image": ["./a.nii.gz"] * 4, "label": "./l.nii.gz"}],
    }
    write(tmp_path, content, ("a.nii.gz", "l.nii.gz"))
    datalist = read_datalist(tmp_path)
    assert datalist.channels == {0: "CT", 1: "ct_2", 2: "MRI", 3: "CT_3"}
    assert datalist.cases[0].channels == ("CT", "ct_2", "MRI", "CT_3")
    assert [expected_modality(name) for name in datalist.channels.values()] == ["CT", "CT", "MR", "CT"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "not a readable JSON"),
        ("[1]", "must be an object"),
        ({"name": "x"}, "'training'"),
        ({"training": []}, "'training'"),
        ({"training": [{"image": "a.nii.gz"}]}, "item 0 has no"),
        ({"training": [{"image": 3, "label": "b"}]}, "as strings"),
        ({"training": [{"image": "a", "label": "b", "fold": "one"}]}, "whole number"),
        ({"training": [{"image": "gone.nii.gz", "label": "gone2.nii.gz"}]}, "2 of the files"),
    ],
)
def test_unusable_datalists_are_refused_in_one_line(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(DatasetError) as caught:
        read_datalist(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no such dataset"):
        read_datalist(tmp_path / "nothing")


def nnunet(folder: Path, *, channels: int = 1, cases: int = 3, **changes: object) -> Path:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for number in range(cases):
        (folder / f"labelsTr/hip_{number}.nii.gz").touch()
        for channel in range(channels):
            (folder / f"imagesTr/hip_{number}_{channel:04d}.nii.gz").touch()
    names = {str(channel): name for channel, name in enumerate(("CT", "PET")[:channels])}
    content = {"channel_names": names, "labels": {"background": 0, "tumor": 1}, "numTraining": cases, "file_ending": ".nii.gz"}
    return write(folder, content | changes)


def test_raw_data_of_nnunet(tmp_path):
    path = nnunet(tmp_path, channels=2, labels={"background": 0, "tumor": 1, "ignore": 2})
    (tmp_path / "labelsTr" / "._hip_0.nii.gz").touch()
    found = read_datalist(tmp_path)
    assert found.path == path
    assert [case.label.name for case in found.cases] == ["hip_0.nii.gz", "hip_1.nii.gz", "hip_2.nii.gz"]
    assert [image.name for image in found.cases[1].images] == ["hip_1_0000.nii.gz", "hip_1_0001.nii.gz"]
    assert (found.labels, found.channels, found.ignore_label) == ({0: "background", 1: "tumor"}, {0: "CT", 1: "PET"}, 2)


def test_raw_data_of_nnunet_that_names_its_files(tmp_path):
    listed = {f"case{number}": {"images": [f"imagesTr/hip_{number}_0000.nii.gz"], "label": f"labelsTr/hip_{number}.nii.gz"} for number in (2, 0)}
    nnunet(tmp_path, dataset=listed, numTraining=2)
    assert [case.label.name for case in read_datalist(tmp_path).cases] == ["hip_2.nii.gz", "hip_0.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "whole are regions"),
        ({"numTraining": 4}, "numTraining is 4, but there are 3 labels"),
        ({"file_ending": ".nrrd"}, r"there are 0 labels \*\.nrrd"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "3 of the files it names do not exist"),
        ({"dataset": {"a": {"label": "l"}}, "numTraining": 1}, "must name its files as strings"),
        ({"dataset": {"a": 3}, "numTraining": 1}, "has no 'image' and 'label'"),
        ({"file_ending": None}, "nor channel_names and file_ending"),
    ],
)
def test_raw_data_of_nnunet_that_cannot_be_used(changes, words, tmp_path):
    nnunet(tmp_path, **changes)
    with pytest.raises(DatasetError, match=words):
        read_datalist(tmp_path)


def test_a_byte_order_mark_is_no_reason_to_refuse_a_list(tmp_path):
    content = {"labels": {"0": "background", "1": "tumor"}, "training": [{"image": "a.nii.gz", "label": "l.nii.gz"}]}
    path = write(tmp_path, content, ("a.nii.gz", "l.nii.gz"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_datalist(path).cases) == 1


@pytest.mark.parametrize("fold", [-1, True, "0", 1.0])
def test_folds_that_no_option_could_choose_are_refused(fold, tmp_path):
    path = write(tmp_path, {"training": [{"image": "a.nii.gz", "label": "l.nii.gz", "fold": fold}]}, ("a.nii.gz", "l.nii.gz"))
    with pytest.raises(DatasetError, match="whole number"):
        read_datalist(path)


def test_cases_of_files_named_alike_are_told_apart_by_their_folders(tmp_path):
    kits = [Case((tmp_path / f"case_{number}/imaging.nii.gz",), tmp_path / f"case_{number}/segmentation.nii.gz") for number in range(3)]
    assert name_cases(kits) == [f"case_{number}_imaging" for number in range(3)]
    second_reader = Case(kits[0].images, tmp_path / "case_0/other.nii.gz")
    assert name_cases([kits[0], second_reader]) == ["imaging", "imaging"]
