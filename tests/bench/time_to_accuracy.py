"""What volseg and nnU-Net v2 reach on one fold of a dataset in the same time on the same machine.

    python tests/bench/time_to_accuracy.py DATASET --nnunet PYTHON --budget 20m --work FOLDER [--peers volseg,nnunet] [--fold 0]

PYTHON is an interpreter that has nnunetv2. Each plans and preprocesses by itself (not counted), trains for the budget on the same cases by its own rules, one after the other,
and segments the fold's other cases: volseg as `volseg infer` does, nnU-Net as it does after every training, with mirroring. `volseg evaluate` then compares both with the
references and with each other, case by case; its JSON, CSV and HTML are WORK/accuracy.*. Nothing else may use the processor. Peers run at other times are kept in WORK.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from nnunet_raw import NAME, environment, write_raw

from volseg.cli.train import parse_duration
from volseg.dataset import Case, Datalist, read_datalist, split_fold
from volseg.io import load_label, save_volume
from volseg.training.folds.baseline import place, vote

HERE = Path(__file__).parent


def volseg(*command: str) -> None:
    """Run a command of volseg as a process of its own."""
    subprocess.run([sys.executable, "-m", "volseg", *command], check=True)


def train_volseg(dataset: Path, validation: Sequence[Case], fold: int, budget: str, work: Path) -> dict[str, Any]:
    """Plan, preprocess, train and segment; folders of an earlier run are emptied."""
    bundle, run, predictions = work / "planned", work / "run", work / "volseg"
    for folder in (bundle, run, predictions):
        shutil.rmtree(folder, ignore_errors=True)
    volseg("plan", str(dataset), "-o", str(bundle), "--device", "cpu")
    volseg("preprocess", str(dataset), "-b", str(bundle))
    began = time.perf_counter()
    volseg("train", str(bundle), "--data", str(dataset), "--fold", str(fold), "--time-limit", budget, "-o", str(run), "--device", "cpu")
    took = time.perf_counter() - began
    volseg(
        "infer", *(str(case.images[0]) for case in validation), "-b", str(bundle), "--weights", str(run / "final.pt"), "-o", str(predictions), "-q", "--no-report", "--no-preview"
    )
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    each = [float(row["steps_per_second"]) for row in rows]
    steps = sum(round(float(row["steps_per_second"]) * float(row["seconds"])) for row in rows)
    return {
        "steps": steps,
        "seconds": took,
        "steps_per_second": steps / took,
        "steps_per_second_within_epochs": statistics.median(each),
        "waiting_for_patches": statistics.median(float(row["data_wait_share"]) for row in rows),
        "batch": json.loads((bundle / "configs" / "train.json").read_text())["batch_size"],
        "predictions": str(predictions),
    }


def train_nnunet(datalist: Datalist, training: Sequence[Case], validation: Sequence[Case], seconds: float, python: str, work: Path) -> dict[str, Any]:
    """Let nnU-Net do the same; its preprocessed cases are kept for another run."""
    write_raw(datalist, work)
    program, places = [python, str(HERE / "peers" / "nnunet_trainer.py")], environment(work) | {"nnUNet_n_proc_DA": "2", "nnUNet_compile": "f"}
    if not (work / "preprocessed" / NAME / "nnUNetPlans_3d_fullres").is_dir():
        subprocess.run([*program, "prepare"], env=places, check=True)
    # One split alone: it is nnU-Net's fold 0, whatever its number here.
    (work / "preprocessed" / NAME / "splits_final.json").write_text(json.dumps([{"train": [case.name for case in training], "val": [case.name for case in validation]}]))
    done = subprocess.run([*program, "train", "--fold", "0", "--seconds", str(seconds)], env=places, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_baseline(training: Sequence[Case], validation: Sequence[Case], classes: int, folder: Path) -> None:
    """What can be said without looking at a scan, as `volseg train --fold all` scores it too: the commonest label at each relative position."""
    references = ((np.asarray(volume.array), volume.grid) for volume in (load_label(case.label) for case in training))
    votes = vote(references, classes)
    folder.mkdir(exist_ok=True)
    for case in validation:
        grid = load_label(case.label).grid
        save_volume(np.ascontiguousarray(place(votes, grid)), grid, folder / f"{case.name}.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", metavar="PYTHON")
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--peers", default="volseg,nnunet")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    peers = options.peers.split(",")
    if unknown := sorted(set(peers) - {"volseg", "nnunet"}):
        parser.error(f"unknown: {', '.join(unknown)}")
    if "nnunet" in peers and not options.nnunet:
        parser.error("nnU-Net needs --nnunet PYTHON")
    datalist = read_datalist(options.dataset)
    training, validation = split_fold(datalist.cases, options.fold)
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / "runs.json"
    runs: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    for peer in peers:
        if peer == "volseg":
            runs[peer] = train_volseg(options.dataset, validation, options.fold, options.budget, options.work)
        else:
            runs[peer] = train_nnunet(datalist, training, validation, parse_duration(options.budget), options.nnunet, options.work)
        record.write_text(json.dumps(runs, indent=2))
    print(f"\n{options.dataset.name}, fold {options.fold}: {len(training)} cases to train on, {len(validation)} to segment; {options.budget} each")
    print("| | steps | batch | seconds | steps/s | samples/s |\n| --- | --- | --- | --- | --- | --- |")
    for peer, run in runs.items():
        print(f"| {peer} | {run['steps']} | {run['batch']} | {run['seconds']:.0f} | {run['steps_per_second']:.2f} | {run['steps_per_second'] * run['batch']:.2f} |")
    if "volseg" in runs:
        print(f"volseg waited for patches {runs['volseg']['waiting_for_patches']:.1%} of an epoch (median)\n")
    write_baseline(training, validation, max(datalist.labels) + 1, options.work / "baseline")
    volseg("evaluate", str(options.work / "baseline"), str(options.dataset), "--allow-missing", "-o", str(options.work / "baseline.json"), "-q")
    for label in json.loads((options.work / "baseline.json").read_text())["summary"]:
        print(f"baseline (commonest label at each relative position), Dice of {label['name']}: {label['dice']['mean']:.3f}")
    first, *others = (run["predictions"] for run in runs.values())
    compared = ["--compare", others[0]] if others else []
    volseg("evaluate", first, str(options.dataset), "--allow-missing", *compared, "-o", str(options.work / "accuracy.json"))


if __name__ == "__main__":
    main()
