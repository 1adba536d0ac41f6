"""Numbers about segmentations: what was measured on each label, how well it agrees with a reference, statistics over cases, and files of them."""

from __future__ import annotations

from volseg.evaluation.agreement import Agreement, measure_agreement
from volseg.evaluation.comparison import Comparison, Difference, compare_evaluations
from volseg.evaluation.evaluation import Case, Evaluation, summarise
from volseg.evaluation.labels import parse_label_names, read_label_names
from volseg.evaluation.metrics.catalogue import METRICS, Metric
from volseg.evaluation.metrics.detection import Detection, match_lesions
from volseg.evaluation.metrics.settings import Settings
from volseg.evaluation.metrics.surfaces import SurfaceAgreement, compare_surfaces
from volseg.evaluation.overlap import Overlap, count_overlaps, dice, iou
from volseg.evaluation.pairs.comparing import evaluate_pairs
from volseg.evaluation.pairs.pairing import Pair, Pairing, Reference, References, find_images, find_label_maps, find_references, pair_files
from volseg.evaluation.regions.diameter import Diameter
from volseg.evaluation.regions.intensity import Intensity, intensity_unit
from volseg.evaluation.regions.label_record import LabelStatistics
from volseg.evaluation.regions.lesions import BoundingBox, Lesion
from volseg.evaluation.regions.statistics import label_statistics
from volseg.evaluation.regions.tables import format_statistics_csv, write_statistics_csv
from volseg.evaluation.scores import GRID_TOLERANCE_MM, CaseAgreement, LabelScore, compare_volumes, score_pair
from volseg.evaluation.summary import Distribution, LabelSummary, summarise_label
from volseg.evaluation.writing import write_csv

__all__ = [
    "GRID_TOLERANCE_MM",
    "METRICS",
    "Agreement",
    "BoundingBox",
    "Case",
    "CaseAgreement",
    "Comparison",
    "Detection",
    "Diameter",
    "Difference",
    "Distribution",
    "Evaluation",
    "Intensity",
    "LabelScore",
    "LabelStatistics",
    "LabelSummary",
    "Lesion",
    "Metric",
    "Overlap",
    "Pair",
    "Pairing",
    "Reference",
    "References",
    "Settings",
    "SurfaceAgreement",
    "compare_evaluations",
    "compare_surfaces",
    "compare_volumes",
    "count_overlaps",
    "dice",
    "evaluate_pairs",
    "find_images",
    "find_label_maps",
    "find_references",
    "format_statistics_csv",
    "intensity_unit",
    "iou",
    "label_statistics",
    "match_lesions",
    "measure_agreement",
    "pair_files",
    "parse_label_names",
    "read_label_names",
    "score_pair",
    "summarise",
    "summarise_label",
    "write_csv",
    "write_statistics_csv",
]
