"""Put what a training gave into its bundle: weights, the corrections of the label that were chosen, measured scores, a new version, and a table in the model card."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from volseg.bundle import Bundle, load_state, read_config, read_state_dict
from volseg.bundle.find import METADATA_FILE
from volseg.errors import BundleError
from volseg.inference.refine import ARGUMENTS, Refinement
from volseg.io.text import write_json, write_text
from volseg.training.records import COLUMNS

BEGIN, END = "<!-- volseg: measured -->", "<!-- volseg: end of measured -->"
"""The part of docs/README.md between these lines is written by volseg; anything else in it is left alone."""

POSTPROCESSING = ("postprocessing", "post_transforms")


@dataclass(frozen=True)
class Findings:
    """What a training or a cross-validation says about a bundle, for its metadata and model card.

    Attributes
    ----------
    eval_metrics : mapping
        Names and numbers, as the bundle's ``metadata.json`` keeps them.
    table : str
        Markdown for the model card.
    change : str
        One line for the changelog.
    refinements : sequence of Refinement
        Corrections of the label that were chosen.
    """

    eval_metrics: Mapping[str, float | int]
    table: str
    change: str
    refinements: Sequence[Refinement]


def export_weights(weights: Path, bundle: Bundle, name: str = "model.pt") -> Path:
    """Write trained weights in half precision to the bundle's ``models`` folder.

    Raises
    ------
    BundleError
        When they do not fit the network of the bundle's inference config.
    """
    from volseg.training.build import inference_network
    from volseg.training.checkpoint import detached_state, save_torch

    state = read_state_dict(weights)
    load_state(state, inference_network(bundle), weights)
    target = bundle.path / "models" / name
    target.parent.mkdir(exist_ok=True)
    save_torch(detached_state(state, half=True), target)
    return target


def export_findings(bundle: Bundle, findings: Findings) -> list[Path]:
    """Write refinements, metrics, changelog, version and model card; returns the files that changed.

    Raises
    ------
    BundleError
        When refinements were chosen and the inference config is not JSON, or has no list of post-processing transforms.
    """
    written = []
    if findings.refinements:
        if bundle.inference_config.suffix != ".json":
            msg = f"{bundle.inference_config}: post-processing is written into JSON configs only; convert the config, or add {describe_refinements(findings.refinements)} by hand"
            raise BundleError(msg)
        config = read_config(bundle.inference_config)
        if with_refinements(config, findings.refinements, bundle.inference_config):
            written.append(write_json(bundle.inference_config, config))
    metadata = read_config(bundle.path / METADATA_FILE)
    version = next_version(bundle.version)
    metadata |= {"version": version, "changelog": {version: findings.change, **metadata.get("changelog", {})}, "eval_metrics": dict(findings.eval_metrics)}
    if any(refinement.name != "FillHoles" for refinement in findings.refinements):
        from importlib.metadata import version as installed

        # MONAI's own transforms of these names need it.
        metadata["required_packages_version"] = {**metadata.get("required_packages_version", {}), "scikit-image": installed("scikit-image")}
    written.append(write_json(bundle.path / METADATA_FILE, metadata))
    card = bundle.path / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {bundle.name}\n"
    written.append(write_text(card, with_table(text, findings.table)))
    return written


def findings_of_run(run_dir: Path, best_epoch: int, dataset: str, fold: int | None, cases: tuple[int, int]) -> Findings:
    """What a single training says: its validation, from ``metrics.csv``, where there was one.

    Parameters
    ----------
    run_dir : Path
        The run's folder.
    best_epoch : int
        Epoch whose weights are the result.
    dataset : str
        Its name.
    fold : int or None
        Fold kept for validation; None where every case was trained on.
    cases : tuple of 2 int
        Cases to train and to validate.
    """
    training, validation = cases
    with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["epoch"] == str(best_epoch)]
    scores = {name.removeprefix("val_"): float(value) for row in rows for name, value in row.items() if name not in COLUMNS and value}
    if fold is None or not scores:
        change = f"trained on {training} cases of {dataset} ({today()})"
        return Findings({}, f"Trained on {training} cases of {dataset}, {today()}; these weights have no held-out score of their own.", change, ())
    change = f"trained on {training} cases of {dataset}, fold {fold} left out ({today()}); " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    table = [
        f"Fold {fold} of {dataset}: {training} cases to train, {validation} to validate, {today()}. On the network's own grid, by the weights that were best on these very cases",
        f"(epoch {best_epoch}). `volseg evaluate` scores on the scans' own grids, and `volseg train --fold all` every case, beside a trivial baseline.",
        "",
        "| validation | |",
        "| --- | --- |",
        *(f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in scores.items()),
    ]
    return Findings({f"fold_{fold}_{name}": value for name, value in scores.items()} | {f"fold_{fold}_cases": validation}, "\n".join(table), change, ())


def with_refinements(config: dict[str, Any], refinements: Sequence[Refinement], path: Path) -> bool:
    """Put corrections behind the decision (``AsDiscreted``) of an inference config, and behind the corrections that are there; whether anything changed.

    One that is there already is not put there again: a cross-validation that is resumed finds the same ones.

    Raises
    ------
    BundleError
        When the config has no plain list of post-processing transforms with an ``AsDiscreted`` in it.
    """
    name = next((name for name in POSTPROCESSING if name in config), POSTPROCESSING[0])
    chain = config.get(name)
    steps = chain.get("transforms") if isinstance(chain, dict) else chain
    if not isinstance(steps, list) or "AsDiscreted" not in map(_class_of, steps):
        msg = f"{path}: `{name}` is no list of transforms with AsDiscreted, behind which corrections of the label could be put; add them by hand"
        raise BundleError(msg)
    behind = {"AsDiscreted", "Invertd", *(f"{known}d" for known in ARGUMENTS)}
    after = 1 + max(number for number, step in enumerate(steps) if _class_of(step) in behind)
    added = [step for refinement in refinements if (step := refinement.as_config()) not in steps]
    steps[after:after] = added
    return bool(added)


def next_version(version: str) -> str:
    """The next minor version: new weights change results, not how the bundle is used (semantic versioning)."""
    parts = version.split(".")
    if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
        return f"{version}.1"
    return f"{parts[0]}.{int(parts[1]) + 1}.0"


def with_table(card: str, table: str) -> str:
    """A model card with the measured part replaced, or added at its end."""
    block = f"{BEGIN}\n{table.strip()}\n{END}"
    if BEGIN in card and END in card:
        before, _, rest = card.partition(BEGIN)
        return before + block + rest.partition(END)[2]
    return f"{card.rstrip()}\n\n## Measured\n\n{block}\n"


def today() -> str:
    """Date for changelogs (UTC, ISO 8601)."""
    return datetime.now(timezone.utc).date().isoformat()


def describe_refinements(refinements: Sequence[Refinement]) -> str:
    """Corrections in one line, e.g. ``KeepLargestConnectedComponent(applied_labels=[1])``; ``none`` where there are none."""
    return ", ".join(f"{item.name}({', '.join(f'{key}={json.dumps(value)}' for key, value in item.arguments.items())})" for item in refinements) or "none"


def _class_of(step: Any) -> str:
    return str(step.get("_target_", "")).rpartition(".")[2] if isinstance(step, dict) else ""
