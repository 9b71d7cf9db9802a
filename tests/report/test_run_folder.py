"""Run directories are read as they grow, whatever a kill left in them, and nothing outside them is."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import config_of, flux_tree, write_pictures

from finetrainers.errors import DataError
from finetrainers.files.marks import mark_run
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import whole_directory
from finetrainers.runs.curves import Columns
from finetrainers.runs.find import find_runs
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.inside import files_below, inside
from finetrainers.runs.log import BLOCK_BYTES, read_back
from finetrainers.runs.validations import best
from finetrainers.training.directory import run_directory
from finetrainers.training.validation.outcomes import best_step


def make_run(root: Path, *events: dict[str, Any]) -> RunFolder:
    root.mkdir(parents=True, exist_ok=True)
    mark_run(root)
    (root / "config.yaml").write_text("output_dir: x\ntrain: {steps: 9}\n")
    append(root, *events)
    return RunFolder(root)


def append(root: Path, *events: dict[str, Any]) -> None:
    with (root / "events.jsonl").open("a") as file:
        for number, event in enumerate(events):
            file.write(json.dumps({"v": 1, "time": 100.0 + number, **event}) + "\n")


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": 1 / number, "lr": 1e-4, **fields}


RUN = {"event": "run", "resumed_from": None, "steps": 9}
DONE = {"event": "end", "status": "done", "step": 2, "weights": "/w"}


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RUN, step(1))
    file = run.path / "events.jsonl"
    line = json.dumps({"v": 1, "time": 1.0, **step(2)}) + "\n"
    with file.open("a") as log:
        log.write(line[:20])
    assert run.update() == 2
    with file.open("a") as log:
        log.write(line[20:])
    assert run.update() == 1
    assert run.columns.steps().tolist() == [1, 2]


def test_a_line_that_a_kill_cut_off_is_lost_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RUN, step(1))
    with (run.path / "events.jsonl").open("a") as log:
        log.write('{"v": 1, "event": "st\n')
    append(run.path, step(2))
    run.update()
    assert run.columns.steps().tolist() == [1, 2]


def test_an_update_reads_only_what_is_new(tmp_path: Path) -> None:
    """A log of many steps is parsed once: the second update yields the new events alone, from their offset on."""
    run = make_run(tmp_path / "run", RUN, *(step(number) for number in range(1, 5001)))
    assert run.update() == 5001
    assert run.update() == 0
    append(run.path, step(5001), step(5002))
    assert run.update() == 2
    assert len(run.columns) == 5002


def test_steps_that_come_again_take_the_place_of_the_first(tmp_path: Path) -> None:
    """A kill lost the steps 3 and 4; until step 3 comes again, the run is at step 2."""
    run = make_run(tmp_path / "run", RUN, *(step(number, loss=1.0) for number in (1, 2, 3, 4)))
    run.update()
    assert run.rewinds == 0
    append(run.path, {**RUN, "resumed_from": 2})
    run.update()
    assert run.columns.steps().tolist() == [1, 2]
    append(run.path, step(3, loss=5.0))
    run.update()
    assert run.columns.steps().tolist() == [1, 2, 3]
    assert run.columns.column("loss").tolist() == [1, 1, 5]
    assert run.rewinds == 1


def test_a_run_that_begins_anew_forgets_the_one_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RUN, step(1), {"event": "warning", "message": "old"}, RUN, step(1, loss=7.0))
    run.update()
    assert run.columns.column("loss").tolist() == [7]
    assert run.of_kind("warning") == []


def test_curves_of_many_steps_keep_their_extremes_and_their_mean() -> None:
    columns = Columns()
    for number in range(1, 1001):
        columns.add({"step": number, "loss": 100.0 if number == 500 else 1.0, "grad_norm": "nan"})
    curves = columns.curves(10)
    assert curves.steps.tolist() == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    assert curves.high["loss"].max() == 100
    assert curves.low["loss"].tolist() == [1] * 10
    assert curves.mean["loss"][4] == pytest.approx(1.99)
    assert all(map(math.isnan, curves.mean["grad_norm"]))
    assert curves.plain()["steps"] == curves.steps.tolist()
    assert columns.curves(10, after=990).steps.tolist() == list(range(991, 1001))


def test_a_field_that_comes_later_has_no_value_before() -> None:
    columns = Columns()
    columns.add({"step": 1, "loss": 1.0})
    columns.add({"step": 2, "loss": 1.0, "ema": 3})
    columns.add({"step": 3, "loss": 1.0})
    values = columns.column("ema").tolist()
    assert values[1] == 3
    assert [math.isnan(value) for value in values] == [True, False, True]


@pytest.mark.parametrize(
    ("events", "state", "taken"),
    [
        ([], "new", 0),
        ([{"event": "stage", "stage": "encoding", "seconds": 1.0}, {"event": "end", "status": "done", "step": 0}], "new", 0),
        ([RUN, step(1), step(2), DONE], "done", 2),
        ([RUN, step(1), {"event": "end", "status": "interrupted", "message": "SIGTERM"}], "stopped", 1),
        ([RUN, step(7), {"event": "checkpoint", "step": 5}, {"event": "error", "message": "m", "kind": "K"}], "failed", 7),
        ([RUN, step(1), step(2), {"event": "warning", "message": "w"}], "stopped", 2),
        ([RUN, step(1), step(2), DONE, {**RUN, "resumed_from": 2}], "stopped", 2),
    ],
)
def test_states_follow_from_the_last_events(tmp_path: Path, events: list[dict[str, Any]], state: str, taken: int) -> None:
    standing = make_run(tmp_path / "run", *events).standing()
    assert (standing.state, standing.step) == (state, taken)


def test_a_run_is_running_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    """And whoever looks keeps no start from the directory."""
    config = config_of(flux_tree(tmp_path, write_pictures(tmp_path / "data", 1), tmp_path))
    with run_directory(config):
        run = RunFolder(config.output_dir)
        assert run.standing().state == "running"
    assert run.standing().state == "new"
    with run_directory(config):
        pass


def test_the_end_of_a_log_is_read_across_blocks(tmp_path: Path) -> None:
    """Backwards gives what forwards gives, turned round, where lines are longer than a block and the last one is half."""
    file = tmp_path / "events.jsonl"
    lines = [json.dumps({"event": "warning", "n": n, "text": "ä" * (BLOCK_BYTES // 3 * n)}) for n in range(5)]
    file.write_text("\n".join(lines) + '\n{"event": "warn')
    assert [event["n"] for event in read_back(file)] == [4, 3, 2, 1, 0]


def test_samples_come_with_prompts_and_never_from_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RUN)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    names = ["00.png", "../../../secret.png", "02.png", str(secret)]
    with whole_directory(step_directory(run.path / "validation", 3)) as folder:
        (folder / "00.png").write_bytes(b"x")
        (folder / "02.png").symlink_to(secret)
        prompts = [{"prompt": f"prompt {n}", "seed": n, "guidance": None} for n in range(4)]
        (folder / "validation.json").write_text(json.dumps({"step": 3, "samples": names, "prompts": prompts}))
    (sample,) = run.samples()
    assert (sample.step, sample.prompt, sample.settings) == (3, "prompt 0", {"seed": 0})
    (run.path / "events.jsonl").unlink()
    (run.path / "events.jsonl").symlink_to(secret)
    with pytest.raises(DataError, match="leads out of the folder"):
        run.update()


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/../../x", "link/x", "a\0b"])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        inside(root.resolve(), name)


def test_what_goes_away_while_a_folder_is_read_is_left_out(tmp_path: Path) -> None:
    """As samples do that are written under another name first, beside weights whose bytes a report counts."""
    files = [tmp_path / "00.png", tmp_path / ".01.png.tmp"]
    for file in files:
        file.write_bytes(b"12345")
    found = files_below(tmp_path)
    first, num_bytes = next(found)
    for file in files:
        file.unlink()
    assert first in files
    assert num_bytes == 5
    assert list(found) == []


def test_weights_that_are_not_whole_say_what_is_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RUN)
    for number in (1, 2, 3):
        with whole_directory(step_directory(run.path / "weights", number)) as folder:
            (folder / "a.safetensors").write_bytes(b"12345")
    (step_directory(run.path / "weights", 2) / "a.safetensors").write_bytes(b"1")
    (step_directory(run.path / "weights", 3) / "manifest.json").unlink()
    whole, short, bare = run.weights()
    assert whole.is_valid
    assert whole.bytes > 5
    assert short.fault == "a.safetensors has 1 bytes, not 5"
    assert bare.fault == "it has no manifest.json"


def test_validations_that_were_set_aside_do_not_count(tmp_path: Path) -> None:
    told = [{"event": "validation", "step": n, "held_out_loss": loss, "directory": "/d"} for n, loss in ((0, 3.0), (5, 1.0))]
    run = make_run(tmp_path / "run", RUN, *told)
    run.update()
    lowest = best(run.validations())
    assert lowest is not None
    assert lowest.step == 5
    step_directory(run.path / "validation", 0).mkdir(parents=True)
    assert [one.step for one in run.validations()] == [0]


def test_the_best_step_is_one_that_has_weights_and_a_loss(tmp_path: Path) -> None:
    """As training itself counts: neither the baseline, nor what is not finite."""
    losses = [(0, 0.1), (1, "-inf"), (2, 0.7), (3, 0.5), (4, 0.5), (5, "nan")]
    told = [{"event": "validation", "step": n, "held_out_loss": loss, "directory": "/d"} for n, loss in losses]
    run = make_run(tmp_path / "run", RUN, *told)
    run.update()
    lowest = best(run.validations())
    assert lowest is not None
    assert lowest.step == best_step({n: float(loss) for n, loss in losses}) == 3


def test_runs_are_found_below_a_folder_but_not_through_links(tmp_path: Path) -> None:
    for number in range(100):
        make_run(tmp_path / "root" / f"group{number % 3}" / f"{number:03d}", RUN)
    make_run(tmp_path / "elsewhere" / "run", RUN)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "empty").mkdir()
    assert len(find_runs(tmp_path / "root")) == 100


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this is not a run directory"):
        RunFolder(tmp_path)


def test_reading_runs_needs_no_torch() -> None:
    code = "import sys, finetrainers.runs.find; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_losses_of_data_sets_and_of_items_are_read(tmp_path: Path) -> None:
    """What a later version may write otherwise is left out, not an error."""
    told = {
        "event": "validation", "step": 5, "held_out_loss": "nan", "directory": "/d",
        "held_out_sets": [{"path": "/a", "samples": 2, "loss": 0.5}, {"loss": 1.0}, 3],
        "items": {"items": 9, "hardest": [{"path": "/a/1.png", "loss": 2.0, "first_loss": 1.0}], "easiest": [{"path": "x"}]},
    }  # fmt: skip
    run = make_run(tmp_path / "run", RUN, told)
    run.update()
    (found,) = run.validations()
    assert found.sets == {"/a": 0.5}
    assert found.items is not None
    assert (found.items.hardest, found.items.easiest) == ((("/a/1.png", 2.0, 1.0),), ())
    assert best([found]) is None
