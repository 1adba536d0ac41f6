"""The configs as text: what can be seen without running them, in particular what MONAI Label replaces or reads by id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from volseg.bundle import Step, lookup, read_steps
from volseg.conformance.registry import Outcome, check, judged, skipped, warned
from volseg.conformance.subject import Subject

DEVICE_ATTRIBUTE = re.compile(r"@device\s*(\.|\[)")
"""MONAI Label replaces ``device`` by text ("cuda:0"), so ``@device.type`` and the like fail there."""

GEOMETRIC = ("Orientationd", "Spacingd", "Resized", "Zoomd", "CropForegroundd", "ResizeWithPadOrCropd", "Rotate90d", "Flipd")
"""Transforms after which a prediction lies on another grid until they are inverted."""

MONAI_LABEL_IDS = ("network", "train#dataset#data", "train#trainer#max_epochs", "validate#dataset#data")
"""Ids of the training config that MONAI Label overrides (monailabel/tasks/train/bundle.py, 0.8.5)."""


@check("json", "configs are JSON")
def check_json(subject: Subject) -> Outcome:
    """MONAI Label reads .json and .yaml, never .yml; volseg's own bundles are JSON."""
    configs = [path for path in (subject.bundle.inference_config, subject.bundle.train_config) if path]
    problems = [f"configs/{path.name}: MONAI Label does not read .yml; name it .yaml or write JSON" for path in configs if path.suffix == ".yml"]
    warnings = [f"configs/{path.name} is YAML; JSON is read everywhere" for path in configs if path.suffix == ".yaml"]
    return judged(problems, ", ".join(f"configs/{path.name}" for path in configs), warnings)


@check("device", "`device` is only passed on")
def check_device(subject: Subject) -> Outcome:
    """No expression looks inside ``@device``."""
    problems = [
        f"configs/{name}: {place} looks inside @device ({text[:80]!r}); MONAI Label replaces device by text, only pass it on"
        for name, config in _configs(subject)
        for place, text in _texts(config)
        if DEVICE_ATTRIBUTE.search(text)
    ]
    return judged(problems, "no attribute of @device is used")


@check("transforms", "the prediction is put back on the scan's grid, then saved")
def check_transforms(subject: Subject) -> Outcome:
    """Invertd undoes orientation and spacing before SaveImaged, which is last; the keys are image and pred."""
    before = read_steps(subject.inference, "preprocessing")
    after = read_steps(subject.inference, "postprocessing")
    if before is None or after is None:
        missing = "preprocessing" if before is None else "postprocessing"
        return warned(f"configs/{subject.bundle.inference_config.name}: `{missing}` is missing or computed by an expression, so its order is not checked here")
    names = [step.target for step in after]
    problems = _inversion_problems(before, names)
    warnings = []
    if "SaveImaged" not in names:
        warnings.append("postprocessing has no SaveImaged: plain MONAI writes no label")
    elif names.index("SaveImaged") != len(names) - 1:
        problems.append(f"postprocessing: SaveImaged must be last, after it come {', '.join(names[names.index('SaveImaged') + 1 :])}")
    if not any("image" in step.keys for step in before):
        problems.append("preprocessing works on no key `image`, the one MONAI Label feeds")
    if not any("pred" in step.keys for step in after):
        problems.append("postprocessing works on no key `pred`, the one MONAI Label reads")
    return judged(problems, f"{' > '.join(step.target for step in before)} | {' > '.join(names)}", warnings)


@check("image-path", "Spacingd and MONAI Label's image_path do not clash")
def check_image_path(subject: Subject) -> Outcome:
    """MONAI 1.6 Spacingd calls ``update`` on every item named ``image_*``, and MONAI Label puts the text ``image_path`` there, which its writer needs again at the end."""
    steps = read_steps(subject.inference, "preprocessing")
    if steps is None:
        return skipped("preprocessing cannot be read without running it")
    names = [step.target for step in steps]
    if "Spacingd" not in names:
        return judged([], "no Spacingd")
    spacing = names.index("Spacingd")
    hidden = any(step.target == "DeleteItemsd" and "image_path" in step.keys for step in steps[:spacing])
    restored = any(step.target == "CopyItemsd" and "image_path" in _names(step) for step in steps[spacing:])
    if hidden and not restored:
        return judged(["preprocessing deletes image_path and does not put it back: MONAI Label's writer then fails; copy it before Spacingd and back after it"], "")
    if not hidden:
        return warned("image_path is still there at Spacingd: MONAI Label with monai 1.6 answers 500; move it aside with CopyItemsd and DeleteItemsd, and back after Spacingd")
    return judged([], "image_path is moved aside before Spacingd and put back after it")


@check("label-training", "MONAI Label can train the bundle")
def check_label_training(subject: Subject) -> Outcome:
    """The ids it overrides are real ids, and train#handlers is a literal list of objects."""
    if subject.train is None:
        return skipped("there is no train config")
    problems = [f"`{name}` is not an id of the train config" for name in MONAI_LABEL_IDS if lookup(subject.train, name) is None]
    handlers = lookup(subject.train, "train#handlers")
    if not isinstance(handlers, list) or not all(isinstance(handler, dict) for handler in handlers):
        problems.append("`train#handlers` must be written out as a list of objects; MONAI Label inserts a checkpoint loader there")
    return judged(problems, f"{', '.join(MONAI_LABEL_IDS)}, train#handlers")


def _inversion_problems(before: tuple[Step, ...], names: list[str]) -> list[str]:
    geometric = [step.target for step in before if step.target in GEOMETRIC]
    if not geometric:
        return []
    if "Invertd" not in names:
        return [f"postprocessing has no Invertd although preprocessing has {', '.join(geometric)}: the label would not lie on the scan's grid"]
    if "SaveImaged" in names and names.index("Invertd") > names.index("SaveImaged"):
        return ["postprocessing: Invertd comes after SaveImaged"]
    return []


def _names(step: Step) -> tuple[str, ...]:
    names = step.arguments.get("names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _configs(subject: Subject) -> Iterator[tuple[str, Any]]:
    yield subject.bundle.inference_config.name, subject.inference
    if subject.train is not None and subject.bundle.train_config is not None:
        yield subject.bundle.train_config.name, subject.train


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with the id where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{place}#{key}" if place else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}#{index}")
