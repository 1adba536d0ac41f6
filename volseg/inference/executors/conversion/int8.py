"""An OpenVINO network in 8-bit integers: calibrated on windows of a scan, and kept only where its labels on other windows of it are those of fp32."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import DeviceError
from volseg.inference.executors.base import Executor
from volseg.inference.executors.conversion.kept import keep_converted
from volseg.inference.executors.openvino_executor import NETWORK, OpenVINOExecutor, without_telemetry
from volseg.inference.windows import padding, window_sizes, window_starts

Floats = npt.NDArray[np.float32]

RECORD = "calibration.json"
"""Beside the network: what it was calibrated on and how well it agrees."""

LEAST_DICE = 0.99
"""Per label, int8 against fp32 on windows it was not calibrated on; below it the network is not offered."""

MOST_WINDOWS = 24
"""Windows of the scan that are looked at: two thirds to calibrate on, one third to check with. Ranges of activations settle within a dozen; NNCF's own default of 300 images is for
photographs, of which one holds a hundredth of a window's voxels."""

HELD_OUT = 3
"""Every third window is held out."""


@dataclass(frozen=True)
class Agreement:
    """How int8 compares with fp32.

    Parameters
    ----------
    calibrated_on, checked_on : int
        Windows. Which scan they were of is not told: the network is used for other patients' scans, whose reports must not name it.
    dice : mapping of str to float
        Of each label that either found in the windows it was checked on.
    """

    calibrated_on: int
    checked_on: int
    dice: Mapping[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The label with the lowest Dice; ``("", nan)`` where there was no label at all."""
        return min(self.dice.items(), key=lambda item: item[1], default=("", float("nan")))


def is_installed() -> bool:
    """Whether NNCF, which calibrates, can be imported."""
    try:
        return util.find_spec("nncf") is not None
    except ValueError:
        return False


def choose_windows(image: Floats, roi: Sequence[int], cval: float = 0.0) -> list[Floats]:
    """Windows side by side over a scan, at most :data:`MOST_WINDOWS` evenly chosen of those that are not constant.

    Parameters
    ----------
    image : ndarray, float32, (channels, x, y, z)
        The network's input.
    roi : sequence of 3 int
        Window size.
    cval : float
        What a scan smaller than a window is padded with.

    Returns
    -------
    list of ndarray, float32, (1, channels, x, y, z)
    """
    size = window_sizes(image.shape[1:], roi)
    pads = padding(image.shape[1:], size)
    if any(before or after for before, after in pads):
        image = np.pad(image, [(0, 0), *pads], constant_values=cval)
    starts = [window_starts(length, n, 0.0) for length, n in zip(image.shape[1:], size, strict=True)]
    places = [(x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]]
    windows = (image[None, :, x : x + size[0], y : y + size[1], z : z + size[2]] for x, y, z in places)
    telling = [window for window in windows if np.ptp(window) > 0]
    chosen = np.unique(np.linspace(0, len(telling) - 1, min(MOST_WINDOWS, len(telling))).round().astype(int))
    return [np.ascontiguousarray(telling[n]) for n in chosen]


def split(windows: Sequence[Floats], labels: Sequence[npt.NDArray[np.bool_]]) -> tuple[list[int], list[int]]:
    """Numbers of the windows to calibrate on and of those to check with, windows with labels shared out first.

    Parameters
    ----------
    windows : sequence of ndarray
        From :func:`choose_windows`.
    labels : sequence of ndarray of bool, (labels, x, y, z)
        What fp32 finds in each.
    """
    order = sorted(range(len(windows)), key=lambda n: not labels[n].any())
    held = order[::HELD_OUT]
    return [n for n in order if n not in held], held


def masks(scores: Floats, threshold: float | None) -> npt.NDArray[np.bool_]:
    """Label masks (labels, x, y, z) of a window's scores (1, classes, x, y, z): of the largest score, background left out; or, with a threshold, of each channel above it.

    Parameters
    ----------
    scores : ndarray, float32, (1, classes, x, y, z)
        As the network gives them.
    threshold : float or None
        A score, not a probability.
    """
    if threshold is not None:
        return np.asarray(scores[0] > threshold)
    best = scores[0].argmax(axis=0)
    return np.stack([best == label for label in range(1, scores.shape[1])])


def dice_per_label(found: Sequence[npt.NDArray[np.bool_]], expected: Sequence[npt.NDArray[np.bool_]]) -> dict[str, float]:
    """Dice of each label over all windows together; labels that neither has are left out.

    Parameters
    ----------
    found, expected : sequence of ndarray of bool, (labels, x, y, z)
        One for each window.

    Returns
    -------
    dict of str to float
        Label value (from 1) -> Dice.
    """
    result = {}
    for label in range(len(expected[0])):
        both = sum(int((f[label] & e[label]).sum()) for f, e in zip(found, expected, strict=True))
        either = sum(int(f[label].sum()) + int(e[label].sum()) for f, e in zip(found, expected, strict=True))
        if either:
            result[str(label + 1)] = 2 * both / either
    return result


def calibrate(
    facts: Mapping[str, Any],
    model: Path,
    windows: Sequence[Floats],
    scan: str,
    *,
    threshold: float | None,
    precision: str,
    threads: int,
    keep: bool = True,
) -> Path:
    """Quantise a converted network and keep it in the cache if its labels stay the same.

    Parameters
    ----------
    facts : mapping
        From :func:`~volseg.inference.executors.conversion.facts.network_facts`.
    model : Path
        The network in float32, OpenVINO IR.
    windows : sequence of ndarray, float32, (1, channels, x, y, z)
        From :func:`choose_windows`.
    scan : str
        Their scan, for messages.
    threshold : float or None
        How scores become labels; see :func:`masks`.
    precision : str
        ``fp32`` or ``bf16``, of what stays in floating point.
    threads : int
        Processors to use.
    keep : bool
        Whether the cache gets it.

    Returns
    -------
    Path
        The ``.xml``, as :func:`~volseg.inference.executors.conversion.kept.keep_converted` gives it.

    Raises
    ------
    DeviceError
        When there are too few windows, or none with a label, to judge by, or the labels differ too much: int8 is not offered then.
    """
    if len(windows) < HELD_OUT:
        found = f"{len(windows)} that are not empty"
        msg = f"{scan}: int8 is calibrated on some windows of a scan and checked on others, but this one has {found}; begin with a larger scan, or use --precision auto"
        raise DeviceError(msg)
    shape = windows[0].shape
    reference = OpenVINOExecutor(model, shape[1], shape[2:], "fp32", 1, threads)
    expected = [masks(reference(window), threshold) for window in windows]
    learnt, held = split(windows, expected)

    def write(folder: Path) -> None:
        _quantise(model, [windows[n] for n in learnt], folder / NETWORK)
        executor = OpenVINOExecutor(folder / NETWORK, shape[1], shape[2:], precision, 1, threads)
        told = check_labels(executor, [windows[n] for n in held], [expected[n] for n in held], threshold, scan, len(learnt))
        (folder / RECORD).write_text(json.dumps(asdict(told), indent=2), encoding="utf-8")

    return keep_converted(facts, write, keep=keep) / NETWORK


def check_labels(executor: Executor, windows: Sequence[Floats], expected: Sequence[npt.NDArray[np.bool_]], threshold: float | None, scan: str, calibrated_on: int) -> Agreement:
    """Compare an int8 network's labels with those of fp32.

    Raises
    ------
    DeviceError
        When they differ too much, with the measured number, or there is no label to compare.
    """
    told = Agreement(calibrated_on, len(windows), dice_per_label([masks(executor(window), threshold) for window in windows], expected))
    label, dice = told.worst
    if not label:
        msg = f"{scan}: no label is found in the {len(windows)} windows that int8 would be checked with; begin with a scan that has one, or use --precision auto"
        raise DeviceError(msg)
    if dice < LEAST_DICE:
        found = f"in {len(windows)} windows of {scan} label {label} agrees with fp32 at Dice {dice:.4f}, below {LEAST_DICE}"
        msg = f"--precision int8 is not offered for this network: {found}; use --precision auto"
        raise DeviceError(msg)
    return told


def read_agreement(model: Path) -> Agreement | None:
    """What is recorded beside a calibrated network, or None where there is no record."""
    try:
        stored = json.loads((model.parent / RECORD).read_text(encoding="utf-8"))
        return Agreement(int(stored["calibrated_on"]), int(stored["checked_on"]), {str(k): float(v) for k, v in stored["dice"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _quantise(model: Path, windows: Sequence[Floats], path: Path) -> None:
    import logging

    with without_telemetry():
        import nncf  # type: ignore[import-untyped]
        import openvino
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix  # type: ignore[import-untyped]
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # type: ignore[import-untyped]

    nncf.set_log_level(logging.ERROR)
    read = openvino.Core().read_model(model)
    read.reshape({read.input(0): list(windows[0].shape)})
    settings = AdvancedQuantizationParameters(
        # CPUs without VNNI add products of 8-bit numbers in 16 bits, where full-range weights overflow.
        overflow_fix=OverflowFix.ENABLE,
        # The mean of the windows' ranges, which NNCF takes else, would clip what only some of them hold: lesions.
        activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
    )
    # Its progress bars go to stdout, where a command may have a document to print.
    with redirect_stdout(io.StringIO()):
        quantised = nncf.quantize(
            read,
            nncf.Dataset(list(windows)),
            # Leaky ReLUs pass little below zero: symmetric ranges would waste half of the 8 bits on it.
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(windows),
            ignored_scope=nncf.IgnoredScope(names=_ends(read)),
            advanced_parameters=settings,
        )
    openvino.save_model(quantised, path, compress_to_fp16=False)


def _ends(model: Any) -> list[str]:
    """Names of the first and last convolution, which stay in floating point: they see the intensities and give the scores, and are a small part of the work. None of two or fewer.

    ct_tumor on 20 windows of three scans, Dice against fp32: 0.9893 with NNCF's symmetric ranges (least to greatest), 0.9898 with asymmetric ones, 0.9925 with those from
    histograms, 0.9934 with the ends in floating point too. A window took 0.16 CPU seconds in fp32 and 0.10 in int8 (one thread, AVX2 without VNNI).
    """
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [names[0], names[-1]] if len(names) > 2 else []
