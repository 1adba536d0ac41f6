"""A whole cross-validation: every fold trained, every case scored by the fold that did not see it, and, when asked, the bundle brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from volseg.bundle import Bundle, find_bundle, read_bundle
from volseg.dataset import Case, Datalist, split_fold
from volseg.dataset.convert import read_reference
from volseg.geometry import Grid
from volseg.inference.refine import refine
from volseg.io.text import write_json
from volseg.training.distributed import ranks
from volseg.training.export import Findings, describe_refinements, export_findings, export_weights, today
from volseg.training.folds.baseline import place, vote
from volseg.training.folds.choice import choose_refinements
from volseg.training.folds.held_out import PREDICTIONS, HeldOut, predict_fold
from volseg.training.folds.summary import CaseScores, CrossValidation
from volseg.training.partial.codes import may_be
from volseg.training.progress import Reporter
from volseg.training.result import TrainingResult

ALL_CASES = "all_cases"
"""Folder of the run that trains on every case."""

TrainFold = Callable[[int | None, Path], TrainingResult]
"""Trains one fold, or all cases for None, in a folder."""


def fold_folder(fold: int | None) -> str:
    """Name of a fold's folder in that of the whole cross-validation."""
    return ALL_CASES if fold is None else f"fold{fold}"


def cross_validate(
    bundle: str | Path,
    datalist: Datalist,
    folder: Path,
    folds: Sequence[int],
    train_fold: TrainFold,
    *,
    device: str = "auto",
    precision: str = "auto",
    into: bool = False,
    fold_weights: bool = False,
    reporter: Reporter,
) -> CrossValidation | None:
    """Train every fold in turn and sum them up.

    With ``into``, the bundle is brought up to date: a further training on every case, with the same settings, gives ``models/model.pt`` (the cross-validation measures the recipe,
    and more cases make a better model; nothing held out is left to score that one); the corrections of the label that help go into the inference config; metrics, changelog,
    version and model card are filled in.

    Parameters
    ----------
    bundle : str or Path
        Folder or name.
    datalist : Datalist
        All labelled cases.
    folder : Path
        Gets ``foldK/`` (a run each, with predictions in ``validation/``), ``summary.json``, and ``all_cases/`` with ``into``.
    folds : sequence of int
        Which folds.
    train_fold : callable
        Trains one; a fold that is trained already comes back at once.
    device, precision : str
        Of the predictions.
    into : bool
        Change the bundle.
    fold_weights : bool
        With ``into``, also write ``models/model_foldK.pt``, for ensembles.
    reporter : Reporter
        Is told.

    Returns
    -------
    CrossValidation or None
        As written to ``summary.json``; None in all processes but the first of a distributed training.
    """
    read = read_bundle(find_bundle(bundle))
    results = {fold: train_fold(fold, folder / fold_folder(fold)) for fold in folds}
    if not ranks().is_first:
        if into:
            train_fold(None, folder / ALL_CASES)
        return None
    held = [item for fold in folds for item in _held_out(read, datalist, fold, results[fold].final, folder, device, precision, reporter)]
    labels = {value: name for value, name in read.labels.items() if value != 0}
    reporter.message(f"scoring {len(held)} held-out cases")
    choice = choose_refinements(held, sorted(labels))
    cases = []
    for fold in folds:
        votes = vote(_references(split_fold(datalist.cases, fold)[0]), max(read.labels) + 1)
        for item in (item for item in held if item.fold == fold):
            pair = item.read()
            refined = refine(pair.prediction.copy(), choice.refinements, pair.grid.spacing)
            cases.append(CaseScores(fold, item.name, pair.dice(), pair.dice(refined), pair.dice(place(votes, pair.grid))))
    found = CrossValidation(read.name, datalist.name, labels, tuple(cases), choice)
    write_json(folder / "summary.json", found.to_dict())
    if into:
        final = train_fold(None, folder / ALL_CASES)
        _update_bundle(read, found, final, results if fold_weights else {}, len(datalist.cases), reporter)
    return found


def _held_out(bundle: Bundle, datalist: Datalist, fold: int, weights: Path, folder: Path, device: str, precision: str, reporter: Reporter) -> list[HeldOut]:
    _, cases = split_fold(datalist.cases, fold)
    predictions = predict_fold(bundle, weights, cases, folder / fold_folder(fold) / PREDICTIONS, device=device, precision=precision, reporter=reporter)
    ignored = () if datalist.ignore_label is None else (datalist.ignore_label,)
    known = [frozenset(set(bundle.labels) - set(may_be(case, bundle.labels, datalist.path))) for case in cases]
    return [HeldOut(fold, case, prediction, labels, ignored) for case, prediction, labels in zip(cases, predictions, known, strict=True)]


def _references(cases: Sequence[Case]) -> Iterator[tuple[npt.NDArray[np.generic], Grid]]:
    for case in cases:
        reference = read_reference(case)
        yield np.asarray(reference.array), reference.grid


def _update_bundle(bundle: Bundle, found: CrossValidation, final: TrainingResult, folds: dict[int, TrainingResult], cases: int, reporter: Reporter) -> None:
    written = [export_weights(final.weights, bundle)]
    written += [export_weights(result.final, bundle, f"model_fold{fold}.pt") for fold, result in folds.items()]
    mean = found.mean()
    scored = "" if mean is None else f"; mean Dice {mean:.4f} in {len(found.folds)}-fold cross-validation"
    change = f"trained on {cases} cases of {found.dataset} ({today()}, {final.epochs} epochs){scored}; post-processing added: {describe_refinements(found.choice.refinements)}"
    written += export_findings(bundle, Findings(found.metrics(), found.to_markdown(), change, found.choice.refinements))
    reporter.message(f"bundle {bundle.name} brought up to date: {', '.join(str(path.relative_to(bundle.path)) for path in written)}")
