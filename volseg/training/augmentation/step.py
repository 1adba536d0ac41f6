"""What a transform must be able to do to run on batches."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

Batch = dict[str, Tensor]
"""``image`` (B, C, x, y, z) and ``label`` (B, 1, x, y, z), both float32."""


class Step(Protocol):
    """One random transform for batches."""

    def draw(self, patch: Tensor) -> Any:
        """Parameters for one patch, None where it is left as it is; ``patch`` (C, x, y, z) has the right shape and no content."""

    def apply(self, batch: Batch, drawn: list[Any]) -> Batch:
        """The batch with the parameters of each patch applied; the tensors given may be changed."""


def chosen(drawn: list[Any]) -> list[int]:
    """Numbers of the patches that are transformed."""
    return [number for number, parameters in enumerate(drawn) if parameters is not None]
