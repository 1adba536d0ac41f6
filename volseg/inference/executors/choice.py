"""Which engine runs a network: the rule, as a pure function."""

from __future__ import annotations

from typing import Literal

ENGINES = ("auto", "torch", "openvino", "monai")

Engine = Literal["torch", "openvino"]

CONVERT_FROM = 16
"""Windows from which converting first pays within the run: it costs about one window in PyTorch, one in OpenVINO and 2 to 4 s, and saves a quarter or more of every window."""


def choose_engine(asked: str, device: str, *, windows: int, converted: bool, convertible: bool) -> Engine:
    """Choose what runs the network.

    On a GPU it is PyTorch. On the CPU it is OpenVINO when the converted network is in the cache already, or when so many windows are to be run (:data:`CONVERT_FROM`) that
    converting it first pays; else PyTorch, and the network is converted after the results are written, so that the next run starts at once.

    Parameters
    ----------
    asked : str
        ``auto``, ``torch`` or ``openvino``.
    device : str
        Name of the device, e.g. ``cpu`` or ``cuda:0``.
    windows : int
        Windows to run, those of earlier scans that PyTorch ran included.
    converted : bool
        Whether the network is in the cache.
    convertible : bool
        Whether OpenVINO is installed, and the cache may be used, and the network was not found to be one it cannot convert.
    """
    if asked in ("torch", "openvino"):
        return "torch" if asked == "torch" else "openvino"
    if device != "cpu" or not (converted or convertible):
        return "torch"
    return "openvino" if converted or windows >= CONVERT_FROM else "torch"
