"""Which latent frames of a stream are shown: pure functions of uniform draws.

Shape letters: B samples, F latent frames, n draws of a sample.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FrameSet = Literal["full", "index", "prefix", "random", "first_and_last"]
"""Sets of latent frames, as in ``conditioning.frames``."""


@dataclass(frozen=True, slots=True)
class FrameSelection:
    """How the frames that are shown are drawn."""

    kind: FrameSet = "full"
    index: int = 0
    """Frame that kind ``index`` shows; the first is 0."""
    dropout: float = 0.0
    """Probability of showing none."""

    def draws(self, frames: int, name: str) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample of F latent frames of a stream needs."""
        match self.kind:
            case "prefix":
                return (f"{name} dropout", f"{name} prefix")
            case "random":
                return (f"{name} dropout", f"{name} count", *(f"{name} frame {frame}" for frame in range(frames)))
            case _:
                return (f"{name} dropout",)

    def at(self, u: Tensor, *, frames: int, available: Tensor) -> Tensor:
        """Which frames are shown, float32 [B, F] of 0 and 1: those of the kind that are available, or with ``dropout`` none.

        A prefix has 1 to all of the available frames, each length as likely; so many are shown of random ones, too, and
        each set of that size is as likely. The ends are those of the clip: a control that is shorter shows the first alone.

        Args:
            u: [B, n] the ``draws`` of each sample.
            frames: F, latent frames of the clip.
            available: [B] latent frames of each control, which are the first ones of the clip; 0 shows nothing.
        """
        available = available.clamp(max=frames)
        match self.kind:
            case "prefix":
                mask = prefix(draw_count(u[:, 1], available), frames)
            case "random":
                mask = subset(u[:, 2:], draw_count(u[:, 1], available), available)
            case _:
                mask = self._fixed(frames)
        is_kept = u[:, 0] >= self.dropout
        return (mask & prefix(available, frames) & is_kept[:, None]).float()

    def for_sampling(self, frames: int, available: int) -> Tensor:
        """Which frames are shown where a sample is drawn and nothing is random, float32 [1, F].

        As ``at``, but without dropout, and a prefix or a random set is all of the available frames.
        """
        return (self._fixed(frames) & prefix(torch.tensor([available]), frames)).float()

    def _fixed(self, frames: int) -> Tensor:
        """Frames of the kind, bool [1, F]; all, where they are drawn. An index beyond them is none."""
        frame = torch.arange(frames)[None]
        match self.kind:
            case "index":
                return frame == self.index
            case "first_and_last":
                return (frame == 0) | (frame == frames - 1)
            case _:
                return frame >= 0


def draw_count(u: Tensor, largest: Tensor) -> Tensor:
    """Draw counts 1 .. ``largest`` [B], each as likely, by uniform draws [B]; 1 where the largest is 0."""
    return 1 + (u.double() * largest).long()


def prefix(count: Tensor, frames: int) -> Tensor:
    """Choose the first ``count`` [B] of F frames, bool [B, F]."""
    return torch.arange(frames) < count[:, None]


def subset(u: Tensor, count: Tensor, available: Tensor) -> Tensor:
    """Choose ``count`` [B] of the available [B] first frames, by the order of uniform draws [B, F]; bool [B, F]."""
    u = u.masked_fill(~prefix(available, u.shape[1]), 1.0)  # behind all draws
    rank = u.argsort(dim=1, stable=True).argsort(dim=1)  # stable: draws that are equal do not depend on the batch
    return rank < count[:, None]
