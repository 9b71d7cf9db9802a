"""Lines of events.jsonl, read as events."""

import json
from dataclasses import dataclass
from typing import Any

from finetrainers.events.kinds import EVENTS
from finetrainers.events.record import VERSION, Event, made

KINDS = {kind.event: kind for kind in EVENTS}


@dataclass(frozen=True, kw_only=True)
class OtherEvent(Event):
    """A line of another version: of an event that this one does not know, or with other fields than it has here."""

    event = "other"

    def tree(self) -> dict[str, Any]:
        """Return the line as it was read: all of it is in ``extra``, its name too."""
        return dict(self.extra)


def read_event(line: str | bytes) -> Event:
    """Read a line of events.jsonl, of whatever version wrote it.

    What this version does not know is kept: fields in ``extra``, and events that are not as they are here as ``OtherEvent``.

    Raises:
        ValueError: If the line is no event at all, such as one that a kill cut off.
    """
    text = line.decode(errors="replace") if isinstance(line, bytes) else line  # a kill may cut a letter
    tree: object = json.loads(text)
    if not isinstance(tree, dict) or not {"v", "event"} <= tree.keys():
        raise ValueError(f"no event: {text[:80]!r}")
    kind = KINDS.get(str(tree["event"]))
    try:
        if kind is not None and tree["v"] == VERSION:
            return made(kind, {name: value for name, value in tree.items() if name not in ("v", "event")})
    except (TypeError, ValueError, AttributeError):  # fields are missing, or are other than here
        pass
    seconds = tree.get("time")
    return OtherEvent(time=float(seconds) if isinstance(seconds, int | float) else 0.0, extra=tree)
