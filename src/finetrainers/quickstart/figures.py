"""What is counted of pictures and of clips, and the batches in which a pipeline draws them.

Pixels are uint8 [N, *S, H, W, C]; S is empty for pictures, and the frames of clips.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.measure import Measurement

BATCH_SIZE = 32
"""Captions that are drawn at once."""


class Counted(Protocol):
    """What a caption states, as far as counting goes."""

    @property
    def kind(self) -> str:
        """What it is counted under."""
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """Percentages of some pictures or clips."""

    right: float
    """Of those in which every check holds."""
    checks: dict[str, float]
    """Of each check."""
    kinds: dict[str, float]
    """``right`` of each kind."""
    count: int

    @staticmethod
    def of(truths: Sequence[Counted], measured: Sequence[Measurement]) -> "Figures":
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


def draw_batches(
    draw: Callable[[list[str], list[torch.Generator]], Any],  # what diffusers returns has no type
    captions: Sequence[str],
    *,
    seed: int,
) -> Pixels:
    """Draw captions batch by batch, [N, *S, H, W, C]; number n's noise depends on (seed, n) alone.

    Args:
        draw: Takes the captions of a batch and their generators; returns floats in 0..1, [B, *S, H, W, C].
        captions: All N of them.
        seed: Of the noise.
    """
    drawn = []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = list(captions[start : start + BATCH_SIZE])
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + n) for n in range(len(batch))]
        drawn.append(np.asarray(draw(batch, generators)))
    return np.round(np.concatenate(drawn) * 255).astype(np.uint8)
