"""The files of a planned bundle, written all or none."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from volseg.errors import OutputError
from volseg.io.staging import staged_folder
from volseg.planning.bundle.documents import model_card, plan_document
from volseg.planning.bundle.inference import inference_config
from volseg.planning.bundle.metadata import metadata
from volseg.planning.bundle.training import evaluate_config, multi_gpu_config, train_config
from volseg.planning.planner import Plan

WEIGHTS_FOLDER = "models"
"""Empty until the bundle is trained."""


def bundle_files(plan: Plan, name: str) -> dict[str, str]:
    """Text of every file of a bundle by its place in it.

    Parameters
    ----------
    plan : Plan
        What to write.
    name : str
        The bundle's name.
    """
    configs = {
        "metadata": metadata(plan, name),
        "train": train_config(plan),
        "inference": inference_config(plan),
        "evaluate": evaluate_config(plan),
        "multi_gpu_train": multi_gpu_config(),
    }
    here = files("volseg.planning.bundle")
    return {
        **{f"configs/{stem}.json": _json(content) for stem, content in configs.items()},
        "configs/logging.conf": here.joinpath("logging.conf").read_text(encoding="utf-8"),
        "LICENSE": here.joinpath("LICENSE.txt").read_text(encoding="utf-8"),
        "docs/README.md": model_card(plan, name),
        "docs/plan.md": plan_document(plan, name),
        "docs/fingerprint.json": _json(plan.fingerprint.as_dict()),
    }


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something, before the work is done.

    Raises
    ------
    OutputError
        If it is a file, or is not empty and may not be, or is not empty and holds no bundle.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder}: is a file, not a folder; name a new folder with -o"
        raise OutputError(msg)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        msg = f"{folder}: there is something in this folder already; name a new one with -o, or give --overwrite to replace the bundle with its weights"
        raise OutputError(msg)
    if not (folder / "configs" / "metadata.json").is_file():
        msg = f"{folder}: the folder holds no bundle, so --overwrite does not apply; name a new one with -o"
        raise OutputError(msg)


def write_bundle(plan: Plan, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a bundle.

    Parameters
    ----------
    plan : Plan
        What to write.
    folder : Path
        Where; its name is the bundle's.
    overwrite : bool
        Replace a bundle that is there, weights and all.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    OutputError, WriteError
        If the folder is occupied or cannot be written; nothing half-written is left.
    """
    folder = folder.expanduser().absolute()
    check_free(folder, overwrite=overwrite)
    with staged_folder(folder, replace=overwrite) as stage:
        for place, text in bundle_files(plan, folder.name).items():
            path = stage / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (stage / WEIGHTS_FOLDER).mkdir()
    return folder


def _json(content: dict[str, Any]) -> str:
    """Indented, with lists of numbers and words on one line each, as a person would write them."""
    return _indented(content, "") + "\n"


def _indented(value: Any, margin: str) -> str:
    flat = json.dumps(value, allow_nan=False, ensure_ascii=False)
    deep = isinstance(value, dict) and bool(value)
    nested = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if not (deep or nested) or (len(flat) <= MOST_ON_A_LINE and not _holds_objects(value)):
        return flat
    inner = margin + "    "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_indented(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{margin}}}"
    return "[\n" + ",\n".join(f"{inner}{_indented(item, inner)}" for item in value) + f"\n{margin}]"


MOST_ON_A_LINE = 150


def _holds_objects(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, dict) and item for item in items)
