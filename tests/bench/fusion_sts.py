"""Soft-tissue sarcoma on CT alone, on PET alone and on both, by the same recipe on the same folds, beside three rules that learn nothing.

    python tests/bench/fusion_sts.py DATASET --work FOLDER --time-limit 8m [--preset fast] [--folds 0,1,2,3,4] [--jobs 2] [--into]

DATASET holds ``dataset.json`` (CT) and ``dataset_petct.json`` (CT and PET, each on its own grid). PET alone is the same PET, linearly resampled to the grid of the tumours.
Each variant is planned by ``volseg plan`` and cross-validated by ``volseg train --fold all``; ``--jobs`` trainings run at a time, with an equal share of the processors each, fold
by fold over all variants. Folds that are trained are not trained again, so a run that was cut off goes on with the same command. Tables go to FOLDER/fusion.md, every score to
FOLDER/fusion.json. With ``--into``, a last training on all cases goes into the planned bundles of CT and PET/CT.

The rules: all soft tissue is tumour (``accuracy_sts.py``); soft tissue inside the ellipsoid inscribed in the image less its usual margin (there too; the crops give the place
away); every voxel of at least 41 % of the largest SUV (Boellaard et al., FDG PET/CT: EANM procedure guidelines for tumour imaging: version 2.0, 2015,
doi:10.1007/s00259-014-2961-x).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from accuracy_sts import inscribed_ellipsoid, soft_tissue

from volseg import load
from volseg.dataset import read_datalist
from volseg.evaluation import dice
from volseg.evaluation.bootstrap import mean_interval
from volseg.processors import usable_threads

VARIANTS = {"petct": "petct_tumor", "ct": "ct_tumor", "pet": "pet_tumor"}
"""Datasets, and the bundles planned for them."""

SHARE_OF_MAXIMUM = 0.41
"""Of the largest uptake, for the threshold of PET."""

SHIPPED = ("petct", "ct")

Scores = Mapping[str, Mapping[str, float]]


def datasets(source: Path, work: Path) -> dict[str, Path]:
    """The dataset of each variant; that of PET alone is made."""
    return {"petct": source / "dataset_petct.json", "ct": source / "dataset.json", "pet": pet_alone(source / "dataset_petct.json", work / "pet")}


def pet_alone(listing: Path, folder: Path) -> Path:
    """PET of a CT and PET dataset on the grid of the CT."""
    target = folder / "dataset.json"
    if target.exists():
        return target
    content = json.loads(listing.read_text())
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    for item in content["training"]:
        image = folder / "imagesTr" / Path(item["image"][1]).name
        sitk.WriteImage(pet_on_ct(*(listing.parent / path for path in item["image"])), str(image))
        item["image"], item["label"] = str(image), str((listing.parent / item["label"]).resolve())
    target.write_text(json.dumps(content | {"name": "sts_pet", "modality": {"0": "PET"}}))
    return target


def pet_on_ct(ct: Path, pet: Path) -> sitk.Image:
    """The PET on the grid of the CT, 0 where it does not reach."""
    return sitk.Resample(sitk.ReadImage(str(pet)), sitk.ReadImage(str(ct)), sitk.Transform(), sitk.sitkLinear, 0.0)


def volseg(*command: str, log: Path, jobs: int = 1) -> None:
    """Run a command of volseg as a process of its own, with its share of the processors."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, usable_threads() // jobs))}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        subprocess.run([sys.executable, "-m", "volseg", *command], check=True, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def rules(source: Path) -> dict[str, dict[str, float]]:
    """Dice of what learns nothing, by case."""
    found = {}
    for case in read_datalist(source / "dataset_petct.json").cases:
        ct, reference = load(case.images[0]), load(case.label).array == 1
        pet = sitk.GetArrayFromImage(pet_on_ct(*case.images)).transpose(2, 1, 0)
        tissue = soft_tissue(ct.array)
        found[case.label.name.split(".")[0]] = {
            "soft tissue": dice(tissue, reference),
            "ellipsoid": dice(tissue & inscribed_ellipsoid(ct.array.shape, ct.grid.spacing), reference),
            "41 % of maximal SUV": dice(pet >= SHARE_OF_MAXIMUM * pet.max(), reference),
        }
    return found


def cross_validated(run: Path, dataset: Path) -> dict[str, tuple[int, float, float]]:
    """Fold and Dice of each case, as predicted and after the post-processing that was chosen."""
    files = {case.images[0].name.split(".")[0]: case.label.name.split(".")[0] for case in read_datalist(dataset).cases}
    cases = json.loads((run / "summary.json").read_text())["cases"]
    return {files[case["case"]]: (case["fold"], *(float(case["labels"]["tumor"][what]) for what in ("without_postprocessing", "dice"))) for case in cases}


def tables(found: Mapping[str, Mapping[str, tuple[int, float, float]]], floors: Scores) -> str:
    """Markdown: means of folds, differences of pairs, every case."""
    columns = list(found)
    names = sorted(set.intersection(*(set(cases) for cases in found.values())))
    fold_of = {name: found[columns[0]][name][0] for name in names}
    if any(cases[name][0] != fold_of[name] for cases in found.values() for name in names):
        msg = "the variants were not trained on the same folds"
        raise ValueError(msg)
    scores = {column: {name: found[column][name][1] for name in names} for column in columns}
    scores |= {f"{column}, post-processed": {name: found[column][name][2] for name in names} for column in columns}
    scores |= {rule: {name: floors[name][rule] for name in names} for rule in next(iter(floors.values()))}
    folds = sorted(set(fold_of.values()))
    lines = ["| Dice | " + " | ".join(f"fold {fold}" for fold in folds) + " | mean | SD | median |", "|" + " --- |" * (len(folds) + 4)]
    for label, cases in scores.items():
        means = [np.mean([cases[name] for name in names if fold_of[name] == fold]) for fold in folds]
        every = np.array(list(cases.values()))
        lines.append("| " + " | ".join([label, *(f"{value:.3f}" for value in [*means, every.mean(), every.std(ddof=1), np.median(every)])]) + " |")
    lines += ["", "| difference of the same cases | mean | 95 % interval (bootstrap over cases) | cases above |", "| --- | --- | --- | --- |"]
    first, *others = columns
    for other in [*others, "ellipsoid", "41 % of maximal SUV"]:
        differences = np.array([scores[first][name] - scores[other][name] for name in names])
        low, high = mean_interval(differences) or (np.nan, np.nan)
        lines.append(f"| {first} - {other} | {differences.mean():+.3f} | {low:+.3f} to {high:+.3f} | {(differences > 0).sum()} of {len(names)} |")
    lines += ["", "| case | fold | " + " | ".join(scores) + " |", "|" + " --- |" * (len(scores) + 2)]
    lines += [f"| {name} | {fold_of[name]} | " + " | ".join(f"{cases[name]:.3f}" for cases in scores.values()) + " |" for name in names]
    return "\n".join(lines) + "\n"


def train_fold(variant: str, fold: int, dataset: Path, options: argparse.Namespace) -> None:
    """Train one fold of a variant, or go on with it."""
    run = options.work / "runs" / VARIANTS[variant] / f"fold{fold}"
    if (run / "final.pt").exists():
        return
    resume = ["--resume"] if (run / "last.pt").exists() else []
    limit = ["--time-limit", options.time_limit, "--device", "cpu", *resume]
    print(f"training {variant}, fold {fold}", flush=True)
    volseg(
        "train", str(options.work / VARIANTS[variant]), "--data", str(dataset), "--fold", str(fold), "-o", str(run), *limit, jobs=options.jobs, log=run.parent / f"fold{fold}.log"
    )


def gather(variant: str, dataset: Path, options: argparse.Namespace) -> None:
    """Score every case by the fold that did not see it."""
    run = options.work / "runs" / VARIANTS[variant]
    into = ["--into-bundle"] if options.into and variant in SHIPPED else []
    command = ["train", str(options.work / VARIANTS[variant]), "--data", str(dataset), "--fold", "all", "--resume", "-o", str(run), "--time-limit", options.time_limit]
    volseg(*command, "--device", "cpu", *into, jobs=options.jobs, log=run / "all.log")


def prepare(places: Mapping[str, Path], variants: Sequence[str], options: argparse.Namespace) -> None:
    """Plan and preprocess; a bundle that is there is taken as it is."""
    for variant in variants:
        bundle, log = options.work / VARIANTS[variant], options.work / "logs"
        if not bundle.exists():
            volseg("plan", str(places[variant]), "-o", str(bundle), "--device", "cpu", "--preset", options.preset, "-q", log=log / f"{variant}_plan.log")
        volseg("preprocess", str(places[variant]), "-b", str(bundle), "-q", log=log / f"{variant}_preprocess.log")


def main() -> None:
    """Train what is not trained yet, score, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--time-limit", default="8m")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--variants", default="petct,ct,pet")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--into", action="store_true")
    options = parser.parse_args()
    variants, folds = options.variants.split(","), [int(fold) for fold in options.folds.split(",")]
    places = datasets(options.dataset, options.work)
    prepare(places, variants, options)
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(train_fold, variant, fold, places[variant], options) for fold in folds for variant in variants]:
            done.result()
        for done in [pool.submit(gather, variant, places[variant], options) for variant in variants]:
            done.result()
    found = {variant: cross_validated(options.work / "runs" / VARIANTS[variant], places[variant]) for variant in variants}
    floors = rules(options.dataset)
    text = tables(found, floors)
    (options.work / "fusion.md").write_text(text)
    record: dict[str, Any] = {"cross_validated": found, "rules": floors, "time_limit": options.time_limit, "preset": options.preset, "jobs": options.jobs}
    (options.work / "fusion.json").write_text(json.dumps(record, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
