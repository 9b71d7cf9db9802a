"""Learning from pairs of a preferred and a rejected image or video.

Shape letters as in ``finetrainers.batch``. [DPO] is Wallace et al. 2023, arXiv:2311.12908.
"""

from dataclasses import replace
from typing import Self

from torch import Tensor
from torch.nn.functional import logsigmoid

from finetrainers.batch import Batch
from finetrainers.config import ObjectiveConfig
from finetrainers.data.streams import Stream
from finetrainers.objectives.base import Predict
from finetrainers.objectives.flow import FlowMatching
from finetrainers.objectives.own import OwnObjective

REJECTED = Stream("rejected", "target")


class Preference(OwnObjective):
    """Diffusion-DPO ([DPO] equation 14): the media are preferred to what is rejected, by more than the base model does."""

    streams = (REJECTED,)
    needs_base = True

    def __init__(self, family: FlowMatching, *, beta: float) -> None:
        """Hold the family's objective, and how strongly the base model holds."""
        super().__init__(family)
        self.beta = beta

    @classmethod
    def configured(cls, family: FlowMatching, config: ObjectiveConfig) -> Self:
        return cls(family, beta=config.beta)

    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        """-log sigmoid(-beta / 2 (change of the error of what is preferred - that of what is rejected)), shape [B]."""
        rejected = replace(batch, latents=batch.media[REJECTED.name].latents)  # at the same noise and noise level
        return -logsigmoid(-self.beta / 2 * (self._change(predict, batch) - self._change(predict, rejected)))

    def _change(self, predict: Predict, batch: Batch) -> Tensor:
        """By how much training has raised the error of a batch above the base model's, [B]."""
        noised = self.family.noised(batch)
        base, model = (ask(noised.x, noised.sigma, batch) for ask in (predict.base, predict))
        return self.family.loss(model, noised) - self.family.loss(base, noised)
