"""Predictions for the cases that a fold kept out of its training, by the bundle's own inference, on the scans' own grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle, read_config
from volseg.dataset import Case, name_cases
from volseg.dataset.cache.identity import digest_of
from volseg.dataset.convert import read_reference
from volseg.evaluation import Overlap, count_overlaps
from volseg.geometry import Grid
from volseg.inference.refine import ARGUMENTS
from volseg.io import load
from volseg.io.text import write_text
from volseg.provenance import sha256_of
from volseg.training.progress import Reporter

if TYPE_CHECKING:
    from volseg.io import Volume

Labels = npt.NDArray[np.unsignedinteger[Any]]

PREDICTIONS = "validation"
"""Folder of a fold's run with its predictions."""

SUFFIX = "_seg.nii.gz"

MADE_BY = ".made_by"
"""Beside them: hashes of the weights and the inference config that made them, so that others make new ones."""


@dataclass(frozen=True)
class HeldOut:
    """A case, and what a model that never saw it says.

    Attributes
    ----------
    fold : int
        The fold that kept it out.
    case : Case
        Its files.
    prediction : Path
        Label map on the grid of its first image.
    known : frozenset of int
        Label values it is annotated for, background left out; no other is scored.
    ignored : tuple of int
        Label values of voxels that are not scored.
    """

    fold: int
    case: Case
    prediction: Path
    known: frozenset[int]
    ignored: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of the case among those of its fold: that of its prediction."""
        return self.prediction.name.removesuffix(SUFFIX)

    def read(self) -> Pair:
        """Prediction and reference; voxels that are to be ignored are background in both."""
        reference, prediction = read_reference(self.case), load(self.prediction)
        truth, found = np.array(reference.array), np.array(prediction.array)
        unknown = np.isin(truth, self.ignored) if self.ignored else None
        if unknown is not None:
            truth[unknown] = found[unknown] = 0
        return Pair(found.astype(np.uint8), truth.astype(np.uint8), reference.grid, self.known, unknown)


@dataclass(frozen=True, eq=False)
class Pair:
    """Arrays (i, j, k) of a prediction and its reference on one grid; ``unknown`` marks voxels that are not scored."""

    prediction: Labels
    reference: Labels
    grid: Grid
    known: frozenset[int] = field(default_factory=frozenset)
    unknown: npt.NDArray[np.bool_] | None = None

    def dice(self, prediction: npt.NDArray[Any] | None = None) -> dict[int, float | None]:
        """Dice of each known label, of this or another prediction; None where neither map has it."""
        if prediction is not None and self.unknown is not None:
            prediction = np.where(self.unknown, 0, prediction)
        overlaps = count_overlaps(self.prediction if prediction is None else prediction, self.reference)
        return {label: overlaps.get(label, Overlap()).dice for label in sorted(self.known)}


def predict_fold(bundle: Bundle, weights: Path, cases: Sequence[Case], folder: Path, *, device: str, precision: str, reporter: Reporter) -> list[Path]:
    """Segment the cases of a fold; predictions that the same weights and inference made before are kept.

    Parameters
    ----------
    bundle : Bundle
        Its inference config is used as it is, corrections of the label included.
    weights : Path
        Of the fold.
    cases : sequence of Case
        Kept out of its training.
    folder : Path
        Where ``CASE_seg.nii.gz`` go.
    device, precision : str
        See :class:`volseg.Segmenter`.
    reporter : Reporter
        Gets a line for each case.

    Returns
    -------
    list of Path
        One prediction a case.
    """
    from volseg.inference import Segmenter

    targets = [folder / f"{name}{SUFFIX}" for name in name_cases(cases)]
    made_by = " ".join([sha256_of(weights), digest_of(_without_corrections(bundle)), *bundle.channel_units])
    mark = folder / MADE_BY
    kept = mark.is_file() and mark.read_text(encoding="utf-8").strip() == made_by
    # Two readers' labels of one scan are two cases and one prediction.
    scans = {target: case for case, target in zip(cases, targets, strict=True)}
    missing = [(case, target) for target, case in scans.items() if not (kept and target.is_file())]
    if not missing:
        return targets
    if not kept:
        # First, or predictions of other weights would pass for these after an interruption.
        for target in targets:
            target.unlink(missing_ok=True)
        write_text(mark, f"{made_by}\n")
    with Segmenter(bundle.path, weights=weights, device=device, precision=precision) as segmenter:
        for case, target in missing:
            reporter.message(f"segmenting {case.name} of {folder.parent.name}")
            segmenter.segment(scan_of(case, bundle)).save(target)
    return targets


def _without_corrections(bundle: Bundle) -> Any:
    """The inference config but for the corrections of the label: those that a cross-validation put there are no reason to segment its cases again."""
    corrections = {f"{name}d" for name in ARGUMENTS}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(part) for key, part in value.items()}
        if isinstance(value, list):
            return [strip(part) for part in value if not (isinstance(part, dict) and str(part.get("_target_", "")).rpartition(".")[2] in corrections)]
        return value

    return strip(read_config(bundle.inference_config))


def scan_of(case: Case, bundle: Bundle) -> Path | Mapping[str, Volume | str | Path]:
    """What the segmenter takes of a case: one file, or one for each channel by its name."""
    return case.images[0] if len(case.images) == 1 else dict(zip(bundle.channel_names, case.images, strict=True))


def read_all(held: Sequence[HeldOut]) -> Iterator[tuple[HeldOut, Pair]]:
    """Read the pairs one after the other; only one is in memory."""
    for item in held:
        yield item, item.read()
