"""The sliding window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from volseg.bundle.config import follow
from volseg.inference.plan.facts import UnrecognisedError
from volseg.inference.plan.steps import plain
from volseg.inference.streaming.sliding import PAD_MODES, SlidingWindow

CHANGES_RESULT = frozenset({"roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval"})
CHANGES_NO_RESULT = frozenset({"_target_", "sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh"})
"""Arguments of ``SlidingWindowInferer``."""


def read_inferer(config: Mapping[str, Any], overlap: float | None) -> SlidingWindow:
    """How windows are laid and blended.

    Parameters
    ----------
    config : mapping
        The inference config.
    overlap : float or None
        Overrides the config's.

    Raises
    ------
    UnrecognisedError
        When the inferer is another, or has an argument the engine does not know.
    """
    inferer = follow(config, "@inferer")
    if not isinstance(inferer, Mapping) or str(inferer.get("_target_", "")).rpartition(".")[2] != "SlidingWindowInferer":
        msg = f"`inferer` is {inferer.get('_target_') if isinstance(inferer, Mapping) else inferer!r}"
        raise UnrecognisedError(msg)
    unknown = set(inferer) - CHANGES_RESULT - CHANGES_NO_RESULT
    if unknown:
        msg = f"SlidingWindowInferer with {', '.join(sorted(unknown))}"
        raise UnrecognisedError(msg)
    roi = _three(config, inferer.get("roi_size"), int)
    share = (overlap,) * 3 if overlap is not None else _three(config, inferer.get("overlap", 0.25), float)
    sigma = _three(config, inferer.get("sigma_scale", 0.125), float)
    mode, padding = str(follow(config, inferer.get("mode", "constant"))), str(follow(config, inferer.get("padding_mode", "constant")))
    cval = follow(config, inferer.get("cval", 0.0))
    if mode not in ("constant", "gaussian") or padding not in PAD_MODES or not isinstance(cval, (int, float)) or not all(0 <= s < 1 for s in share):
        msg = f"SlidingWindowInferer with mode {mode!r}, padding {padding!r}, cval {cval!r}, overlap {share}"
        raise UnrecognisedError(msg)
    return SlidingWindow(roi, share, mode, sigma, padding, float(cval))


def _three(config: Mapping[str, Any], value: Any, kind: Callable[[Any], Any]) -> Any:
    given = plain(config, value)
    items = [given] * 3 if isinstance(given, (int, float)) else given
    if not isinstance(items, list) or len(items) != 3 or not all(isinstance(item, (int, float)) for item in items):
        msg = f"SlidingWindowInferer with {value!r}"
        raise UnrecognisedError(msg)
    return tuple(kind(item) for item in items)
