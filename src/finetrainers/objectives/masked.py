"""A loss that counts where a mask is white.

Shape letters as in ``finetrainers.batch``.
"""

from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from finetrainers.batch import Batch, Medium
from finetrainers.config import ObjectiveConfig
from finetrainers.data.streams import Stream
from finetrainers.objectives.base import Predict
from finetrainers.objectives.flow import FlowMatching
from finetrainers.objectives.own import OwnObjective

MASK = Stream("mask", "condition", encoder="none")


class Masked(OwnObjective):
    """The family's loss as a mean over what is white: its scale does not depend on how much that is."""

    streams = (MASK,)

    def __init__(self, family: FlowMatching, *, floor: float = 0.0) -> None:
        """Hold the family's objective, and what black counts where white counts 1."""
        super().__init__(family)
        self.floor = floor

    @classmethod
    def configured(cls, family: FlowMatching, config: ObjectiveConfig) -> Self:
        return cls(family, floor=config.mask_floor)

    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        """Squared error of each sample, weighted by its mask, shape [B]; 0 where all that counts is black."""
        noised = self.family.noised(batch)
        error = mse_loss(predict(noised.x, noised.sigma, batch).float(), noised.target, reduction="none")
        weight = (self.floor + (1 - self.floor) * held(batch.media[MASK.name])).expand_as(error)
        total = self.family.measured().mean(weight, noised)  # of all frames that count, whatever their noise levels do
        return self.family.mean(error * weight, noised) / total.clamp(min=torch.finfo(total.dtype).tiny)


def held(mask: Medium) -> Tensor:
    """Weights [B, 1, F, H, W]; the last frame of a mask that is shorter than its clip, such as a picture, holds on."""
    last = mask.mask.sum(1, keepdim=True).long() - 1
    frame = torch.minimum(torch.arange(mask.mask.shape[1], device=last.device), last)
    return mask.latents.gather(2, frame[:, None, :, None, None].expand_as(mask.latents))
