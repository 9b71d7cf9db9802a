"""The objects inside events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetrainers.events.record import Record


@dataclass(frozen=True, kw_only=True)
class DataShare(Record):
    """How much of a run a data set is."""

    path: str
    samples: int
    asked: float
    taken: float
    images: int
    videos: int


@dataclass(frozen=True, kw_only=True)
class FoundData(Record):
    """What was found where a data set lies."""

    path: str
    layout: str
    why: str
    items: int
    left_out: int
    passed_over: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class FilledBucket(Record):
    """How many samples a bucket has."""

    size: Sequence[int]
    samples: int
    held_out: int


@dataclass(frozen=True, kw_only=True)
class AttentionTrial(Record):
    """How a backend of attention did."""

    backend: str
    milliseconds: float | None
    reason: str | None
