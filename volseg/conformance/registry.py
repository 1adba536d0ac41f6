"""What a check is, and the list of all checks in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volseg.conformance.subject import Subject


class Status(str, Enum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Outcome:
    """What one check found; ``detail`` is one line that names the file, the value and the remedy."""

    status: Status
    detail: str


@dataclass(frozen=True)
class Check:
    """One thing that a bundle must satisfy.

    Parameters
    ----------
    identifier : str
        Short name, stable between versions.
    title : str
        What must hold.
    run : callable
        Looks at the bundle and reports.
    slow : bool
        Whether it runs the network; left out by ``--fast``.
    after : tuple of str
        Checks without which this one makes no sense; it is skipped when one of them failed or was skipped.
    """

    identifier: str
    title: str
    run: Callable[[Subject], Outcome]
    slow: bool = False
    after: tuple[str, ...] = ("readable",)


@dataclass(frozen=True)
class Result:
    """A check's outcome and how long it took (s)."""

    identifier: str
    title: str
    status: Status
    detail: str
    seconds: float


CHECKS: list[Check] = []
"""In the order they are registered, which is the order they run."""


def check(identifier: str, title: str, *, slow: bool = False, after: tuple[str, ...] = ("readable",)) -> Callable[[Callable[[Subject], Outcome]], Callable[[Subject], Outcome]]:
    """Register a function as a check; see :class:`Check` for the arguments."""

    def register(run: Callable[[Subject], Outcome]) -> Callable[[Subject], Outcome]:
        CHECKS.append(Check(identifier, title, run, slow, after))
        return run

    return register


def passed(detail: str) -> Outcome:
    """The bundle satisfies the check."""
    return Outcome(Status.PASS, detail)


def failed(detail: str) -> Outcome:
    """The bundle breaks a contract."""
    return Outcome(Status.FAIL, detail)


def warned(detail: str) -> Outcome:
    """The bundle works, but something will bite somebody."""
    return Outcome(Status.WARN, detail)


def skipped(detail: str) -> Outcome:
    """The check does not apply, or cannot run here."""
    return Outcome(Status.SKIP, detail)


def judged(problems: list[str], good: str, warnings: list[str] | None = None) -> Outcome:
    """Fail with the problems if there are any, else warn with the warnings, else pass with ``good``."""
    if problems:
        return failed("; ".join(problems))
    return warned("; ".join(warnings)) if warnings else passed(good)
