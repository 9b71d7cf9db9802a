"""What part of the pictures that a plain diffusers pipeline generates is right.

Pixels are uint8 [N, H, W, C]; noise is [N, T, 4 C'] packed latents as FluxPipeline takes them.
"""

from collections.abc import Sequence
from typing import Any

import torch

from finetrainers.quickstart.concept import Banner, banner_caption
from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.figures import Figures, draw_batches
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.scenes import Scene, caption

STEPS = 16
"""Denoising steps of each picture."""
BASE_SEED = 21
"""Seed of the scenes that the shipped base was trained on."""


Truth = Scene | Banner
"""All that a picture's caption states."""


def caption_of(truth: Truth) -> str:
    """Say what a picture shows."""
    return banner_caption(truth) if isinstance(truth, Banner) else caption(truth)


def draw(pipeline: Any, captions: Sequence[str], *, seed: int, guidance: float = 1.0, steps: int = STEPS) -> Pixels:
    """Generate from captions with a FluxPipeline, uint8 [N, H, W, C]; picture n's noise depends on (seed, n) alone.

    ``guidance`` above 1 is classifier-free guidance away from the empty prompt.
    """
    pipeline.set_progress_bar_config(disable=True)

    def draw_batch(batch: list[str], generators: list[torch.Generator]) -> Any:
        negative = {"negative_prompt": [""] * len(batch), "true_cfg_scale": guidance} if guidance > 1 else {}
        return pipeline(
            prompt=batch,
            height=SIZE,
            width=SIZE,
            num_inference_steps=steps,
            max_sequence_length=MAX_TOKENS,
            generator=generators,
            output_type="np",
            **negative,
        ).images

    return draw_batches(draw_batch, captions, seed=seed)


def evaluate(pipeline: Any, truths: Sequence[Truth], *, seed: int = 0, guidance: float = 1.0) -> tuple[Figures, Pixels]:
    """Generate what the truths' captions say, and measure; return the figures and the pictures."""
    pictures = draw(pipeline, [caption_of(truth) for truth in truths], seed=seed, guidance=guidance)
    measured = [measure(pixels, truth) for pixels, truth in zip(pictures, truths, strict=True)]
    return Figures.of(truths, measured), pictures
