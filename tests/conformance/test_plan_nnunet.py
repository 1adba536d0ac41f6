"""The planner against nnU-Net's own, where that is installed (here, or in the interpreter that VOLSEG_NNUNET_PYTHON names)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.plan_factory import fingerprint
from volseg.planning import make_plan, take_fingerprint
from volseg.planning.rules.budget import GB, Budget

DATASETS: list[dict[str, Any]] = [
    {"shape": [36, 50, 35], "spacing": [1.0, 1.0, 1.0], "cases": 260, "gb": 8},
    {"shape": [512, 512, 90], "spacing": [0.79, 0.79, 5.0], "cases": 41, "gb": 8},
    {"shape": [512, 512, 432], "spacing": [0.77, 0.77, 1.0], "cases": 131, "gb": 8},
    {"shape": [240, 240, 155], "spacing": [1.0, 1.0, 1.0], "cases": 484, "gb": 24},
    {"shape": [320, 310, 20], "spacing": [0.62, 0.62, 3.6], "cases": 32, "gb": 8},
    {"shape": [250, 220, 13], "spacing": [1.5, 1.5, 10.0], "cases": 200, "gb": 12},
    {"shape": [20, 190, 210], "spacing": [4.0, 0.9, 0.9], "cases": 50, "gb": 4},
    {"shape": [90, 60, 150], "spacing": [2.0, 2.0, 2.0], "cases": 20, "gb": 8},
]
"""Hippocampus, spleen, liver and brain of the Medical Segmentation Decathlon, prostate, heart MRI, sagittal slices, a small set: about their medians.

No two axes tie, where nnU-Net's order of axes, which is not ours, would decide.
"""


@pytest.fixture(scope="module", name="theirs")
def theirs_fixture() -> list[dict[str, Any]]:
    """nnU-Net's plans."""
    python = os.environ.get("VOLSEG_NNUNET_PYTHON") or (sys.executable if importlib.util.find_spec("nnunetv2") else "")
    if not python:
        pytest.skip("nnunetv2 is not installed; set VOLSEG_NNUNET_PYTHON to an interpreter that has it")
    script = Path(__file__).with_name("nnunet_planner.py")
    done = subprocess.run([python, str(script), json.dumps(DATASETS)], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", range(len(DATASETS)))
@pytest.mark.parametrize(("preset", "stage"), [("default", "3d_fullres"), ("lowres", "3d_lowres")])
def test_gpu_plans_are_those_of_nnunet(theirs, number, preset, stage):
    asked, plans = DATASETS[number], theirs[number]
    made = make_plan(fingerprint(asked["shape"], asked["spacing"], cases=asked["cases"], piece_ml=1e6), Budget("cuda", asked["gb"] * GB, preset, 1.0))
    if stage == "3d_lowres" and stage not in plans:
        # nnU-Net has no low resolution where the patch sees a quarter, nor where it would be less than two times smaller.
        shrunk = prod(made.spacing) / prod(asked["spacing"])
        assert shrunk < 2.0
        return
    peer = plans[stage]
    assert made.spacing == pytest.approx(peer["spacing"], rel=1e-6)
    assert list(made.patch) == peer["patch"]
    assert [list(stride) for stride in made.topology.strides] == peer["strides"]
    assert [list(kernel) for kernel in made.topology.kernels] == peer["kernels"]
    assert made.batch_size == peer["batch"]


def test_hippocampus_is_planned_as_nnunet_plans_it(real_data):
    # nnunetv2 2.8.1 on the same 208 cases (tests/bench/plan_peers.py prints both plans).
    made = make_plan(take_fingerprint(real_data / "hippocampus"), Budget("cuda", 8 * GB, "default", 1.0))
    assert made.spacing == pytest.approx((1, 1, 1))
    assert made.median_shape == (35, 50, 36)
    assert made.patch == (40, 56, 40)
    assert made.filters == (32, 64, 128, 256)
    assert made.batch_size == 7
    assert [channel.kind for channel in made.channels] == ["zscore"]
    # Left and right are mirror images, anterior and posterior are not.
    assert made.variation.mirror == (0, 2)


def test_pet_ct_of_two_grids_is_planned(real_data):
    made = make_plan(take_fingerprint(real_data / "sts" / "dataset_petct.json", workers=2), Budget("cpu", 8 * GB, "default", 90.0))
    assert [channel.kind for channel in made.channels] == ["ct", "suv"]
    # README of the data: tumours of 17 to 2333 ml, CT of 0.98 x 0.98 x 3.27 mm.
    assert made.target.median == pytest.approx((0.98, 0.98, 3.27), abs=0.01)
    low, _, high = made.fingerprint.classes[1].volume_ml
    assert (low, high) == pytest.approx((17, 2333), rel=0.03)
    assert made.coverage >= 0.25
