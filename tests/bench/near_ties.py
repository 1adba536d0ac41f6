"""Where the engine and stock MONAI differ, are the two labels a near tie? Both run the same bundle in fp32 on the same scan.

    python tests/bench/near_ties.py bundles/ct_tumor scan.nii.gz --engine openvino -o ties.json

For every voxel whose label differs: MONAI's own interpolated score of the label it chose, less that of the label the engine chose. A gap below 1e-3 is a near tie: rounding in
another order of sums decides it. MONAI's pipeline is run from the bundle's own config, reading the file itself, without volseg; its scores are brought back to the scan's grid one
class at a time, so that no more than four volumes of the scan's size are in memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from volseg import Segmenter
from volseg.inference.quiet import quiet_libraries

NEAR_TIE = 1e-3
"""The issue's bound on the gap between two scores (probabilities, where the bundle has a softmax)."""

BINS = (0.0, 1e-6, 1e-5, 1e-4, NEAR_TIE, 1e-2, 1e-1, 1.0)
"""Edges of the histogram of gaps."""

WORST = 10
"""Voxels of the largest gaps that are listed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return 1 where a difference is no near tie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scan", type=Path, help="NIfTI")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--weights", type=Path, help="instead of the bundle's own")
    parser.add_argument("-o", "--output", type=Path, help="the same as JSON")
    given = parser.parse_args(arguments)
    ours, engine = engine_label(given.bundle, given.scan, given.engine, given.weights)
    theirs, best, rival = monai_label(given.bundle, given.scan, ours, given.weights)
    found = compare(ours, theirs, best, rival)
    report(given.bundle, engine, found)
    if given.output:
        given.output.write_text(json.dumps({"bundle": str(given.bundle), "scan": str(given.scan), "engine": engine, **found}, indent=2) + "\n", encoding="utf-8")
    return int(found["not_near_ties"] > 0)


def engine_label(bundle: Path, scan: Path, engine: str, weights: Path | None = None) -> tuple[npt.NDArray[Any], str]:
    """The label of volseg's engine in fp32, and which engine it was."""
    with quiet_libraries(), Segmenter(bundle, engine=engine, precision="fp32", device="cpu", weights=weights) as segmenter:
        result = segmenter.segment(scan)
    return result.label, str(result.engine["engine"])


def monai_label(bundle: Path, scan: Path, ours: npt.NDArray[Any], weights: Path | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Run the bundle's inference config through MONAI.

    Returns
    -------
    label : ndarray, (i, j, k)
        MONAI's arg-max.
    best, rival : ndarray, float32, (i, j, k)
        Its interpolated score of that label, and of the label ``ours``.
    """
    from monai.transforms import AsDiscreted, Invertd

    with quiet_libraries(), torch.inference_mode():
        parser, image = prepared(bundle, scan)
        network = parser.get_parsed_content("network_def").eval()
        state = torch.load(weights or bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
        state = state.get("model", state)
        # Heads of deep supervision are for training only; anything missing is an error.
        network.load_state_dict({key: state[key] for key in state if key in network.state_dict()})
        scores = parser.get_parsed_content("inferer")(image["image"].as_tensor()[None], network)[0].float()
        data = {**image, "pred": like(scores, image["image"])}
        steps = list(parser.get_parsed_content("postprocessing").transforms)
        decision = next(n for n, step in enumerate(steps) if isinstance(step, AsDiscreted))
        inversion = next(n for n, step in enumerate(steps) if isinstance(step, Invertd))
        for step in steps[:inversion]:
            data = step(data)
        if inversion > decision:
            message = "AsDiscreted stands before Invertd, so that no scores are interpolated; there is nothing to compare"
            raise SystemExit(message)
        shares = data["pred"]
        label = np.zeros(ours.shape, dtype=np.uint16)
        best, rival = np.full(ours.shape, -np.inf, dtype=np.float32), np.zeros(ours.shape, dtype=np.float32)
        for number in range(len(shares)):
            share = steps[inversion]({**image, "pred": like(shares.as_tensor()[number : number + 1], image["image"])})["pred"].as_tensor().numpy()[0]
            label[share > best] = number
            np.maximum(best, share, out=best)
            np.copyto(rival, share, where=ours == number)
    return label, best, rival


def prepared(bundle: Path, scan: Path) -> tuple[Any, dict[str, Any]]:
    """The bundle's config, and the scan as its pre-processing gives it."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"], parser["device"] = str(bundle), "$torch.device('cpu')"
    return parser, parser.get_parsed_content("preprocessing")({"image": str(scan)})


def like(scores: torch.Tensor, image: Any) -> Any:
    """Scores that lie where the image lies."""
    from monai.data import MetaTensor

    return MetaTensor(scores, meta=dict(image.meta))


def compare(ours: npt.NDArray[Any], theirs: npt.NDArray[Any], best: npt.NDArray[np.float32], rival: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Numbers of the differing voxels and their gaps; the worst of them with their places."""
    differing = np.nonzero(ours != theirs)
    gaps = best[differing].astype(np.float64) - rival[differing]
    counts, _ = np.histogram(gaps, BINS)
    places = np.stack(differing, axis=1)[worst := np.argsort(gaps)[::-1][:WORST]]
    return {
        "voxels": int(ours.size),
        "differing": int(gaps.size),
        "differing_share": float(gaps.size / ours.size),
        "labels_in_monai": [int(n) for n in np.unique(theirs)],
        "largest_gap": float(gaps.max(initial=0)),
        "median_gap": float(np.median(gaps)) if gaps.size else 0.0,
        "not_near_ties": int((gaps >= NEAR_TIE).sum()),
        "gaps_by_bin": {f"{low:g} to {high:g}": int(n) for low, high, n in zip(BINS[:-1], BINS[1:], counts, strict=True)},
        "worst": [
            {"voxel": place.tolist(), "gap": float(gap), "ours": int(ours[tuple(place)]), "monai": int(theirs[tuple(place)])}
            for place, gap in zip(places, gaps[worst], strict=True)
        ],
    }


def report(bundle: Path, engine: str, found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"{bundle.name}, engine {engine} in fp32 against stock MONAI: {found['voxels']:,} voxels, labels {found['labels_in_monai']}")
    print(f"differing: {found['differing']:,} voxels, {found['differing_share']:.2e} of all ({100 * (1 - found['differing_share']):.5f} % equal)")
    ties = f"largest {found['largest_gap']:.3g}, median {found['median_gap']:.3g}; {found['not_near_ties']} are no near ties (>= {NEAR_TIE:g})"
    print(f"gap between the two labels in MONAI's scores: {ties}")
    for span, count in found["gaps_by_bin"].items():
        print(f"  {span:<16} {count:>12,}")
    for one in found["worst"][:3]:
        print(f"  {one['voxel']}: engine {one['ours']}, MONAI {one['monai']}, gap {one['gap']:.3g}")


if __name__ == "__main__":
    raise SystemExit(main())
