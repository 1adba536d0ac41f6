"""The chain before the network: spatial transforms, and intensity transforms of the whole image or of its channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from volseg.bundle.config import Step
from volseg.inference.plan.facts import IntensityStep, UnrecognisedError
from volseg.inference.plan.intensity import INTENSITY, read_intensity
from volseg.inference.plan.spatial import read_crop, read_orientation, read_spacing
from volseg.inference.plan.steps import PREPROCESSING, WITHOUT_EFFECT, check_without_effect, find_steps, only, plain


@dataclass
class Preprocessing:
    """What has been read of the chain so far, and in the end the whole of it.

    Parameters
    ----------
    config : mapping
        The inference config.
    channels : int
        Of the image.
    orientation, spacing, interpolation, before, after
        As in :class:`~volseg.inference.plan.facts.InferencePlan`.
    """

    config: Mapping[str, Any]
    channels: int
    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    interpolation: str = "bilinear"
    before: list[IntensityStep] = field(default_factory=list)
    after: list[IntensityStep] = field(default_factory=list)
    _cropped: bool = field(default=False, init=False)
    _was_split: bool = field(default=False, init=False)
    # Key -> number, while the image lies in its channels.
    _parts: dict[str, int] = field(default_factory=dict, init=False)

    def take(self, step: Step) -> None:
        """Add one transform.

        Raises
        ------
        UnrecognisedError
            When it is unknown, or stands where the engine does not know it.
        """
        if step.target == "SplitDimd" and not self._parts:
            self._split(step)
        elif step.target == "ConcatItemsd" and self._parts:
            self._join(step)
        elif step.target in WITHOUT_EFFECT:
            check_without_effect(step, self._parts)
        elif self._parts:
            self._take_of_channels(step)
        elif step.keys != ("image",):
            check_without_effect(step)
        elif step.target == "Orientationd":
            self._take_orientation(step)
        elif step.target == "Spacingd":
            self._take_spacing(step)
        elif step.target == "CropForegroundd":
            if self._cropped:
                msg = "two CropForegroundd"
                raise UnrecognisedError(msg)
            self._cropped = True
            self._add(read_crop(self.config, step))
        elif step.target in INTENSITY:
            self._add(read_intensity(self.config, step, self.channels))
        else:
            msg = f"{step.target} in `preprocessing`"
            raise UnrecognisedError(msg)

    def finish(self) -> None:
        """After the last transform; without a resampling all steps count as after it."""
        if self._parts:
            msg = "SplitDimd without a ConcatItemsd that makes `image` of all its channels"
            raise UnrecognisedError(msg)
        if self.spacing is None:
            self.before, self.after = [], self.before

    def _add(self, step: IntensityStep) -> None:
        (self.after if self.spacing else self.before).append(step)

    def _take_orientation(self, step: Step) -> None:
        if self.orientation or self.spacing or self._cropped:
            msg = "Orientationd after another spatial transform"
            raise UnrecognisedError(msg)
        self.orientation = read_orientation(step)

    def _take_spacing(self, step: Step) -> None:
        if self.spacing or self._was_split:
            msg = "two Spacingd" if self.spacing else "Spacingd after SplitDimd"
            raise UnrecognisedError(msg)
        self.spacing, self.interpolation = read_spacing(self.config, step)

    def _split(self, step: Step) -> None:
        """``SplitDimd``: one key a channel, ``image_0`` and so on unless postfixes are given."""
        only(step, {"output_postfixes", "dim", "keepdim", "update_meta", "list_output"})
        given = {key: plain(self.config, value) for key, value in step.arguments.items()}
        endings = given.get("output_postfixes")
        endings = list(range(self.channels)) if endings is None else endings
        usual = given.get("dim", 0) == 0 and given.get("keepdim", True) is True and not given.get("list_output", False)
        if step.keys != ("image",) or not usual or not isinstance(endings, list) or len({str(ending) for ending in endings}) != self.channels:
            msg = f"SplitDimd of {', '.join(step.keys)} into {endings!r} for {self.channels} channels"
            raise UnrecognisedError(msg)
        self._parts = {f"image_{ending}": number for number, ending in enumerate(endings)}
        self._was_split = True

    def _join(self, step: Step) -> None:
        only(step, {"name", "dim"})
        if step.arguments.get("name") != "image" or step.arguments.get("dim", 0) != 0 or list(step.keys) != list(self._parts):
            msg = f"ConcatItemsd of {', '.join(step.keys)} into {step.arguments.get('name')!r}, where the channels are {', '.join(self._parts)}"
            raise UnrecognisedError(msg)
        self._parts = {}

    def _take_of_channels(self, step: Step) -> None:
        if step.target not in INTENSITY or not step.keys or not set(step.keys) <= set(self._parts):
            msg = f"{step.target} on {', '.join(step.keys) or 'no key'} between SplitDimd and ConcatItemsd"
            raise UnrecognisedError(msg)
        for key in step.keys:
            self._add(read_intensity(self.config, step, 1, self._parts[key]))


def read_preprocessing(config: Mapping[str, Any], channels: int) -> Preprocessing:
    """Read the whole chain.

    Parameters
    ----------
    config : mapping
        The inference config.
    channels : int
        Of the image.

    Raises
    ------
    UnrecognisedError
        When a part is none the engine knows.
    """
    chain = Preprocessing(config, channels)
    for step in find_steps(config, PREPROCESSING):
        chain.take(step)
    chain.finish()
    return chain
