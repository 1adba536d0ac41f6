"""Validation while training: when there is time for it, and what it found for each class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from monai.engines import Evaluator

TIME_SHARE = 0.1
"""With a time limit, validations take at most this share of the time that has passed; one that would take more is left out, and the training goes on."""


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes
    ----------
    metrics : mapping of str to float
        By name; those of single classes are ``NAME_CLASS``.
    key : float or None
        The metric by which the best weights are chosen; None when it is undefined.
    seconds : float
        How long it took.
    """

    metrics: Mapping[str, float]
    key: float | None
    seconds: float


class Validator:
    """Runs a bundle's evaluator (whole scans by sliding window), with other weights when asked.

    Parameters
    ----------
    evaluator : monai.engines.Evaluator
        As the bundle's config built it.
    interval : int
        Epochs between validations.
    class_names : sequence of str
        Names of the classes that the key metric has a column for, where it keeps the scores of cases by class.
    """

    def __init__(self, evaluator: Evaluator, interval: int, class_names: Sequence[str] = ()) -> None:
        self._evaluator, self._interval, self._names = evaluator, max(1, interval), tuple(class_names)
        self.last_seconds: float | None = None

    def is_due(self, epoch: int, *, is_last: bool, spent_s: float, elapsed_s: float, limited: bool) -> bool:
        """Whether to validate after an epoch.

        The last epoch always is, and every ``interval``-th one unless there is a time limit and this validation, taken to last as long as the one before, would bring the time
        spent on validations above :data:`TIME_SHARE` of the time that has passed.

        Parameters
        ----------
        epoch : int
            Epochs completed.
        is_last : bool
            Whether the training ends here.
        spent_s, elapsed_s : float
            Seconds of validations so far, and of everything so far.
        limited : bool
            Whether there is a time limit.
        """
        if is_last:
            return True
        if epoch % self._interval:
            return False
        return not limited or spent_s + (self.last_seconds or 0.0) <= TIME_SHARE * elapsed_s

    def run(self, epoch: int, network: torch.nn.Module) -> Scores:
        """Validate a network; ``epoch`` is only recorded."""
        began = time.perf_counter()
        self._evaluator.network = network
        self._evaluator.run(epoch)
        state = self._evaluator.state
        metrics = {name: float(value) for name, value in state.metrics.items() if np.ndim(value) == 0}
        name = str(state.key_metric_name)
        key = metrics.get(name)
        metrics |= self._per_class(name, getattr(state, "metric_details", {}).get(name))
        self.last_seconds = time.perf_counter() - began
        return Scores(metrics, key if key is not None and np.isfinite(key) else None, self.last_seconds)

    def _per_class(self, name: str, details: Any) -> dict[str, float]:
        """Mean over cases of each class, of the scores (cases, classes) that a MONAI metric keeps; nothing for a single class, whose mean is the metric itself."""
        if details is None or np.ndim(details) != 2 or np.shape(details)[1] != len(self._names) or len(self._names) < 2:
            return {}
        scores = np.asarray(details.cpu() if hasattr(details, "cpu") else details, dtype=np.float64)
        means = {}
        for label, column in zip(self._names, scores.T, strict=True):
            defined = column[np.isfinite(column)]
            if defined.size:
                means[f"{name}_{label}"] = float(defined.mean())
        return means
