"""Which cases train and which validate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volseg.dataset.datalist import Case
from volseg.errors import DatasetError

NUM_FOLDS = 5
FOLD_SEED = 0


def split_fold(cases: Sequence[Case], fold: int | None, num_folds: int = NUM_FOLDS, seed: int = FOLD_SEED) -> tuple[list[Case], list[Case]]:
    """Split cases into training and validation of one fold.

    Folds that the datalist gives are used as they are; otherwise the cases are shuffled by ``seed`` and dealt out in turn, so that fold sizes differ by at most one. The dealing is
    that of ``monai.data.partition_dataset(shuffle=True, seed=seed)``, so a bundle run by plain MONAI has the same folds.

    Parameters
    ----------
    cases : sequence of Case
        All labelled cases.
    fold : int or None
        The fold kept for validation; None trains on every case and validates on none.
    num_folds : int
        Number of folds where the datalist gives none.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    training, validation : list of Case

    Raises
    ------
    DatasetError
        When the fold does not exist, or leaves nothing to train or to validate on.
    """
    if fold is None:
        return list(cases), []
    folds = fold_numbers(cases, num_folds, seed)
    training = [case for case, number in zip(cases, folds, strict=True) if number != fold]
    validation = [case for case, number in zip(cases, folds, strict=True) if number == fold]
    if not validation or not training:
        known = ", ".join(map(str, sorted(set(folds))))
        msg = f"fold {fold} leaves {len(training)} cases to train and {len(validation)} to validate on; the {len(cases)} cases lie in the folds {known}"
        raise DatasetError(msg)
    return training, validation


def fold_numbers(cases: Sequence[Case], num_folds: int = NUM_FOLDS, seed: int = FOLD_SEED) -> list[int]:
    """Fold of each case: the datalist's own where every case has one, else dealt out after a seeded shuffle.

    Raises
    ------
    DatasetError
        When only some of the cases name a fold.
    """
    given = [case.fold for case in cases]
    named = [fold for fold in given if fold is not None]
    if len(named) == len(cases):
        return named
    if named:
        msg = f"{len(named)} of {len(cases)} cases name a fold; give every case a fold or none"
        raise DatasetError(msg)
    order = list(range(len(cases)))
    np.random.RandomState(seed).shuffle(order)
    dealt = [0] * len(cases)
    for position, index in enumerate(order):
        dealt[index] = position % num_folds
    return dealt
