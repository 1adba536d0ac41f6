"""Dice and cross-entropy for voxels of which only a set of possible classes is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class PartialDiceCELoss(torch.nn.Module):
    """MONAI's ``DiceCELoss(softmax=True, to_onehot_y=True)``, extended to labels that stand for sets of classes.

    Cross-entropy is that of the summed probability of the set (marginal loss), averaged over the voxels that say anything. Dice of a class leaves out the voxels that may or
    may not be of it, and is left out for samples whose case is not annotated for the class (Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", Medical Image Analysis 70:101979, 2021, arXiv:2007.03868). A voxel that may be anything contributes to neither, and gets no gradient. Without such voxels the
    value is MONAI's.

    Parameters
    ----------
    sets : sequence of (int, sequence of int)
        Label values and the classes each may be (:class:`volseg.training.partial.LabelCodes`).
    include_background, batch, smooth_nr, smooth_dr, lambda_dice, lambda_ce
        As in ``monai.losses.DiceCELoss``.
    softmax, to_onehot_y : bool
        Must be true, as this is what the loss does.
    """

    def __init__(
        self,
        sets: Sequence[tuple[int, Sequence[int]]],
        *,
        include_background: bool = True,
        to_onehot_y: bool = True,
        softmax: bool = True,
        batch: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
    ) -> None:
        super().__init__()
        if not (softmax and to_onehot_y):
            msg = "partial labels need a loss with softmax and to_onehot_y"
            raise ValueError(msg)
        self._sets: Mapping[int, Sequence[int]] = {int(value): tuple(members) for value, members in sets}
        self._first = 0 if include_background else 1
        self._batch, self._smooth = batch, (smooth_nr, smooth_dr)
        self._weights = (lambda_dice, lambda_ce)

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Loss of scores (B, C, x, y, z) for a label map (B, 1, x, y, z) of classes and codes."""
        may_be = self._possible(label, scores.shape[1])
        return self._weights[0] * self._dice(scores, may_be) + self._weights[1] * self._cross_entropy(scores, may_be)

    def _possible(self, label: Tensor, classes: int) -> Tensor:
        """Whether a voxel may be of a class, bool (B, C, x, y, z)."""
        table = torch.zeros(max([classes - 1, *self._sets]) + 1, classes, dtype=torch.bool, device=label.device)
        table[:classes] = torch.eye(classes, dtype=torch.bool, device=label.device)
        for value, members in self._sets.items():
            table[value, list(members)] = True
        return table[label[:, 0].long()].movedim(-1, 1)

    def _cross_entropy(self, scores: Tensor, may_be: Tensor) -> Tensor:
        logs = torch.log_softmax(scores, 1)
        marginal = torch.logsumexp(logs.masked_fill(~may_be, -torch.inf), 1)
        telling = ~may_be.all(1)
        return -torch.where(telling, marginal, marginal.new_zeros(())).sum() / telling.sum().clamp(min=1)

    def _dice(self, scores: Tensor, may_be: Tensor) -> Tensor:
        count = may_be.sum(1, keepdim=True)
        known = (~may_be | (count == 1))[:, self._first :]
        shares = torch.where(known, torch.softmax(scores, 1)[:, self._first :], scores.new_zeros(()))
        truth = (may_be & (count == 1))[:, self._first :].to(shares.dtype)
        # Not annotated: some voxel may be of the class, and is known not to be of another.
        partly = (may_be & (count > 1) & (count < may_be.shape[1]))[:, self._first :]
        annotated = ~partly.flatten(2).any(2)
        over = (2, 3, 4)[: shares.ndim - 2]
        overlap, sizes = (shares * truth).sum(over) * annotated, (shares.sum(over) + truth.sum(over)) * annotated
        if self._batch:
            overlap, sizes, annotated = overlap.sum(0), sizes.sum(0), annotated.any(0)
        loss = 1 - (2 * overlap + self._smooth[0]) / (sizes + self._smooth[1])
        return (loss * annotated).sum() / annotated.sum().clamp(min=1)
