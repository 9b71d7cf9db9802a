"""What part of the clips that a plain diffusers pipeline draws is right.

Pixels are uint8 [N, K, H, W, C].
"""

from collections.abc import Sequence
from typing import Any

import torch

from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.figures import Figures, draw_batches
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.video.clips import FPS, NUM_FRAMES, Clip, clip_caption
from finetrainers.quickstart.video.measure import measure_clip

STEPS = 16
"""Denoising steps of each clip."""
BASE_SEED = 41
"""Seed of the clips that the base was trained on."""


def draw_clips(pipeline: Any, captions: Sequence[str], *, seed: int, guidance: float = 1.0, steps: int = STEPS) -> Pixels:
    """Draw captions with an LTXConditionPipeline, uint8 [N, K, H, W, C]; clip n's noise depends on (seed, n) alone.

    Not with LTXPipeline, whose coordinates of frames are those of releases before 0.9.5, with other autoencoders.
    ``guidance`` above 1 is classifier-free guidance away from the empty prompt.
    """
    pipeline.set_progress_bar_config(disable=True)
    # Evenly spaced: the pipeline's own spend half of the steps on the first 2.5 % of the way.
    timesteps = [1000 - 1000 / steps * n for n in range(steps)]

    def draw_batch(batch: list[str], generators: list[torch.Generator]) -> Any:
        return pipeline(
            prompt=batch,
            num_frames=NUM_FRAMES,
            height=SIZE,
            width=SIZE,
            frame_rate=FPS,
            timesteps=timesteps,
            guidance_scale=guidance,
            max_sequence_length=MAX_TOKENS,
            generator=generators,
            output_type="np",
        ).frames

    return draw_batches(draw_batch, captions, seed=seed)


def evaluate_clips(pipeline: Any, truths: Sequence[Clip], *, seed: int = 0, guidance: float = 1.0) -> tuple[Figures, Pixels]:
    """Draw what the truths' captions say, and measure; return the figures and the clips."""
    clips = draw_clips(pipeline, [clip_caption(truth) for truth in truths], seed=seed, guidance=guidance)
    measured = [measure_clip(pixels, truth) for pixels, truth in zip(clips, truths, strict=True)]
    return Figures.of(truths, measured), clips
