"""How well a segmentation agrees with a reference: overlap per label and case, statistics over cases, and files of both."""

from __future__ import annotations

from volseg.evaluation.evaluation import Case, Evaluation, evaluate_pairs, summarise
from volseg.evaluation.labels import parse_label_names, read_label_names
from volseg.evaluation.overlap import Overlap, count_overlaps, dice, iou
from volseg.evaluation.pairing import Pair, Pairing, Reference, References, find_label_maps, find_references, pair_files
from volseg.evaluation.scores import GRID_TOLERANCE_MM, CaseOverlap, LabelScore, compare_volumes
from volseg.evaluation.summary import Distribution, LabelSummary, summarise_label
from volseg.evaluation.writing import write_csv

__all__ = [
    "GRID_TOLERANCE_MM",
    "Case",
    "CaseOverlap",
    "Distribution",
    "Evaluation",
    "LabelScore",
    "LabelSummary",
    "Overlap",
    "Pair",
    "Pairing",
    "Reference",
    "References",
    "compare_volumes",
    "count_overlaps",
    "dice",
    "evaluate_pairs",
    "find_label_maps",
    "find_references",
    "iou",
    "pair_files",
    "parse_label_names",
    "read_label_names",
    "summarise",
    "summarise_label",
    "write_csv",
]
