"""Where a run's numbers go: events.jsonl and its schema, trackers, and the end of a run whose loss is not finite."""

import json
import math
import os
import re
import sqlite3
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch

import finetrainers
from finetrainers.config import TrackConfig, parse_config
from finetrainers.errors import ConfigError, NonFiniteError
from finetrainers.events import (
    EVENTS,
    VERSION,
    CheckpointEvent,
    EndEvent,
    ErrorEvent,
    Event,
    OtherEvent,
    ProgressEvent,
    StageEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
    read_event,
)
from finetrainers.files.whole import to_json
from finetrainers.training.console.console import Console
from finetrainers.training.report import read_events
from finetrainers.training.track.sinks import EventLog, curves
from finetrainers.training.track.track import Sinks, StepLog, begin_trackers, build_tracker, check_trackers
from finetrainers.training.trainer import Asked, Metrics

SCHEMA = json.loads((Path(finetrainers.__file__).parent / "training/events.schema.json").read_text())
KINDS = SCHEMA["properties"]["event"]["enum"]
STEP = {
    "step": 1, "loss": 0.5, "grad_norm": 2.0, "lr": 1e-4, "step_seconds": 0.1, "data_seconds": 0.0,
    "tokens_per_second": 640.0, "peak_memory_gb": 1.0, "skipped": 0,
}  # fmt: skip
VALIDATION = {
    "step": 0, "held_out_loss": 0.7, "held_out_bins": {"0.00-0.25": 0.9, "0.25-0.50": 0.5}, "held_out_samples": 3,
    "samples": ["00.png"], "directory": "run/validation/step-000000",
}  # fmt: skip


class Kept:
    """A sink that keeps events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.is_closed = False

    def write(self, event: Event) -> None:
        self.events.append(event.tree())

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Append events to a log; return the lines of its file."""

    def write(*events: Event) -> list[dict[str, Any]]:
        tracker = Sinks(EventLog(tmp_path / "run" / "events.jsonl"))
        for event in events:
            tracker.emit(event)
        tracker.close()
        return read_events(tmp_path / "run")

    return write


# -- events.jsonl -----------------------------------------------------------------------------------------------------


def test_the_schema_is_valid_and_of_this_version() -> None:
    jsonschema.validators.validator_for(SCHEMA).check_schema(SCHEMA)
    assert SCHEMA["properties"]["v"]["const"] == VERSION


def test_events_are_lines_that_the_schema_knows(log) -> None:
    lines = log(StepEvent(**STEP), ValidationEvent(**VALIDATION), WarningEvent(message="ä\u2028\n"))
    for line in lines:
        jsonschema.validate(line, SCHEMA)
    assert [line["event"] for line in lines] == ["step", "validation", "warning"]
    assert {k: lines[0][k] for k in STEP} == STEP
    assert lines[2]["message"] == "ä\u2028\n"
    assert lines[0]["time"] <= lines[1]["time"]


def test_the_schema_tells_wrong_events_from_right_ones() -> None:
    right = {"v": VERSION, "time": 1.0, "event": "step", **STEP}
    jsonschema.validate(right, SCHEMA)
    for wrong in ({"loss": "0.5"}, {"loss": None}, {"step": 0}, {"event": "stepp"}, {"v": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**right, **wrong}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({k: v for k, v in right.items() if k != "grad_norm"}, SCHEMA)


def test_the_schema_knows_exactly_the_events_that_are_emitted() -> None:
    sources = [file.read_text() for file in (Path(finetrainers.__file__).parent / "training").rglob("*.py")]
    made = {name for source in sources for name in re.findall(r"\b(\w+Event)\((?!\))", source)}
    assert {kind.event for kind in EVENTS if kind.__name__ in made} == set(KINDS) == set(SCHEMA["$defs"]) - {"number"}


def test_an_event_read_back_is_the_event() -> None:
    event = ValidationEvent(**{**VALIDATION, "held_out_loss": math.inf})
    line = to_json(event.tree())
    assert read_event(line) == event
    assert to_json(read_event(line).tree()) == line


@pytest.mark.parametrize(
    "line, kind",
    [
        ({"v": 1, "time": 1.5, "event": "stage", "stage": "x", "seconds": 0.5, "new": {"a": [1]}}, StageEvent),
        ({"v": 1, "time": 1.5, "event": "surprise", "step": 1}, OtherEvent),
        ({"v": 1, "time": 1.5, "event": "stage", "stage": "x"}, OtherEvent),
        ({"v": 2, "time": 1.5, "event": "stage", "stage": "x", "seconds": 0.5}, OtherEvent),
        ({"v": 1, "time": 1.5, "event": ["stage"]}, OtherEvent),
        ({"v": 1, "time": 1.5, "event": "attention", "key": "train", "backend": "x", "trials": 3}, OtherEvent),
    ],
    ids=["new field", "new event", "field that is missing", "other version", "no name", "field of another form"],
)
def test_lines_of_other_versions_are_kept_as_they_are(line: dict[str, Any], kind: type[Event]) -> None:
    event = read_event(json.dumps(line))
    assert type(event) is kind
    assert event.time == 1.5
    assert json.dumps(event.tree()) == json.dumps(line)


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"v": 1}', b'{"event": "\xc3'])
def test_a_line_that_is_no_event_is_an_error(line: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"no event|JSON|Expecting|Unterminated|property name"):
        read_event(line)


def test_a_resumed_run_appends(log) -> None:
    log(StepEvent(**STEP))
    assert [e["step"] for e in log(StepEvent(**{**STEP, "step": 2}))] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"v": 1, "ev', b'{"v": 1', b"{", '{"message": "\u00e4'.encode()[:-1]])
def test_a_torn_line_costs_only_itself(log, tmp_path: Path, torn: bytes) -> None:
    log(StepEvent(**STEP))
    with (tmp_path / "run" / "events.jsonl").open("ab") as out:
        out.write(torn)
    lines = log(*(StepEvent(**{**STEP, "step": number}) for number in (2, 3)))
    assert [e["step"] for e in lines] == [1, 2, 3]


def test_each_event_is_on_its_way_to_the_disk_at_once(tmp_path: Path) -> None:
    """A user interface reads while the run goes on; after a kill nothing is missing."""
    sink = EventLog(tmp_path / "events.jsonl")
    sink.write(StepEvent(**STEP))
    assert len(read_events(tmp_path)) == 1
    sink.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_strings(log, tmp_path: Path, value: float) -> None:
    bins = {"0.00-0.25": value}
    lines = log(StepEvent(**{**STEP, "loss": value}), ValidationEvent(**{**VALIDATION, "held_out_bins": bins}))
    assert lines[0]["loss"] == lines[1]["held_out_bins"]["0.00-0.25"] == str(value)
    assert float(lines[0]["loss"]) == pytest.approx(value, nan_ok=True)
    for line in lines:
        jsonschema.validate(line, SCHEMA)
    text = (tmp_path / "run" / "events.jsonl").read_text()
    json.loads(text.splitlines()[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_file_name_that_is_no_text_can_be_logged(log) -> None:
    """As Linux allows, and Python holds it: in report.json and events.jsonl alike."""
    name = os.fsdecode(b"caf\xe9.mp4")
    (line,) = log(WarningEvent(message=name, extra={"path": Path(name)}))
    assert line["message"] == line["path"] == name


def test_paths_and_tuples_become_plain(log) -> None:
    (line,) = log(WarningEvent(message="x", extra={"paths": (Path("a") / "b", [Path("c")])}))
    assert line["paths"] == ["a/b", ["c"]]


def test_all_sinks_get_the_same_events_and_are_closed() -> None:
    sinks = Kept(), Kept()
    tracker = Sinks(*sinks)
    tracker.emit(StepEvent(**STEP))
    tracker.close()
    assert sinks[0].events == sinks[1].events
    assert sinks[0].events[0].items() >= {"v": VERSION, "event": "step", **STEP}.items()
    assert all(sink.is_closed for sink in sinks)


# -- trackers ---------------------------------------------------------------------------------------------------------


def test_curves_are_the_numbers_of_steps_and_validations() -> None:
    step = curves(StepEvent(**STEP))
    assert step == {f"train/{k}": float(v) for k, v in STEP.items() if k != "step"}
    assert curves(ValidationEvent(**VALIDATION)) == {
        "validation/held_out_loss": 0.7,
        "validation/held_out_samples": 3.0,
        "validation/held_out_loss/0.00-0.25": 0.9,
        "validation/held_out_loss/0.25-0.50": 0.5,
    }
    assert curves(ProgressEvent(stage="encode media", done=1, total=3)) == {}


TRACKED = """
    import math, sys, warnings
    warnings.simplefilter("error")
    from pathlib import Path
    from finetrainers.config import load_config
    from finetrainers.events import StageEvent, StepEvent, ValidationEvent
    from finetrainers.training.track.track import begin_trackers, build_tracker
    config = load_config(sys.argv[1])
    config.output_dir.mkdir()
    tracker = build_tracker(config)
    begin_trackers(tracker, config)
    step = {step!r}
    tracker.emit(StageEvent(stage="planning", seconds=1.0))
    tracker.emit(ValidationEvent(**{validation!r}))
    for number in (10, 20, 30):
        loss = math.nan if number == 20 else 1 / number
        tracker.emit(StepEvent(**{{**step, "step": number, "loss": loss}}))
    tracker.close()
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all trackers, in a process of its own: they start services, threads and exit handlers."""
    root = tmp_path_factory.mktemp("tracked")
    tree = {
        "output_dir": str(root / "run"), "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}],
        "track": {"tensorboard": True, "wandb": "project", "trackio": "project"},
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(tree))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRACKED).format(step=STEP, validation=VALIDATION), "config.json"],
        env={**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(root / "trackio"), "HOME": str(root)},
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""  # it belongs to what the command answers
    assert sorted(p.name for p in root.iterdir() if not p.name.startswith(".")) == ["config.json", "run", "trackio"]
    return root


def assert_curves(found: list[tuple[int, dict[str, float]]]) -> None:
    """The numbers of one validation and three steps, the second with a loss that is not a number."""
    assert [step for step, _ in found] == [0, 10, 20, 30]
    assert found[0][1] == pytest.approx(curves(ValidationEvent(**VALIDATION)))
    for number, numbers in found[1:]:
        loss = math.nan if number == 20 else 1 / number
        expected = curves(StepEvent(**{**STEP, "step": number, "loss": loss}))
        assert numbers == pytest.approx(expected, nan_ok=True)


def test_tensorboard_files_hold_the_curves(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "run" / "tensorboard"))
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for scalar in events.Scalars(tag):
            found.setdefault(scalar.step, {})[tag] = scalar.value
    assert_curves(sorted(found.items()))


def wandb_records(file: Path) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        rest_of_block = 32768 - place % 32768
        if rest_of_block < 7:
            place += rest_of_block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_gets_the_curves_and_the_configuration(tracked: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    (file,) = (tracked / "run" / "wandb").glob("offline-run-*/*.wandb")
    found, runs = [], []
    for data in wandb_records(file):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            runs.append(record.run)
        elif record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append((row["_step"], {k: v for k, v in row.items() if not k.startswith("_")}))
    assert_curves(found)
    assert (runs[0].project, runs[0].display_name) == ("project", "run")
    settings = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert settings["train"]["steps"] == 1000


def test_trackio_gets_the_curves_and_the_configuration(tracked: Path) -> None:
    with sqlite3.connect(tracked / "trackio" / "project.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
        ((config,),) = database.execute("select config from configs").fetchall()
    database.close()
    assert_curves([(step, {k: float(v) for k, v in json.loads(metrics).items()}) for step, metrics in rows])
    assert json.loads(config)["train"]["steps"] == 1000


def test_events_are_written_whatever_tracker_is_asked_for(tracked: Path) -> None:
    assert [e["event"] for e in read_events(tracked / "run")] == ["stage", "validation", "step", "step", "step"]


@pytest.mark.parametrize(("name", "value"), [("tensorboard", True), ("wandb", "project"), ("trackio", "project")])
def test_a_missing_package_names_the_command_that_installs_it(name: str, value: object, monkeypatch) -> None:
    track = TrackConfig(**{name: value})
    check_trackers(track)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigError, match=rf"^track.{name}: the package is missing: pip install '\./finetrainers\[{name}\]' \("
    ):
        check_trackers(track)
    check_trackers(TrackConfig())


def test_no_tracker_is_imported_that_is_not_asked_for(tmp_path: Path, monkeypatch) -> None:
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    tree = {"output_dir": str(tmp_path), "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
    tracker = build_tracker(parse_config(tree))
    begin_trackers(tracker, parse_config(tree))
    tracker.emit(StageEvent(stage="planning", seconds=1.0))
    tracker.close()
    assert [e["event"] for e in read_events(tmp_path)] == ["stage"]


# -- the terminal -----------------------------------------------------------------------------------------------------


def test_the_terminal_shows_steps_validations_and_warnings(capsys) -> None:
    tracker = Sinks(Console(steps=4))
    tracker.emit(ProgressEvent(stage="encode media", done=1, total=2))
    tracker.emit(ProgressEvent(stage="encode media", done=2, total=2))
    tracker.emit(StageEvent(stage="encoding", seconds=1.25))
    tracker.emit(ValidationEvent(**VALIDATION))
    for number in (1, 2, 3, 4):
        tracker.emit(StepEvent(**{**STEP, "step": number}))
    tracker.emit(WarningEvent(message="3 samples were left out"))
    tracker.emit(CheckpointEvent(step=4, directory="x"))
    tracker.emit(
        EndEvent(
            status="done",
            step=4,
            weights="run/weights/step-000004",
            best_step=3,
            best_held_out_loss=0.25,
            best_weights="run/weights/step-000003",
        )  # fmt: skip
    )
    tracker.close()
    out, text = capsys.readouterr()
    assert out == ""
    for part in (
        "encode media 2/2  100%", "step 4/4  100%  loss 0.5000  0.10 s/step  1.0 GB",
        "validation at step 0: held-out loss 0.70000, 1 sample in run/validation/step-000000",
        "loss     held-out 0.25000, lowest at step 3", "best     run/weights/step-000003",
        "warning: 3 samples were left out",
    ):  # fmt: skip
        assert part in text


def test_a_resumed_run_goes_on_in_the_middle_of_its_bar(capsys) -> None:
    tracker = Sinks(Console(steps=4))
    tracker.emit(StepEvent(**{**STEP, "step": 3}))
    tracker.close()
    assert "3/4" in capsys.readouterr().err


def test_an_error_is_left_to_whoever_catches_it(capsys) -> None:
    """The command line prints it, and so does Python: once is enough."""
    tracker = Sinks(Console(steps=4))
    tracker.emit(ErrorEvent(message="train.device: 'x' cannot be used", kind="ConfigError"))
    tracker.close()
    assert capsys.readouterr().err == ""


class Closed:
    """A terminal that is gone: each write fails."""

    def __init__(self) -> None:
        self.num_writes = 0

    def write(self, _text: str) -> int:
        self.num_writes += 1
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")

    def isatty(self) -> bool:
        return False


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch) -> None:
    """It is not written to again, and the other sinks get all that comes."""
    tracker, kept, terminal = Console(steps=4), Kept(), Closed()
    both = Sinks(tracker, kept)
    both.emit(StepEvent(**STEP))
    monkeypatch.setattr(sys, "stderr", terminal)
    for number in (2, 3, 4):
        both.emit(WarningEvent(message=f"number {number}"))
    assert terminal.num_writes == 1
    both.close()
    assert [event["event"] for event in kept.events] == ["step", "warning", "warning", "warning"]


# -- the log of steps -------------------------------------------------------------------------------------------------


def metrics(losses: list[float], grad_norm: float = 2.0) -> Metrics:
    sample_losses = torch.tensor(losses)
    positions = torch.arange(40, 40 + len(losses))
    return Metrics(
        step=1, loss=float(sample_losses.mean()), sample_losses=sample_losses, grad_norm=grad_norm, positions=positions,
        lr=1e-4, num_tokens=64, data_seconds=0.75, began=time.perf_counter() - 1.0, asked=Asked(),
    )  # fmt: skip


def step_log(*, every: int = 1, stops: bool = True) -> tuple[Kept, Callable[[int, Metrics], None]]:
    kept = Kept()
    log = StepLog(Sinks(kept), every=every, stops=stops)

    def take(step: int, taken: Metrics) -> None:
        log(SimpleNamespace(device=torch.device("cpu"), update=SimpleNamespace(num_skipped=7)), replace(taken, step=step))

    return kept, take


def test_a_step_event_has_all_numbers_of_the_step() -> None:
    kept, take = step_log()
    take(3, metrics([0.25, 0.75]))
    (event,) = kept.events
    jsonschema.validate(event, SCHEMA)
    expected = {
        "step": 3, "loss": 0.5, "grad_norm": 2.0, "lr": 1e-4, "data_seconds": 0.75, "skipped": 7,
    }  # fmt: skip
    assert event.items() >= expected.items()
    assert event["step_seconds"] == pytest.approx(0.25, abs=0.2)  # until now, data apart: the device has been waited for
    assert event["tokens_per_second"] == pytest.approx(64.0 / (0.75 + event["step_seconds"]))
    assert 0.01 < event["peak_memory_gb"] < 100


def test_steps_are_logged_where_they_are_due() -> None:
    kept, take = step_log(every=3)
    for step in range(1, 8):
        take(step, metrics([1.0]))
    assert [event["step"] for event in kept.events] == [3, 6]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_positions() -> None:
    kept, take = step_log(every=100)
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is not finite, at the sample positions \[41, 43\]"):
        take(3, metrics([1.0, math.nan, 2.0, math.inf]))
    assert [event["event"] for event in kept.events] == ["step"]  # also where it is not due


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_with_all_positions(norm: float) -> None:
    _, take = step_log()
    with pytest.raises(NonFiniteError, match=r"step 3: the gradient is not finite, at the sample positions \[40, 41\]"):
        take(3, metrics([1.0, 2.0], grad_norm=norm))


def test_skipped_steps_warn_and_go_on() -> None:
    kept, take = step_log(stops=False)
    take(3, metrics([1.0, math.nan], grad_norm=math.nan))
    take(4, metrics([1.0]))
    assert [(e["event"], e["step"]) for e in kept.events] == [("step", 3), ("warning", 3), ("step", 4)]
    assert re.search(r"not finite, at the sample positions \[41\] .* The update was skipped\.", kept.events[1]["message"])
    for event in kept.events[1:]:
        jsonschema.validate(event, SCHEMA)
