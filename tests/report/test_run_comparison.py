"""What differs between runs, the cause first; and whether a run can be made again."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from finetrainers.cli.entry import main
from finetrainers.config import Config
from finetrainers.config.run import FIXED
from finetrainers.errors import DataError
from finetrainers.runs.comparison.causes import effect_of, flat, order_of
from finetrainers.runs.comparison.compare import compare
from finetrainers.runs.comparison.words import as_text
from finetrainers.runs.folder import RunFolder
from finetrainers.training.prepared import CAPTIONS_AT_ONCE, _hash_captions
from finetrainers.training.reproduce import _files, make_again


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def change_lock(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    told = json.loads((run / "lock.json").read_text())
    change(told)
    (run / "lock.json").write_text(json.dumps(told))


def change_events(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for event in events:
        change(event)
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def differences(first: Path, second: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = compare(RunFolder(first), RunFolder(second))["differences"]
    return found


def test_another_learning_rate_parts_runs_after_the_first_update(first: Path, second: Path) -> None:
    told = compare(RunFolder(first), RunFolder(second))
    assert told["parting"]["step"] == 2
    assert told["num_equal"] == 1
    cause = told["differences"][0]
    assert (cause["key"], cause["values"], cause["effect"]) == ("optimizer.lr", [0.001, 0.0005], "update")
    assert {one["effect"] for one in told["differences"][1:]} == {"none"}
    assert "they part at step 2" in as_text(told)
    assert "most likely by optimizer.lr: 0.001 -> 0.0005" in as_text(told)


def test_a_run_is_equal_to_itself(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(first), str(first), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["parting"], told["num_equal"], told["differences"]) == (None, 4, [])


def test_items_that_changed_are_named_before_anything_else(first: Path, tmp_path: Path) -> None:
    other = copied(first, tmp_path / "other")

    def change(told: dict[str, Any]) -> None:
        told["items"][0][1] = "0" * 32
        told["items"][1][2] = "0" * 16
        del told["items"][2]

    change_lock(other, change)
    change_events(other, lambda event: event.update({"loss": 9.0} if event["event"] == "step" else {}))
    found = differences(first, other)
    assert [one["key"] for one in found[:3]] == [
        "items only in the first",
        "items with other media",
        "items with other captions",
    ]
    names = [row[0] for row in json.loads((first / "lock.json").read_text())["items"]]
    assert [one["names"] for one in found[:3]] == [[names[2]], [names[0]], [names[1]]]


def test_what_differs_in_the_last_digits_is_laid_to_rounding_first(first: Path, tmp_path: Path) -> None:
    """Of a package, code and a learning rate, where the first loss differs by a millionth: the package."""
    other = copied(first, tmp_path / "other")
    change_lock(other, lambda told: told["starts"][-1]["packages"].update(torch="9.9"))
    change_lock(other, lambda told: told["starts"][-1].update(code="other"))
    tree = yaml.safe_load((other / "config.yaml").read_text())
    tree["optimizer"]["lr"] = 5e-4
    (other / "config.yaml").write_text(yaml.safe_dump(tree))
    change_events(other, lambda e: e.update({"loss": e["loss"] * 1.000001} if e["event"] == "step" else {}))
    assert [one["key"] for one in differences(first, other)[:3]] == ["torch", "code", "optimizer.lr"]


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("seed", "first"), ("data.0.buckets", "first"), ("optimizer.betas", "update"), ("schedule.name", "update"),
        ("tuning.rank", "update"), ("tuning.start_from", "first"), ("attention.train", "rounding"),
        ("train.batch_size", "first"), ("train.micro_batch_size", "rounding"), ("validation.every", "none"),
        ("validation.held_out", "first"), ("output_dir", "none"), ("cache.max_gb", "none"), ("model.dtype", "first"),
    ],
)  # fmt: skip
def test_each_key_has_its_effect(key: str, effect: str) -> None:
    assert effect_of(key) == effect


@pytest.mark.parametrize("key", FIXED)
def test_what_a_run_may_not_change_has_an_effect(key: str) -> None:
    assert effect_of(key) != "none"


def test_the_likely_cause_depends_on_when_runs_part() -> None:
    def ranked(**how: bool) -> list[str]:
        return sorted(("first", "update", "rounding", "none"), key=lambda effect: order_of(effect, **how))  # type: ignore[arg-type]

    assert ranked(is_first=True, is_small=False)[0] == "first"
    assert ranked(is_first=False, is_small=False)[0] == "update"
    assert ranked(is_first=True, is_small=True)[0] == "rounding"


@pytest.mark.parametrize(
    ("key", "is_listed", "name", "effect"),
    [
        ("captions", False, "captions", "first"),
        ("captions", True, "captions", "none"),  # of items that are not trained on: none of the others has other ones
        ("held_out_captions", False, "held-out captions", "none"),
    ],
)
def test_captions_that_differ_are_told_of_without_a_list_of_items(
    first: Path, tmp_path: Path, key: str, name: str, effect: str, *, is_listed: bool
) -> None:
    """As with over 5000 items; of a run that did not note them, nothing is said."""
    runs = [copied(first, tmp_path / letter) for letter in "abc"]
    for run, digest in zip(runs, ("1" * 16, "2" * 16, None), strict=True):
        change_events(run, lambda event, digest=digest: event.update({key: digest} if event["event"] == "run" else {}))
        if not is_listed:
            change_lock(run, lambda told: told.update(items=None))
    found = differences(*runs[:2])
    assert [(one["what"], one["key"], one["values"], one["effect"]) for one in found if one["what"] != "config"] == [
        ("contents", name, ["1" * 16, "2" * 16], effect)
    ]
    assert not [one for one in differences(runs[0], runs[2]) if one["what"] == "contents"]


def test_captions_have_the_hash_that_earlier_versions_noted() -> None:
    """It was of all captions of a chunk as one list; now no more than a piece of them are objects at a time."""
    rows = [["a 'b'", "ü\n"], [], None, ["c"]] * (CAPTIONS_AT_ONCE // 2 + 1)
    column = pa.chunked_array([rows, rows[:3], []], pa.large_list(pa.large_string()))
    digest = hashlib.blake2b(digest_size=8)
    for chunk in column.chunks:
        digest.update(repr(chunk.to_pylist()).encode(errors="backslashreplace"))
    assert len(column.chunks) == 3
    assert _hash_captions([pa.table({"captions": column})]) == digest.hexdigest()


def test_a_tree_is_flat_down_to_its_values() -> None:
    assert flat({"a": {"b": 1, "c": []}, "d": [{"e": [1, 2]}, {}]}) == {"a.b": 1, "a.c": [], "d.0.e": [1, 2], "d.1": {}}


def test_a_run_can_be_made_again_to_the_bit(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(first), "--output", str(tmp_path / "again"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(check["is_same"] for check in told["checks"])
    assert len(told["checks"]) == 9
    assert told["comparison"]["parting"] is None
    assert told["comparison"]["num_equal"] == 4


def test_a_run_that_went_back_to_a_step_is_made_again_from_the_first(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Config] = []
    monkeypatch.setattr("finetrainers.training.reproduce.train", trained.append)
    other = copied(first, tmp_path / "run")
    tree = yaml.safe_load((other / "config.yaml").read_text())
    changes = {"checkpoint": {"resume": 2}, "track": {"trackers": ["mine.py:Mine"], "wandb": "project"}}
    (other / "config.yaml").write_text(yaml.safe_dump({**tree, **changes}))
    with pytest.raises(DataError, match="not a run directory"):  # nothing was trained into it
        make_again(RunFolder(other), tmp_path / "again")
    assert [(config.output_dir, config.checkpoint.resume) for config in trained] == [(tmp_path / "again", "latest")]
    assert (trained[0].track.trackers, trained[0].track.wandb) == ((), None)
    noted = {"files": {"track.trackers.mine.py:Mine": "1" * 32, "callbacks.mine.py:Mine": "2" * 32}}
    assert [check.what for check in _files(trained[0], noted)] == ["file of callbacks.mine.py:Mine"]


def test_what_has_changed_since_a_run_is_named(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A caption, a picture, a prompt, a package and the configuration: each is said, and the run is not made again."""
    other = copied(first, tmp_path / "run")
    data = copied(Path(yaml.safe_load((first / "config.yaml").read_text())["data"][0]["path"]), tmp_path / "data")
    (data / "01.txt").write_text("another caption")
    shutil.copyfile(data / "02.png", data / "03.png")
    (tmp_path / "prompts.json").write_text('[{"prompt": "other"}]')
    tree = yaml.safe_load((other / "config.yaml").read_text())
    tree["data"][0]["path"], tree["validation"]["prompts"] = str(data), str(tmp_path / "prompts.json")
    (other / "config.yaml").write_text(yaml.safe_dump(tree))
    change_lock(other, lambda told: told["starts"][-1]["packages"].update(torch="9.9"))
    assert main(["reproduce", str(other), "--output", str(tmp_path / "again")]) == 2
    out, err = capsys.readouterr()
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    for what in ("config.yaml", "data", "captions", "file of validation.prompts"):
        assert lines[what].startswith("CHANGED")
    assert lines["weights that training begins from"] == "same"
    assert lines["packages"].startswith("differs: torch: 9.9 -> ")
    assert "not made again" in err
    assert not (tmp_path / "again").exists()


def test_data_that_are_gone_are_said_to_be(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(first, tmp_path / "run")
    tree = yaml.safe_load((other / "config.yaml").read_text())
    tree["data"][0]["path"] = str(tmp_path / "gone")
    (other / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["reproduce", str(other)]) == 2
    assert f"{tmp_path / 'gone'}" in capsys.readouterr().out


def test_a_run_of_several_processes_is_not_made_again_by_one(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(first, tmp_path / "run")
    change_lock(other, lambda told: told["starts"][-1].update(processes=2, devices=["cpu", "cpu"]))
    assert main(["reproduce", str(other), "--output", str(tmp_path / "again")]) == 2
    assert "finetrainers launch" in capsys.readouterr().err
