"""What a datalist alone shows to be wrong, without reading a scan: files that are missing, listed twice or not at all, labels, channels and folds that do not add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from volseg.dataset.datalist import Case, Datalist
from volseg.dataset.folds import fold_numbers
from volseg.errors import DatasetError
from volseg.io.formats import IMAGE_SUFFIXES

UNLISTED_SHOWN = 3
"""How many files that no case names a warning names."""


@dataclass(frozen=True)
class Listing:
    """Findings about a datalist: what forbids training, and what is only odd; one line each."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_listing(datalist: Datalist) -> Listing:
    """Look a datalist over.

    Parameters
    ----------
    datalist : Datalist
        As read with ``check_files=False``.

    Returns
    -------
    Listing
        Problems: files that do not exist, cases with too few or too many channels, the same image and label listed twice, labels that are not numbered 0, 1, 2, ..., folds given to
        some cases only. Warnings: the same image with two labels (two readers), one label for two images, folds of one case, files beside the listed ones that no case names.
    """
    problems = [*_missing(datalist.cases), *_channel_problems(datalist), *_label_problems(datalist)]
    twice, shared = find_duplicates([(case.name, tuple(str(image.resolve()) for image in case.images), str(case.label.resolve())) for case in datalist.cases], "file")
    fold_problems, fold_warnings = _folds(datalist)
    return Listing((*problems, *twice, *fold_problems), (*shared, *fold_warnings, *_unlisted(datalist.cases)))


def find_duplicates(cases: Sequence[tuple[str, tuple[str, ...], str]], kind: str) -> tuple[list[str], list[str]]:
    """Cases that are the same, and cases that share half of what they are.

    Parameters
    ----------
    cases : sequence of (name, identities of the images, identity of the label)
        Identities are paths, or hashes of content.
    kind : str
        What an identity is, for the messages: ``"file"`` or ``"content"``.

    Returns
    -------
    problems, warnings : list of str
        Same images and label; same images with different labels, or the same label with different images.
    """
    whole: defaultdict[tuple[tuple[str, ...], str], list[str]] = defaultdict(list)
    by_images: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    by_label: defaultdict[str, list[str]] = defaultdict(list)
    for name, images, label in cases:
        whole[images, label].append(name)
        by_images[images].append(name)
        by_label[label].append(name)
    doubled = [names for names in whole.values() if len(names) > 1]
    problems = [
        f"cases {', '.join(names)}: the same image and label ({kind}) {len(names)} times; list each scan once, or it is trained on and validated with at once" for names in doubled
    ]
    warnings = [
        f"cases {', '.join(names)}: one image ({kind}) with {len(names)} labels; give them one fold in the datalist, or the scan is trained on and validated with at once"
        for images, names in by_images.items()
        if len(names) > 1 and all(len(whole[images, label]) < 2 for label in {label for _, others, label in cases if others == images})
    ]
    warnings += [
        f"cases {', '.join(names)}: one label ({kind}) for {len(names)} images; make sure that it belongs to each of them"
        for label, names in by_label.items()
        if len(names) > 1 and len({images for _, images, other in cases if other == label}) > 1
    ]
    return problems, warnings


def _missing(cases: Sequence[Case]) -> list[str]:
    found = []
    for case in cases:
        images = [image for image in case.images if not image.exists()]
        if len(images) == len(case.images) and case.label.exists():
            found.append(f"{case.label}: a label without an image, {images[0]} does not exist; correct the path (relative to the JSON file's folder) or leave the case out")
        elif images:
            found += [f"{image}: the image does not exist; correct the path (relative to the JSON file's folder) or leave the case out" for image in images]
        if not case.label.exists():
            found.append(f"{case.images[0]}: an image without a label, {case.label} does not exist; correct the path (relative to the JSON file's folder) or leave the case out")
    return found


def _channel_problems(datalist: Datalist) -> list[str]:
    counts = Counter(len(case.images) for case in datalist.cases)
    wanted = len(datalist.channels) or counts.most_common(1)[0][0]
    named = f"the dataset names {wanted} ({', '.join(datalist.channels.values())})" if datalist.channels else f"most cases have {wanted}"
    return [
        f"case {case.name}: {len(case.images)} image{'' if len(case.images) == 1 else 's'}, but {named}; list one file for each channel, in the same order for every case"
        for case in datalist.cases
        # One file may hold all channels; that is seen when it is read.
        if len(case.images) not in (1, wanted)
    ]


def _label_problems(datalist: Datalist) -> list[str]:
    values = sorted(datalist.labels)
    if not values:
        return [f'{datalist.path}: it names no labels; add "labels": {{"0": "background", "1": "..."}}']
    if values[0] != 0:
        return [f'{datalist.path}: label 0 is not named; 0 is the background of every label map, add "0": "background"']
    if values != list(range(len(values))):
        gaps = sorted(set(range(values[-1])) - set(values))
        return [f"{datalist.path}: the labels {', '.join(map(str, values))} leave out {', '.join(map(str, gaps))}; number them 0, 1, 2, ... in the list and in the label maps"]
    if len(values) < 2:
        return [f"{datalist.path}: there is no label beside the background; name what is to be segmented"]
    return []


def _folds(datalist: Datalist) -> tuple[list[str], list[str]]:
    try:
        folds = Counter(fold_numbers(datalist.cases))
    except DatasetError as error:
        return [f"{datalist.path}: {error}"], []
    single = sorted(fold for fold, cases in folds.items() if cases == 1)
    problems = [f"{datalist.path}: there is one case; at least two are needed, one to train on and one to validate with"] if len(datalist.cases) < 2 else []
    if single and not problems:
        return [], [f"fold{'' if len(single) == 1 else 's'} {', '.join(map(str, single))} hold one case each: a validation on one case says little"]
    return problems, []


def _unlisted(cases: Sequence[Case]) -> list[str]:
    """Files that lie beside the images or labels of the cases and are named by none, a warning for each folder."""
    listed = {file.resolve() for case in cases for file in (*case.images, case.label)}
    warnings = []
    for folder in sorted({file.parent for file in listed}):
        if not folder.is_dir():
            continue
        left = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(IMAGE_SUFFIXES) and not file.name.startswith(".") and file.resolve() not in listed)
        if left:
            warnings.append(
                f"{folder}: {len(left)} file{'' if len(left) == 1 else 's'} named by no case ({_some(left)}); nothing is done with {'it' if len(left) == 1 else 'them'}"
            )
    return warnings


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:UNLISTED_SHOWN]) + (", ..." if len(names) > UNLISTED_SHOWN else "")
