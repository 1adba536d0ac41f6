"""From a dataset as the user has it to the cases of one training: read, split, checked, converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from volseg.bundle import Bundle
from volseg.dataset import Case, Datalist, check_cases, convert_cases, count_channels, read_datalist, split_fold
from volseg.errors import DatasetError
from volseg.training.partial import LabelCodes, encode_cases, label_codes
from volseg.training.progress import Reporter

SYNTHETIC = "synthetic"
"""Name of the built-in dataset."""

SYNTHETIC_CASES = 10

CONVERTED = "converted"
"""Folder of a run that holds DICOM cases as NIfTI, and label maps of partly annotated cases."""


@dataclass(frozen=True)
class Sources:
    """The cases of one training.

    Attributes
    ----------
    training, validation : tuple of Case
        As the bundle's transforms can read them.
    originals : tuple of Case
        Training and then validation cases as the dataset names them, before any conversion; a label that was written anew for this training is named in place of the dataset's.
    codes : LabelCodes
        Label values that stand for sets of classes; empty when every voxel is annotated for every class.
    """

    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    originals: tuple[Case, ...]
    codes: LabelCodes

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them, those for training first."""
        return self.training + self.validation

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [file for case in self.cases for file in (*case.images, case.label)]


def open_dataset(data: str | Path, run_dir: Path) -> Datalist:
    """Read a datalist; ``"synthetic"`` is drawn into the run's folder when it is not there yet."""
    if str(data) != SYNTHETIC:
        return read_datalist(data)
    from volseg.synthetic import write_dataset

    target = run_dir / "synthetic_data"
    if not (target / "dataset.json").is_file():
        write_dataset(target, SYNTHETIC_CASES, seed=0)
    return read_datalist(target)


def prepare_sources(bundle: Bundle, datalist: Datalist, run_dir: Path, *, fold: int | None, reuse: bool, checked: bool, reporter: Reporter) -> Sources:
    """Split, check and convert the cases of one fold.

    Parameters
    ----------
    bundle : Bundle
        What is trained.
    datalist : Datalist
        All labelled cases.
    run_dir : Path
        Where converted files go.
    fold : int or None
        Fold kept for validation; None trains on every case.
    reuse : bool
        Keep files that were converted before (a resumed training, or another process of this one).
    checked : bool
        The cases were looked at already.
    reporter : Reporter
        Is told what takes time.

    Raises
    ------
    DatasetError
        When cases cannot be trained on, none has anything labelled, or a scan is on both sides of the split.
    """
    training, validation = split_fold(in_units_of(bundle, datalist.cases), fold)
    _refuse_leaks(training, validation, datalist.path)
    check_channels(bundle, datalist.cases, datalist.path)
    cases = [*training, *validation]
    codes = label_codes(cases, bundle.labels, datalist.ignore_label, datalist.path)
    if not checked:
        reporter.message(f"checking {len(cases)} cases")
        labelled = check_cases(cases, {*bundle.labels, *([] if datalist.ignore_label is None else [datalist.ignore_label])})
        if not labelled:
            msg = f"{datalist.path}: every label map is empty; there is nothing to learn from"
            raise DatasetError(msg)
    converted = convert_cases(cases, run_dir / CONVERTED, channels=bundle.channel_names, reuse=reuse, progress=reporter.message)
    encoded = encode_cases(converted, bundle.labels, codes, run_dir / CONVERTED, datalist.path)
    originals = tuple(case if new is old else replace(case, label=new.label) for case, old, new in zip(cases, converted, encoded, strict=True))
    return Sources(tuple(encoded[: len(training)]), tuple(encoded[len(training) :]), originals, codes)


def _refuse_leaks(training: Sequence[Case], validation: Sequence[Case], path: Path) -> None:
    """Refuse a scan on both sides of the split: its score would say nothing."""
    seen = {image.resolve() for case in training for image in case.images}
    shared = [(case, image) for case in validation for image in case.images if image.resolve() in seen]
    if shared:
        case, image = shared[0]
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        msg = f"{path}: {image} would be trained on and validated with at once (case {case.name}){more}; list each scan once, or give its cases one fold in the datalist"
        raise DatasetError(msg)


def in_units_of(bundle: Bundle, cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases, read in the units the bundle wants."""
    return tuple(replace(case, suv=bundle.wants_suv) for case in cases)


def check_channels(bundle: Bundle, cases: Sequence[Case], path: Path) -> None:
    """Refuse cases that have other than one image for each channel of the bundle; ``path`` is the datalist, for the message.

    Raises
    ------
    DatasetError
        Naming the first such case.
    """
    for case in cases:
        if (count := count_channels(case)) != bundle.input_channels:
            msg = f"{path}: case {case.name} has {count} images, but bundle {bundle.name} takes {bundle.input_channels} ({', '.join(bundle.channel_names)})"
            raise DatasetError(msg)
