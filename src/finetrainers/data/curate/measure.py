"""Scores of the pixels: motion, sharpness, brightness, contrast, and what is static or black.

Shape letters: H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetrainers.config.curate import MeasureStep
from finetrainers.data.curate.piece import Outcome, Piece, Value
from finetrainers.data.curate.reading import Pixels, small_frames, stills
from finetrainers.data.curate.registry import Context, Step, register_step

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in grey (ITU-R BT.601)."""
STILL_DIFFERENCE = 1.0
"""Mean difference of two frames, of 255, up to which nothing has moved: codecs change a little even then."""
BLACK = 16.0
"""Mean grey, of 255, up to which a frame is black."""


class Measure(Step):
    """Gives scores; a still has no motion, and all of it is static."""

    scores = dict.fromkeys(("motion", "static", "sharpness", "brightness", "contrast", "black"), "number")

    def __init__(self, config: MeasureStep) -> None:
        self._config = config

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        grey = [picture.astype(np.float32) @ LUMA for picture in stills(piece, self._config.stills)]
        motion, static = self._motion(piece) if piece.medium.is_video else (0.0, 1.0)
        means = [float(picture.mean()) for picture in grey]
        found: dict[str, Value] = {
            "motion": motion,
            "static": static,
            "sharpness": float(np.mean([sharpness(picture) for picture in grey])),
            "brightness": float(np.mean(means)),
            "contrast": float(np.mean([picture.std() for picture in grey])),
            "black": float(np.mean([mean <= BLACK for mean in means])),
        }
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}
        return [replace(piece, scores={**piece.scores, **rounded})]

    def _motion(self, piece: Piece) -> tuple[float, float]:
        """Mean difference (of 255) of frames ``1 / fps`` seconds apart, and the part of the pairs that are equal."""
        step = max(1, round(piece.medium.info.fps / self._config.fps))
        differences: list[float] = []
        before: Pixels | None = None
        for picture in small_frames(piece.medium, piece.start, piece.stop, step=step):
            if before is not None:
                differences.append(float(np.abs(picture.astype(np.int16) - before).mean()))
            before = picture
        if not differences:
            return 0.0, 1.0
        return float(np.mean(differences)), float(np.mean([one <= STILL_DIFFERENCE for one in differences]))


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of a grey picture [H, W]: small where it is blurred."""
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


@register_step("measure")
def make(config: MeasureStep, _: Context) -> list[Step]:
    """Make the step."""
    return [Measure(config)]
