"""Cut clips to lengths that can be trained on."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from finetrainers.config.curate import ClipsStep
from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.registry import Context, Step, register_step


class CutClips(Step):
    """Makes pieces of a fixed length, or of any between two."""

    splits = True

    def __init__(self, config: ClipsStep) -> None:
        self._config = config

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        if not piece.medium.is_video:
            return [piece]
        seconds, fps = self._config.seconds, piece.medium.info.fps
        if seconds is not None:
            return _fixed(piece, max(1, round(seconds * fps)))
        if piece.seconds < self._config.min_seconds:
            return [Dropped(piece, f"has {piece.seconds:.2f} s, min_seconds is {self._config.min_seconds:g}")]
        longest = self._config.max_seconds
        # Rounded, so that a clip of just this length is not cut because of the last digit of its frame rate
        count = 1 if longest is None else math.ceil(round(piece.seconds / longest, 6))
        bounds = [piece.start + k * piece.num_frames // count for k in range(count + 1)]
        return [replace(piece, start=a, stop=b) for a, b in itertools.pairwise(bounds) if a < b]


def _fixed(piece: Piece, num_frames: int) -> Sequence[Outcome]:
    """Consecutive pieces of so many frames; what is left over is dropped."""
    starts = range(piece.start, piece.stop - num_frames + 1, num_frames)
    pieces: list[Outcome] = [replace(piece, start=start, stop=start + num_frames) for start in starts]
    rest = piece.start + len(pieces) * num_frames
    if rest < piece.stop:
        reason = f"{piece.stop - rest} frames are left over, a clip has {num_frames}"
        pieces.append(Dropped(replace(piece, start=rest), reason))
    return pieces


@register_step("clips")
def make(config: ClipsStep, _: Context) -> list[Step]:
    """Make the step."""
    return [CutClips(config)]
