"""What is drawn from encoded media: latents, and which frames of them are shown.

Shape letters as in ``finetrainers.batch``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from finetrainers.batch import Encoded, Medium, Posterior, sample_generator
from finetrainers.data.frames import FrameSelection
from finetrainers.data.order.draws import uniform
from finetrainers.data.streams import MEDIA, stream_of

CONTROL = "control"
"""Name of the stream that the denoiser is shown in further channels."""


class Draws(Protocol):
    """What says, as an objective does, which noise levels samples are trained at."""

    @property
    def draws(self) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample needs."""
        ...

    @property
    def step_draws(self) -> tuple[str, ...]:
        """Purposes of those that all samples of an optimizer step share."""
        ...

    def sigma(self, u: Tensor, *, tokens: int) -> Tensor:
        """Noise level of each sample, float32 [B], by its ``draws`` and ``step_draws`` [B, n]."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """Latent frames of clips that are given, and what follows from it."""

    mask: Tensor
    """[B, F] bool: those that are given."""
    sigma: Tensor
    """[B, F] float32 noise level of each frame."""
    loss_mask: Tensor | None
    """[B, F] float32: 1 where a frame counts in the loss; None where all frames of all samples do."""


class Gives(Protocol):
    """What says, as the given frames of a run do, which frames of a clip are given, and how clean they are."""

    def draws(self, frames: int) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample of F latent frames needs."""
        ...

    @property
    def step_draws(self) -> tuple[str, ...]:
        """Purposes of those that all samples of an optimizer step share."""
        ...

    def at(self, level: Tensor, u: Tensor, *, frames: int) -> Given:
        """Give frames of clips at noise levels [B], by the ``draws`` and ``step_draws`` [B, n] of each; ``frames`` is F."""
        ...


def draw_latents(posterior: Posterior, generator: torch.Generator, *, padding: int) -> Tensor:
    """Draw latents [C, padding + F, H, W] that begin with copies of their first frame, as many as ``padding``."""
    latents = posterior.draw(generator)
    return torch.cat([latents[:, :1].expand(-1, padding, -1, -1), latents], dim=1) if padding else latents


def draw(purposes: Sequence[str], positions: Tensor, *, seed: int) -> Tensor:
    """Make uniform draws [B, n], one of each purpose for each position."""
    draws = [torch.from_numpy(uniform(seed, positions.numpy(), purpose)) for purpose in purposes]
    return torch.stack(draws, dim=1) if draws else torch.empty(len(positions), 0, dtype=torch.float64)


def draw_both(own: Sequence[str], shared: Sequence[str], positions: Tensor, *, step: int, seed: int) -> Tensor:
    """Make uniform draws [B, n]: those of each position, and behind them those that all positions of a step share."""
    return torch.cat([draw(own, positions, seed=seed), draw(shared, torch.full_like(positions, step), seed=seed)], dim=1)


def make_media(
    samples: Sequence[Encoded],
    positions: Tensor,
    *,
    seed: int,
    step: int,
    selections: Mapping[str, FrameSelection],
    frames: int,
    padding: int,
) -> dict[str, Medium]:
    """Stack what samples of one bucket have besides the media themselves, and draw which frames of it are shown.

    Args:
        samples: All with the same streams.
        positions: [B], of the samples.
        seed: Of all draws.
        step: Optimizer step of the samples, counted from 0.
        selections: Which frames are shown, by the name of the stream; all of one that has none.
        frames: F, latent frames of a sample.
        padding: Those of them that are put before those of the clip: copies of its first one, which are shown as it is.

    Returns:
        By the name of the stream. Pictures of a size of their own have frames of their own, and by one draw of the step all
        of a stream are shown or none: they are further tokens.
    """
    made = {}
    for name in (name for name in samples[0].media if name != MEDIA.name):
        posteriors = [sample.media[name] for sample in samples]
        stream, has_own_size = stream_of(name)
        own_frames, own_padding = (posteriors[0].mean.shape[1], 0) if has_own_size else (frames, padding)
        generators = (sample_generator(seed, int(position), f"{name} posterior") for position in positions)
        drawn = (draw_latents(own, g, padding=own_padding) for own, g in zip(posteriors, generators, strict=True))
        available = torch.tensor([posterior.mean.shape[1] for posterior in posteriors])
        selection = selections.get(stream, FrameSelection())
        places = torch.full_like(positions, step) if has_own_size else positions
        u = draw(selection.draws(own_frames - own_padding, stream), places, seed=seed)
        mask = selection.at(u, frames=own_frames - own_padding, available=available)
        latents = torch.stack([fill_frames(each, own_frames) for each in drawn])
        made[name] = Medium(latents, pad_mask(mask, own_padding))
    return made


def pad_mask(mask: Tensor, padding: int) -> Tensor:
    """Show copies of the first frame that are put before it, as many as ``padding``, where it is shown; [B, F]."""
    return torch.cat([mask[:, :1].expand(-1, padding), mask], dim=1)


def fill_frames(latents: Tensor, frames: int) -> Tensor:
    """Let latents [C, F', H, W] have F frames: zeros follow a shorter clip."""
    return functional.pad(latents, (0, 0, 0, 0, 0, frames - latents.shape[1]))
