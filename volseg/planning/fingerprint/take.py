"""From a dataset to its fingerprint: every case read once, in parallel, and everything that is wrong reported at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from os import sep
from pathlib import Path
from statistics import median

import numpy as np

from volseg.dataset import Case, Datalist, check_listing, name_cases, read_datalist, split_fold
from volseg.dataset.checks import refuse
from volseg.dataset.folds import fold_numbers
from volseg.dataset.listing import find_duplicates
from volseg.errors import DatasetError
from volseg.planning.fingerprint.case import Examined, Samples, examine_case, summarise
from volseg.planning.fingerprint.facts import CaseFacts, ClassFacts, Fingerprint, Triple
from volseg.planning.fingerprint.stored import keep_examined, read_examined

RARE_SHARE = 0.5
"""A label in fewer than this share of the cases is worth a warning: patches with it are rare, and a fold may have none."""

SPECK_SHARE = 1e-3
"""Pieces below this share of their label in their case are specks of the drawing, not structures."""

Track = Callable[[Sequence[str]], Iterable[str]]
"""Passes the names of the cases on, one at a time, to show progress."""


def take_fingerprint(dataset: str | Path, *, workers: int = 1, track: Track = iter) -> Fingerprint:
    """Check and measure a dataset.

    Parameters
    ----------
    dataset : str or Path
        As for :func:`volseg.dataset.read_datalist`.
    workers : int
        Processes that read cases; each holds one case at a time.
    track : callable
        Wraps the names of the cases; a progress bar, for example.

    Raises
    ------
    DatasetError
        With everything that is wrong with the dataset in ``problems``.
    """
    datalist = read_datalist(dataset, check_files=False)
    listing = check_listing(datalist)
    readable = [case for case in datalist.cases if all(file.exists() for file in (*case.images, case.label))]
    names = name_cases(readable)
    examined = [_named(one, name) for one, name in zip(_examine_all(readable, datalist, workers, track(names)), names, strict=True)]
    twice, shared = find_duplicates([(one.facts.name, one.facts.identity[:-1], one.facts.identity[-1]) for one in examined if one.facts and one.facts.labels], "content")
    # A file listed twice is the same content twice, too.
    contents = [] if any("(file)" in problem for problem in listing.problems) else twice
    problems = [*listing.problems, *contents, *(problem for one in examined for problem in one.problems)]
    found = [one.facts for one in examined if one.facts]
    counts = Counter(len(facts.intensities) for facts in found)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        problems += [f"case {facts.name}: {len(facts.intensities)} channels, most cases have {usual}; make them agree" for facts in found if len(facts.intensities) != usual]
    if not problems and not any(facts.labels for facts in found):
        problems.append(f"{datalist.path}: every label map is empty; there is nothing to learn from")
    refuse(problems, len(datalist.cases))
    warnings = [*listing.warnings, *(() if any("(file)" in warning for warning in listing.warnings) else shared), *(text for one in examined for text in one.warnings)]
    return combine(datalist, found, [one.samples for one in examined], [_without_folders(text, datalist.cases) for text in warnings])


def _named(examined: Examined, name: str) -> Examined:
    return examined if examined.facts is None else replace(examined, facts=replace(examined.facts, name=name))


def _without_folders(text: str, cases: Sequence[Case]) -> str:
    """A warning with the names of files alone: it goes into documents of a bundle, and where the data lay is nobody's business there."""
    folders = {str(file.parent): file.parent for case in cases for file in (*case.images, case.label)}
    for name in sorted(folders, key=len, reverse=True):
        text = text.replace(f"{name}{sep}", "").replace(name, folders[name].name)
    return text


def _examine_all(cases: Sequence[Case], datalist: Datalist, workers: int, names: Iterable[str]) -> Iterator[Examined]:
    labels, ignored = sorted(datalist.labels), datalist.ignore_label
    stored = {id(case): read_examined(case, labels, ignored) for case in cases}
    missing = [case for case in cases if stored[id(case)] is None]
    if workers < 2 or len(missing) < 2:
        for case, _ in zip(cases, names, strict=False):
            yield stored[id(case)] or _examine(labels, ignored, case)
        return
    try:
        # Spawned, not forked: the caller may have threads.
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            fresh = pool.map(partial(_examine, labels, ignored), missing)
            for case, _ in zip(cases, names, strict=False):
                yield stored[id(case)] or next(fresh)
    except BrokenProcessPool as error:
        msg = f"a process that reads cases died (out of memory?), {len(missing)} cases of which {missing[0].images[0]} is the first; run again with one worker"
        raise DatasetError(msg) from error


def _examine(labels: Collection[int], ignored: int | None, case: Case) -> Examined:
    examined = examine_case(case, labels, ignored)
    keep_examined(case, labels, ignored, examined)
    return examined


def combine(datalist: Datalist, cases: Sequence[CaseFacts], samples: Sequence[Samples], warnings: Sequence[str]) -> Fingerprint:
    """Pool what the cases showed.

    Parameters
    ----------
    datalist : Datalist
        Names of channels and labels, and folds.
    cases : sequence of CaseFacts
        One for each case.
    samples : sequence of ndarray, (channels, n)
        Foreground values of each case; no columns without foreground.
    warnings : sequence of str
        What the checks found.
    """
    count = max(len(case.intensities) for case in cases)
    pooled = np.concatenate([values for values in samples if values.size], axis=1)
    intensities = tuple(summary for values in pooled if (summary := summarise(values)) is not None)
    classes = {value: _class_facts(value, name, cases) for value, name in datalist.labels.items() if value}
    rare = [
        f"label {value} ({facts.name}) occurs in {facts.cases} of {len(cases)} cases"
        + ("; leave it out of the labels or add cases that have it" if not facts.cases else "; add cases that have it, or expect it to be found poorly")
        for value, facts in classes.items()
        if facts.cases < RARE_SHARE * len(cases)
    ]
    training, validation = split_fold(datalist.cases, min(fold_numbers(datalist.cases)))
    return Fingerprint(
        dataset=datalist.name,
        channels=tuple(datalist.channels.get(number, "") for number in range(count)),
        labels=dict(sorted(datalist.labels.items())),
        cases=tuple(cases),
        intensities=intensities,
        classes=classes,
        warnings=(*warnings, *rare),
        training=len(training),
        validation=len(validation),
    )


def _class_facts(value: int, name: str, cases: Sequence[CaseFacts]) -> ClassFacts:
    found = [case.labels[value] for case in cases if value in case.labels]
    voxels = sum(case.labels[value].volume_ml * 1000 / float(np.prod(case.spacing_mm)) for case in cases if value in case.labels)
    share = voxels / sum(float(np.prod(case.shape)) for case in cases)
    pieces = [volume for facts in found for volume in facts.component_ml if volume >= SPECK_SHARE * facts.volume_ml]
    components = float(median(facts.components for facts in found)) if found else 0.0
    return ClassFacts(name, len(found), _spread([facts.volume_ml for facts in found]), components, _spread(pieces), share)


def _spread(values: Sequence[float]) -> Triple:
    return (min(values), float(median(values)), max(values)) if values else (0.0, 0.0, 0.0)
