"""Run every peer on a case, several rounds, and compare what they wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import agreement
from commands import Case, Tools, prepare, warm_up
from measure import CommandError, run_measured
from report import GIB, say, summarise


def run_case(case: Case, peers: list[str], tools: Tools, rounds: int, *, warm: bool = False) -> dict[str, Any]:
    """All rounds of all peers; a peer that fails is told with its error and not run again. ``warm`` says that volseg's cache has been filled already."""
    results: dict[str, Any] = {name: {"rounds": []} for name in peers}
    for number in range(rounds):
        for name in peers:
            if "error" in results[name]:
                continue
            try:
                if number == 0 and not warm and name.startswith("volseg-") and not name.endswith("-first"):
                    warm_up(name, case, tools)
                run = prepare(name, case, tools)
                usage = run_measured(run.command, log=case.folder / f"{name}.log", environment=run.environment)
            except (CommandError, RuntimeError) as error:
                results[name]["error"] = str(error)
                say(f"  {name}: {error}")
                continue
            say(f"  {name}: {usage.wall_s:.1f} s, {usage.cpu_s:.1f} CPU s, {usage.peak_rss / GIB:.2f} GiB (load before {usage.load:.1f})")
            results[name]["rounds"].append(asdict(usage))
            results[name]["label"] = str(run.label)
            if run.report:
                results[name]["report"] = {
                    key: value for key, value in json.loads(run.report.read_text()).items() if key in ("engine", "timings_s", "peak_memory_bytes", "forecast", "warnings")
                }
    for result in results.values():
        if result["rounds"]:
            result.update({key: summarise([each[key] for each in result["rounds"]]) for key in ("wall_s", "cpu_s", "peak_rss", "peak_pss")})
            result["processes"] = max(each["processes"] for each in result["rounds"])
    add_agreement(results, case)
    return results


def add_agreement(results: dict[str, Any], case: Case) -> None:
    """Compare volseg's labels with those of plain MONAI."""
    reference = results.get("monai", {}).get("label")
    for name, result in results.items():
        label = result.pop("label", None)
        if label and reference and name.startswith("volseg"):
            result["agreement"] = agreement(Path(label), Path(reference), case.classes)
