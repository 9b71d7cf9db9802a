"""What passes through the steps: a part of a media file, with its scores; or the reason why it does not go on."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetrainers.data.media.files import MediaInfo

Value = float | str
"""Of a score: a number, or text."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A raw file."""

    index: int
    """Place in the input."""
    path: Path
    origin: str
    """Path as the listing names it: relative to its input folder."""
    info: MediaInfo
    digest: str
    """Hash of its bytes."""
    num_bytes: int
    caption: str | None
    """Text of the file beside it."""
    stop: threading.Event = field(compare=False, repr=False)
    """Set when the preparation ends, so that no thread goes on with a long film."""

    @property
    def is_video(self) -> bool:
        """Whether it has frames that follow one another."""
        return self.info.seconds > 0


@dataclass(frozen=True, slots=True)
class Box:
    """Part of the picture, in pixels as displayed."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames ``start`` to ``stop`` (exclusive) of a medium, within a box; all of it until a step says otherwise."""

    medium: Medium
    start: int
    stop: int
    box: Box
    caption: str | None
    scores: Mapping[str, Value] = field(default_factory=dict)
    fingerprint: tuple[int, ...] | None = None
    """Perceptual hashes of 64 bits: one of a still, three of a clip."""

    @property
    def num_frames(self) -> int:
        """Frames between start and stop."""
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        """Whether it is all that the file shows, so that the file can be copied."""
        info = self.medium.info
        return self.num_frames == info.num_frames and self.box == Box(0, 0, info.height, info.width)

    @property
    def seconds(self) -> float:
        """Length, by the file's average frame rate; 0 of a still."""
        return self.num_frames / self.medium.info.fps if self.medium.is_video else 0.0

    @property
    def values(self) -> dict[str, Value]:
        """All that an expression can name: what every item has, and the scores."""
        return {
            "kind": "video" if self.medium.is_video else "image",
            "caption": self.caption or "",
            "seconds": self.seconds,
            "frames": float(self.num_frames),
            "fps": self.medium.info.fps,
            "height": float(self.box.height),
            "width": float(self.box.width),
            "aspect": self.box.width / self.box.height,
            **self.scores,
        }


@dataclass(frozen=True, slots=True)
class Dropped:
    """A piece that does not go on."""

    piece: Piece
    reason: str


Outcome = Piece | Dropped


def whole(medium: Medium) -> Piece:
    """All of a medium."""
    info = medium.info
    return Piece(medium, 0, info.num_frames, Box(0, 0, info.height, info.width), medium.caption)
