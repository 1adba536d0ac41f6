"""What ``volseg evaluate`` does: pair, compare, summarise, compare with another model, draw, write, print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.cli.evaluate_options import Outputs, parse_settings, refuse_overwriting
from volseg.cli.evaluate_tables import print_comparison, print_tables
from volseg.cli.options import Console
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.evaluation import Case, Comparison, Evaluation, Pair, Pairing, Settings
    from volseg.evaluation.pairs.pairing import References
    from volseg.report.evaluation import WorstCase


@dataclass(frozen=True)
class Task:
    """What the command was told; see its options."""

    predictions: Path
    references: Path
    compare: Path | None
    outputs: Outputs
    labels: str | None
    tolerances: tuple[str, ...]
    lesion_iou: float | None
    rois: dict[str, int] | None
    scans: Path | None
    images: Path | None
    worst: int
    allow_missing: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """JSON-ready record of it."""
        texts = {"compare": self.compare, "scans": self.scans, "images": self.images}
        return {
            "predictions": str(self.predictions),
            "references": str(self.references),
            **{name: None if path is None else str(path) for name, path in texts.items()},
            "labels": self.labels,
            "rois": [f"{name}={value}" for name, value in (self.rois or {}).items()],
        }


def run(task: Task, console: Console) -> None:
    """Carry a task out.

    Raises
    ------
    InputError
        If files cannot be paired, read or compared.
    OutputError, WriteError
        If a report cannot be written.
    """
    from volseg.evaluation import compare_evaluations, parse_label_names, write_csv
    from volseg.evaluation.pairs.pairing import dataset_file
    from volseg.io.text import write_json

    if task.images and not task.images.is_dir() and dataset_file(task.images) is None:
        msg = f"--images {task.images}: is neither a folder with scans nor a JSON datalist; give one of them"
        raise InputError(msg)
    given = parse_label_names(task.labels) if task.labels else {}
    pairing, found = find_pairs(task.predictions, task.references)
    names, ignored = given or found.label_names, found.ignore_label
    settings = parse_settings(task.tolerances, task.lesion_iou, names)
    second = find_pairs(task.compare, task.references)[0] if task.compare else None
    refuse_overwriting(task.outputs, (path for each in (pairing, second) if each for pair in each.pairs for path in (pair.prediction, pair.reference)))
    evaluation = _evaluate(pairing, task, names, ignored, settings, console)
    other = None if second is None else _evaluate(second, task, names, ignored, settings, console)
    comparison = None if other is None else compare_evaluations(evaluation, other)
    document = {**evaluation.to_dict(), "inputs": {**task.inputs, "ignore_label": ignored}}
    if comparison is not None and other is not None:
        document["comparison"] = {**comparison.to_dict(), "second": other.to_dict()}
    if task.outputs.csv is not None:
        write_csv(evaluation, task.outputs.csv)
    if task.outputs.html is not None:
        _write_report(task, task.outputs.html, evaluation, _draw_worst(evaluation, pairing, task, ignored, console), other, comparison)
    if task.outputs.json is not None:
        write_json(task.outputs.json, document)
    print_tables(evaluation, console)
    if comparison is not None and task.compare is not None:
        print_comparison(comparison, _name(task.predictions), _name(task.compare), console)
    for path in task.outputs.paths:
        console.say(f"wrote {path}")
    console.document(document)


def find_pairs(predictions: Path, references: Path) -> tuple[Pairing, References]:
    """Pairs of two files, or of a folder and a folder, dataset or JSON datalist, and what a dataset says of its labels.

    Raises
    ------
    InputError
        If an input is missing, one is a single label map and the other several, or names do not fit.
    """
    from volseg.evaluation import Pair, Pairing, find_label_maps, find_references, pair_files
    from volseg.evaluation.pairs.pairing import References, dataset_file, image_stem, strip_ending

    for path in (predictions, references):
        if not path.exists():
            msg = f"{path}: no such file or folder; check the path"
            raise InputError(msg)
    listed = dataset_file(references) is not None
    if predictions.is_dir() != (references.is_dir() or listed):
        several, one = (predictions, references) if predictions.is_dir() else (references, predictions)
        msg = f"{several}: holds several label maps, {one} is a single one; give two label maps, or a folder of predictions and a folder, dataset or JSON datalist of references"
        raise InputError(msg)
    if not predictions.is_dir():
        return Pairing((Pair(strip_ending(image_stem(references)), predictions, references),)), References(())
    found = find_references(references)
    return pair_files(find_label_maps(predictions), found.items), found


def _evaluate(pairing: Pairing, task: Task, names: Mapping[int, str], ignored: int | None, settings: Settings, console: Console) -> Evaluation:
    from volseg.evaluation import evaluate_pairs

    _report_unmatched(pairing, task.allow_missing, console)
    pairs = console.track(pairing.pairs, "Comparing", lambda pair: f"{pair.case} ({pair.prediction.name} with {pair.reference.name})")
    apart = {"missing": pairing.unmatched_references, "unmatched": pairing.unmatched_predictions}
    return evaluate_pairs(pairs, names, settings=settings, rois=task.rois, scans=task.scans, ignore_label=ignored, **apart)


def _report_unmatched(pairing: Pairing, allow_missing: bool, console: Console) -> None:
    from volseg.evaluation.pairs.pairing import list_names

    if pairing.unmatched_predictions:
        console.warn(f"{len(pairing.unmatched_predictions)} predictions without a reference are left out: {list_names(pairing.unmatched_predictions)}")
    missing = pairing.unmatched_references
    if missing and not allow_missing:
        total = len(pairing.pairs) + len(missing)
        msg = f"{missing[0].parent}: {len(missing)} of {total} references have no prediction: {list_names(missing)}; add the predictions or leave them out with --allow-missing"
        raise InputError(msg)
    if missing:
        console.warn(f"{len(missing)} references have no prediction and are left out: {list_names(missing)}")


def _draw_worst(evaluation: Evaluation, pairing: Pairing, task: Task, ignored: int | None, console: Console) -> list[WorstCase]:
    """Pictures of the worst cases, whose files are read once more, one case at a time."""
    from volseg.evaluation import find_images

    worst = evaluation.worst(task.worst)
    pairs = {pair.case: pair for pair in pairing.pairs}
    images = find_images(task.images, [pairs[case.name] for case in worst]) if task.images else {}
    return [_draw_case(case, pairs[case.name], task, ignored, images.get(case.name)) for case in console.track(worst, "Drawing", lambda case: case.name)]


def _draw_case(case: Case, pair: Pair, task: Task, ignored: int | None, image: Path | None) -> WorstCase:
    import numpy as np

    from volseg import io
    from volseg.evaluation.labels import label_array
    from volseg.evaluation.pairs.reading import read_pair
    from volseg.evaluation.scores import on_grid_of
    from volseg.report.evaluation import WorstCase
    from volseg.report.evaluation_pictures import draw_disagreement, fits

    prediction, reference = read_pair(pair, task.rois, task.scans, ignored)
    scan, ground = None, "No scan was found for this case in --images." if task.images else "With --images the scan is drawn beneath."
    if image is not None:
        try:
            scan = io.load(image)
            ground = f"Scan: {scan.source.name}." if fits(scan, reference.grid) else f"The scan {scan.source.name} does not lie on the labels' grid and is not drawn."
        except InputError as error:
            # All numbers are there by now; a picture without its scan is no reason to throw them away.
            ground = f"The scan cannot be read: {error}"
    names = {score.label: score.name for score in case.scores}
    found, truth = on_grid_of(reference, prediction), label_array(reference)
    if pair.annotated is not None:
        # What is not scored is not drawn either, and chooses no plane.
        found = np.where(np.isin(found, list(names)), found, 0)
    return WorstCase(case, draw_disagreement(found, truth, reference.grid, names, scan), ground)


def _write_report(task: Task, path: Path, evaluation: Evaluation, worst: list[WorstCase], other: Evaluation | None, comparison: Comparison | None) -> None:
    from volseg.report.evaluation import SecondModel, write_evaluation_report

    second = SecondModel(_name(task.compare), other, comparison) if task.compare and other and comparison else None
    write_evaluation_report(evaluation, path, predictions=_name(task.predictions), references=_name(task.references), worst=worst, second=second)


def _name(path: Path) -> str:
    return path.resolve().name
