"""What was learned and what was forgotten, measured on clips that plain diffusers draws with and without the LoRA.

A clip is uint8 [K, H, W, C].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import LTXPipeline

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.video.clips import Clip, clip_caption, render_clip
from finetrainers.quickstart.video.effect import render_effect
from finetrainers.quickstart.video.evaluate import draw_clips

BASE_SEED = 41
"""Seed of the clips that the base was trained on."""
GUIDANCE = 2.0
"""Classifier-free guidance of all clips."""
GRID_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class ClipSet:
    """Prompts, and what a right clip of each may look like."""

    what: str
    truths: Sequence[Clip]
    real: Sequence[Pixels]
    """Rendered, not drawn by a model."""


def make_clip_sets(count: int, seed: int, *, num_train: int) -> dict[str, ClipSet]:
    """Take ``count`` prompts of each of four sets; the LoRA was trained on the first ``num_train`` effects of the seed."""
    numbers = range(count)
    rendered = {
        "base_train": ("what the base was trained on", [render_clip(n, BASE_SEED) for n in numbers]),
        "base_held_out": (
            "combinations that the base was not trained on",
            [render_clip(n, seed, split="held_out") for n in numbers],
        ),
        "concept_train": ("what the LoRA was trained on", [render_effect(n % num_train, seed) for n in numbers]),
        "concept_held_out": (
            "squashes of shapes and colours that the LoRA was not trained on",
            [render_effect(n, seed, split="held_out") for n in numbers],
        ),
    }
    return {
        name: ClipSet(what, [truth for _, truth in pairs], [pixels for pixels, _ in pairs])
        for name, (what, pairs) in rendered.items()
    }


def draw_clip_sets(
    sets: dict[str, ClipSet], base: Path, weights: Path | None, *, device: str | torch.device, seed: int
) -> dict[str, list[Pixels]]:
    """Draw all prompts in plain diffusers, with the LoRA or without; a clip's noise is the same in both cases."""
    pipeline = LTXPipeline.from_pretrained(base).to(device, torch.float32)
    if weights is not None:
        pipeline.load_lora_weights(weights)
    return {
        name: list(draw_clips(pipeline, [clip_caption(truth) for truth in prompts.truths], seed=seed, guidance=GUIDANCE))
        for name, prompts in sets.items()
    }


def frame_grid(pixels: Pixels) -> Pixels:
    """Put the frames of a clip side by side, row by row as one reads, [3 H, 3 W, C]: as large as a cell of the sheet."""
    rows = [np.concatenate(row, axis=1) for row in np.split(pixels, len(pixels) // GRID_COLUMNS)]
    return np.concatenate(rows)
