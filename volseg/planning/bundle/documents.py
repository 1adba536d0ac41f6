"""``docs/plan.md`` and the skeleton of the model card ``docs/README.md``."""

from __future__ import annotations

from typing import Any

from volseg.planning.planner import Plan
from volseg.planning.reasons import explain
from volseg.planning.rules.budget import GB

MEASURED = ("<!-- volseg: measured -->", "<!-- volseg: end of measured -->")
"""Lines between which `volseg train --into-bundle` writes what it measured (volseg/training/export.py)."""


def plan_document(plan: Plan, name: str) -> str:
    """Every chosen number with its reason, as a Markdown table."""
    rows = [(choice.what, choice.value, choice.why, choice.nnunet) for choice in explain(plan)]
    return "\n".join(
        [
            f"# Plan of {name}",
            "",
            f"Made by `volseg plan` from {len(plan.fingerprint.cases)} cases of {plan.fingerprint.dataset} for training on a {_device(plan)}, preset `{plan.budget.preset}`.",
            "Sizes are along x, y, z (RAS+). The last column is what nnU-Net's rules give on a GPU with 8 GB (Isensee et al. 2021).",
            "What was measured of the data is in fingerprint.json.",
            "",
            *_table(("what", "value", "why", "nnU-Net"), rows),
            "",
            "## Forecast",
            "",
            *_table(
                ("of a training step, and of inference", "modelled"),
                [
                    ("time", f"{plan.step_seconds:.2f} s" if plan.budget.device == "cpu" else "depends on the GPU"),
                    ("memory, data left out", f"{plan.memory_bytes / GB:.1f} GB"),
                    ("forward pass of a patch", f"{plan.cost.flops / 1e9:.1f} GFLOP"),
                    ("segmenting the median scan", f"{plan.windows} windows, {plan.windows * plan.cost.flops / 1e9:.0f} GFLOP"),
                    ("weights", f"{plan.cost.parameters:,}"),
                ],
            ),
            "",
            "## Warnings",
            "",
            *([f"- {warning}" for warning in plan.warnings] or ["None."]),
            "",
            "## What next",
            "",
            *_next_steps(plan, name),
        ]
    )


def model_card(plan: Plan, name: str) -> str:
    """A card with what is known before the training; the rest says what belongs there."""
    labels = [(str(value), label, _volume(plan, value)) for value, label in plan.fingerprint.labels.items() if value]
    inputs = ", ".join(channel.name for channel in plan.channels)
    return "\n".join(
        [
            f"# {name}: {', '.join(label for _, label, _ in labels)} on {inputs}",
            "",
            "Planned by `volseg plan`; a plain MONAI bundle of stock classes.",
            "",
            "**Research only.** Not a medical device. Not for diagnosis, treatment planning or follow-up.",
            "",
            "## Use",
            "",
            *_next_steps(plan, name),
            f"Input: {_input(plan)}, any orientation and spacing. Output: a label map on the scan's own grid.",
            *_plain_monai(plan),
            "",
            *_table(("label", "name", "volume in the data: least, median, greatest (ml)"), labels),
            "",
            "## Data",
            "",
            f"{plan.fingerprint.dataset}: {len(plan.fingerprint.cases)} labelled cases (docs/fingerprint.json).",
            "*Where they come from, who drew the labels and how, and the licence.*",
            "",
            "## Method",
            "",
            f"RAS, {_sizes(plan.spacing)} mm (linear). DynUNet, {plan.topology.stages} stages, {plan.filters[0]} to {plan.filters[-1]} channels;",
            f"patches of {_sizes(plan.patch)} voxels. Every number and its reason: docs/plan.md.",
            "",
            "## Results",
            "",
            MEASURED[0],
            "Not trained yet.",
            MEASURED[1],
            "",
            "## Limits",
            "",
            "*What the model has never seen, where it is known to fail.*",
            "",
            "## Licence",
            "",
            "Configs: Apache-2.0 (LICENSE). *Licence of the weights; name the data set and its licence.*",
            "",
        ]
    )


def _next_steps(plan: Plan, name: str) -> list[str]:
    """The commands that train and use the bundle."""
    names = [channel.name for channel in plan.channels]
    scan = "scan.nii.gz" if len(names) == 1 else " ".join(f"--input {channel}={channel.lower()}.nii.gz" for channel in names)
    return [
        "```bash",
        f"volseg train {name} --data DATASET --fold 0        # or --fold all: every fold in turn",
        f"volseg train {name} --data DATASET --fold none --into-bundle",
        f"volseg infer {scan} -b {name} -o out",
        "```",
        "",
    ]


def _plain_monai(plan: Plan) -> list[str]:
    if len(plan.channels) == 1:
        return []
    names = ", ".join(f"`CASE_{number:04d}.nii.gz` {channel.name}" for number, channel in enumerate(plan.channels))
    return [f"Run by plain MONAI, the channels of a case are files of one grid: {names}; volseg itself puts them on the grid of the first."]


def _input(plan: Plan) -> str:
    units = {"ct": "Hounsfield units", "suv": "SUV (g/ml)", "zscore": "any unit"}
    return ", ".join(f"{channel.name} in {units[channel.kind]}" for channel in plan.channels)


def _volume(plan: Plan, value: int) -> str:
    return ", ".join(f"{volume:.3g}" for volume in plan.fingerprint.classes[value].volume_ml)


def _device(plan: Plan) -> str:
    memory = f"{plan.budget.memory_bytes / GB:.3g} GB"
    return f"GPU with {memory}" if plan.budget.device == "cuda" else f"CPU ({plan.budget.gflops:.0f} GFLOP/s, {memory})"


def _table(heading: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    lines = [heading, ("---",) * len(heading), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _sizes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
