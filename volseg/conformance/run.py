"""Runs the checks on a bundle, in order, in a temporary folder, and never writes into the bundle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from volseg.conformance.registry import CHECKS, Check, Outcome, Result, Status, failed, skipped
from volseg.conformance.subject import Subject
from volseg.errors import VolsegError

for _concern in ("layout", "metadata", "configs", "workflows", "network", "runs"):  # checks run in this order, the cheap ones first
    import_module(f"volseg.conformance.{_concern}")


def run_checks(bundle: Path, *, fast: bool = False, progress: Callable[[list[Check]], Iterable[Check]] = iter) -> Iterator[Result]:
    """Run every check on a bundle.

    Parameters
    ----------
    bundle : Path
        Its folder.
    fast : bool
        Leave out the checks that run the network.
    progress : callable
        Given the checks that will run, hands them out one by one as they start (and may show that).

    Yields
    ------
    Result
        One per check, as it ends. An error raised by the bundle's own code is that check's failure.
    """
    unusable: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="volseg-check-", ignore_cleanup_errors=True) as work:
        subject = Subject(bundle, Path(work))
        for check in progress([check for check in CHECKS if not (fast and check.slow)]):
            start = time.perf_counter()
            missing = [name for name in check.after if name in unusable]
            outcome = skipped(f"needs {', '.join(missing)}") if missing else _run(check, subject)
            if outcome.status in (Status.FAIL, Status.SKIP):
                unusable.add(check.identifier)
            yield Result(check.identifier, check.title, outcome.status, outcome.detail, round(time.perf_counter() - start, 3))


def _run(check: Check, subject: Subject) -> Outcome:
    try:
        return check.run(subject)
    except VolsegError as error:
        return failed(str(error))
    except Exception as error:  # a bundle is a program: whatever it raises is a finding about it, not an accident of ours
        return failed(_innermost(error))


def _innermost(error: BaseException) -> str:
    """One line for an error: MONAI wraps the cause in "Failed to evaluate" messages, of which the deepest says what is wrong."""
    lines = [_one_line(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        lines.append(_one_line(error))
    return lines[0] if len(lines) == 1 else f"{lines[0][:200]} <- {lines[-1]}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
