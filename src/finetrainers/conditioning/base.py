"""Prompt-only conditioning, and the points that a richer one may change."""

from torch import Tensor

from finetrainers.batch import Batch


class Conditioning:
    """Plain SFT. Subclasses override what they need; nobody overrides the loop."""

    def model_input(self, noisy: Tensor, batch: Batch) -> Tensor:
        """What to feed the denoiser: [B, C', F, H, W] from noisy latents [B, C, F, H, W]."""
        return noisy
