"""Intensity transforms: which are known, and with which arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from volseg.bundle.config import Step
from volseg.inference.plan.facts import IntensityStep, UnrecognisedError
from volseg.inference.plan.steps import FLOAT32, only, plain, single

INTENSITY: dict[str, tuple[str, ...]] = {
    "ScaleIntensityRanged": ("a_min", "a_max", "b_min", "b_max", "clip"),
    "NormalizeIntensityd": ("subtrahend", "divisor", "nonzero", "channel_wise"),
    "ScaleIntensityd": ("minv", "maxv", "factor", "channel_wise"),
    "ScaleIntensityRangePercentilesd": ("lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise"),
    "ClipIntensityPercentilesd": ("lower", "upper", "sharpness_factor", "channel_wise"),
    "CastToTyped": (),
}
"""Recognised intensity transforms and the arguments they may have; another argument makes them unknown."""


def read_intensity(config: Mapping[str, Any], step: Step, channels: int, channel: int | None = None) -> IntensityStep:
    """One recognised intensity transform.

    Parameters
    ----------
    config : mapping
        The whole config, for references.
    step : Step
        Its target is a key of :data:`INTENSITY`.
    channels : int
        Of what it is applied to.
    channel : int, optional
        The one channel it is applied to; None for the whole image.

    Raises
    ------
    UnrecognisedError
        When an argument is unknown, an expression, or not one MONAI itself takes for so many channels.
    """
    dtype = single(step.arguments.get("dtype"))
    if dtype not in FLOAT32:
        msg = f"{step.target} with dtype {dtype}"
        raise UnrecognisedError(msg)
    only(step, {*INTENSITY[step.target], "dtype"})
    arguments = {key: plain(config, value) for key, value in step.arguments.items() if key in INTENSITY[step.target]}
    if any(isinstance(value, str) for value in _leaves(arguments)):
        msg = f"{step.target} with an expression"
        raise UnrecognisedError(msg)
    if arguments.pop("sharpness_factor", None) is not None:
        msg = f"{step.target} with a sharpness_factor"
        raise UnrecognisedError(msg)
    if step.target == "NormalizeIntensityd":
        _check_numbers(arguments, channels)
    return IntensityStep(step.target.removesuffix("d"), arguments, channel)


def _leaves(arguments: Mapping[str, Any]) -> Iterator[Any]:
    for value in arguments.values():
        yield from value if isinstance(value, list) else [value]


def _check_numbers(arguments: Mapping[str, Any], channels: int) -> None:
    """MONAI subtracts and divides by a list of one number a channel where ``channel_wise`` is on, else by one number; anything else fails there."""
    each = bool(arguments.get("channel_wise", False))
    for name in ("subtrahend", "divisor"):
        value = arguments.get(name)
        fits = isinstance(value, list) and len(value) == channels if each else isinstance(value, (int, float))
        if value is not None and not fits:
            msg = f"NormalizeIntensityd with {name}={value!r} for {channels} channels and channel_wise={each}"
            raise UnrecognisedError(msg)
