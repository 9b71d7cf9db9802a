"""What part of the pictures that a plain diffusers pipeline draws is right.

Pixels are uint8 [N, H, W, C]; noise is [N, T, 4 C'] packed latents as FluxPipeline takes them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetrainers.quickstart.concept import Banner, banner_caption
from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.measure import Measurement, measure
from finetrainers.quickstart.scenes import Scene, caption

STEPS = 16
"""Denoising steps of each picture."""
BATCH_SIZE = 32
BASE_SEED = 21
"""Seed of the scenes that the shipped base was trained on."""


Truth = Scene | Banner
"""All that a picture's caption states."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Percentages of some pictures."""

    right: float
    """Of pictures in which every check holds."""
    checks: dict[str, float]
    """Of each check."""
    kinds: dict[str, float]
    """``right`` of each kind of picture."""
    count: int

    @staticmethod
    def of(truths: Sequence[Truth], measured: Sequence[Measurement]) -> "Figures":
        """Count what holds."""
        checks, kinds, totals = Counter[str](), Counter[str](), Counter[str]()
        possible = Counter[str]()
        for truth, measurement in zip(truths, measured, strict=True):
            kinds[truth.kind] += measurement.is_right
            totals[truth.kind] += 1
            possible.update(measurement.checks.keys())
            checks.update({name: int(holds) for name, holds in measurement.checks.items()})
        return Figures(
            right=round(100 * sum(kinds.values()) / len(truths), 2),
            checks={name: round(100 * checks[name] / possible[name], 2) for name in sorted(possible)},
            kinds={kind: round(100 * kinds[kind] / totals[kind], 2) for kind in sorted(totals)},
            count=len(truths),
        )


def caption_of(truth: Truth) -> str:
    """Say what a picture shows."""
    return banner_caption(truth) if isinstance(truth, Banner) else caption(truth)


def draw(pipeline: Any, captions: Sequence[str], *, seed: int, guidance: float = 1.0, steps: int = STEPS) -> Pixels:
    """Draw captions with a FluxPipeline, uint8 [N, H, W, C]; picture n's noise depends on (seed, n) alone.

    ``guidance`` above 1 is classifier-free guidance away from the empty prompt.
    """
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[NDArray[np.float32]] = []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = list(captions[start : start + BATCH_SIZE])
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + n) for n in range(len(batch))]
        negative = {"negative_prompt": [""] * len(batch), "true_cfg_scale": guidance} if guidance > 1 else {}
        pictures.extend(
            pipeline(
                prompt=batch,
                height=SIZE,
                width=SIZE,
                num_inference_steps=steps,
                max_sequence_length=MAX_TOKENS,
                generator=generators,
                output_type="np",
                **negative,
            ).images
        )
    return np.round(np.stack(pictures) * 255).astype(np.uint8)


def evaluate(pipeline: Any, truths: Sequence[Truth], *, seed: int = 0, guidance: float = 1.0) -> tuple[Figures, Pixels]:
    """Draw what the truths' captions say, and measure; return the figures and the pictures."""
    pictures = draw(pipeline, [caption_of(truth) for truth in truths], seed=seed, guidance=guidance)
    measured = [measure(pixels, truth) for pixels, truth in zip(pictures, truths, strict=True)]
    return Figures.of(truths, measured), pictures
