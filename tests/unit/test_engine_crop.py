"""Cropping to the foreground and back is MONAI's own, before and after the resampling, with margins inside and outside the scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, CropForegroundd, Invertd, NormalizeIntensityd, Orientationd, ScaleIntensityRanged, Spacingd

from tests.bundle_factory import copy_bundle, edit_config
from volseg.bundle import read_bundle
from volseg.bundle.read import read_config
from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.inference.engine import run
from volseg.inference.plan import InferencePlan, IntensityStep, UnrecognisedError, read_plan
from volseg.inference.streaming import SlidingWindow
from volseg.inference.streaming.restore import Decision
from volseg.io.volume import Source, Volume

RANGE = {"a_min": -100.0, "a_max": 300.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
TIE = 1e-3


def scan(shape=(30, 26, 22), spacing=(1.2, 0.9, 2.5)):
    rng = np.random.default_rng(3)
    array = np.full(shape, -1000, dtype=np.int16)
    inner = tuple(slice(4, n - 3) for n in shape)
    array[inner] = rng.integers(-90, 400, size=tuple(n - 7 for n in shape))
    affine = np.array([[0, -spacing[1], 0, 5], [spacing[0], 0, 0, -7], [0, 0, spacing[2], 11], [0, 0, 0, 1.0]])
    return Volume(array, Grid(shape, affine), Source(Path("scan.nii"), "nifti", "scan"))


class Bands:
    """Classes by intensity and by place in the window."""

    batch = 2

    def __call__(self, windows):
        x = windows[:, 0]
        place = np.arange(x.shape[1], dtype=np.float32)[:, None, None] / 20
        return np.stack([0.8 - x, x + place, 1.2 * np.sin(5 * x), 0.5 * x * x], axis=1).astype(np.float32)


def stock(volume, steps, spacing):
    chain = Compose([Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))), *steps])
    image = MetaTensor(torch.from_numpy(volume.array.astype(np.float32))[None], affine=torch.from_numpy(volume.grid.affine.copy()))
    data = chain({"image": image})
    network = Bands()
    scores = sliding_window_inference(data["image"].as_tensor()[None], (16, 16, 16), 2, lambda x: torch.from_numpy(network(x.numpy())), overlap=0.25)
    data["pred"] = MetaTensor(torch.softmax(scores[0], 0), meta=dict(data["image"].meta))
    return Invertd(keys="pred", transform=chain, orig_keys="image", nearest_interp=False)(data)["pred"].numpy()


@pytest.mark.parametrize("arguments", [{}, {"margin": 3}, {"margin": [9, 0, 2], "allow_smaller": True}, {"k_divisible": 8, "margin": 6}])
@pytest.mark.parametrize("order", ["crop first", "crop last", "no spacing"])
def test_cropped_and_back_as_monai_does_it(arguments, order):
    volume = scan()
    scale, crop = ScaleIntensityRanged(keys="image", **RANGE), CropForegroundd(keys="image", source_key="image", **arguments)
    wanted = None if order == "no spacing" else (1.5, 1.5, 1.5)
    spacing = [Spacingd(keys="image", pixdim=wanted, mode="bilinear")] if wanted else []
    normalise, normal = NormalizeIntensityd(keys="image"), IntensityStep("NormalizeIntensity", {})
    scaled, cropped = IntensityStep("ScaleIntensityRange", RANGE), IntensityStep("CropForeground", arguments)
    if order == "crop first":
        steps, before, after = [scale, crop, *spacing, normalise], (scaled, cropped), (normal,)
    else:
        steps, before, after = [*spacing, scale, crop, normalise], (), (scaled, cropped, normal)
    plan = InferencePlan("RAS", wanted, "bilinear", before, after, SlidingWindow((16, 16, 16)), Decision())
    label = run(plan, volume, Bands(), classes=4)[0]
    shares = np.sort(stock(volume, steps, wanted), axis=0)
    best = stock(volume, steps, wanted).argmax(axis=0)
    assert best.shape == label.shape
    differs = label != best
    assert differs.mean() < 1e-4
    assert (shares[-1] - shares[-2])[differs].max(initial=0) < TIE
    assert len(np.unique(label)) >= 3


def test_nothing_above_zero_is_told():
    volume = scan()
    empty = Volume(np.full_like(volume.array, -1000), volume.grid, volume.source)
    plan = InferencePlan("RAS", None, "bilinear", (), (IntensityStep("CropForeground", {}),), SlidingWindow((16, 16, 16)), Decision())
    with pytest.raises(InputError, match="nothing in the scan is above 0"):
        run(plan, empty, Bands(), classes=4)


def planned(folder, **arguments):
    bundle = copy_bundle(folder)
    step = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", **arguments}
    config = read_config(bundle / "configs" / "inference.json")
    chain = config["preprocessing"]
    chain["transforms"] = [*chain["transforms"], step]
    edit_config(bundle, "inference", preprocessing=chain)
    return read_plan(read_bundle(bundle), read_config(bundle / "configs" / "inference.json"))


def test_the_plan_holds_the_crop_in_its_place(tmp_path):
    plan = planned(tmp_path, margin=4, select_fn="$lambda x: x > 0")
    assert plan.after[-1] == IntensityStep("CropForeground", {"margin": 4})


@pytest.mark.parametrize("arguments", [{"select_fn": "$lambda x: x > 3"}, {"mode": "edge"}, {"channel_indices": 0}, {"margin": -1}, {"source_key": "label"}])
def test_another_crop_is_not_planned(tmp_path, arguments):
    with pytest.raises(UnrecognisedError, match="CropForegroundd"):
        planned(tmp_path, **arguments)
