"""Stochastic rounding: up or down at random, so that the mean is the number itself and small updates are not lost."""

import torch
from torch import Tensor

from finetrainers.data.order.draws import seed_of

LOW_BITS = 16
"""Bits of float32 that bfloat16 has not."""


def round_stochastically(x: Tensor, noise: Tensor) -> Tensor:
    """Round float32 [...] to bfloat16, away from zero as often as the rest says (arXiv:2010.06192, section 3).

    Args:
        x: What is rounded; what is not finite stays what it is.
        noise: int32 [...], evenly drawn from 0 .. 2^16 - 1.
    """
    carried = (x.view(torch.int32) + noise) & -(1 << LOW_BITS)
    return torch.where(x.isfinite(), carried.view(torch.float32), x).to(torch.bfloat16)


def rounding_noise(x: Tensor, *seed: object) -> Tensor:
    """Draw int32 [...] for a tensor, on its device: a pure function of the seed on one kind of device."""
    generator = None if x.is_meta else torch.Generator(x.device).manual_seed(seed_of(*seed) >> 1)
    return torch.randint(0, 1 << LOW_BITS, x.shape, dtype=torch.int32, device=x.device, generator=generator)
