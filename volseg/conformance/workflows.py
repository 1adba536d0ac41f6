"""Ids and references, judged by MONAI itself: ``ConfigWorkflow.check_properties`` instantiates what every workflow must offer."""

from __future__ import annotations

from typing import Any

from volseg.bundle import find_config
from volseg.conformance.registry import Outcome, check, judged, skipped
from volseg.conformance.subject import Subject


@check("infer-ids", "inference config has MONAI's required ids and references")
def check_infer_ids(subject: Subject) -> Outcome:
    """As the Model Zoo's per-bundle tests do."""
    return _properties(subject, "infer", ("inference",), infer_data(subject))


@check("train-ids", "train config has MONAI's required ids and references")
def check_train_ids(subject: Subject) -> Outcome:
    """As the Model Zoo's per-bundle tests do."""
    if subject.train is None:
        return skipped("there is no train config")
    return _properties(subject, "train", ("train",), train_data(subject))


@check("evaluate-ids", "train config overlaid by evaluate has them too", after=("train-ids",))
def check_evaluate_ids(subject: Subject) -> Outcome:
    """The overlay must keep the training workflow whole."""
    if find_config(subject.path, "evaluate") is None:
        return skipped("there is no evaluate config")
    return _properties(subject, "train", ("train", "evaluate"), train_data(subject))


def infer_data(subject: Subject) -> dict[str, Any]:
    """Overrides that make the phantom the scan to segment."""
    return {"dataset#data": [{"image": subject.phantom.item["image"]}]}


def train_data(subject: Subject) -> dict[str, Any]:
    """Overrides that make the phantom the data: two to train on, one to validate on."""
    item = subject.phantom.item
    return {"train#dataset#data": [item, dict(item)], "validate#dataset#data": [dict(item)]}


def _properties(subject: Subject, kind: str, stems: tuple[str, ...], data: dict[str, Any]) -> Outcome:
    with subject.running():
        workflow = subject.workflow(kind, *stems, **data)
        workflow.initialize()
        wrong = workflow.check_properties() or []
    return judged([f"{'+'.join(stems)}: missing or not referenced as MONAI expects: {', '.join(wrong)}"] if wrong else [], f"{'+'.join(stems)}: all {kind} properties")
