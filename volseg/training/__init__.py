"""Run a bundle's training: data in, limits, resume, records, cross-validation."""

from __future__ import annotations

from volseg.training.result import TrainingResult
from volseg.training.run import train

__all__ = ["TrainingResult", "train"]
