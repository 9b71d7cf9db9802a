"""Flow matching: corruption, targets and loss weights. Pure functions of tensors.

Shape letters as in ``finetrainers.batch``. A noise level ``sigma`` is in (0, 1): 0 is clean, 1 is pure noise. [SD3] is Esser
et al. 2024, arXiv:2403.03206.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from finetrainers.batch import Batch
from finetrainers.models.noise import NoiseLevels
from finetrainers.objectives.base import Objective, Predict


def sigma_sqrt_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2: what turns an error of the velocity into one of the denoised latents, per unit of noise."""
    return sigma**-2.0


def cosmap_weight(sigma: Tensor) -> Tensor:
    """Density of cosmap noise levels, 2 / (pi - 2 pi t + 2 pi t^2) ([SD3] section 3.1)."""
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each sample's values [B, C, F, H, W] over the frames where the mask [B, F] is 1, None for all; shape [B]."""
    mask = values.new_ones(values[:, 0, :, 0, 0].shape) if mask is None else mask
    return (values * mask[:, None, :, None, None]).sum(dim=(1, 2, 3, 4)) / (mask.sum(1) * values[0, :, 0].numel())


@dataclass(frozen=True, slots=True)
class Noised:
    """What the denoiser is shown, and what it should answer."""

    x: Tensor
    """[B, C, F, H, W]."""
    sigma: Tensor
    """[B, F] noise level of each latent frame."""
    target: Tensor
    """[B, C, F, H, W]: the velocity ``noise - latents``, or v."""
    loss_mask: Tensor | None
    """[B, F]: 1 where a frame counts in the loss; None where all do."""


@dataclass(frozen=True, slots=True)
class FlowMatching(Objective):
    """Rectified flow: straight paths from data to noise ([SD3] section 2)."""

    noise_levels: NoiseLevels = field(default_factory=NoiseLevels)
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    is_measured: bool = False
    """Whether this measures held-out samples rather than to train."""

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise levels that are trained, and measured."""
        return self.noise_levels.between

    @property
    def draws(self) -> tuple[str, ...]:
        """Purpose of the one uniform draw in [0, 1) that each sample needs."""
        return ("sigma",)

    @property
    def step_draws(self) -> tuple[str, ...]:
        """Purpose of the draw that chooses the expert of a step, where several train."""
        return ("expert",) if self.noise_levels.cuts else ()

    def sigma(self, u: Tensor, *, tokens: int) -> Tensor:
        """Noise level of each sample, float32 [B]; of several experts, all are for the one of the step.

        Args:
            u: [B, 1 or 2] uniform in [0, 1): the ``draws``, and the ``step_draws`` behind them.
            tokens: Tokens of one sample, for a shift that depends on the resolution.
        """
        levels = self.noise_levels
        if self.step_draws:
            assert u.shape[1] > len(self.draws), "the draw of the step comes last"
            levels = levels.of_one_expert(float(u[0, -1]), tokens=tokens)
        return levels(u[:, 0], tokens)

    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        """Weighted squared error of each sample, shape [B], in float32."""
        noised = self.noised(batch)
        return self.loss(predict(noised.x, noised.sigma, batch), noised)

    def measured(self) -> Self:
        """Make what counts all noise levels the same."""
        return replace(self, weighting="none", is_measured=True)

    def noised(self, batch: Batch) -> Noised:
        """Mix the latents of a batch with their noise."""
        return self.corrupt(batch.latents, batch.noise, sigma=batch.sigma, loss_mask=batch.loss_mask)

    def corrupt(self, latents: Tensor, noise: Tensor, *, sigma: Tensor, loss_mask: Tensor | None) -> Noised:
        """Mix latents [B, C, F, H, W] with noise of the same shape, at noise levels [B, F]."""
        s = sigma[:, None, :, None, None]
        return Noised(x=(1 - s) * latents + s * noise, sigma=sigma, target=noise - latents, loss_mask=loss_mask)

    def weight(self, sigma: Tensor) -> Tensor:
        """What noise levels of any shape count in the loss."""
        match self.weighting:
            case "none":
                return torch.ones_like(sigma)
            case "sigma_sqrt":
                return sigma_sqrt_weight(sigma)
            case "cosmap":
                return cosmap_weight(sigma)

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Weighted mean squared error of each sample over the frames that count, shape [B], in float32."""
        return self.mean(mse_loss(prediction.float(), noised.target, reduction="none"), noised)

    def mean(self, error: Tensor, noised: Noised) -> Tensor:
        """Weighted mean of errors [B, C, F, H, W] over the frames that count, shape [B]."""
        mask = noised.loss_mask
        if self.is_measured:  # the same mean, but for the last bit: measures of older runs stay equal
            return masked_mean(error, mask)
        if mask is None:
            if self.weighting == "none":
                return error.mean(dim=(1, 2, 3, 4))
            mask = torch.ones_like(noised.sigma)
        counts = mask / mask.sum(1, keepdim=True) / error[0, :, 0].numel()
        if self.weighting != "none":  # a given frame may have sigma 0, hence an infinite weight
            counts = torch.where(mask > 0, counts * self.weight(noised.sigma), 0.0)
        return (error * counts[:, None, :, None, None]).sum(dim=(1, 2, 3, 4))
