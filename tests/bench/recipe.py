"""What choices of the default recipe are worth, on one fold of a dataset.

    python tests/bench/recipe.py DATASET --bundle BUNDLE --work FOLDER [--recipes AdamW,SGD] [--time-limit 20m] [--fold 0] [--jobs 2]

BUNDLE is one that `volseg plan` made for DATASET on a CPU. It is trained by each recipe (by default all of them), as many at once as there are jobs, with an equal share of the
processors, from the same seed and by the same polynomial schedule:

- AdamW: as it is;
- SGD: as nnU-Net v2 sets it (nnUNetTrainer: rate 0.01, Nesterov momentum 0.99, weight decay 3e-5);
- full augmentation: all of it from the first step, where else it grows.

The fold's other cases are segmented as `volseg infer` does, by the averaged weights (``final.pt``) and by those of the last step (``last.pt`` keeps them), none of them chosen by a
validation. Prints Dice of every label and the differences of the same cases; scores are in FOLDER/recipe.json. A fold that is trained is not trained again.
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

import numpy as np

from volseg.bundle import Bundle, read_bundle
from volseg.dataset import Case, read_datalist, split_fold
from volseg.evaluation.bootstrap import mean_interval
from volseg.processors import usable_threads
from volseg.training.folds.held_out import HeldOut, predict_fold
from volseg.training.progress import SilentReporter

SGD = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
"""nnU-Net v2, nnUNetTrainer.configure_optimizers."""

RECIPES: Mapping[str, Sequence[str]] = {
    "AdamW": (),
    "SGD": ("--set", f"optimizer={json.dumps(SGD)}"),
    "full augmentation": ("--set", "augmentation_ramp=0"),
}

WEIGHTS = {"averaged": "final.pt", "last step": "last.pt"}

PAIRS = (
    (("AdamW", "averaged"), ("full augmentation", "averaged")),
    (("AdamW", "averaged"), ("SGD", "averaged")),
    *(((recipe, "averaged"), (recipe, "last step")) for recipe in RECIPES),
)
"""What is compared with what."""


def train(recipe: str, options: argparse.Namespace) -> None:
    """Train the fold by one recipe, or go on with it."""
    run = options.work / recipe.replace(" ", "_")
    if (run / "final.pt").exists():
        asked = json.loads((options.bundle / "configs" / "train.json").read_text()).get("augmentation_ramp", 0) if recipe != "full augmentation" else 0
        if json.loads((run / "config.json").read_text()).get("augmentation_ramp", 0) != asked:
            sys.exit(f"{run}: was trained with another growth of augmentation; give another --work")
        return
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "volseg", "train", str(options.bundle), "--data", str(options.dataset), "--fold", str(options.fold), "-o", str(run), "--device", "cpu"]
    command += ["--time-limit", options.time_limit, *RECIPES[recipe], *(["--resume"] if (run / "last.pt").exists() else [])]
    with (run / "train.log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, usable_threads() // options.jobs))}
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)


def score(bundle: Bundle, weights: Path, cases: Sequence[Case], folder: Path, fold: int) -> dict[str, dict[str, float]]:
    """Dice by label name and case, on the scans' own grids."""
    predictions = predict_fold(bundle, weights, cases, folder, device="cpu", precision="fp32", reporter=SilentReporter())
    names = {value: name for value, name in bundle.labels.items() if value != 0}
    found: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    for case, prediction in zip(cases, predictions, strict=True):
        for label, value in HeldOut(fold, case, prediction, frozenset(names)).read().dice().items():
            if value is not None:
                found[names[label]][case.name] = value
    return found


def with_interval(values: Sequence[float]) -> str:
    """Mean and its 95 % interval."""
    low, high = mean_interval(np.array(values)) or (np.nan, np.nan)
    return f"{np.mean(values):+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--time-limit", default="20m")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    bundle, cases = read_bundle(options.bundle), split_fold(read_datalist(options.dataset).cases, options.fold)[1]
    recipes = options.recipes.split(",")
    if set(recipes) - set(RECIPES):
        parser.error(f"--recipes {options.recipes}: choose among {', '.join(RECIPES)}")
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(train, recipe, options) for recipe in recipes]:
            done.result()
    scores = {}
    for recipe in recipes:
        run = options.work / recipe.replace(" ", "_")
        for name, file in WEIGHTS.items():
            scores[recipe, name] = score(bundle, run / file, cases, run / name.replace(" ", "_"), options.fold)
        ended = json.loads((run / "provenance.json").read_text())
        print(f"{recipe}: {ended['epochs']} epochs in {ended['elapsed_s']:.0f} s")
    labels = list(next(iter(scores.values())))
    print(f"\n| {options.dataset.name}, fold {options.fold}: Dice of {len(cases)} cases | " + " | ".join(labels) + " |\n|" + " --- |" * (len(labels) + 1))
    for run_name, found in scores.items():
        print(f"| {', '.join(run_name)} | " + " | ".join(with_interval(list(found[label].values())) for label in labels) + " |")
    for one, other in ((one, other) for one, other in PAIRS if one in scores and other in scores):
        differences = [[scores[one][label][case] - scores[other][label][case] for case in scores[one][label]] for label in labels]
        print(f"| {', '.join(one)} - {', '.join(other)} | " + " | ".join(map(with_interval, differences)) + " |")
    (options.work / "recipe.json").write_text(json.dumps([{"recipe": recipe, "weights": name, "dice": found} for (recipe, name), found in scores.items()], indent=2) + "\n")


if __name__ == "__main__":
    main()
