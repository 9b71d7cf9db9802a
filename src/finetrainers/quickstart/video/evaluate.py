"""What part of the clips that a plain diffusers pipeline draws is right.

Pixels are uint8 [N, K, H, W, C].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.evaluate import Figures
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.video.clips import FPS, NUM_FRAMES, Clip, clip_caption
from finetrainers.quickstart.video.measure import measure_clip

STEPS = 16
"""Denoising steps of each clip."""
BATCH_SIZE = 32


def draw_clips(pipeline: Any, captions: Sequence[str], *, seed: int, guidance: float = 1.0, steps: int = STEPS) -> Pixels:
    """Draw captions with an LTXPipeline, uint8 [N, K, H, W, C]; clip n's noise depends on (seed, n) alone.

    ``guidance`` above 1 is classifier-free guidance away from the empty prompt.
    """
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = list(captions[start : start + BATCH_SIZE])
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + n) for n in range(len(batch))]
        frames = pipeline(
            prompt=batch,
            num_frames=NUM_FRAMES,
            height=SIZE,
            width=SIZE,
            frame_rate=FPS,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=MAX_TOKENS,
            generator=generators,
            output_type="np",
        ).frames
        clips.append(np.round(np.asarray(frames) * 255).astype(np.uint8))
    return np.concatenate(clips)


def evaluate_clips(pipeline: Any, truths: Sequence[Clip], *, seed: int = 0, guidance: float = 1.0) -> tuple[Figures, Pixels]:
    """Draw what the truths' captions say, and measure; return the figures and the clips."""
    clips = draw_clips(pipeline, [clip_caption(truth) for truth in truths], seed=seed, guidance=guidance)
    measured = [measure_clip(pixels, truth) for pixels, truth in zip(clips, truths, strict=True)]
    return Figures.of(truths, measured), clips  # type: ignore[arg-type]  # it reads a truth's kind and nothing else
