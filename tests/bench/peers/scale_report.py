"""What infer_scale.py found, as markdown and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import GIB, markdown, spread

COSTS = (("wall_s", "wall s", 1.0, 1), ("cpu_s", "CPU s", 1.0, 1), ("peak_rss", "peak RSS GiB", GIB, 2), ("peak_pss", "peak PSS GiB", GIB, 2))
"""Key, heading, unit and digits of what a run costs."""


def plot_time(found: dict[str, Any], path: Path) -> None:
    """Seconds against voxels, each round a point, with the line through the medians."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for key, name in (("wall_s", "wall"), ("cpu_s", "CPU")):
        points = [(row["voxels"] / 1e6, one[key]) for row in found["rows"] for one in row["rounds"]]
        dots = axes.scatter(*zip(*points, strict=True), label=f"{name}: {found[key]['s_a_million_voxels']:.2f} s a million voxels, R² {found[key]['r_squared']:.3f}")
        ends = np.array([0, max(x for x, _ in points)])
        axes.plot(ends, found[key]["start_s"] + found[key]["s_a_million_voxels"] * ends, color=dots.get_facecolor()[0], linewidth=1)
    axes.set(xlabel="million voxels of the scan", ylabel="seconds, file to file", ylim=(0, None), xlim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_memory(document: dict[str, Any], path: Path) -> None:
    """Peak memory against classes and against voxels, beside what the scores of all classes alone would take at the scan's resolution."""
    plt = pyplot()
    parts = [(name, key, label) for name, key, label in (("classes", "classes", "classes"), ("length", "voxels", "million voxels of the scan")) if name in document]
    figure, panels = plt.subplots(1, len(parts), figsize=(5 * len(parts), 4), layout="constrained", squeeze=False)
    for axes, (name, key, label) in zip(panels[0], parts, strict=True):
        rows = document[name]["rows"]
        x = [row[key] / (1e6 if key == "voxels" else 1) for row in rows]
        axes.plot(x, [row["peak_rss"]["median"] / GIB for row in rows], "o-", label="volseg, peak RSS")
        axes.plot(x, [4 * row["voxels"] * row["classes"] / GIB for row in rows], "--", label="one float32 a voxel and class")
        axes.set(xlabel=label, ylabel="GiB", yscale="log", xlim=(0, None))
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def pyplot() -> Any:
    """Matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def render(document: dict[str, Any]) -> str:
    """Everything in markdown."""
    machine = document["machine"]
    lines = [
        f"{document['peer']}, {document['network']['name']} network; {machine['cpu']}, {machine['usable_cores']} cores; load average before {machine['load_average'][0]:.1f}; "
        "median (lowest-highest) where there were several rounds"
    ]
    for part in ("time", "classes", "length"):
        if part in document:
            limit = f" under --max-memory {document['max_memory']}" if part == "length" else ""
            lines += ["", f"### {part}{limit}", "", render_rows(document[part]["rows"])]
    if "time" in document:
        for key, name in (("wall_s", "wall"), ("cpu_s", "CPU")):
            line = document["time"][key]
            lines += ["", f"{name}: {line['start_s']:.1f} s + {line['s_a_million_voxels']:.3f} s a million voxels, R squared {line['r_squared']:.4f}"]
    if "calls" in document:
        calls = document["calls"]
        rows = [[way, *(spread(calls[way][key], unit, digits) for key, _, unit, digits in COSTS)] for way in ("one call", "a call each")]
        saved = 1 - calls["one call"]["wall_s"]["median"] / calls["a call each"]["wall_s"]["median"]
        lines += ["", f"### {calls['scans']} scans: one call saves {saved:.0%} of the time", "", markdown(["way", *(heading for _, heading, _, _ in COSTS)], rows)]
    return "\n".join(lines) + "\n"


def render_rows(rows: Sequence[dict[str, Any]]) -> str:
    """A table with a line for each scan: what it cost, beside what was foretold."""
    headings = ["slices", "million voxels", "classes", "windows (constant)", "wall s", "stages foretold s", "took s", "restore s", "peak RSS GiB", "foretold GiB"]
    limited = "kept" in rows[0]
    lines = []
    for row in rows:
        record = row["report"]
        told = record["forecast"] or {}
        foretold = [spread_or(told.get("seconds"), 1, 1), f"{sum(record['timings_s'].values()):.1f}", f"{record['timings_s'].get('restore', 0):.1f}"]
        memory = [spread(row["peak_rss"], GIB, 2), spread_or(told.get("peak_memory_bytes"), GIB, 2)]
        counted = f"{row['windows']} ({round(row['windows'] * row['constant_windows'])})"
        lines.append([str(row["slices"]), f"{row['voxels'] / 1e6:.1f}", str(row["classes"]), counted, spread(row["wall_s"]), *foretold, *memory])
        if limited:
            lines[-1].append("yes" if row["kept"] else "NO")
    return markdown([*headings, *(["limit kept"] if limited else [])], lines)


def spread_or(value: float | None, unit: float, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value / unit:.{digits}f}"
