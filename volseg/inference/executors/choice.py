"""Which engine runs a network, and in which number format: the rules, as pure functions."""

from __future__ import annotations

from typing import Literal

from volseg.errors import DeviceError

ENGINES = ("auto", "torch", "openvino", "onnxruntime", "tensorrt", "monai")

Engine = Literal["torch", "openvino", "onnxruntime", "tensorrt"]

BY_NAME: tuple[Engine, ...] = ("torch", "openvino", "onnxruntime", "tensorrt")
"""Engines that run because they were asked for."""

COMPUTED = {
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "tensorrt": ("fp32", "fp16"),
}
"""Number formats of each engine; what the device computes of them is for :func:`~volseg.inference.device.precision_for` to say."""

GAIN = {"fp32": 0.3, "bf16": 0.7}
"""Share of a window's seconds in PyTorch that OpenVINO saves, rounded down from what was measured.

CPU seconds of one thread, so that other work on the machine hardly counts (best of several runs, torch 2.13, OpenVINO 2026.4, AMD EPYC 7003 with AVX2): ct_tumor's DynUNet 16-192
at 48^3 0.41 against 0.22 (0.47) with exact normalisation, 0.36 against 0.14 (0.62) with OpenVINO's own; nnU-Net's 32-320 at 96^3 9.0 against 5.6 (0.38) with OpenVINO's own,
not measured with the exact one. Seconds on two cores of a Xeon with AMX, the latter network: fp32 4.3 against 2.8 (0.35), bf16 1.9 against 0.49 in batches of two (0.74).
"""

CONVERSION_S = 2.0
"""Seconds of converting, saving, hashing and compiling that do not grow with a window: 1.3 to 2.1 (ct_tumor) and 1.8 (DynUNet 32-320) measured as above, mostly on one core."""

CONVERSION_WINDOWS = {"fp32": 1.7, "bf16": 3.7}
"""And those that do, in windows of PyTorch: it is traced by running one, and checked by one in OpenVINO, both in fp32 always. Measured as above: (9.4 + 5.9) / 9.0, and
(4.3 + 2.8) / 1.9."""


def conversion_pays(windows: int, window_s: float, precision: str) -> bool:
    """Whether converting to OpenVINO first makes this very run shorter: ``windows x (seconds of torch - seconds of OpenVINO)`` against the seconds of converting.

    For example, in fp32 on two cores, 43 windows of ct_tumor (0.18 s each in torch), or 8 of DynUNet 32-320 at 96^3 (4.5 s each).

    Parameters
    ----------
    windows : int
        Windows to run.
    window_s : float
        Seconds that torch takes for one.
    precision : str
        ``fp32`` or ``bf16``.
    """
    return windows * window_s * GAIN[precision] > CONVERSION_S + CONVERSION_WINDOWS[precision] * window_s


def least_windows(precision: str) -> int:
    """Windows below which converting cannot pay, however slow torch is."""
    return int(CONVERSION_WINDOWS[precision] / GAIN[precision]) + 1


def choose_engine(asked: str, device: str, *, converted: bool, convertible: bool, pays: bool) -> Engine:
    """Choose what runs the network.

    An engine that is asked for by name is taken. Else, on a GPU it is PyTorch. On the CPU it is OpenVINO when the converted network is in the cache already, or when converting it
    first pays within the run (:func:`conversion_pays`); else PyTorch, and the network is converted after the results are written, so that the next run starts at once.

    Parameters
    ----------
    asked : str
        ``auto``, or an engine's name.
    device : str
        Name of the device, e.g. ``cpu`` or ``cuda:0``.
    converted : bool
        Whether the network is in the cache.
    convertible : bool
        Whether OpenVINO is installed, and the cache may be used, and the network was not found to be one it cannot convert.
    pays : bool
        Whether converting pays within the run.
    """
    for name in BY_NAME:
        if asked == name:
            return name
    if device != "cpu" or not (converted or convertible):
        return "torch"
    return "openvino" if converted or pays else "torch"


def check_precision(engine: str, precision: str) -> None:
    """Refuse a number format that an engine does not compute.

    Parameters
    ----------
    engine : str
        As ``--engine`` takes it.
    precision : str
        As ``--precision`` takes it.

    Raises
    ------
    DeviceError
        With the formats it does compute.
    """
    computed = COMPUTED.get(engine)
    if computed and precision not in ("auto", *computed):
        msg = f"--engine {engine} computes in {', '.join(computed)}, not in {precision}; use --precision {computed[0]}, or another engine"
        raise DeviceError(msg)
