"""What was asked of one training, and what its records and checkpoints say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.bundle import Bundle
from volseg.dataset import name_cases
from volseg.provenance import sha256_of
from volseg.training.distributed import Ranks
from volseg.training.sources import Sources


@dataclass(frozen=True)
class Options:
    """The arguments of :func:`volseg.training.train` that concern one run, and the place of this process in it."""

    fold: int | None
    epochs: int | None
    time_limit_s: float | None
    patience: int | None
    resume: bool
    device: str
    precision: str
    seed: int
    settings: Mapping[str, Any]
    average: bool
    pretrained: Path | None
    freeze: tuple[str, ...]
    compiled: bool
    place: Ranks
    cache: str | Path | bool

    def identity(self, bundle: Bundle, sources: Sources) -> dict[str, Any]:
        """What a resumed run must have in common with the first part."""
        return self.recipe(bundle) | {"training cases": name_cases(sources.originals[: len(sources.training)])}

    def recipe(self, bundle: Bundle) -> dict[str, Any]:
        """The part of :meth:`identity` that is known before the data are read."""
        return {
            "bundle": bundle.name,
            "fold": self.fold,
            "seed": self.seed,
            "train config": sha256_of(bundle.train_config) if bundle.train_config else None,
            "settings": {name: repr(value) for name, value in self.settings.items()},
            "averaged weights": self.average,
            "pretrained weights": None if self.pretrained is None else sha256_of(self.pretrained),
            "frozen": list(self.freeze),
            "processes": self.place.count,
            "preprocessed cases": self.cache is not False,
            **({"channel units": list(bundle.channel_units)} if bundle.channel_units else {}),
        }

    @property
    def asked(self) -> dict[str, Any]:
        """How long the training was to be; a finished run that was asked for the same is not begun again."""
        return asked(self.epochs, self.time_limit_s, self.patience)

    def facts(self, bundle: Bundle, sources: Sources) -> dict[str, Any]:
        """What the records of the run say of it."""
        return {
            "bundle": bundle.name,
            "bundle_version": bundle.version,
            "train_config_sha256": sha256_of(bundle.train_config) if bundle.train_config else None,
            "fold": self.fold,
            "seed": self.seed,
            "processes": self.place.count,
            "averaged_weights": self.average,
            "compiled": self.compiled,
            "time_limit_s": self.time_limit_s,
            "asked": self.asked,
            "recipe": self.recipe(bundle),
            "training_cases": name_cases(sources.originals[: len(sources.training)]),
            "validation_cases": name_cases(sources.originals[len(sources.training) :]),
            "label_sets": {str(value): list(members) for value, members in sources.codes.sets.items()},
        }


def asked(epochs: int | None, time_limit_s: float | None, patience: int | None) -> dict[str, Any]:
    """The limits of a training as its records keep them."""
    return {"epochs": epochs, "time_limit_s": time_limit_s, "patience": patience}
