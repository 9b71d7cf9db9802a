"""What is drawn from encoded media: latents, and conditions with the frames of them that are shown.

Shape letters as in ``finetrainers.batch``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from finetrainers.batch import Control, Encoded, Posterior, sample_generator
from finetrainers.data.frames import ShownFrames
from finetrainers.data.order.draws import uniform

CONTROL = "control"
"""Name of the stream that the denoiser is shown in further channels."""


def draw_latents(posterior: Posterior, generator: torch.Generator, *, padding: int) -> Tensor:
    """Draw latents [C, padding + F, H, W] that begin with copies of their first frame, as many as ``padding``."""
    latents = posterior.draw(generator)
    return torch.cat([latents[:, :1].expand(-1, padding, -1, -1), latents], dim=1) if padding else latents


def draw(purposes: Sequence[str], positions: Tensor, *, seed: int) -> Tensor:
    """Make uniform draws [B, n], one of each purpose for each position."""
    draws = [torch.from_numpy(uniform(seed, positions.numpy(), purpose)) for purpose in purposes]
    return torch.stack(draws, dim=1) if draws else torch.empty(len(positions), 0, dtype=torch.float64)


def make_condition(
    samples: Sequence[Encoded],
    positions: Tensor,
    *,
    seed: int,
    shown: ShownFrames,
    frames: int,
    padding: int,
    name: str = CONTROL,
) -> Control | None:
    """Stack the latents of one stream of samples and draw which frames are shown; None where samples have none.

    Args:
        samples: With the stream, or without.
        positions: [B], of the samples.
        seed: Of all draws.
        shown: Which frames are shown.
        frames: F, latent frames of a sample.
        padding: Those of them that are put before those of the clip: copies of its first one, which are shown as it is.
        name: Of the stream.
    """
    posteriors = [sample.media[name] for sample in samples if name in sample.media]
    if not posteriors:
        return None
    generators = (sample_generator(seed, int(position), f"{name} posterior") for position in positions)
    drawn = (draw_latents(posterior, g, padding=padding) for posterior, g in zip(posteriors, generators, strict=True))
    available = torch.tensor([posterior.mean.shape[1] for posterior in posteriors])
    u = draw(shown.draws(frames - padding), positions, seed=seed)
    mask = shown.at(u, frames=frames - padding, available=available)
    return Control(torch.stack([fill_frames(latents, frames) for latents in drawn]), pad_shown(mask, padding))


def pad_shown(shown: Tensor, padding: int) -> Tensor:
    """Show copies of the first frame that are put before it, as many as ``padding``, where it is shown; [B, F]."""
    return torch.cat([shown[:, :1].expand(-1, padding), shown], dim=1)


def fill_frames(latents: Tensor, frames: int) -> Tensor:
    """Let latents [C, F', H, W] have F frames: zeros follow a shorter clip."""
    return functional.pad(latents, (0, 0, 0, 0, 0, frames - latents.shape[1]))
