"""Flow matching: corruption, targets and loss weights. Pure functions of tensors.

Shape letters as in ``finetrainers.batch``. A noise level ``sigma`` is in (0, 1): 0 is clean, 1 is pure noise. Papers:
[SD3] Esser et al. 2024, arXiv:2403.03206; [LTX] HaCohen et al. 2024, arXiv:2501.00103.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from finetrainers.batch import Batch
from finetrainers.models.noise import GIVEN_FRAME_MAX_SIGMA, NoiseLevels
from finetrainers.objectives.base import Objective, Predict

GivenFrames = Literal["first", "last", "first_and_last", "random"]
"""Sets of latent frames that are given as conditions; random ones are any number of any frames, each as likely."""


def sigma_sqrt_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2: what turns an error of the velocity into one of the denoised latents, per unit of noise."""
    return sigma**-2.0


def cosmap_weight(sigma: Tensor) -> Tensor:
    """Density of cosmap noise levels, 2 / (pi - 2 pi t + 2 pi t^2) ([SD3] section 3.1)."""
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample's values [B, C, F, H, W] over the frames where the mask [B, F] is 1; shape [B]."""
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
    loss_mask: Tensor
    """[B, F]: 1 where a frame counts in the loss."""


@dataclass(frozen=True, slots=True)
class FlowMatching(Objective):
    """Rectified flow: straight paths from data to noise ([SD3] section 2)."""

    noise_levels: NoiseLevels = field(default_factory=NoiseLevels)
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    first_frame_probability: float = 0.0
    """Probability with which ``given_frames`` are given."""
    given_frames: GivenFrames = "first"
    given_frame_max_sigma: float = GIVEN_FRAME_MAX_SIGMA
    is_measured: bool = False
    """Whether this measures held-out samples rather than to train."""

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise levels that are trained, and measured."""
        return self.noise_levels.between

    def draws(self, frames: int) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample of F latent frames needs."""
        of_sets = ("given count", *(f"given frame {frame}" for frame in range(frames)))
        return ("sigma", "first frame", "first sigma", *(of_sets if self.given_frames == "random" else ()))

    def given(self, u: Tensor, *, frames: int) -> Tensor:
        """Which latent frames are given, bool [B, F], by the ``draws`` [B, n] of each sample; an image has none to give."""
        given = torch.zeros(len(u), frames, dtype=torch.bool)
        if frames == 1:
            return given
        if self.given_frames == "random":
            count = 1 + (u[:, 3] * frames).long()
            given |= u[:, 4:].argsort(dim=1).argsort(dim=1) < count[:, None]
        else:
            given[:, 0] = self.given_frames != "last"
            given[:, -1] |= self.given_frames != "first"
        return given & (u[:, 1] < self.first_frame_probability)[:, None]

    def sigma(self, u: Tensor, *, frames: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Noise level of each latent frame, and whether it counts in the loss.

        A first frame that is given is nearly clean, at a noise level of its own, and does not count: the model learns
        image-to-video beside text-to-video ([LTX] section 2.4). Later frames are given beside the clip, not in it.

        Args:
            u: [B, n] the ``draws``: noise level, whether frames are given, the first one's own noise level, and so on.
            frames: F, latent frames.
            tokens: Tokens of one sample, for a shift that depends on the resolution.

        Returns:
            Two float32 tensors [B, F].
        """
        sigma = self.noise_levels(u[:, 0], tokens)[:, None].repeat(1, frames)
        loss_mask = torch.ones_like(sigma)
        if frames > 1:
            is_given = self.given(u, frames=frames)[:, 0]
            own = torch.minimum(self.given_frame_max_sigma * u[:, 2].float(), sigma[:, 0])
            sigma[:, 0] = torch.where(is_given, own, sigma[:, 0])
            loss_mask[:, 0] = torch.where(is_given, 0.0, 1.0)
        return sigma, loss_mask

    def at_level(self, level: Tensor, u: Tensor, *, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise level of each frame, which count and which are given, of one sample that is measured; each [1, F].

        Frames are given, without noise, where training always gives some; the ``draws`` [1, n] say which.
        """
        sigma, loss_mask, given = level.expand(1, frames).clone(), torch.ones(1, frames), self.given(u, frames=frames)
        given &= self.first_frame_probability == 1.0
        if given[:, 0]:
            sigma[:, 0] = loss_mask[:, 0] = 0.0
        return sigma, loss_mask, given

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

    def corrupt(self, latents: Tensor, noise: Tensor, *, sigma: Tensor, loss_mask: Tensor) -> Noised:
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
        if self.is_measured:  # the same mean, but for the last bit: measures of older runs stay equal
            return masked_mean(error, noised.loss_mask)
        if self.weighting == "none" and self.first_frame_probability == 0.0:  # all frames count, and all the same
            return error.mean(dim=(1, 2, 3, 4))
        counts = noised.loss_mask / noised.loss_mask.sum(1, keepdim=True) / error[0, :, 0].numel()
        if self.weighting != "none":  # a given frame may have sigma 0, hence an infinite weight
            counts = torch.where(noised.loss_mask > 0, counts * self.weight(noised.sigma), 0.0)
        return (error * counts[:, None, :, None, None]).sum(dim=(1, 2, 3, 4))
