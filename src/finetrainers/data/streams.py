"""The named media of an item: what each is for, where it comes from, and what makes an item of the cache of it.

A run has the media themselves and what its parts name beside them; files, jobs, encoder and cache know no kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from finetrainers.config import Bucket
from finetrainers.data.media.signals import Signal
from finetrainers.errors import ConfigError

FILES = Signal("files")
"""Leaves the frames of a file as they are."""

RESERVED = ("captions",)
"""Names that a data set's table has for other things."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One medium of each item."""

    name: str
    """Such as media, mask or rejected: names its column of files, its items in the cache and its latents."""
    role: Literal["target", "condition"]
    """What the model learns to make, or what it is shown."""
    encoder: Literal["vae", "none"] = "vae"
    """What makes latents of its pixels: the VAE, or nothing but means over the cells of its grid, as of a mask."""
    follows: str | None = "media"
    """The stream whose crop, window and mirror it shares; None for the media themselves, and for pictures of other sizes."""
    signal: Signal | None = None
    """What is computed from the frames of the stream that it follows; None where it lies in files of its own."""
    is_many: bool = False
    """Whether items have one or several files of it, and not one; only of what follows nothing."""
    sizes: tuple[Bucket, ...] = ()
    """Possible sizes (1, height, width) of its pictures; only of what follows nothing."""
    samples_posterior: bool = True
    """Whether its latents are samples of the VAE's posterior where the family trains on those; else they are its mode."""

    @property
    def has_files(self) -> bool:
        """Whether it lies in files of its own beside the media."""
        return self.signal is None and self != MEDIA

    @property
    def has_own_size(self) -> bool:
        """Whether it is pictures that share nothing of the view of the media, such as those before an edit."""
        return self.follows is None and self != MEDIA

    @property
    def is_the_followed(self) -> bool:
        """Whether its latents are those of the stream that it follows: nothing more is encoded then."""
        is_unchanged = self.signal is not None and self.signal.name == "identity" and self.encoder == "vae"
        return is_unchanged and self.samples_posterior

    @property
    def transform(self) -> Signal:
        """What is made of decoded frames before they are encoded."""
        return FILES if self.signal is None else self.signal


MEDIA = Stream("media", "target", follows=None)
"""What each item has."""


class HasStreams(Protocol):
    """A part of a run, such as its conditioning, that needs media beside those that each item has."""

    @property
    def streams(self) -> Sequence[Stream]:
        """What it needs."""
        ...


def streams_of(*parts: HasStreams) -> tuple[Stream, ...]:
    """Sum up what items have: the media first, and then what the parts of a run need, each stream once.

    Raises:
        ConfigError: If parts mean different things by one name, or if a stream cannot be made.
    """
    found = {MEDIA.name: MEDIA}
    for stream in (stream for part in parts for stream in part.streams):
        if stream.name in RESERVED or found.setdefault(stream.name, stream) != stream:
            raise ConfigError(f"streams: {stream.name!r} means something else already; give the stream another name")
        if stream != MEDIA:
            _check(stream)
    return tuple(found.values())


def _check(stream: Stream) -> None:
    """Raise if a stream beside the media cannot be made."""
    name, follows = stream.name, stream.follows
    if "." in name:
        raise ConfigError(f"streams: {name!r} has a dot, after which the images of a stream are numbered; leave it out")
    if follows != MEDIA.name and (follows is not None or not stream.sizes):
        raise ConfigError(
            f"streams: {name!r} follows {follows!r}; a stream has to follow 'media', or list the sizes of its own"
        )
    if follows is not None and (stream.is_many or stream.sizes):
        raise ConfigError(f"streams: {name!r} follows {follows!r}, and so has one file for each item, of the size of that")
    if follows is None and (stream.signal is not None or any(frames != 1 for frames, _, _ in stream.sizes)):
        raise ConfigError(f"streams: {name!r} has a size of its own, and so has to be images in files: of 1 frame each")


def beside(streams: Sequence[Stream]) -> tuple[Stream, ...]:
    """Choose those that lie in files of their own beside the media."""
    return tuple(stream for stream in streams if stream.has_files)


def name_of_picture(stream: str, number: int) -> str:
    """Name a medium of a sample: of a stream whose pictures have their own size, which has one or several of them."""
    return f"{stream}.{number}"


def stream_of(medium: str) -> tuple[str, bool]:
    """Name the stream that a medium of a sample is of, and say whether it has a size of its own."""
    stream, dot, _ = medium.partition(".")
    return stream, bool(dot)
