"""events.jsonl while it grows: what is new of it, and its end without the rest."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from finetrainers.errors import DataError

Event = dict[str, Any]  # one JSON object, as docs/events.md describes it
BLOCK_BYTES = 1 << 16
READ_BYTES = 1 << 24
"""Of one read: a file of any size is read in constant memory."""


def parse(line: bytes) -> Event | None:
    """Read one line; None of one that a kill cut off."""
    try:
        event = json.loads(line.decode(errors="replace"))  # a kill may cut a letter
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def read_after(file: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Yield the whole lines after an offset, each with the offset behind it; half a line waits for the next call."""
    log = _opened(file)
    if log is None:
        return
    with log:
        log.seek(offset)
        rest = b""
        while block := log.read(READ_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                event = parse(line)
                if event is not None:
                    yield event, offset


def read_back(file: Path) -> Iterator[Event]:
    """Yield the events from the last to the first, reading no more of the file than is asked for."""
    log = _opened(file)
    if log is None:
        return
    with log:
        place, rest, is_whole = log.seek(0, os.SEEK_END), b"", False
        while place:
            start = max(0, place - BLOCK_BYTES)
            log.seek(start)
            first, *lines = (log.read(place - start) + rest).split(b"\n")
            place, rest = start, first
            for line in reversed(lines if is_whole else lines[:-1]):  # what follows the last end of a line is half a line
                event = parse(line)
                if event is not None:
                    yield event
            is_whole = is_whole or bool(lines)
        event = parse(rest) if is_whole else None
        if event is not None:
            yield event


def _opened(file: Path) -> BinaryIO | None:
    """Open a file of events; None if there is none."""
    try:
        return file.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; see what it is, and whose") from None
