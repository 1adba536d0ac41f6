"""Reading MONAI configs as data."""

from __future__ import annotations

from typing import Any

import pytest

from volseg.bundle import follow, lookup, read_steps

CONFIG: dict[str, Any] = {
    "spacing": [1.5, 1.5, 2.0],
    "alias": "@spacing",
    "circle": "@circle",
    "train": {
        "fixed": [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "monai.transforms.Spacingd", "keys": ["image", "label"], "pixdim": "@alias"}],
        "random": [{"_target_": "RandFlipd", "keys": "image", "_disabled_": True}, {"_target_": "EnsureTyped", "keys": "image"}],
        "whole": {"_target_": "Compose", "transforms": "$@train#fixed + @train#random"},
        "nested": {"_target_": "Compose", "transforms": [{"_target_": "Compose", "transforms": "%train::fixed"}, "@train#random#1"]},
        "code": {"_target_": "Compose", "transforms": "$[x for x in @train#fixed]"},
    },
}


def test_lookup_and_follow() -> None:
    assert lookup(CONFIG, "train#fixed#1#_target_") == lookup(CONFIG, "train::fixed::1::_target_") == "monai.transforms.Spacingd"
    assert lookup(CONFIG, "train#fixed#7") is None
    assert lookup(CONFIG, "spacing#x") is None
    assert follow(CONFIG, "@alias") == follow(CONFIG, "%spacing") == [1.5, 1.5, 2.0]
    assert follow(CONFIG, "$@alias") == "$@alias"
    assert follow(CONFIG, "@circle") is None
    assert follow(CONFIG, "@nowhere") is None


@pytest.mark.parametrize("identifier", ["train#whole", "train#nested"])
def test_steps(identifier: str) -> None:
    steps = read_steps(CONFIG, identifier)
    assert steps is not None
    assert [step.target for step in steps] == ["LoadImaged", "Spacingd", "EnsureTyped"]
    assert steps[1].arguments["pixdim"] == [1.5, 1.5, 2.0]
    assert steps[1].keys == ("image", "label")


@pytest.mark.parametrize("identifier", ["train#code", "train#missing", "circle", "spacing"])
def test_unreadable_pipelines_are_unknown_not_guessed(identifier: str) -> None:
    assert read_steps(CONFIG, identifier) is None
