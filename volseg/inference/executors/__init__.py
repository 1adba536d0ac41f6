"""What runs the network on batches of windows, behind one small interface."""

from __future__ import annotations

from volseg.inference.executors.base import Executor

__all__ = ["Executor"]
