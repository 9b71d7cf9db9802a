"""The events of a run: one class for each, of which events.jsonl holds one a line.

``training/events.schema.json`` and the tables of docs/events.md are made of these classes by
``scripts/make_events_reference.py``. A field without a default is always there; one that is None by default is left out of
the line while it is None. New events and new fields keep ``VERSION``.
"""

from finetrainers.events.kinds import (
    EVENTS as EVENTS,
    AttentionEvent as AttentionEvent,
    CheckpointEvent as CheckpointEvent,
    EndEvent as EndEvent,
    ErrorEvent as ErrorEvent,
    LoadedEvent as LoadedEvent,
    ProgressEvent as ProgressEvent,
    RunEvent as RunEvent,
    StageEvent as StageEvent,
    StepEvent as StepEvent,
    ValidationEvent as ValidationEvent,
    WarningEvent as WarningEvent,
)
from finetrainers.events.outline import RunOutline as RunOutline
from finetrainers.events.parts import (
    AttentionTrial as AttentionTrial,
    BadItem as BadItem,
    CroppedItem as CroppedItem,
    DataShare as DataShare,
    DiskUse as DiskUse,
    FilledBucket as FilledBucket,
    FoundData as FoundData,
    ItemLoss as ItemLoss,
    ItemTable as ItemTable,
    SetLoss as SetLoss,
    Tuned as Tuned,
)
from finetrainers.events.read import (
    OtherEvent as OtherEvent,
    read_event as read_event,
)
from finetrainers.events.record import (
    VERSION as VERSION,
    Event as Event,
)
