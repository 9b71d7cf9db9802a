"""report.json and its figures: of a run of today, of one that an earlier version wrote, and the same ones in every place."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from runs import Tree, events_of

import finetrainers
from finetrainers.events import StepEvent
from finetrainers.events.record import made, own_fields
from finetrainers.events.report import RunReport, RunSummary
from finetrainers.events.words import as_count, as_size, as_steps, as_trained, epochs_of
from finetrainers.files.whole import to_json
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.pace import middle, seconds_left, seconds_of_step
from finetrainers.runs.report.data import bucket_rows, sentence
from finetrainers.runs.report.facts import device_sentence, task_of, time_sentence, tuning_sentence
from finetrainers.runs.summary import summary_of
from finetrainers.training.check.page import as_text
from finetrainers.training.check.run import check
from finetrainers.training.console.bar import State, as_time
from finetrainers.training.console.console import Training
from finetrainers.training.console.lines import run_lines
from finetrainers.training.report import read_events
from finetrainers.ui.site import size

EARLIEST = {
    "v": 1,
    "event": "run",
    "time": 10.0,
    "family": "flux",
    "task": "text-to-image",
    "resumed_from": None,
    "steps": 4,
}
"""The first event of a run, with what the first versions told."""


def updated(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.update()
    return run


def test_the_report_says_what_the_run_was(first: Path, tree: Tree) -> None:
    """Each field is there, typed, and reads back as it was; figures are those of the configuration and of the events."""
    told = json.loads((first / "report.json").read_text())
    steps = [event for event in events_of(first) if event["event"] == "step"]
    assert json.loads(to_json(made(RunReport, told).tree())) == told
    assert (told["model"], told["family"], told["task"]) == (tree["model"]["path"], "flux", "text-to-image")
    assert (told["tuning"], told["rank"], told["alpha"], told["lr"], told["optimizer"]) == ("lora", 4, 8.0, 1e-3, "adamw")
    assert (told["batch_size"], told["epochs"]) == (2, epochs_of(4, 2, told["num_samples"]))
    assert (told["device"], told["processes"]) == (tree["train"]["device"], 1)
    assert told["peak_memory_gb"] == max(event["peak_memory_gb"] for event in steps) > 0
    assert told["total_seconds"] > sum(event["step_seconds"] for event in steps) > 0
    assert told["trained_parameters"] == next(e["trained_parameters"] for e in events_of(first) if e["event"] == "loaded")
    assert (told["finetrainers"], told["versions"]["torch"].partition("+")[0]) == (
        finetrainers.__version__,
        __import__("torch").__version__.partition("+")[0],
    )
    start = json.loads((first / "lock.json").read_text())["starts"][-1]
    assert told["commit"] == start["commit"]
    assert [step for step, _ in told["held_out_losses"]] == [0, 4]


def test_seconds_and_memory_are_of_all_starts(first: Path, tmp_path: Path) -> None:
    """A run that went on: the time between its starts does not count, and the larger of its peaks does."""
    run = Path(shutil.copytree(first, tmp_path / "run"))
    events = events_of(run)
    before = updated(run)
    later = [
        {**event, "time": event["time"] + 1e6} | ({"resumed_from": 2} if event["event"] == "run" else {})
        for event in events
        if event["event"] != "step" or event["step"] > 2
    ]
    for event in later:
        if event["event"] == "step":
            event["peak_memory_gb"] = 999.0
    write_events(run, [*events, *later])
    told, once = summary_of(updated(run)), summary_of(before)
    assert once.total_seconds is not None
    assert told.total_seconds == pytest.approx(2 * once.total_seconds, rel=1e-6)
    planning = next(event for event in events if event.get("stage") == "planning" and event["event"] == "stage")
    assert once.total_seconds == pytest.approx(events[-1]["time"] - planning["time"] + planning["seconds"])
    assert (told.peak_memory_gb, told.stage_seconds) == (999.0, {k: 2 * v for k, v in once.stage_seconds.items()})


def begun_at(time: float, step: int | None, planning: float = 10.0) -> list[dict[str, Any]]:
    """How a start begins whose planning is over at a time."""
    stage = {"v": 1, "event": "stage", "time": time, "stage": "planning", "seconds": planning}
    return [stage, {**EARLIEST, "time": time, "resumed_from": step}]


def steps_at(first: float, numbers: range, **told: Any) -> list[dict[str, Any]]:
    """Steps of a second each."""
    pairs = enumerate(numbers)
    return [{"v": 1, "event": "step", "time": first + place, "step": step, "loss": 1.0, **told} for place, step in pairs]


def empty_run(root: Path, events: list[dict[str, Any]]) -> RunFolder:
    root.mkdir()
    (root / "config.yaml").write_text("output_dir: x\n")
    write_events(root, events)
    return updated(root)


def test_a_killed_start_counts_up_to_its_last_step(tmp_path: Path) -> None:
    """Of which the steps after its checkpoint came again; a warning of the planning after it is of the next start."""
    first = [*begun_at(110.0, None), *steps_at(111.0, range(1, 101)), *steps_at(211.0, range(101, 200), peak_memory_gb=9.0)]
    warning = {"v": 1, "event": "warning", "time": 5009.0, "message": "m"}
    second = [warning, *begun_at(5010.0, 100), *steps_at(5011.0, range(101, 201), peak_memory_gb=1.0)]
    end = {"v": 1, "event": "end", "time": 5112.0, "status": "done", "step": 200}
    run = empty_run(tmp_path / "run", [*first, *second, end])
    told = summary_of(run)
    assert (told.total_seconds, told.peak_memory_gb) == (10.0 + 199 + 10.0 + 102, 9.0)
    assert "peak 9.0 GB" in device_sentence(run)


def test_a_run_that_begins_anew_keeps_its_own_planning_and_encoding(tmp_path: Path) -> None:
    given_up = [*begun_at(110.0, None), *steps_at(111.0, range(1, 3), peak_memory_gb=9.0)]
    planning, begun = begun_at(1010.0, None)
    encoding = {"v": 1, "event": "stage", "time": 1510.0, "stage": "encoding", "seconds": 500.0}
    warnings = [{"v": 1, "event": "warning", "time": time, "message": str(time)} for time in (112.5, 1005.0)]
    anew = [warnings[1], planning, encoding, {**begun, "time": 1510.0}, *steps_at(1511.0, range(1, 3))]
    run = empty_run(tmp_path / "run", [*given_up, warnings[0], *anew])
    told = summary_of(run)
    assert (told.total_seconds, told.stage_seconds) == (512.0, {"planning": 10.0, "encoding": 500.0})
    assert told.peak_memory_gb is None
    assert [event["message"] for event in run.of_kind("warning")] == ["1005.0"]


def test_time_that_is_left_is_the_same_in_report_and_terminal(tmp_path: Path) -> None:
    """By the steps of this start, without its first; of a run that only went on, the time of a step is that of before."""
    slow = {"step_seconds": 30.0, "data_seconds": 1.0}
    start = {**EARLIEST, "steps": 1000}
    before = [start, *steps_at(11.0, range(1, 101), **slow), {**start, "resumed_from": 100}]
    run = empty_run(tmp_path / "run", before)
    assert (seconds_of_step(run), seconds_left(run, 100)) == (31.0, None)
    shown: list[State] = []
    training = Training(SimpleNamespace(show=shown.append), 1000)  # type: ignore[arg-type]
    told = []
    for number in range(101, 161):
        took = 300.0 if number == 101 else 9.0 if number % 2 else 2.0 if number < 110 else 3.0
        fields = {"step": number, "loss": 1.0, "step_seconds": took, "data_seconds": 0.5}
        told.append({"v": 1, "event": "step", "time": 200.0 + number, **fields})
        write_events(run.path, [*before, *told])
        training.show(StepEvent(**dict.fromkeys(MEASURED, 0), **fields))
        left = seconds_left(updated(run.path), number)
        assert left is not None
        assert shown[-1].parts[0].text == f"{as_time(left)} left"
    assert left == 840 * 6.5
    assert middle([300.0]) == 300.0
    assert middle([300.0, *[1.0] * 60, *[2.0] * 50]) == 2.0


MEASURED = ("grad_norm", "lr", "tokens_per_second", "peak_memory_gb", "skipped")


def write_events(run: Path, events: list[dict[str, Any]]) -> None:
    (run / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


@pytest.mark.parametrize("events", [None, [], [EARLIEST], [EARLIEST, {"v": 1, "event": "step", "time": 11.0, "step": 1}]])
def test_what_an_older_run_does_not_tell_is_null(tmp_path: Path, events: list[dict[str, Any]] | None) -> None:
    """Neither lock.json nor the fields of today, nor an event, nor a configuration that can be read in full."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": "m"}, "tuning": {"rank": "odd"}, "optimizer": None}))
    if events is not None:
        write_events(run, events)
    told = summary_of(updated(run)).tree()
    known = {"model": "m", "stage_seconds": {}}
    if events:
        known |= {"family": "flux", "task": "text-to-image", "total_seconds": float(len(events) - 1)}
    assert told == {own.name: known.get(own.name) for own in own_fields(RunSummary)}


def test_figures_are_the_same_wherever_they_are_shown(first: Path, tree: Tree, tmp_path: Path) -> None:
    """Epochs, what trains and what is cut off: on the page, in the terminal and in a check, by the same words."""
    run = updated(first)
    begun = run.begun or {}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tree, "output_dir": str(tmp_path / "new")}))
    checked = check(tmp_path / "c.yaml")
    outline = checked.outline
    assert outline is not None
    assert outline.trained is not None
    steps, trained = as_steps(4, 2, outline.num_samples), as_trained(outline.trained)
    page, terminal = " ".join(as_text(checked).split()), dict(run_lines(outline))
    assert f"{outline.num_samples * 1.0:g} samples" in sentence(begun)
    for text in (sentence(begun), terminal["steps"], page):
        assert steps in text
    for text in (tuning_sentence(run), terminal["trains"], page):
        assert trained in text
    told = summary_of(run)
    assert f"peak {told.peak_memory_gb:.1f} GB" in device_sentence(run)
    assert f"{told.step_seconds:.3g} s a step" in time_sentence(run, run.standing())


def test_figures_are_words_that_one_says() -> None:
    """Whatever their size: none has an exponent, and none is a thousand of a unit that has a larger one."""
    sizes = {0: "0 KB", 180_200: "180 KB", 999_600: "1.0 MB", 45e6: "45.0 MB", 999.96e6: "1.0 GB", 2.1e12: "2.1 TB"}
    assert {number: as_size(number / 1e9) for number in sizes} == sizes == {number: size(number) for number in sizes}
    counts = {999_999: "999,999", 22_500_000: "22.5 million", 999_999_999: "1 billion", 2 * 10**12: "2,000 billion"}
    assert {number: as_count(number) for number in counts} == counts
    assert as_steps(2000, 8, 10) == "2000 steps of 8 samples: 1,600 epochs"
    assert as_steps(1, 1, 1) == "1 step of 1 sample: 1 epoch"
    assert [as_steps(steps, 4, 26).partition(": ")[2] for steps in (40, 700)] == ["6.15 epochs", "108 epochs"]
    assert as_steps(3, 1, 0) == "3 steps of 1 sample"


def test_what_is_cut_off_is_the_mean_of_the_event_and_of_an_older_run_what_its_sheet_has() -> None:
    bucket = {"size": [1, 64, 64], "samples": 5, "held_out": 1}
    sheet = {(1, 64, 64): {"cropped": {"min": 0.0, "median": 0.1, "max": 0.6}}}
    new = {"buckets": [{**bucket, "cropped": 0.21, "most_cropped": 0.6}]}
    assert bucket_rows(new, sheet)[0][-1] == "21% (up to 60%)"
    assert bucket_rows({"buckets": [bucket]}, sheet)[0][-1] == "median 10% (up to 60%)"
    assert bucket_rows({"buckets": [bucket]}, {})[0][-1] == ""


def test_the_report_of_a_run_that_stopped_is_that_of_its_last_start(first: Path) -> None:
    """What is read of events is what they say: none of the report's figures is counted twice."""
    told = json.loads((first / "report.json").read_text())
    steps = read_events(first, {"step"})
    assert (told["first_loss"], told["last_loss"]) == (steps[0]["loss"], steps[-1]["loss"])
    assert told["seconds"] == {name: pytest.approx(value) for name, value in told["stage_seconds"].items()}


def test_an_event_without_a_task_leaves_no_empty_brackets() -> None:
    assert task_of({"task": "text-to-image", "family": "flux"}) == "text-to-image (flux)"
    assert task_of({"family": "flux"}) == "flux"
    assert task_of({"task": "text-to-image"}) == "text-to-image"
    assert not task_of({})
