"""What reads events knows them: each key that is read of one is a field of its class."""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from starlette.testclient import TestClient

import finetrainers.runs.log as module
from finetrainers.events import EVENTS, ErrorEvent, Event, ItemLoss, ItemTable, ProgressEvent, ValidationEvent, WarningEvent
from finetrainers.events.record import Record
from finetrainers.files.whole import to_json
from finetrainers.runs.comparison.compare import compare
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report.markdown import as_markdown
from finetrainers.runs.report.write import ReportWriter
from finetrainers.runs.state import SAYS_NOTHING
from finetrainers.ui.app import make_app
from finetrainers.ui.folders import Folders

KINDS = {kind.event: kind for kind in EVENTS}
PAGES = ("/", "/run?run=0/run", "/run/status?run=0/run", "/run/messages?run=0/run", "/run/curves?run=0/run")
TABLE = ItemTable(items=1, loss=1.0, easiest=[ItemLoss(path="a", loss=1.0)], hardest=[ItemLoss(path="a", loss=1.0)])
ADDED = (
    ValidationEvent(step=4, held_out_loss=0.5, items=TABLE, directory="/d"),
    WarningEvent(message="m", step=3, kind="loss_flat"),
    ErrorEvent(message="m", kind="K"),
)
Read = dict[str, set[type[Record]]]


class Spied(dict[str, Any]):
    """An object of events.jsonl that notes what is read of it."""

    def __init__(self, tree: Mapping[str, Any], kind: type[Record], note: Callable[[type[Record], str], None]) -> None:
        hints = get_type_hints(kind)
        super().__init__({key: spied(value, hints.get(key), note) for key, value in tree.items()})
        self._note = lambda key: note(kind, key)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)


def spied(value: Any, hint: Any, note: Callable[[type[Record], str], None]) -> Any:
    records = list(records_in(hint))
    if records and isinstance(value, list):
        return [Spied(one, records[0], note) for one in value]
    return Spied(value, records[0], note) if records and isinstance(value, dict) else value


def records_in(hint: Any) -> Iterator[type[Record]]:
    """Records that a field holds."""
    if isinstance(hint, type) and issubclass(hint, Record):
        yield hint
    for inner in get_args(hint):
        yield from records_in(inner)


def append(run: Path, *events: Event) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.writelines(f"{to_json(event.tree())}\n" for event in events)


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    """A run with whatever events are read."""
    run = Path(shutil.copytree(first, tmp_path / "runs" / "run"))
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(lines[:-1]))
    append(run, *ADDED)
    with (run / "events.jsonl").open("a") as file:
        file.write(lines[-1])
    return run


def test_each_key_that_is_read_is_a_field_of_its_event(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By reports, comparisons and the pages of the ui; of what is asked of several events, one has it."""
    read: Read = {}
    parse = module.parse

    def note(kind: type[Record], key: str) -> None:
        read.setdefault(key, set()).add(kind)

    def spying(line: bytes) -> module.Event | None:
        event = parse(line)
        return None if event is None else Spied(event, KINDS[event["event"]], note)

    monkeypatch.setattr(module, "parse", spying)
    look(run)
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        append(run, ProgressEvent(stage="encode media", done=1, total=2))
        look(run)
    known = {kind: {own.name for own in fields(kind)} - {"extra"} for kinds in read.values() for kind in kinds}
    assert {key: kinds for key, kinds in read.items() if not any(key in known[kind] for kind in kinds)}.keys() <= {"event"}
    assert {"loss", "first_loss", "layout", "size", "total", "tokens_per_second"} <= read.keys()


def look(run: Path) -> None:
    ReportWriter(run).write()
    folder = RunFolder(run)
    folder.update()
    as_markdown(folder, folder.standing())
    compare(folder, RunFolder(run))
    app = make_app(Folders((run.parent,), ()), None, devices=["cpu"], starts_runs=False)
    client = TestClient(app, base_url="http://127.0.0.1:7865")
    for page in PAGES:
        assert client.get(page).status_code == 200, page


def test_each_kind_of_event_that_is_asked_for_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    of_kind = RunFolder.of_kind
    monkeypatch.setattr(RunFolder, "of_kind", lambda self, *kinds: (asked.update(kinds), of_kind(self, *kinds))[1])
    look(run)
    assert {"run", "stage", "warning", "validation"} <= asked
    assert asked | SAYS_NOTHING <= KINDS.keys()
