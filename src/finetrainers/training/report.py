"""What a run did: report.json, and events.jsonl read back."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from finetrainers.events.report import RunReport
from finetrainers.files.whole import to_json, write_whole
from finetrainers.runs.folder import REPORT_FILE


def write_report(directory: Path, report: RunReport) -> Path:
    """Write report.json: what the run was and did, and what it left out."""
    file = directory / REPORT_FILE
    write_whole(file, to_json(report.tree(), indent=1))
    return file


def read_events(directory: Path, kinds: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Read events.jsonl, or its events of some kinds; a line that a kill cut off is left out."""
    events = []
    marks = [f'"{kind}"'.encode() for kind in kinds or ()]
    with (directory / "events.jsonl").open("rb") as lines:  # as text, a U+2028 inside a string could end a line
        for line in lines:
            if kinds is not None and not any(mark in line for mark in marks):  # much faster than to parse it
                continue
            try:
                event = json.loads(line.decode(errors="replace"))  # a kill may cut a letter
            except json.JSONDecodeError:
                continue
            if kinds is None or event["event"] in kinds:
                events.append(event)
    return events
