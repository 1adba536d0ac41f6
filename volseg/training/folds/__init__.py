"""After the folds are trained: predictions on the cases each fold did not see, their scores, a trivial baseline, and the corrections of the label that help."""

from __future__ import annotations

from volseg.training.folds.run import cross_validate
from volseg.training.folds.summary import CrossValidation

__all__ = ["CrossValidation", "cross_validate"]
