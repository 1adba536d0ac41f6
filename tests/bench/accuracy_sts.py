"""Dice of ct_tumor's weights on one fold of the soft-tissue sarcoma CTs, per case, beside two baselines that know nothing of tumours.

    python tests/bench/accuracy_sts.py DATASET --weights runs/ct_tumor/fold0/final.pt --fold 0 -o fold0.json

Use weights that were trained without that fold. ``final.pt`` is chosen without looking at the fold; ``model.pt`` is the best epoch *by* the fold, so its Dice flatters.

The baselines: every voxel of soft tissue (uses no geometry), and soft tissue inside the ellipsoid inscribed in the image less the usual margin (the crops surround the tumour on
every side, so the image's own size gives the answer away in part; a model has to beat this one to have learnt anything from the picture).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg import Segmenter, load
from volseg.dataset import read_datalist, split_fold
from volseg.evaluation import dice

SOFT_TISSUE_HU = (0.0, 100.0)
"""Muscle and most tumours; fat lies below, bone above."""

MARGIN_MM = 28.0
"""Mean of the 8 to 48 mm that the crops leave around a tumour on each side."""

Mask = npt.NDArray[np.bool_]


def soft_tissue(image: npt.NDArray[Any]) -> Mask:
    """Voxels of soft-tissue density after a 3x3x3 mean, since single voxels are noisier (SD 33 HU) than the window is wide."""
    from scipy.ndimage import uniform_filter

    smooth = uniform_filter(image.astype(np.float32), 3)
    return (smooth >= SOFT_TISSUE_HU[0]) & (smooth <= SOFT_TISSUE_HU[1])


def inscribed_ellipsoid(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Mask:
    """Voxels inside the axis-aligned ellipsoid that fits the image with the usual margin of the crops left free."""
    axes = np.ogrid[tuple(slice(-(n - 1) / 2, (n - 1) / 2, complex(0, n)) for n in shape)]
    radii = [max(n * mm / 2 - MARGIN_MM, mm) for n, mm in zip(shape, spacing, strict=True)]
    return sum((axis * mm / radius) ** 2 for axis, mm, radius in zip(axes, spacing, radii, strict=True)) <= 1


def main() -> None:
    """Score every validation case of a fold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--bundle", default="ct_tumor")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="folder for a preview of each case, reference dashed")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    _, cases = split_fold(read_datalist(arguments.dataset).cases, arguments.fold)
    segmenter = Segmenter(arguments.bundle, weights=arguments.weights)
    rows = [score(segmenter, case.images[0], case.label, arguments.pictures) for case in cases]
    print(f"{'case':<14}{'reference ml':>14}{'volseg ml':>12}{'volseg':>9}{'ellipsoid':>11}{'soft tissue':>13}")
    for row in rows:
        print(f"{row['case']:<14}{row['reference_ml']:>14.0f}{row['volseg_ml']:>12.0f}{row['volseg']:>9.3f}{row['ellipsoid']:>11.3f}{row['soft_tissue']:>13.3f}")
    summary = {}
    for name, measure in (("mean", statistics.mean), ("median", statistics.median)):
        summary[name] = {column: measure(row[column] for row in rows) for column in ("volseg", "ellipsoid", "soft_tissue")}
        print(f"{name:<40}{summary[name]['volseg']:>9.3f}{summary[name]['ellipsoid']:>11.3f}{summary[name]['soft_tissue']:>13.3f}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"fold": arguments.fold, "cases": rows, **summary}, indent=2) + "\n", encoding="utf-8")


def score(segmenter: Segmenter, image: Path, label: Path, pictures: Path | None) -> dict[str, Any]:
    """Dice of the bundle and of both baselines on one case, on the scan's own grid."""
    volume, reference = load(image), load(label).array == 1
    result = segmenter.segment(volume)
    tissue = soft_tissue(volume.array)
    if pictures:
        from volseg.report import write_preview

        write_preview(volume, result.label, pictures / f"{volume.source.name}.png", label_names=result.labels, reference=reference)
    unit = volume.grid.voxel_volume_ml
    return {
        "case": volume.source.name,
        "reference_ml": float(reference.sum() * unit),
        "volseg_ml": float((result.label == 1).sum() * unit),
        "volseg": dice(result.label == 1, reference),
        "ellipsoid": dice(tissue & inscribed_ellipsoid(volume.array.shape, volume.grid.spacing), reference),
        "soft_tissue": dice(tissue, reference),
    }


if __name__ == "__main__":
    main()
