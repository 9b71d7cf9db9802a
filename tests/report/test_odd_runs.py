"""diff, report and reproduce of runs that are not as this version leaves them: moved, older, cut off, without reports."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetrainers.cli.entry import main
from finetrainers.runs.comparison.compare import compare
from finetrainers.runs.folder import RunFolder

Spoil = Callable[[Path], None]
FIRST_FIELDS = {
    "v", "time", "event", "family", "task", "resumed_from", "steps", "batch_size", "num_samples", "num_held_out", "num_bad",
    "epochs", "device", "step", "loss", "grad_norm", "lr", "stage", "seconds", "status", "weights",
}  # fmt: skip
"""Of events, in the first versions."""


def change_events(run: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (run / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in change(events)))


def as_moved(run: Path) -> None:
    """Its events and its configuration name the folder that it was made in."""


def as_older(run: Path) -> None:
    """Of a version without lock.json, and with few fields; its configuration has keys that have moved."""
    (run / "lock.json").unlink()
    shutil.rmtree(run / "data-sheet")
    change_events(run, lambda events: [{k: v for k, v in event.items() if k in FIRST_FIELDS} for event in events])
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["objective"] = {**tree.get("objective", {}), "first_frame_probability": None}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))


def as_without_reports(run: Path) -> None:
    for name in ("report.json", "report.html"):
        (run / name).unlink()


def as_unfinished(run: Path) -> None:
    """Killed within the third step: half a line is left of its event."""
    for name in ("report.json", "report.html"):
        (run / name).unlink()
    shutil.rmtree(run / "weights")
    shutil.rmtree(run / "validation" / "step-000004")

    def until_step_2(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = next(number for number, event in enumerate(events) if event.get("step") == 2)
        return events[: last + 1]

    change_events(run, until_step_2)
    with (run / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "event": "step", "st')


def as_planned_alone(run: Path) -> None:
    """Stopped before it began: there is not one event."""
    as_unfinished(run)
    (run / "events.jsonl").unlink()
    (run / "lock.json").unlink()


def as_of_a_later_version(run: Path) -> None:
    """Its configuration has a key, and its first event a kind of value, that this version does not know."""
    tree = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**tree, "later": {"key": 1}}))
    change_events(run, lambda events: [{**event, "trained": {"kind": "new"}, "later": [1]} for event in events])


CASES: dict[str, tuple[Spoil, int, int]] = {
    "moved": (as_moved, 4, 0),
    "older": (as_older, 4, 0),
    "without reports": (as_without_reports, 4, 0),
    "unfinished": (as_unfinished, 2, 0),
    "planned alone": (as_planned_alone, 0, 0),
    "later": (as_of_a_later_version, 4, 2),
}
"""What is done to a run, how many of its steps are those of the run itself, and the status of ``reproduce``."""


@pytest.mark.parametrize("name", CASES)
def test_odd_runs_are_compared_reported_and_checked(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Without a traceback or a guess: equal steps are equal, what was not noted is unknown, and nothing is written."""
    spoil, num_equal, status = CASES[name]
    run = Path(shutil.copytree(first, tmp_path / "run"))
    spoil(run)
    for pair in ((first, run), (run, first)):
        assert main(["diff", *map(str, pair), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["parting"], told["num_equal"]) == (None, num_equal)
        causes = [own["key"] for own in told["differences"] if own["what"] == "config" and own["effect"] != "none"]
        assert causes == (["later.key"] if name == "later" else [])
    assert main(["report", str(run), "--output", str(tmp_path / "a.html")]) == 0
    assert main(["report", str(run), "--markdown"]) == 0
    capsys.readouterr()
    before = sorted(file.name for file in run.iterdir())
    assert main(["reproduce", str(run)]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert sorted(file.name for file in run.iterdir()) == before
    if name in ("older", "planned alone"):
        assert "config.yaml: unknown: the run did not note it" in out
    elif name == "later":
        assert "later" in err
    else:
        assert {line.rpartition(": ")[2] for line in out.splitlines()} == {"same"}


def test_runs_of_other_data_are_told_by_their_items_and_others_by_their_hash(first: Path, tmp_path: Path) -> None:
    """Where one of the runs has no list of items, the hash of all of them is what differs."""
    other = Path(shutil.copytree(first, tmp_path / "other"))
    told = json.loads((other / "lock.json").read_text())
    told["items"][0][0], told["items"][0][1] = "0/another.png", "0" * 32
    (other / "lock.json").write_text(json.dumps(told))
    change_events(other, lambda events: [{**own, "data": "1" * 32} if own["event"] == "run" else own for own in events])
    assert [own["what"] for own in compare(RunFolder(first), RunFolder(other))["differences"]][:1] == ["data"]
    del told["items"]
    (other / "lock.json").write_text(json.dumps(told))
    (found,) = (own for own in compare(RunFolder(first), RunFolder(other))["differences"] if own["key"] == "data")
    assert found["values"][1] == "1" * 32
    assert found["effect"] == "first"
