"""Sizes of images and videos, and of the latents that they give."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """Which sizes a model can take, and what latents they give. Sizes are (frames, height, width) in frames and pixels."""

    channels: int
    """C, latent channels."""
    vae_step: int
    """Pixels of one latent's side."""
    patch: int
    """Latents of one token's side."""
    vae_frame_step: int = 1
    """Frames of one latent frame; the first frame has one of its own."""
    frame_patch: int = 1
    """Latent frames of one token; clips whose latent frames it does not divide begin with their first one several times."""
    has_video: bool = True
    smallest: tuple[float, float, float] = (1, 1, 1)
    """(frames, height, width) below which no size is possible."""
    largest: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    """(frames, height, width) above which no size is possible."""

    def nearest(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the possible size next to ``size``: itself, if it is possible."""
        step = self.vae_step * self.patch
        frames, height, width = size
        clips = max(0, round((frames - 1) / self.vae_frame_step)) if self.has_video else 0
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        found = 1 + clips * self.vae_frame_step, rows * step, columns * step
        frames, height, width = (
            int(min(max(n, least), most)) for n, least, most in zip(found, self.smallest, self.largest, strict=True)
        )
        return frames, height, width

    def encoded_shape(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(C, F, H, W) of what the VAE makes of a possible size."""
        frames, height, width = size
        latent_frames = 1 + (frames - 1) // self.vae_frame_step
        return self.channels, latent_frames, height // self.vae_step, width // self.vae_step

    def latent_shape(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(C, F, H, W) of what the denoiser takes of a possible size: with padding."""
        channels, latent_frames, height, width = self.encoded_shape(size)
        return channels, self.num_padding_frames(size[0]) + latent_frames, height, width

    def num_padding_frames(self, frames: int) -> int:
        """Copies of a clip's first latent frame that are put before it, so that tokens are whole."""
        return -(1 + (frames - 1) // self.vae_frame_step) % self.frame_patch

    def num_tokens(self, size: tuple[int, int, int]) -> int:
        """Tokens of a possible size, as the shift of noise levels counts them."""
        _, frames, height, width = self.latent_shape(size)
        return self.tokens_of_latents((frames, height, width))

    def tokens_of_latents(self, shape: tuple[int, ...]) -> int:
        """Tokens of latents of shape (F, H, W)."""
        frames, height, width = shape
        return frames // self.frame_patch * (height // self.patch) * (width // self.patch)

    @property
    def values_per_channel(self) -> int:
        """Latents that one token has of each channel."""
        return self.frame_patch * self.patch**2
