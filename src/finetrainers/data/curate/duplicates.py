"""Drop what has come before: the same bytes, or what looks the same. The first of all stays."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from finetrainers.config.curate import ExactDuplicatesStep, NearDuplicatesStep
from finetrainers.data.curate.hashes import DigestIndex, NearIndex, perceptual_hash
from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.reading import stills
from finetrainers.data.curate.registry import Context, Mark, OrderedStep, Step, register_step

CLIP_FRAMES = 3
"""Frames of a clip that are hashed."""
HASHED_PIXELS = 256
"""Longer side of the picture that is hashed."""


class DropExact(OrderedStep):
    """Knows the hash of each file's bytes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen = DigestIndex()

    def see(self, piece: Piece) -> tuple[Outcome, Mark | None]:
        first = self._seen.find(piece.medium.digest)
        if first == piece.medium.index:  # another piece of the same file
            return piece, None
        if first is not None:
            return Dropped(piece, f"has the same bytes as {self._context.origin_of(first)}"), None
        mark: Mark = [piece.medium.digest, piece.medium.index]
        self.remember(mark)
        return piece, mark

    def remember(self, mark: Mark) -> None:
        digest, index = mark
        self._seen.add(str(digest), int(index))


class Fingerprint(Step):
    """Computes the perceptual hashes of a piece."""

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        count = CLIP_FRAMES if piece.medium.is_video else 1
        hashes = [perceptual_hash(picture) for picture in stills(piece, count, longest=HASHED_PIXELS)]
        return [replace(piece, fingerprint=tuple(hashes + hashes[-1:] * (count - len(hashes))))]


class DropNear(OrderedStep):
    """Knows the perceptual hashes of all stills, and of all clips."""

    def __init__(self, config: NearDuplicatesStep, context: Context) -> None:
        self._context = context
        self._indices = {count: NearIndex(count, config.distance) for count in (1, CLIP_FRAMES)}
        self._media: dict[int, array[int]] = {count: array("q") for count in self._indices}

    def see(self, piece: Piece) -> tuple[Outcome, Mark | None]:
        words = piece.fingerprint
        assert words is not None, "Fingerprint comes before"
        found = self._indices[len(words)].earliest(words)
        if found is not None:
            number, differing = found
            origin = self._context.origin_of(self._media[len(words)][number])
            return Dropped(piece, f"looks like {origin} ({differing} of {64 * len(words)} bits differ)"), None
        mark: Mark = [piece.medium.index, *words]
        self.remember(mark)
        return piece, mark

    def remember(self, mark: Mark) -> None:
        index, *words = map(int, mark)
        self._media[len(words)].append(index)
        self._indices[len(words)].add(words)


@register_step("exact_duplicates")
def make_exact(_: ExactDuplicatesStep, context: Context) -> list[OrderedStep]:
    """Make the step."""
    return [DropExact(context)]


@register_step("near_duplicates")
def make_near(config: NearDuplicatesStep, context: Context) -> list[Step | OrderedStep]:
    """Make the step: hashes are computed by many threads, and compared in order."""
    return [Fingerprint(), DropNear(config, context)]
