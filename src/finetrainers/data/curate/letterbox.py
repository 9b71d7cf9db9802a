"""Find black borders that stay over the whole clip, and cut them off.

Shape letters: H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from finetrainers.config.curate import LetterboxStep
from finetrainers.data.curate.piece import Box, Outcome, Piece
from finetrainers.data.curate.reading import stills
from finetrainers.data.curate.registry import Context, Step, register_step

BRIGHT_PART = 0.01
"""Part of a row or column that may be bright in a border: single pixels are noise of the codec."""


class CutLetterbox(Step):
    """Narrows a piece's box to what is not black; scores the part of the picture that was black."""

    scores = {"letterbox": "number"}

    def __init__(self, config: LetterboxStep) -> None:
        self._config = config

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        brightest = np.max([picture.max(axis=2) for picture in stills(piece, self._config.stills)], axis=0)
        is_bright = brightest > self._config.darkness
        rows, columns = _bounds(is_bright.mean(axis=1)), _bounds(is_bright.mean(axis=0))
        if rows is None or columns is None:  # all of it is black, which is no border
            return [replace(piece, scores={**piece.scores, "letterbox": 0.0})]
        box = piece.box
        inner = Box(box.top + rows[0], box.left + columns[0], rows[1] - rows[0], columns[1] - columns[0])
        removed = 1 - inner.height * inner.width / (box.height * box.width)
        return [replace(piece, box=inner, scores={**piece.scores, "letterbox": removed})]


def _bounds(bright: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    """First row or column that is not black, and the one after the last; ``bright`` is the part of each that is not."""
    found = np.flatnonzero(bright > BRIGHT_PART)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else None


@register_step("letterbox")
def make(config: LetterboxStep, _: Context) -> list[Step]:
    """Make the step."""
    return [CutLetterbox(config)]
