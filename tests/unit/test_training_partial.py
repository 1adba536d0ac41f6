from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted

from volseg.dataset import Case
from volseg.errors import BundleError, DatasetError
from volseg.training.partial import LabelCodes, encode_cases, label_codes, use_codes
from volseg.training.partial.loss import PartialDiceCELoss
from volseg.training.partial.validation import KnownOnly

LABELS = {0: "background", 1: "liver", 2: "tumor"}


def scores_and_label(classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    return scores, torch.randint(0, classes, (2, 1, 4, 5, 6), generator=generator)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_full_labels_give_monais_loss(batch, background, classes):
    scores, label = scores_and_label(classes)
    arguments = {"include_background": background, "to_onehot_y": True, "softmax": True, "batch": batch, "smooth_nr": 1e-5, "smooth_dr": 1e-5, "lambda_ce": 0.7}
    ours = PartialDiceCELoss([[255, list(range(classes))]], **arguments)(scores, label)
    monai = DiceCELoss(**arguments)(scores, label)
    assert ours.item() == pytest.approx(monai.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(ours, scores, retain_graph=True)
    (expected,) = torch.autograd.grad(monai, scores)
    assert torch.allclose(gradient, expected, atol=1e-9)


@pytest.mark.parametrize("batch", [False, True])
def test_ignored_voxels_get_no_gradient_and_change_nothing(batch):
    scores, label = scores_and_label()
    label[:, :, :2] = 255
    loss = PartialDiceCELoss([[255, [0, 1, 2]]], include_background=False, batch=batch)
    value = loss(scores, label)
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.count_nonzero(gradient[:, :, :2]) == 0
    assert torch.count_nonzero(gradient[:, :, 2:]) > 0
    # The rest is scored as if the ignored voxels had been cut off.
    alone = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch)(scores[:, :, 2:], label[:, :, 2:])
    assert value.item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_label_that_is_ignored_everywhere_gives_nothing():
    scores, label = scores_and_label()
    value = PartialDiceCELoss([[255, [0, 1, 2]]], include_background=False)(scores, torch.full_like(label, 255))
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.count_nonzero(gradient) == 0
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_classes_that_are_not_annotated_are_merged_into_background():
    """Code 3 is background or tumour: the loss is that of the two-class problem in which their probabilities are added up."""
    scores, label = scores_and_label()
    label = (label == 1).long()
    partial = torch.where(label == 0, torch.full_like(label, 3), label)
    ours = PartialDiceCELoss([[3, [0, 2]]], include_background=False)(scores, partial)
    merged = torch.stack([torch.logsumexp(scores[:, [0, 2]], 1), scores[:, 1]], 1)
    assert ours.item() == pytest.approx(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)(merged, label).item(), rel=1e-6)


def test_moving_probability_between_background_and_what_is_not_annotated_is_free():
    scores, label = scores_and_label()
    partial = torch.where(label == 1, 1, 3)
    value = PartialDiceCELoss([[3, [0, 2]]], include_background=False)(scores, partial)
    (gradient,) = torch.autograd.grad(value, scores)
    shares = torch.softmax(scores.detach(), 1)
    # Both get the gradient of their sum, in proportion to their shares of it.
    assert torch.allclose(gradient[:, 0] * shares[:, 2], gradient[:, 2] * shares[:, 0], atol=1e-12)


def test_other_losses_are_refused():
    with pytest.raises(ValueError, match="softmax"):
        PartialDiceCELoss([[3, [0, 2]]], softmax=False)


def case(tmp_path, name, values=(0, 1), annotated=None, value_type=np.uint8):
    label = tmp_path / f"{name}_label.nii.gz"
    array = np.resize(np.array(values, dtype=value_type), (4, 4, 4))
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), label)
    return Case((tmp_path / f"{name}.nii.gz",), label, annotated=annotated)


def test_codes_stand_for_what_a_case_may_be(tmp_path):
    cases = [case(tmp_path, "a"), case(tmp_path, "b", annotated=("liver",)), case(tmp_path, "c", annotated=(2,)), case(tmp_path, "d", annotated=("liver", "tumor"))]
    codes = label_codes(cases, LABELS, 4, tmp_path)
    assert codes == LabelCodes(3, {4: (0, 1, 2), 3: (0, 2), 5: (0, 1)})
    assert codes.ignored == (4,)
    assert not label_codes([cases[0], cases[3]], LABELS, None, tmp_path)


def test_background_of_partial_cases_is_written_as_a_code(tmp_path):
    cases = [case(tmp_path, "a"), case(tmp_path, "b", (0, 1, 255), annotated=("liver",))]
    codes = label_codes(cases, LABELS, 255, tmp_path)
    encoded = encode_cases(cases, LABELS, codes, tmp_path / "out", tmp_path)
    assert encoded[0] is cases[0]
    image, original = nib.load(encoded[1].label), nib.load(cases[1].label)
    expected = np.where(np.asarray(original.dataobj) == 0, 3, np.asarray(original.dataobj))
    assert np.array_equal(np.asarray(image.dataobj), expected)
    assert np.allclose(image.affine, original.affine)
    # A resumed training, or another process of it, leaves the file alone: written again, it would be another case to the preprocessed cache.
    before = encoded[1].label.stat().st_mtime_ns
    assert encode_cases(cases, LABELS, codes, tmp_path / "out", tmp_path) == encoded
    assert encoded[1].label.stat().st_mtime_ns == before
    changed = [cases[0], case(tmp_path, "b", (1, 0, 255), annotated=("liver",))]
    encode_cases(changed, LABELS, codes, tmp_path / "out", tmp_path)
    assert np.asarray(nib.load(encoded[1].label).dataobj).flat[0] == 1


@pytest.mark.parametrize(
    ("annotated", "values", "ignore", "words"),
    [
        (("spleen",), (0, 1), None, "annotated for 'spleen'.*liver, tumor"),
        ((0,), (0, 1), None, "annotated for 0"),
        (("liver",), (0, 2), None, "holds 'tumor'"),
        (None, (0, 1), 2, "ignore_label 2 must lie behind"),
        (None, (0, 1), 256, "at most 255"),
    ],
)
def test_contradictions_are_named(tmp_path, annotated, values, ignore, words):
    cases = [case(tmp_path, "a", values, annotated)]
    with pytest.raises(DatasetError, match=words):
        encode_cases(cases, LABELS, label_codes(cases, LABELS, ignore, tmp_path), tmp_path, tmp_path)


def test_config_without_a_known_loss_is_refused():
    from monai.bundle import ConfigParser

    config = ConfigParser({"loss": {"_target_": "monai.losses.DiceLoss"}})
    use_codes(config, LabelCodes(3, {}), "train.json")
    with pytest.raises(BundleError, match=r"train\.json.*DiceCELoss"):
        use_codes(config, LabelCodes(3, {255: (0, 1, 2)}), "train.json")


def test_validation_counts_what_is_known_only():
    """A case annotated for the liver, with an ignored row: the tumour's Dice is undefined, the liver's is that of the rest."""
    prediction = torch.zeros(3, 4, 4, 4)
    prediction[1, :2] = 1
    prediction[2, 2] = 1
    prediction[0] = 1 - prediction.sum(0)
    label = torch.full((1, 4, 4, 4), 3)
    label[0, 1:3] = 1
    label[0, :, 0] = 255
    plain = AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=3)
    done = KnownOnly(plain, [[3, [0, 2]], [255, [0, 1, 2]]], 3)({"pred": prediction, "label": label})
    found, truth = done["pred"][1], done["label"][1]
    assert (int(found.sum()), int(truth.sum()), int((found * truth).sum())) == (2 * 12, 2 * 12, 12)
    assert int(done["pred"][2].sum()) == int(done["label"][2].sum()) == 0


@pytest.mark.parametrize(
    ("crop", "sets", "ratios"),
    [
        ({"_target_": "RandCropByPosNegLabeld", "pos": 2, "neg": 1}, {255: (0, 1, 2)}, [1, 1.0, 1.0]),
        ({"_target_": "RandCropByPosNegLabeld", "pos": 2, "neg": 1}, {3: (0, 1, 2), 4: (0, 2)}, [1, 1.0, 1.0, 0, 1]),
        ({"_target_": "monai.transforms.RandCropByLabelClassesd", "ratios": [0.4, 0.3, 0.3], "num_classes": 3}, {3: (0, 2)}, [0.4, 0.3, 0.3, 0.4]),
    ],
)
def test_patches_are_centred_on_what_is_known(crop, sets, ratios):
    """Ignored voxels are drawn by no crop, voxels that may be background as background."""
    from monai.bundle import ConfigParser

    common = {"keys": ["image", "label"], "label_key": "label", "spatial_size": [2, 2, 2]}
    config = ConfigParser({"loss": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True}, "crop": crop | common})
    use_codes(config, LabelCodes(3, sets), "train.json")
    assert config.get("crop")["ratios"] == ratios
    cropper = config.get_parsed_content("crop")
    cropper.set_random_state(0)
    label = torch.full((1, 9, 4, 4), next(iter(sets)))
    label[:, :2] = 1
    drawn = [cropper({"image": label.float(), "label": label})[0]["label"] for _ in range(40)]
    if 255 in sets or 4 in sets:
        # Nothing but the first rows is known, so every patch touches them.
        assert all(bool((patch == 1).any()) for patch in drawn)
    else:
        assert 0 < sum(bool((patch == 1).any()) for patch in drawn) < 40
