"""``volseg infer --dry-run``: what would be done, how long it would take and in how much memory."""

from __future__ import annotations

from typing import Any

from volseg.cli.infer_inputs import Settings
from volseg.cli.infer_run import Finish, Scan, averaged, exit_code, process
from volseg.cli.job import Job
from volseg.cli.options import Console


def foretell_scans(jobs: list[Job], settings: Settings, console: Console) -> int:
    """Read every scan, tell what segmenting it would take and print the document; returns the exit status."""
    results, _ = process(jobs, settings, console, _foretell, overlapped=False, preload=False)
    total = _total(results)
    if total and len(jobs) > 1:
        console.say(f"in all: {_told(total['total'])}")
    console.document({"results": results, **total})
    return exit_code(results)


def _foretell(scan: Scan, console: Console) -> Finish:
    plan, outputs = scan.segmenter.plan(scan.volume, probabilities=scan.store()), [str(path) for path in scan.job.outputs()]
    for warning in plan["warnings"]:
        console.warn(f"{scan.job.scan}: {warning}")
    patch = "x".join(map(str, plan["patch"]))
    console.say(f"{scan.job.scan}: {scan.volume.grid}")
    console.say(f"  network input {'x'.join(map(str, plan['network_shape']))} at {plan['network_spacing_mm']} mm, {plan['windows']} windows of {patch}")
    console.say(f"  {plan['device_name']}, {plan['precision']}{averaged(plan)}; would write {', '.join(outputs)}")
    note = "; the network was measured for it just now, which is kept for the next time" if plan["measured_now"] else ""
    console.say(f"  forecast: {_told(plan['forecast'])}{note}")
    return lambda: {"input": scan.job.given, "grid": str(scan.volume.grid), "outputs": outputs, **plan}


def _total(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all scans: windows and seconds in sum (None where one has none), and the highest of the peaks."""
    told = [result["forecast"] for result in results if "forecast" in result]
    if not told:
        return {}
    seconds = [one["seconds"] for one in told]
    total = {
        "scans": len(told),
        "windows": sum(one["windows"] for one in told),
        "repeated_windows": sum(one["repeated_windows"] for one in told),
        "seconds": None if None in seconds else round(sum(seconds), 2),
        "seconds_unknown": next((one["seconds_unknown"] for one in told if one["seconds"] is None), None),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in told),
    }
    return {"total": total}


def _told(forecast: dict[str, Any]) -> str:
    from volseg.inference.memory import format_bytes

    repeated = f" ({forecast['repeated_windows']} of them constant, which take no time)" if forecast["repeated_windows"] else ""
    seconds = f"seconds not known ({forecast['seconds_unknown']})" if forecast["seconds"] is None else f"{forecast['seconds']:.1f} s"
    return f"{forecast['windows']} windows{repeated}, {seconds}, {format_bytes(forecast['peak_memory_bytes'])} of memory at the peak"
