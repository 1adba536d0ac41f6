from __future__ import annotations

import json
from pathlib import Path

import pytest

from volseg.dataset import Case, read_datalist, split_fold
from volseg.errors import DatasetError


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
