"""Intensity transforms of an image's channels: recognised, and computed as stock MONAI computes them; what is not recognised says why."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import ClipIntensityPercentiles, Compose

from tests.bundle_factory import CHANNELS, SUV_WINDOW, WINDOW_HU, each_channel, edit_config, scaled, two_channel_bundle
from volseg.bundle import Bundle, read_bundle, read_config
from volseg.errors import BundleError
from volseg.geometry import Grid
from volseg.inference.engine import prepare
from volseg.inference.intensity import apply_intensity
from volseg.inference.pipeline import build_pipeline
from volseg.inference.plan import InferencePlan, IntensityStep, UnrecognisedError, read_plan
from volseg.inference.streaming import SlidingWindow, stream
from volseg.inference.streaming.restore import Decision
from volseg.inference.streaming.sliding import Tally
from volseg.inference.workload import count_repeated
from volseg.io.volume import Source, Volume

GRID = Grid((14, 12, 10), np.diag([2.0, 2.0, 2.0, 1.0]))


def image() -> Volume:
    """A CT and a PET of quite different values on one grid."""
    rng = np.random.default_rng(0)
    ct = Volume(rng.normal(0, 300, GRID.shape).astype(np.int16), GRID, Source(Path("ct.nii"), "nifti", "ct"))
    activity = rng.gamma(2, 2, GRID.shape).astype(np.float32)
    activity[:5] = 0
    pet = Volume(activity, GRID, Source(Path("pet.nii"), "nifti", "pet"))
    return replace(ct, further=(pet,))


def config_with(folder: Path, intensity: list[dict]) -> tuple[Bundle, dict]:
    bundle = two_channel_bundle(folder, intensity=intensity)
    return read_bundle(bundle), read_config(bundle / "configs" / "inference.json")


NORMALISE = {"_target_": "NormalizeIntensityd"}
PERCENTILES = {"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 98, "b_min": -1.0, "b_max": 1.0}
CLIP = {"_target_": "ClipIntensityPercentilesd", "lower": 1.0, "upper": 99.0}

CHAINS = {
    "a window each": each_channel((0, scaled(*WINDOW_HU)), (1, scaled(*SUV_WINDOW))),
    "a window, and a z-score after a clip": each_channel((0, scaled(*WINDOW_HU)), (1, CLIP), (1, NORMALISE)),
    "one side clipped, other channel untouched": each_channel((1, {**CLIP, "lower": None})),
    "both in one transform": [
        {"_target_": "SplitDimd", "keys": ["image"]},
        {**NORMALISE, "keys": ["image_0", "image_1"]},
        {"_target_": "EnsureTyped", "keys": ["image_0", "image_1"]},
        {"_target_": "ConcatItemsd", "keys": ["image_0", "image_1"], "name": "image", "dim": 0},
        {"_target_": "DeleteItemsd", "keys": ["image_0", "image_1"]},
    ],
    "numbers for each channel": [{**NORMALISE, "keys": "image", "channel_wise": True, "subtrahend": [40.0, 3.0], "divisor": [100.0, 2.0]}],
    "z-scores of each channel": [{**NORMALISE, "keys": "image", "channel_wise": True}],
    "a z-score of what is not 0": each_channel((1, {**NORMALISE, "nonzero": True})),
    "one z-score": [{**NORMALISE, "keys": "image"}],
    "percentiles of each channel": [{**PERCENTILES, "keys": "image", "channel_wise": True}],
    "percentiles of all": [{**PERCENTILES, "keys": "image"}],
    "clipped by each channel": [{**CLIP, "keys": "image", "channel_wise": True}],
    "clipped by all": [{**CLIP, "keys": "image"}],
    "to its own range each": [{"_target_": "ScaleIntensityd", "keys": "image", "channel_wise": True}],
}


@pytest.mark.parametrize("spacing", [None, [2.5, 2.5, 2.5]])
@pytest.mark.parametrize("name", CHAINS)
def test_each_chain_is_monais(name, spacing, tmp_path):
    bundle, config = config_with(tmp_path, CHAINS[name])
    config["spacing"] = spacing or config["spacing"]
    steps = config["preprocessing"]["transforms"]
    config["preprocessing"]["transforms"] = [step for step in steps if spacing is not None or step["_target_"] != "Spacingd"]
    volume = image()
    found = prepare(read_plan(bundle, config), volume)
    parser = ConfigParser(config)
    chain = parser.get_parsed_content("preprocessing")
    own = [t for t in chain.transforms if type(t).__name__ not in ("LoadImaged", "EnsureChannelFirstd")]
    stacked = torch.from_numpy(np.stack([channel.array.astype(np.float32) for channel in volume.channels]))
    expected = Compose(own)({"image": MetaTensor(stacked, affine=torch.from_numpy(GRID.affine.copy()))})
    assert set(expected) == {"image"}
    np.testing.assert_allclose(found.image, expected["image"].numpy(), atol=2e-5 * float(expected["image"].abs().max()))
    assert found.image.std() > 0.05


@pytest.mark.parametrize("arguments", [{"lower": 1, "upper": 99.5}, {"lower": None, "upper": 90}, {"lower": 10, "upper": None, "channel_wise": True}])
@pytest.mark.parametrize("shape", [(2, 9, 8, 7), (1, 101, 100, 100)])
def test_clipping_by_percentiles_is_monais(shape, arguments):
    """Below a million voxels MONAI takes torch's quantile, above numpy's percentile."""
    array = (np.random.default_rng(0).gamma(2, 300, size=shape) * np.arange(1, shape[0] + 1)[:, None, None, None]).astype(np.float32)
    expected = ClipIntensityPercentiles(**arguments)(torch.from_numpy(array.copy())).numpy()
    np.testing.assert_allclose(apply_intensity(array.copy(), "ClipIntensityPercentiles", arguments), expected, rtol=1e-5)


def test_steps_of_single_channels_stand_in_the_plan(tmp_path):
    plan = read_plan(*config_with(tmp_path, each_channel((1, scaled(*SUV_WINDOW)), (0, NORMALISE))))
    window = {"a_min": 0.0, "a_max": 10.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
    assert plan.before == ()
    assert plan.after == (IntensityStep("ScaleIntensityRange", window, 1), IntensityStep("NormalizeIntensity", {}, 0))


def test_one_channel_at_a_time_lies_on_the_scans_grid():
    fine, coarse = Grid((96, 80, 64), np.eye(4)), Grid((20, 17, 14), np.diag([5.0, 5.0, 5.0, 1.0]))
    pet = Volume(np.ones(coarse.shape, np.float32), coarse, Source(Path("pet.nii"), "nifti", "pet"))
    volume = Volume(np.zeros(fine.shape, np.int16), fine, Source(Path("ct.nii"), "nifti", "ct"), further=(pet, pet, pet))
    plan = InferencePlan("LPS", (8.0, 8.0, 8.0), "bilinear", (), (), SlidingWindow((8, 8, 8)), Decision())
    tracemalloc.start()
    try:
        prepared = prepare(plan, volume)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert prepared.image.shape == (4, 13, 11, 9)
    assert (prepared.image[1:] == 1).mean() > 0.8
    one = 4 * np.prod(fine.shape)
    assert one < peak < 1.5 * one


@pytest.mark.parametrize(("second", "repeated"), [([0, 0, 0], 2), ([0, 1, 1], 1), ([0, 1, 0], 0), ([0, 2, 0], 1)])
def test_a_window_is_a_repeat_where_every_channel_is_the_same_constant(second, repeated):
    """Three windows in a row; a second channel of 2 stands for one that varies, so that the windows around it are repeats of each other."""
    image = np.zeros((2, 24, 8, 8), np.float32)
    for number, value in enumerate(second):
        image[1, 8 * number : 8 * number + 8] = value
        if value == 2:
            image[1, 8 * number] = 0
    window, tally = SlidingWindow((8, 8, 8), (0.0, 0.0, 0.0)), Tally()
    seen = []

    class Sum:
        batch = 1

        def __call__(self, windows):
            seen.append(windows.shape)
            return windows.sum(axis=1, keepdims=True)

    scores = np.concatenate([slab.scores.copy() for slab in stream(image, Sum(), window, 0, tally=tally)], axis=1)
    assert (tally.windows, tally.repeated) == (3, repeated)
    assert count_repeated(image, window) == repeated
    assert seen == [(1, 2, 8, 8, 8)] * (3 - repeated)
    np.testing.assert_array_equal(scores[0], image.sum(axis=0))


SPLIT, *_, JOIN, DELETE = each_channel()
KEYS = [f"image_{name}" for name in CHANNELS]

UNKNOWN = {
    "never put together": ([SPLIT], "SplitDimd without"),
    "other order": ([SPLIT, {**JOIN, "keys": KEYS[::-1]}], "ConcatItemsd of image_PET, image_CT"),
    "one lost": ([SPLIT, {**JOIN, "keys": KEYS[:1]}], "ConcatItemsd of image_CT"),
    "another name": ([SPLIT, {**JOIN, "name": "images"}], "into 'images'"),
    "another axis": ([{**SPLIT, "dim": 1}], "SplitDimd of image"),
    "without the channel's axis": ([{**SPLIT, "keepdim": False}], "SplitDimd of image"),
    "into three": ([{**SPLIT, "output_postfixes": ["a", "b", "c"]}], "for 2 channels"),
    "deleted too soon": ([SPLIT, DELETE, JOIN], "DeleteItemsd of the image itself"),
    "by regular expression": ([{"_target_": "DeleteItemsd", "keys": "ima.*", "use_re": True}], "by regular expression"),
    "the whole image meanwhile": ([SPLIT, {**NORMALISE, "keys": "image"}, JOIN], "on image between SplitDimd"),
    "a moved channel": ([SPLIT, {"_target_": "Flipd", "keys": KEYS[:1]}, JOIN], "Flipd on image_CT"),
    "soft clip": ([{**CLIP, "keys": "image", "sharpness_factor": 10.0}], "sharpness_factor"),
    "three numbers": ([{**NORMALISE, "keys": "image", "channel_wise": True, "subtrahend": [1.0, 2.0, 3.0]}], "subtrahend"),
    "a number each of the whole": ([{**NORMALISE, "keys": "image", "divisor": [1.0, 2.0]}], "divisor"),
    "an expression": ([{**NORMALISE, "keys": "image", "channel_wise": True, "divisor": ["$1.0 + 1", 2.0]}], "expression"),
    "two images": ([{"_target_": "ConcatItemsd", "keys": ["ct", "pet"], "name": "image"}], "ConcatItemsd on ct, pet"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_left_to_monai(name, tmp_path):
    intensity, words = UNKNOWN[name]
    with pytest.raises(UnrecognisedError, match=words):
        read_plan(*config_with(tmp_path, intensity))


def test_spacing_after_a_split_is_left_to_monai(tmp_path):
    bundle, config = config_with(tmp_path, [])
    steps = config["preprocessing"]["transforms"]
    number = next(n for n, step in enumerate(steps) if step["_target_"] == "Spacingd")
    config["preprocessing"]["transforms"] = [*steps[:number], *CHAINS["a window each"], *steps[number:]]
    with pytest.raises(UnrecognisedError, match="Spacingd after SplitDimd"):
        read_plan(bundle, config)


INVERSION = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False}
REGIONS = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}, INVERSION]
THRESHOLD = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}


def with_postprocessing(folder: Path, steps: list[dict], channels: int) -> tuple[Bundle, dict]:
    bundle = two_channel_bundle(folder)
    names = {str(number): f"region {number}" for number in range(channels)}
    edit_config(bundle, "inference", postprocessing=[*REGIONS, *steps])
    edit_config(bundle, "metadata", network_data_format__outputs__pred__num_channels=channels, network_data_format__outputs__pred__channel_def=names)
    return read_bundle(bundle), json.loads((bundle / "configs" / "inference.json").read_text())


def test_overlapping_regions_are_refused_before_anything_runs(tmp_path):
    """By the engine and on the way through stock MONAI."""
    bundle, config = with_postprocessing(tmp_path, [THRESHOLD], 3)
    words = r"threshold on each of 3 channels \(region 0, region 1, region 2\).*exclusive classes"
    with pytest.raises(BundleError, match=words):
        read_plan(bundle, config)
    with pytest.raises(BundleError, match=words):
        build_pipeline(bundle, torch.device("cpu"))


def test_one_region_is_a_label_and_merged_regions_may_be(tmp_path):
    assert read_plan(*with_postprocessing(tmp_path / "one", [THRESHOLD], 1)).decision.threshold == 0.5
    with pytest.raises(UnrecognisedError, match="Lambdad"):
        read_plan(*with_postprocessing(tmp_path / "merged", [THRESHOLD, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.sum(0, keepdim=True)"}], 3))
