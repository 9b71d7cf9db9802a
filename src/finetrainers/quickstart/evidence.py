"""What was learned and what was forgotten, measured on pictures that plain diffusers draws with and without the LoRA.

A picture is uint8 [H, W, C].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline

from finetrainers.quickstart.concept import render_banner
from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.evaluate import BASE_SEED, Figures, Truth, caption_of, draw
from finetrainers.quickstart.measure import Measurement, measure
from finetrainers.quickstart.scenes import render_scene

GUIDANCE = 2.0
"""Classifier-free guidance of all pictures; docs/decisions/0003-quickstart-base.md has what other values give."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts, and what a right picture of each may look like."""

    what: str
    truths: Sequence[Truth]
    real: Sequence[Pixels]
    """Rendered, not drawn by a model."""


def make_sets(count: int, seed: int, *, num_train: int) -> dict[str, PromptSet]:
    """Take ``count`` prompts of each of four sets; the LoRA was trained on the first ``num_train`` banners of the seed."""
    numbers = range(count)
    rendered: dict[str, tuple[str, list[tuple[Pixels, Any]]]] = {
        "base_train": ("scenes that the base was trained on", [render_scene(n, BASE_SEED) for n in numbers]),
        "base_held_out": (
            "scenes of combinations that it was not trained on",
            [render_scene(n, seed, split="held_out") for n in numbers],
        ),
        "concept_train": ("banners that the LoRA was trained on", [render_banner(n % num_train, seed) for n in numbers]),
        "concept_held_out": (
            "banners of colours that neither was trained on",
            [render_banner(n, seed, split="held_out") for n in numbers],
        ),
    }
    return {
        name: PromptSet(what, [truth for _, truth in pairs], [pixels for pixels, _ in pairs])
        for name, (what, pairs) in rendered.items()
    }


def draw_sets(
    sets: Mapping[str, PromptSet], base: Path, weights: Path | None, *, device: str | torch.device, seed: int
) -> dict[str, list[Pixels]]:
    """Draw all prompts in plain diffusers, with the LoRA or without; a picture's noise is the same in both cases."""
    pipeline = FluxPipeline.from_pretrained(base).to(device, torch.float32)
    if weights is not None:
        pipeline.load_lora_weights(weights)
    return {
        name: list(draw(pipeline, [caption_of(truth) for truth in prompts.truths], seed=seed, guidance=GUIDANCE))
        for name, prompts in sets.items()
    }


def measure_all(pictures: Sequence[Pixels], truths: Sequence[Truth]) -> list[Measurement]:
    """Compare each picture with its caption."""
    return [measure(pixels, truth) for pixels, truth in zip(pictures, truths, strict=True)]


def figures(pictures: Sequence[Pixels], truths: Sequence[Truth]) -> Figures:
    """Count what pictures show of what their captions say."""
    return Figures.of(truths, measure_all(pictures, truths))


def shuffled(truths: Sequence[Truth]) -> list[Truth]:
    """Give every picture the caption of its neighbour: what is still right then is chance."""
    return [*truths[1:], *truths[:1]]
