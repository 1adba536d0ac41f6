"""The bundle at work on a phantom, through MONAI alone: training, evaluation, inference, and whether the label comes back to the scan's place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from volseg.bundle import lookup
from volseg.conformance.registry import Outcome, check, failed, judged, passed, skipped
from volseg.conformance.subject import Subject
from volseg.conformance.workflows import infer_data, train_data
from volseg.geometry import Grid

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

TRAIN_STEPS = 2

GEOMETRY_DICE = 0.8
"""A label of the phantom's lesion that is rightly placed scores over 0.9 at 4 mm spacing; a flip, a lost rotation or a shift of a few voxels scores below 0.7."""

SHARPNESS = 20.0
"""Difference of the stand-in's logits over the whole intensity range of the phantom: soft enough that interpolation places the edge."""

NO_CHANCE = -100.0
"""Logit of labels the stand-in never chooses."""


@check("infer-run", "segments a phantom and saves a label on its grid", slow=True, after=("infer-ids",))
def check_infer_run(subject: Subject) -> Outcome:
    """The whole inference workflow with the bundle's weights (random ones where it has none)."""
    label, grid, problems = _segment(subject)
    if label is None:
        return failed("; ".join(problems))
    beyond = sorted({int(value) for value in np.unique(label)} - set(subject.bundle.labels))
    if beyond and len(subject.bundle.labels) > 1:
        problems.append(f"the label map holds values {beyond} that channel_def does not name")
    return judged(problems, f"{grid}")


@check("geometry", "label lies where the lesion is, on a rotated, flipped, anisotropic scan", slow=True, after=("infer-run",))
def check_geometry(subject: Subject) -> Outcome:
    """With a stand-in network that thresholds the image, the label must cover the phantom's lesion whatever the weights are."""
    if lookup(subject.inference, "network_def") is None:
        return skipped("the config has no network_def to stand in for")
    label, _, problems = _segment(subject, stand_in=True)
    if label is None or problems:
        return failed("; ".join(problems))
    found, lesion = label > 0, subject.phantom.lesion
    dice = 2.0 * float((found & lesion).sum()) / float(found.sum() + lesion.sum())
    detail = f"Dice {dice:.3f} between the lesion and the label of a thresholding stand-in"
    return passed(detail) if dice >= GEOMETRY_DICE else failed(f"{detail}, expected at least {GEOMETRY_DICE}: the label is misplaced; check Orientationd, Spacingd and Invertd")


@check("train-run", "trains two steps on a phantom", slow=True, after=("train-ids",))
def check_train_run(subject: Subject) -> Outcome:
    """The stock MONAI trainer runs, the parameters change and stay finite."""
    import torch

    overrides: dict[str, Any] = {**train_data(subject), "train#trainer#max_epochs": TRAIN_STEPS, "val_interval": TRAIN_STEPS, "iterations_per_epoch": 1}
    with subject.running():
        workflow = subject.workflow("train", "train", **overrides)
        workflow.initialize()
        network = workflow.parser.get_parsed_content("network")
        before = [parameter.detach().clone() for parameter in network.parameters()]
        workflow.run()
        workflow.finalize()
        trainer = workflow.parser.get_parsed_content("train#trainer")
    after = list(network.parameters())
    changed = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    problems = [] if trainer.state.iteration >= TRAIN_STEPS else [f"the trainer made {trainer.state.iteration} steps instead of {TRAIN_STEPS}"]
    if not changed:
        problems.append("no parameter changed: the optimizer does not reach the network")
    if not all(bool(torch.isfinite(parameter).all()) for parameter in after):
        problems.append("parameters are not finite after training")
    return judged(problems, f"{trainer.state.iteration} steps, {changed} of {len(after)} tensors changed, all finite")


@check("evaluate-run", "evaluates a phantom (train overlaid by evaluate)", slow=True, after=("evaluate-ids",))
def check_evaluate_run(subject: Subject) -> Outcome:
    """As ``python -m monai.bundle run --config_file "['configs/train.json','configs/evaluate.json']"``."""
    with subject.running():
        workflow = subject.workflow("train", "train", "evaluate", **train_data(subject))
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        metrics = dict(workflow.parser.get_parsed_content("validate#evaluator").state.metrics)
    return judged([] if metrics else ["the evaluator reports no metric"], f"metrics {', '.join(metrics)}")


def _segment(subject: Subject, stand_in: bool = False) -> tuple[Any, Grid | None, list[str]]:
    """Run the inference workflow on the phantom; give the label (i, j, k), its grid, and what is wrong with it."""
    import nibabel

    for stale in _labels(subject):
        stale.unlink()
    with subject.running():
        workflow = subject.workflow("infer", "inference", **infer_data(subject))
        workflow.initialize()
        if stand_in:
            _threshold_instead(workflow.parser, subject)
        workflow.run()
        workflow.finalize()
    labels = _labels(subject)
    if len(labels) != 1:
        return None, None, [f"the workflow wrote {len(labels)} NIfTI labels for one scan"]
    image: Any = nibabel.load(labels[0])
    array = np.asanyarray(image.dataobj)
    if array.ndim != 3:
        return None, None, [f"{labels[0].name} has shape {array.shape} instead of three axes"]
    grid = Grid(array.shape, image.affine)
    expected = subject.phantom.grid
    problems = [] if grid.isclose(expected) else [f"the label lies on {grid}, the scan on {expected} (off by {grid.distance(expected):.3g} mm)"]
    if not np.array_equal(array, np.round(array)):
        problems.append("the label map holds fractions")
    return array, grid, problems


def _labels(subject: Subject) -> list[Path]:
    """NIfTI files in the work folder that are not the phantom's."""
    return [path for path in subject.work.rglob("*.nii*") if subject.phantom.folder not in path.parents]


def _threshold_instead(parser: Any, subject: Subject) -> None:
    """Let the bundle's own network object answer with a threshold of its first channel, so that weights still load and nothing else changes."""
    network: Module = parser.get_parsed_content("network_def")
    image = parser.get_parsed_content("preprocessing")({"image": subject.phantom.item["image"]})["image"][:1]
    low, high = float(image.min()), float(image.max())
    if high <= low:
        msg = f"preprocessing maps the phantom's intensities to the single value {low}"
        raise ValueError(msg)
    channels = int(lookup(subject.bundle.metadata, "network_data_format#outputs#pred#num_channels"))

    def forward(image: Tensor) -> Tensor:
        import torch

        score = (image[:, :1] - (low + high) / 2) * (SHARPNESS / (high - low))
        rest = [torch.full_like(score, NO_CHANCE)] * (channels - 2)
        return score if channels == 1 else torch.cat([-score, score, *rest], dim=1)

    network.forward = forward
