"""What a sample is made of, as encoders and the cache take it: items by name, each with what it is encoded from."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetrainers.config import Bucket
from finetrainers.data.cache.store import Kind
from finetrainers.data.media.view import View
from finetrainers.data.streams import MEDIA, Stream


@dataclass(frozen=True, slots=True)
class LatentsJob:
    """One item of latents, and what it is made of."""

    key: str
    digest: str
    """Hash of the file's bytes, in hexadecimal digits."""
    path: str
    view: View
    stream: Stream = MEDIA
    """What it is of; says what is computed from the pixels before they are encoded."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item of latents that cannot be made."""

    key: str
    digest: str
    path: str
    reason: str
    """Why, without the path."""

    @classmethod
    def of(cls, job: LatentsJob, reason: str) -> "Failure":
        """Say of a job why it failed."""
        return cls(job.key, job.digest, job.path, reason)


@dataclass(frozen=True, slots=True)
class Picture:
    """A file of its own, such as the picture that a prompt of the validation starts from."""

    key: str
    """Hash of the file's bytes."""
    path: str


@dataclass(frozen=True, slots=True)
class TextJob:
    """One encoded caption."""

    key: str
    caption: str
    seen: LatentsJob | Picture | None = None
    """What the text encoder sees beside the caption: the first frame of a view, a picture, or nothing."""


@dataclass(frozen=True, slots=True)
class SampleJob:
    """The items of one sample."""

    position: int
    bucket: Bucket
    media: Mapping[str, LatentsJob]
    """By the name of the stream; the media themselves are the first. Pictures of a size of their own have one each, with
    their number after the name, as ``name_of_picture`` says."""
    text: TextJob
    weight: float = 1.0
    """What its loss counts in training."""

    @property
    def target(self) -> LatentsJob:
        """Of the media themselves."""
        return self.media[MEDIA.name]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all items."""
        return tuple(key for _, key in self.items)

    @property
    def items(self) -> tuple[tuple[Kind, str], ...]:
        """Kind and key of all items."""
        return (("text", self.text.key), *(("latents", item.key) for item in self.media.values()))
