"""The objects inside events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetrainers.events.record import Number, Record


@dataclass(frozen=True, kw_only=True)
class DataShare(Record):
    """How much of a run a data set provides."""

    path: str
    samples: int
    asked: float
    taken: float
    images: int
    videos: int


@dataclass(frozen=True, kw_only=True)
class FoundData(Record):
    """What was found in a data set."""

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
    cropped: float | None = None
    most_cropped: float | None = None


@dataclass(frozen=True, kw_only=True)
class CroppedItem(Record):
    """How much of an item the crop to its bucket removes."""

    path: str
    bucket: Sequence[int]
    cropped: float


@dataclass(frozen=True, kw_only=True)
class BadItem(Record):
    """An item that cannot be used."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Tuned(Record):
    """What is trained."""

    kind: str
    rank: int | None = None
    alpha: float | None = None
    parameters: int
    all_parameters: int
    mb: float


@dataclass(frozen=True, kw_only=True)
class DiskUse(Record):
    """What a run writes into one place."""

    what: str
    key: str
    path: str
    gb: float


@dataclass(frozen=True, kw_only=True)
class SetLoss(Record):
    """The held-out loss of one data set."""

    path: str
    samples: int
    loss: Number


@dataclass(frozen=True, kw_only=True)
class ItemLoss(Record):
    """The loss of one item."""

    path: str
    loss: Number
    first_loss: Number | None = None


@dataclass(frozen=True, kw_only=True)
class ItemTable(Record):
    """The easiest and the hardest of the items that are measured individually."""

    items: int
    loss: Number
    easiest: Sequence[ItemLoss]
    hardest: Sequence[ItemLoss]


@dataclass(frozen=True, kw_only=True)
class AttentionTrial(Record):
    """How an attention backend performed."""

    backend: str
    milliseconds: float | None
    reason: str | None
