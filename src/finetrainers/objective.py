"""Noise levels, corruption, targets and loss weights: pure functions of tensors.

Shape letters as in ``finetrainers.batch``. A noise level ``sigma`` is in (0, 1): 0 is clean, 1 is pure noise. Papers:
[SD3] Esser et al. 2024, arXiv:2403.03206; [LTX] HaCohen et al. 2024, arXiv:2501.00103; [v] Salimans and Ho 2022,
arXiv:2202.00512; [CogVideoX] Yang et al. 2024, arXiv:2408.06072.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

HALF_STEP = 2.0**-25
"""Half the spacing of float32 uniforms: added to u in [0, 1), so that quantiles are finite."""

SIGMA_RANGE = (HALF_STEP, 1 - 2 * HALF_STEP)
"""Noise levels that stay between 0 and 1 in float32: the largest is the last float32 before 1."""

GIVEN_FRAME_MAX_SIGMA = 0.05
"""Largest noise level of a first frame that is given as a condition: "nearly clean"."""

GivenFrames = Literal["first", "last", "first_and_last", "random"]
"""Sets of latent frames that are given as conditions; random ones are any number of any frames, each as likely."""

BISECTIONS = 60
"""Halvings that find where a quantile function passes a noise level: beyond the precision of float64."""


def uniform_sigma(u: Tensor) -> Tensor:
    """Noise levels that are all as likely: the quantile function of the uniform distribution."""
    return u


def logit_normal_sigma(u: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Sigmoid of a normal ([SD3] eq. 19): its quantile at u."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def mode_sigma(u: Tensor, scale: float = 1.29) -> Tensor:
    """Mode sampling with heavy tails ([SD3] eq. 20). Falls from 1 to 0 as u rises; ``scale`` 0 is uniform."""
    return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


def cosmap_sigma(u: Tensor) -> Tensor:
    """Noise levels whose log signal-to-noise ratio is that of the cosine schedule ([SD3] section 3.1, CosMap)."""
    return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


def shift_sigma(sigma: Tensor, shift: float | Tensor) -> Tensor:
    """Move noise levels towards 1 for large latents: s*t / (1 + (s-1)*t) ([SD3] eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@dataclass(frozen=True, slots=True)
class ResolutionShift:
    """A shift that grows with the number of tokens, as diffusers' pipelines and schedulers have it."""

    base_tokens: int = 256
    base_mu: float = 0.5
    max_tokens: int = 4096
    max_mu: float = 1.15
    curve: Literal["line", "root"] = "line"
    """mu is the line through both points, or ``base_mu + max_mu * sqrt(tokens / base_tokens)``, which is CogView4's."""
    is_exponential: bool = True
    """Whether the shift is exp(mu); else it is mu."""

    def __call__(self, tokens: int) -> float:
        """Shift for latents of that many tokens; the line goes on beyond both of its points."""
        if self.curve == "root":
            mu = self.base_mu + self.max_mu * math.sqrt(tokens / self.base_tokens)
        else:
            slope = (self.max_mu - self.base_mu) / (self.max_tokens - self.base_tokens)
            mu = self.base_mu + slope * (tokens - self.base_tokens)
        return math.exp(mu) if self.is_exponential else mu


def sigma_sqrt_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2: what turns an error of the velocity into one of the denoised latents, per unit of noise."""
    return sigma**-2.0


def cosmap_weight(sigma: Tensor) -> Tensor:
    """Density of cosmap noise levels, 2 / (pi - 2 pi t + 2 pi t^2) ([SD3] section 3.1)."""
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """Distribution of noise levels, as its quantile function."""

    kind: Literal["uniform", "logit_normal", "mode", "cosmap"] = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float | ResolutionShift = 1.0
    between: tuple[float, float] = (0.0, 1.0)
    """Range, after the shift, to which the distribution is confined: what an expert for some noise levels is trained on."""

    def __call__(self, u: Tensor, tokens: int) -> Tensor:
        """Noise levels for uniform draws u in [0, 1), any shape, of latents of ``tokens`` tokens; float32.

        Computed in float64 and never rounded to a grid of time steps.
        """
        shift = self.shift(tokens) if isinstance(self.shift, ResolutionShift) else self.shift
        u = u.double() + HALF_STEP
        if self.between != (0.0, 1.0):
            first, last = (self._draw_of(level, shift) for level in self.between)
            u = first + u * (last - first)
        low, high = self.between  # which a range that is all but never drawn would miss by rounding
        return shift_sigma(self._unshifted(u), shift).clamp(low, high).clamp(*SIGMA_RANGE).float()

    def _draw_of(self, level: float, shift: float) -> float:
        """Draw at which the quantile function, which may rise or fall, is at a noise level."""
        low, high = 0.0, 1.0
        is_falling = self.kind == "mode"
        if level in (0.0, 1.0):
            return float(level == float(not is_falling))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            sigma = shift_sigma(self._unshifted(torch.tensor(middle, dtype=torch.float64)), shift)
            low, high = (middle, high) if (float(sigma) < level) != is_falling else (low, middle)
        return (low + high) / 2

    def _unshifted(self, u: Tensor) -> Tensor:
        match self.kind:
            case "uniform":
                return uniform_sigma(u)
            case "logit_normal":
                return logit_normal_sigma(u, self.logit_mean, self.logit_std)
            case "mode":
                return mode_sigma(u, self.mode_scale)
            case "cosmap":
                return cosmap_sigma(u)


@dataclass(frozen=True, slots=True)
class Noised:
    """What the denoiser is shown, and what it should answer."""

    x: Tensor
    """[B, C, F, H, W]."""
    sigma: Tensor
    """[B, F] noise level of each latent frame."""
    target: Tensor
    """[B, C, F, H, W]: the velocity ``noise - latents``, or v."""
    counted: Tensor
    """[B, F]: 1 where a frame counts in the loss."""


@dataclass(frozen=True, slots=True)
class FlowMatching:
    """Rectified flow: straight paths from data to noise ([SD3] section 2)."""

    noise_levels: NoiseLevels = NoiseLevels()
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    first_frame_probability: float = 0.0
    """Probability with which ``given_frames`` are given."""
    given_frames: GivenFrames = "first"
    given_frame_max_sigma: float = GIVEN_FRAME_MAX_SIGMA

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
        counted = torch.ones_like(sigma)
        if frames > 1:
            is_given = self.given(u, frames=frames)[:, 0]
            own = torch.minimum(self.given_frame_max_sigma * u[:, 2].float(), sigma[:, 0])
            sigma[:, 0] = torch.where(is_given, own, sigma[:, 0])
            counted[:, 0] = torch.where(is_given, 0.0, 1.0)
        return sigma, counted

    def at_level(self, level: Tensor, u: Tensor, *, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise level of each frame, which count and which are given, of one sample that is measured; each [1, F].

        Frames are given, without noise, where training always gives some; the ``draws`` [1, n] say which.
        """
        sigma, counted, given = level.expand(1, frames).clone(), torch.ones(1, frames), self.given(u, frames=frames)
        given &= self.first_frame_probability == 1.0
        if given[:, 0]:
            sigma[:, 0] = counted[:, 0] = 0.0
        return sigma, counted, given

    def corrupt(self, latents: Tensor, noise: Tensor, *, sigma: Tensor, counted: Tensor) -> Noised:
        """Mix latents [B, C, F, H, W] with noise of the same shape, at noise levels [B, F]."""
        s = sigma[:, None, :, None, None]
        return Noised(x=(1 - s) * latents + s * noise, sigma=sigma, target=noise - latents, counted=counted)

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
        error = mse_loss(prediction.float(), noised.target, reduction="none")
        if self.weighting == "none" and self.first_frame_probability == 0.0:  # all frames count, and all the same
            return error.mean(dim=(1, 2, 3, 4))
        counts = noised.counted / noised.counted.sum(1, keepdim=True) / noised.target[0, :, 0].numel()
        if self.weighting != "none":  # a given frame may have sigma 0, hence an infinite weight
            counts = torch.where(noised.counted > 0, counts * self.weight(noised.sigma), 0.0)
        return (error * counts[:, None, :, None, None]).sum(dim=(1, 2, 3, 4))


@dataclass(frozen=True, slots=True)
class Diffusion(FlowMatching):
    """A variance-preserving diffusion in discrete time steps, whose model answers v ([v] section 4, appendix D).

    CogVideoX weighs the error of the denoised latents by 1 / (1 - alpha_bar), which is the plain error of v:
    ``latents - (sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v)`` is ``sqrt(1 - alpha_bar)`` times it ([CogVideoX] section 2.2).
    """

    alphas_cumprod: tuple[float, ...] = ()
    """alpha_bar of each time step, as the model's scheduler has them; the last is 0 with zero terminal SNR."""

    def corrupt(self, latents: Tensor, noise: Tensor, *, sigma: Tensor, counted: Tensor) -> Noised:
        """Mix latents [B, C, F, H, W] with noise of the same shape, at the time steps of noise levels [B, F]."""
        alpha_bar = sigma.new_tensor(self.alphas_cumprod)[timestep_of(sigma, len(self.alphas_cumprod))]
        signal, spread = (root[:, None, :, None, None] for root in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        return Noised(
            x=signal * latents + spread * noise,
            sigma=sigma,
            target=signal * noise - spread * latents,
            counted=counted,
        )


def timestep_of(sigma: Tensor, count: int = 1000) -> Tensor:
    """Discrete time step, int64 in 0..count - 1, of noise levels of any shape."""
    return (sigma.double() * count).long().clamp(0, count - 1)
