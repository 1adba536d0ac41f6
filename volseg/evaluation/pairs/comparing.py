"""Pairs of label maps read and compared, all of them before anything is said about those that cannot be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from volseg.dataset.entries import annotated_values
from volseg.errors import DatasetError, InputError
from volseg.evaluation.evaluation import Evaluation, summarise
from volseg.evaluation.metrics.settings import Settings
from volseg.evaluation.pairs.pairing import Pair
from volseg.evaluation.pairs.reading import read_pair
from volseg.evaluation.scores import CaseAgreement, compare_volumes
from volseg.io import Volume

AT_ONCE = 2
"""Pairs in memory: one is read while the one before it is compared. Reading and comparing take about as long as each other, and each pair holds two label maps."""

Outcome = CaseAgreement | InputError


def evaluate_pairs(
    pairs: Iterable[Pair],
    label_names: Mapping[int, str] | None = None,
    *,
    settings: Settings | None = None,
    rois: Mapping[str, int] | None = None,
    scans: Path | None = None,
    missing: Sequence[Path] = (),
    unmatched: Sequence[Path] = (),
    ignore_label: int | None = None,
) -> Evaluation:
    """Read and compare pairs of label maps.

    Pairs are read one after the other, and compared in a thread meanwhile; at most :data:`AT_ONCE` are in memory. Every pair is looked at before an error is raised.

    Parameters
    ----------
    pairs : iterable of Pair
        Cases; read as they are iterated, so a progress bar can wrap them. Those annotated for some classes only are scored for these.
    label_names : mapping of int to str, optional
        Names by label value. Without any, every label found is scored and named by its value; with some, a map that holds another one is an error.
    settings : Settings, optional
        Tolerances and the rule of detection.
    rois : mapping of str to int, optional
        Segments or ROIs to take of DICOM objects, by name, and the label value each gets; see :func:`~volseg.evaluation.pairs.reading.read_pair`.
    scans : Path, optional
        Where to look first for the series of DICOM objects.
    missing, unmatched : sequence of Path
        References and predictions that found no partner, to be reported.
    ignore_label : int, optional
        Voxels of this value in a reference are not compared.

    Raises
    ------
    GeometryError
        If the maps of a pair do not lie on one grid.
    InputError
        If a file cannot be read or is not a label map, or holds a label that is not named, or one that it is said not to be annotated for.
    DatasetError
        If several of these happened, all of them in ``problems``.
    """
    told = settings or Settings()
    outcomes = list(_compare_all(pairs, label_names or {}, told, rois, scans, ignore_label))
    problems = [problem for name, outcome in outcomes for problem in _problems(name, outcome, label_names or {})]
    if len(problems) > 1:
        msg = f"{len(problems)} problems in {len({name for name, _ in problems})} of {len(outcomes)} cases; put them right or take these cases out of the folders, then run again"
        raise DatasetError(msg, [f"{name}: {error}" for name, error in problems])
    if problems:
        raise problems[0][1]
    return summarise([outcome for _, outcome in outcomes if isinstance(outcome, CaseAgreement)], label_names, settings=told, missing=missing, unmatched=unmatched)


def _compare_all(
    pairs: Iterable[Pair], names: Mapping[int, str], settings: Settings, rois: Mapping[str, int] | None, scans: Path | None, ignore_label: int | None
) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each pair, in their order."""
    # Files are read in one thread: the DICOM libraries silence warnings in a way that is not safe in several.
    waiting: deque[tuple[str, Future[CaseAgreement] | InputError]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for pair in pairs:
            try:
                known = _known(pair, names)
                waiting.append((pair.case, pool.submit(_compare, pair.case, *read_pair(pair, rois, scans, ignore_label), known, settings)))
            except InputError as error:
                waiting.append((pair.case, error))
            if len(waiting) == AT_ONCE:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())


def _known(pair: Pair, names: Mapping[int, str]) -> frozenset[int] | None:
    """Label values the reference is annotated for; None for all."""
    if pair.annotated is None:
        return None
    if names or 0 in pair.annotated:
        return annotated_values(pair.annotated, names, f"{pair.reference}: by its list it")
    unnamed = [item for item in pair.annotated if isinstance(item, str)]
    if unnamed:
        msg = f"{pair.reference}: by its list it is annotated for {unnamed[0]!r}, but no label has a name; name them with --labels, or as `labels` of the list"
        raise InputError(msg)
    return frozenset(item for item in pair.annotated if isinstance(item, int))


def _compare(case: str, prediction: Volume, reference: Volume, known: frozenset[int] | None, settings: Settings) -> CaseAgreement:
    agreement = replace(compare_volumes(prediction, reference, case, settings), known=known)
    strange = [] if known is None else [label for label, overlap in agreement.overlaps.items() if overlap.referenced and label not in known]
    if strange:
        msg = f"{reference.source.path}: holds label {strange[0]}, for which it is said not to be annotated; correct `annotated` in the list, or the file"
        raise InputError(msg)
    return agreement


def _finish(case: str, pending: Future[CaseAgreement] | InputError) -> tuple[str, Outcome]:
    if isinstance(pending, InputError):
        return case, pending
    try:
        return case, pending.result()
    except InputError as error:
        return case, error


def _problems(name: str, outcome: Outcome, names: Mapping[int, str]) -> list[tuple[str, InputError]]:
    if isinstance(outcome, InputError):
        return [(name, outcome)]
    strange = {label: overlap for label, overlap in outcome.overlaps.items() if names and label not in names}
    errors = []
    for source, side in ((outcome.prediction, "predicted"), (outcome.reference, "referenced")):
        held = [f"{label} ({getattr(overlap, side)} voxels)" for label, overlap in strange.items() if getattr(overlap, side)]
        if held:
            named = ", ".join(f"{label} {text}" for label, text in names.items())
            plural = "label" if len(held) == 1 else "labels"
            msg = f"{source.path}: holds {plural} {', '.join(held)}, while the named labels are {named}; name every label with --labels, or correct the file"
            errors.append((name, InputError(msg)))
    return errors
