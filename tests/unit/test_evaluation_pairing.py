"""Which files belong together, and where label names come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volseg.errors import DatasetError, InputError
from volseg.evaluation import Pair, Reference, find_images, find_label_maps, find_references, pair_files, parse_label_names, read_label_names


def paired(predictions: list[str], references: list[str]) -> dict[str, str]:
    result = pair_files([Path(p) for p in predictions], [Reference(Path(r)) for r in references])
    return {pair.prediction.name: pair.reference.name for pair in result.pairs}


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("X_seg.nii.gz", "X.nii.gz"),
        ("X_seg.nii.gz", "X_label.nii.gz"),
        ("X_seg.nii.gz", "X_seg.nii.gz"),
        ("X.nii.gz", "X_mask.nrrd"),
        ("X_pred.nii", "X_labels.mha"),
        ("X_0000_seg.nii.gz", "X.nii.gz"),
        ("X_0000.nii.gz", "X_label.nii.gz"),
        ("X_CT_seg.nii.gz", "X.nii.gz"),
        ("X_CT_seg.nii.gz", "X_label.nii.gz"),
        ("STS_001_CT_seg.nii.gz", "STS_001.nii.gz"),
        ("scan.v2_seg.NII.GZ", "scan.v2.nii.gz"),
    ],
)
def test_names_that_belong_together(prediction: str, reference: str) -> None:
    # A neighbour whose name only begins alike must not be taken.
    assert paired([prediction], [reference, "X2.nii.gz", "STS_0011.nii.gz"]) == {prediction: reference}


def test_an_exact_name_beats_a_stripped_one() -> None:
    assert paired(["a_seg.nii.gz", "a_mask.nii.gz"], ["a_mask.nii.gz", "a_seg.nii.gz"]) == {"a_seg.nii.gz": "a_seg.nii.gz", "a_mask.nii.gz": "a_mask.nii.gz"}
    assert paired(["case_0000_seg.nii.gz"], ["case.nii.gz", "case_0000.nii.gz"]) == {"case_0000_seg.nii.gz": "case_0000.nii.gz"}


def test_cases_numbered_like_channels_keep_their_numbers() -> None:
    names = [f"case_{n:04d}" for n in range(3)]
    assert paired([f"{n}_seg.nii.gz" for n in names], [f"{n}.nii.gz" for n in names]) == {f"{n}_seg.nii.gz": f"{n}.nii.gz" for n in names}


@pytest.mark.parametrize(
    ("predictions", "references", "says"),
    [
        (["a_b_c_seg.nii.gz"], ["a.nii.gz", "a_b.nii.gz"], "fits 2 references by name, a.nii.gz, a_b.nii.gz"),
        (["a_seg.nii.gz"], ["a_label.nii.gz", "a_mask.nii.gz"], "fits 2 references"),
        (["a_CT_seg.nii.gz", "a_PET_seg.nii.gz"], ["a.nii.gz"], "two predictions fit this reference, a_CT_seg.nii.gz and a_PET_seg.nii.gz"),
        (["b_seg.nii.gz"], ["a.nii.gz"], "no prediction fits a reference by name: predictions b_seg.nii.gz; references a.nii.gz"),
        (["ab_seg.nii.gz"], ["a.nii.gz"], "no prediction fits"),
    ],
)
def test_doubt_is_an_error(predictions: list[str], references: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        paired(predictions, references)


def test_case_names_order_and_leftovers() -> None:
    predictions = [Path(f"p/{n}_seg.nii.gz") for n in ("c", "a", "stray")]
    references = [Reference(Path(f"r/{n}_label.nii.gz")) for n in ("a", "b", "c")]
    result = pair_files(predictions, references)
    assert [pair.case for pair in result.pairs] == ["a", "c"]
    assert [path.name for path in result.unmatched_predictions] == ["stray_seg.nii.gz"]
    assert [path.name for path in result.unmatched_references] == ["b_label.nii.gz"]


def test_long_lists_are_cut_in_messages() -> None:
    with pytest.raises(InputError, match=r"p4\.nii\.gz and 3 more; references"):
        paired([f"p{n}.nii.gz" for n in range(8)], ["r.nii.gz"])


def test_folder_listing_skips_what_is_no_label_map(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", ".hidden.nii.gz", "a.json", "a.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii.gz").mkdir()
    assert [path.name for path in find_label_maps(tmp_path)] == ["a.nrrd", "b.nii.gz"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no label maps"):
        find_label_maps(tmp_path / "empty")


def test_a_decathlon_dataset_pairs_by_image_and_gives_names(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "one.nii.gz").touch()
    (tmp_path / "labelsTr" / "two.nii.gz").touch()
    (tmp_path / "labelsTr" / "not_listed.nii.gz").touch()
    training = [{"image": "./imagesTr/patient_a.nii.gz", "label": "./labelsTr/one.nii.gz"}, {"image": ["i/x_CT.nii.gz", "i/x_PET.nii.gz"], "label": "./labelsTr/two.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "tumor"}, "training": training}))
    found = find_references(tmp_path)
    assert dict(found.label_names) == {1: "tumor"}
    assert [reference.path.name for reference in found.items] == ["one.nii.gz", "two.nii.gz"]
    result = pair_files([Path("patient_a_seg.nii.gz"), Path("x_CT_seg.nii.gz")], found.items)
    assert {pair.prediction.name: pair.reference.name for pair in result.pairs} == {"patient_a_seg.nii.gz": "one.nii.gz", "x_CT_seg.nii.gz": "two.nii.gz"}


def test_an_nnunet_dataset_lists_its_folder(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "one.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "whole": [1, 2]}, "numTraining": 1}))
    found = find_references(tmp_path)
    assert dict(found.label_names) == {1: "liver"}
    assert [reference.path.name for reference in found.items] == ["one.nii.gz"]


def test_a_dataset_with_missing_or_nameless_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "t"}, "training": [{"image": "a.nii.gz", "label": "gone.nii.gz"}]}))
    with pytest.raises(DatasetError, match=r"gone\.nii\.gz is not there"):
        find_references(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "t"}, "training": ["a.nii.gz"]}))
    with pytest.raises(DatasetError, match="names no label"):
        find_references(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": \n oops}')
    with pytest.raises(InputError, match="line 2 column 2"):
        find_references(tmp_path)


def test_label_names_from_text_and_from_files(tmp_path: Path) -> None:
    assert parse_label_names("2=lymph node, 1=tumor") == {1: "tumor", 2: "lymph node"}
    bundle = tmp_path / "my_bundle"
    (bundle / "configs").mkdir(parents=True)
    outputs = {"pred": {"channel_def": {"0": "background", "1": "spleen"}}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"outputs": outputs}}))
    assert parse_label_names(str(bundle)) == {1: "spleen"}
    assert read_label_names(bundle / "configs" / "metadata.json") == {1: "spleen"}
    with pytest.raises(InputError, match="names no labels"):
        other = tmp_path / "other.json"
        other.write_text("[1, 2]")
        read_label_names(other)


@pytest.mark.parametrize("text", ["tumor", "1=", "x=tumor", "1=a,1=b", "-1=a", "1=a,,2=b"])
def test_malformed_label_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--labels"):
        parse_label_names(text)


def test_scans_of_a_dataset_are_known_by_their_references_and_of_a_folder_by_name(tmp_path: Path) -> None:
    files = ("labelsTr/one.nii.gz", "labelsTr/two.nii.gz", "i/x_CT.nii.gz", "i/x_PET.nii.gz")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    training = [{"image": ["i/x_CT.nii.gz", "i/x_PET.nii.gz"], "label": "labelsTr/one.nii.gz"}, {"image": "i/gone.nii.gz", "label": "labelsTr/two.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "tumor"}, "training": training}))
    pairs = [Pair(name, Path("p.nii.gz"), tmp_path / "labelsTr" / f"{name}.nii.gz") for name in ("one", "two")]
    assert find_images(tmp_path, pairs) == {"one": tmp_path / "i" / "x_CT.nii.gz"}
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("one_PET.nii.gz", "one_CT.nii.gz", "two_0000.nii.gz", "two_1.nii.gz", "twofold.nii.gz", ".two.nii.gz", "notes.txt"):
        (folder / name).touch()
    assert find_images(folder, pairs) == {"one": folder / "one_CT.nii.gz", "two": folder / "two_0000.nii.gz"}
    (folder / "two").mkdir()
    assert find_images(folder, pairs)["two"] == folder / "two", "a DICOM folder"
