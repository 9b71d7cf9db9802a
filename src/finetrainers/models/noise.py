"""Noise levels: their distributions, their shifts, and the time steps that belong to them. Pure functions of tensors.

A noise level ``sigma`` is in (0, 1): 0 is clean, 1 is pure noise. [SD3] is Esser et al. 2024, arXiv:2403.03206.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from finetrainers.errors import ModelError

Kind = Literal["uniform", "logit_normal", "mode", "cosmap"]

HALF_STEP = 2.0**-25
"""Half the spacing of float32 uniforms: added to u in [0, 1), so that quantiles are finite."""


SIGMA_RANGE = (HALF_STEP, 1 - 2 * HALF_STEP)
"""Noise levels that stay between 0 and 1 in float32: the largest is the last float32 before 1."""


GIVEN_FRAME_MAX_SIGMA = 0.05
"""Largest noise level of a first frame that is given as a condition: "nearly clean"."""


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


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """Distribution of noise levels, as its quantile function."""

    kind: Kind = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float | ResolutionShift = 1.0
    between: tuple[float, float] = (0.0, 1.0)
    """Range, after the shift, to which the distribution is confined: what an expert for some noise levels is trained on."""
    cuts: tuple[float, ...] = ()
    """Rising noise levels that part the range into those of several experts, of which ``of_one_expert`` chooses."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ModelError(f"NoiseLevels: {self.kind!r} is no kind of them; state one of {', '.join(get_args(Kind))}")

    def __call__(self, u: Tensor, tokens: int) -> Tensor:
        """Noise levels for uniform draws u in [0, 1), any shape, of latents of ``tokens`` tokens; float32.

        Computed in float64 and never rounded to a grid of time steps.
        """
        shift = self._shift_of(tokens)
        u = u.double() + HALF_STEP
        if self.between != (0.0, 1.0):
            first, last = (_draw_of(self, level, shift) for level in self.between)
            u = first + u * (last - first)
        low, high = self.between  # which a range that is all but never drawn would miss by rounding
        return shift_sigma(self.unshifted(u), shift).clamp(low, high).clamp(*SIGMA_RANGE).float()

    def of_one_expert(self, u: float, *, tokens: int) -> Self:
        """Confine to the range of one expert, each as often as the whole distribution has noise levels in its range.

        So a noise level of the range, drawn after the range was, is distributed as one of the whole.

        Args:
            u: Uniform draw in [0, 1).
            tokens: Of the latents, as a shift may depend on them.
        """
        shift, levels = self._shift_of(tokens), (self.between[0], *self.cuts, self.between[1])
        first, *inner, last = (_draw_of(self, level, shift) for level in levels)
        index = sum(u + HALF_STEP >= (draw - first) / (last - first) for draw in inner)
        low, high = levels[index : index + 2]
        # The cut itself is the next expert's.
        high = high if index == len(inner) else float(torch.tensor(high).nextafter(torch.tensor(low)))
        return replace(self, between=(low, high), cuts=())

    def _shift_of(self, tokens: int) -> float:
        return self.shift(tokens) if isinstance(self.shift, ResolutionShift) else self.shift

    def unshifted(self, u: Tensor) -> Tensor:
        """Noise levels before the shift, for draws u in (0, 1), any shape, in float64."""
        match self.kind:
            case "uniform":
                return uniform_sigma(u)
            case "logit_normal":
                return logit_normal_sigma(u, self.logit_mean, self.logit_std)
            case "mode":
                return mode_sigma(u, self.mode_scale)
            case "cosmap":
                return cosmap_sigma(u)


@lru_cache(maxsize=1024)
def _draw_of(levels: NoiseLevels, level: float, shift: float) -> float:
    """Draw at which the quantile function, which may rise or fall, is at a noise level."""
    low, high = 0.0, 1.0
    is_falling = levels.kind == "mode"
    if level in (0.0, 1.0):
        return float(level == float(not is_falling))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        sigma = shift_sigma(levels.unshifted(torch.tensor(middle, dtype=torch.float64)), shift)
        low, high = (middle, high) if (float(sigma) < level) != is_falling else (low, middle)
    return (low + high) / 2


def timestep_of(sigma: Tensor, count: int = 1000) -> Tensor:
    """Discrete time step, int64 in 0..count - 1, of noise levels of any shape."""
    return (sigma.double() * count).long().clamp(0, count - 1)
