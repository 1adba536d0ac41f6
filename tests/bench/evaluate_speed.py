"""Time of surface distances on a whole CT: volseg, DeepMind's surface-distance, MONAI and SimpleITK on the same labels in one run.

    python tests/bench/evaluate_speed.py [--shape 512 512 300] [--rounds 3] [--peers surface-distance monai simpleitk]

Labels are five ellipsoids of the size of organs (liver, spleen, two kidneys, a tumour) with bumps on them; the prediction is the reference moved by two voxels, with other bumps
and a stray piece. volseg measures everything of ``score_pair`` (overlap, HD, HD95, ASSD, NSD, lesions); each peer measures HD95 and what it has of the rest, label by label as its
manual shows: on the whole volume, or cut to the box around the label with ``--crop``. Prints seconds and the HD95 of each label.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SPACING = (0.8, 0.8, 1.5)

ORGANS = {1: ("liver", (0.35, 0.45, 0.5), (85, 65, 75)), 2: ("spleen", (0.75, 0.5, 0.55), (38, 28, 45)), 3: ("right kidney", (0.35, 0.65, 0.3), (30, 30, 55))}
ORGANS |= {4: ("left kidney", (0.65, 0.65, 0.3), (30, 30, 55)), 5: ("tumour", (0.33, 0.42, 0.55), (18, 16, 20))}
"""Names, centres (shares of the volume) and half axes (mm); 1.7 l of liver, 0.2 l of spleen and of each kidney, 24 ml of tumour."""


def make_labels(shape: tuple[int, ...], seed: int, moved: float) -> np.ndarray:
    """Ellipsoids with waves on their surface, in the memory order of NIfTI."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8, order="F")
    for value, (_, centre, axes) in ORGANS.items():
        middle = np.multiply(centre, shape) + moved
        reach = np.multiply(axes, 1.15) / SPACING
        box = tuple(slice(max(0, int(c - r)), min(n, int(c + r) + 1)) for c, r, n in zip(middle, reach, shape, strict=True))
        x, y, z = ((np.arange(part.start, part.stop) - c) * s / a for part, c, s, a in zip(box, middle, SPACING, axes, strict=True))
        x, y, z = np.ix_(x, y, z)
        waves = sum(0.03 * np.sin(random.uniform(3, 9) * axis + random.uniform(0, 6)) for axis in (x, y, z))
        label[box][np.sqrt(x**2 + y**2 + z**2) < 1 + waves] = value
    return label


def run_volseg(prediction: np.ndarray, reference: np.ndarray, crop: bool) -> dict[int, float]:
    from volseg.evaluation import score_pair

    del crop
    scores = score_pair(prediction, reference, SPACING, {value: name for value, (name, _, _) in ORGANS.items()})
    return {score.label: score.metrics()["hd95_mm"] or 0.0 for score in scores}


def masks_of(prediction: np.ndarray, reference: np.ndarray, value: int, crop: bool) -> list[np.ndarray]:
    masks = [prediction == value, reference == value]
    if not crop:
        return masks
    union = masks[0] | masks[1]
    occupied = [np.flatnonzero(union.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    box = tuple(slice(max(0, places[0] - 1), places[-1] + 2) for places in occupied)
    return [mask[box] for mask in masks]


def run_surface_distance(prediction: np.ndarray, reference: np.ndarray, crop: bool) -> dict[int, float]:
    import surface_distance as peer

    found = {}
    for value in ORGANS:
        ours, theirs = masks_of(prediction, reference, value, crop)
        measured = peer.compute_surface_distances(theirs, ours, SPACING)
        found[value] = peer.compute_robust_hausdorff(measured, 95)
        peer.compute_surface_dice_at_tolerance(measured, 2.0)
    return found


def run_monai(prediction: np.ndarray, reference: np.ndarray, crop: bool) -> dict[int, float]:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    found = {}
    for value in ORGANS:
        batch = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in masks_of(prediction, reference, value, crop)]
        found[value] = float(compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=SPACING))
        compute_surface_dice(*batch, class_thresholds=[2.0], include_background=True, spacing=SPACING)
    return found


def run_simpleitk(prediction: np.ndarray, reference: np.ndarray, crop: bool) -> dict[int, float]:
    """HD95 by the usual recipe: contours of both labels, a distance map of each, the values of one at the contour of the other."""
    import SimpleITK as sitk

    found = {}
    for value in ORGANS:
        images = []
        for mask in masks_of(prediction, reference, value, crop):
            image = sitk.GetImageFromArray(np.ascontiguousarray(mask.astype(np.uint8).transpose(2, 1, 0)))
            image.SetSpacing(SPACING)
            images.append(image)
        contours = [sitk.GetArrayViewFromImage(sitk.LabelContour(image)) > 0 for image in images]
        maps = [sitk.GetArrayFromImage(sitk.Abs(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))) for image in images]
        found[value] = max(float(np.percentile(maps[1][contours[0]], 95)), float(np.percentile(maps[0][contours[1]], 95)))
    return found


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, bool], dict[int, float]]] = {
    "volseg": run_volseg,
    "surface-distance": run_surface_distance,
    "monai": run_monai,
    "simpleitk": run_simpleitk,
}


def measure(shape: tuple[int, ...], peers: list[str], rounds: int, crop: bool) -> dict[str, dict[str, Any]]:
    """Seconds (by the clock and of the processors) of every round and the HD95 (mm) by label, each round all programs in turn; imports and a tiny first call are not counted."""
    reference, prediction = make_labels(shape, 0, 0.0), make_labels(shape, 1, 2.0)
    prediction[2:6, 2:6, 2:6] = 5
    tiny = np.arange(len(ORGANS) + 1, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    results: dict[str, dict[str, Any]] = {name: {"seconds": [], "processor": []} for name in peers}
    for name in peers:
        PEERS[name](tiny, tiny, True)
    for _ in range(rounds):
        for name in peers:
            began, processor = time.perf_counter(), time.process_time()
            results[name]["hd95"] = PEERS[name](prediction, reference, crop)
            results[name]["seconds"].append(time.perf_counter() - began)
            results[name]["processor"].append(time.process_time() - processor)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=sorted(set(PEERS) - {"volseg"}), default=sorted(set(PEERS) - {"volseg"}))
    parser.add_argument("--crop", action="store_true", help="give the peers the box around each label instead of the whole volume")
    options = parser.parse_args()
    results = measure(tuple(options.shape), ["volseg", *options.peers], options.rounds, options.crop)
    size = "x".join(map(str, options.shape))
    spacing, cut = " x ".join(map(str, SPACING)), "cropped" if options.crop else "on the whole volume"
    print(f"{len(ORGANS)} labels in {size} voxels of {spacing} mm, {os.cpu_count()} CPUs, best of {options.rounds}; peers {cut}")
    for name, result in results.items():
        distances = ", ".join(f"{ORGANS[value][0]} {distance:.2f}" for value, distance in result["hd95"].items())
        print(f"{name:17} {min(result['seconds']):7.2f} s, {min(result['processor']):7.2f} s of processors   HD95 mm: {distances}")


if __name__ == "__main__":
    main()
