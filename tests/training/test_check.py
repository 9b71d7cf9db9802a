"""A check finds what train would refuse before it loads weights, all at once; it tells what the run would be."""

import json
import re
import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from planted import PLANTED, Planted, Work, planted
from runs import config_of, events_of, write_pictures

from finetrainers.cli import main
from finetrainers.errors import FinetrainersError
from finetrainers.training.check.page import LABEL, WIDTH, as_report, as_text
from finetrainers.training.check.run import Checked, Checking, check
from finetrainers.training.run import train

CHECKED = [error for error in PLANTED if not error.twin]
QUICK = 5
"""One in so many is looked for each time; the others with the long tests."""


def checked(work: Work, *overrides: str) -> Checked:
    file = work.root / "config.yaml"
    file.write_text(yaml.safe_dump(work.tree))
    return check(file, overrides, Checking(work.processes, work.free))


def contents(root: Path) -> dict[str, Any]:
    found = {str(file.relative_to(root)): file.stat() for file in sorted(root.rglob("*"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items()}


def widest(text: str) -> int:
    """Of the lines that could be broken: a path that is longer than its column stays whole."""
    lines = [line for line in text.splitlines() if all(len(word) <= WIDTH - LABEL for word in line.split())]
    return max(map(len, lines))


def widen(work: Work, count: int, width: int) -> None:
    """Let so many pictures be wider than their bucket."""
    wide = write_pictures(work.root / "wide", count, size=(64, width))
    for file in sorted(wide.glob("*.png")):
        shutil.copy(file, work.data / file.name)


@pytest.mark.parametrize(
    "error",
    [pytest.param(e, marks=[pytest.mark.long] * (n % QUICK > 0), id=e.name) for n, e in enumerate(CHECKED)],
)
def test_a_planted_error_is_found_in_the_words_of_train(error: Planted, work: Work) -> None:
    with planted(error, work), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints that are passed over
        found = checked(work).findings.errors
        assert len(found) == 1, found
        assert re.search(error.message, found[0], re.DOTALL), found
        if error.trains and error.where in ("start", "planning"):
            with pytest.raises(FinetrainersError) as ended:
                train(config_of(work.tree))
            said, wanted = str(ended.value), found[0]
            if error.kind == "disk" and "is a file" in wanted:  # of which train tells what the system says
                said, wanted = said.partition(": ")[0], wanted.partition(": ")[0]
            assert said == wanted


def test_errors_of_settings_do_not_hide_those_of_others_and_of_data(work: Work) -> None:
    (work.data / "02.txt").unlink()
    work.change(output_dir=str(work.data), tuning={"targets": ["none"]}, validation={"prompts": str(work.root / "none")})
    found = [error.partition(":")[0] for error in checked(work, "parallel.replicate=3").findings.errors]
    assert sorted(found) == ["data", "output_dir", "train.batch_size", "tuning.targets", "validation.prompts"]


def test_a_rate_that_nobody_states_does_not_hide_what_else_is_wrong(work: Work) -> None:
    work.tree["optimizer"] = {"name": "sgd"}
    work.change(data=[{**work.tree["data"][0], "path": str(work.root / "none")}])
    found = checked(work)
    assert [error.partition(":")[0] for error in found.findings.errors] == ["optimizer.lr", "data.0.path"]


def test_sizes_that_nobody_states_are_named_as_what_hides_the_rest(work: Work) -> None:
    work.change(data=[{**work.tree["data"][0], "buckets": 8}])
    found = checked(work).findings
    assert [error.partition(":")[0] for error in found.errors] == ["data.0.buckets"]
    assert found.left_out == ["folders, data, prompts and room on the disk: fix what is left to the model first"]


def test_a_bad_item_does_not_hide_what_the_run_would_be(work: Work) -> None:
    (work.data / "02.txt").unlink()
    found = checked(work)
    assert len(found.findings.errors) == 1
    assert found.outline is not None
    assert (found.outline.num_samples, found.outline.num_bad) == (3, 1)
    assert " ".join(as_text(found).split()).count("02.png: ") == 1  # as an error
    left_out = as_text(checked(work, "data.0.on_error=skip"))
    assert re.search(r"left out +\S*02\.png: ", " ".join(left_out.split()))


def test_of_many_bad_items_a_page_names_the_first_and_says_which_sets_have_them(work: Work) -> None:
    """All are in the plain values."""
    bad = write_pictures(work.root / "bad", 8)
    for file in bad.glob("*.png"):
        file.write_bytes(b"no picture")
    work.change(validation={"data": [{"path": str(bad), "buckets": [[1, 64, 64]]}]})
    found = checked(work)
    assert as_report(found)["errors"][0].count(".png: ") == 8
    text = " ".join(as_text(found).split())
    assert text.count(".png: ") == 5
    for part in (
        "and 3 more, which --json lists Fix or remove them",
        "4 samples to train on; 8 items of validation.data left out",
        "none: no prompts, none of what is held out can be used",
    ):
        assert part in text, part


def test_a_check_leaves_nothing_and_tells_what_the_run_then_tells(
    work: Work, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    widen(work, 1, 160)
    work.change(validation={"held_out": 0.3})
    (work.root / "config.yaml").write_text(yaml.safe_dump(work.tree))
    before = contents(work.root)
    outline = as_report(check(work.root / "config.yaml"))["run"]
    assert contents(work.root) == before
    assert not list(temporary.iterdir())
    train(config_of(work.tree))
    (event,) = (event for event in events_of(work.root / "run") if event["event"] == "run")
    assert {key: event[key] for key in outline} == outline
    assert event["trained"]["parameters"] == next(
        own["trained_parameters"] for own in events_of(work.root / "run") if own["event"] == "loaded"
    )
    before = contents(work.root)
    monkeypatch.setattr("finetrainers.data.catalog.probe._probe_file", lambda path: pytest.fail(f"{path} is known"))
    assert check(work.root / "config.yaml").findings.errors == []
    assert contents(work.root) == before


def test_a_model_that_does_not_say_what_a_caption_takes_is_checked_without_it(work: Work) -> None:
    (work.root / "mine.py").write_text(
        "from finetrainers import ModelAdapter\nfrom finetrainers.models.flux import Flux\n\n\n"
        "class Mine(Flux):\n    blank_text = ModelAdapter.blank_text\n"
    )
    work.tree["model"]["adapter"] = f"{work.root / 'mine.py'}:Mine"
    found = checked(work)
    assert found.findings.errors == []
    assert found.outline is not None


def test_a_finished_run_is_told_what_it_is_and_what_differs(work: Work) -> None:
    work.finished()
    before = contents(work.root / "run")
    finished = checked(work)
    assert (finished.findings.errors, finished.changed) == ([], [])
    assert any(message.startswith("finished at step 2") for message in finished.findings.warnings)
    longer = checked(work, "train.steps=8", "checkpoint.keep=3")
    assert longer.changed == ["train.steps: 2 -> 8", "checkpoint.keep: 2 -> 3"]
    assert longer.outline is not None
    assert longer.outline.resumed_from == 2
    assert "continues after step 2 of 8" in as_text(longer)
    assert contents(work.root / "run") == before


def test_a_run_that_goes_on_is_told_of_other_data_and_other_files(work: Work) -> None:
    """In the words of train; of a run as it was, neither."""
    code = "from finetrainers import Tracker\nclass Mine(Tracker): pass\n"
    held_out = write_pictures(work.root / "held-out", 1, seed=5)
    own_data = {**work.tree["data"][0], "path": str(held_out)}
    work.change(track={"trackers": [f"{work.code(code)}:Mine"]}, train={"steps": 1}, validation={"data": [own_data]})
    train(config_of(work.tree))
    first = checked(work)
    assert not [message for message in first.findings.warnings if "last started" in message]
    (caption,) = held_out.glob("*.txt")
    text = caption.read_text()
    caption.write_text("other words")
    said = [message for message in checked(work).findings.warnings if "last started" in message]
    assert [message.partition(" changed")[0] for message in said] == ["captions of validation.data"]
    caption.write_text(text)
    assert "\nyours       track.trackers.0 mine.py:Mine\n" in as_text(first)
    work.code(f"{code}# other\n")
    write_pictures(work.data, 4, seed=9)
    found = checked(work).findings
    said = [message for message in found.warnings if "last started" in message]
    assert (found.errors, len(said)) == ([], 2)
    assert re.match(r"track\.trackers\.0: .*mine\.py has changed since", said[0])
    assert said[1].startswith("the data changed since the run was last started")


def test_an_error_inside_a_layout_is_one_of_the_list(work: Work) -> None:
    code = (
        "from finetrainers import DataLayout\nclass Mine(DataLayout):\n    def items(self, path, config): yield {}[path]\n"
    )
    data = [{**work.tree["data"][0], "layout": f"{work.code(code)}:Mine"}]
    work.change(data=data, validation={"prompts": str(work.root / "none.json")})
    errors = checked(work).findings.errors
    line = r"data\.0\.layout: Mine fails \(KeyError: .*\); correct this line, or what it reads:\n"
    assert any(re.match(line, error) for error in errors)
    assert any("none.json" in error for error in errors)


def test_epochs_are_counted_before_they_are_compared_with_what_a_run_has_done(work: Work) -> None:
    del work.tree["train"]["steps"]
    work.change(train={"epochs": 1500, "batch_size": 2, "micro_batch_size": 2})
    found = checked(work)
    assert found.findings.errors == []
    assert found.outline is not None
    assert found.outline.steps == 3000
    assert "train.epochs: 1500 are 3000 steps of 2 samples" in found.findings.warnings
    work.finished()
    work.change(train={"epochs": 1, "batch_size": 4})
    assert checked(work).findings.errors == ["train.steps: 1 is less than the 2 steps that this run has taken"]


def test_pictures_that_lose_much_to_the_crop_are_named_by_check_and_by_train(work: Work) -> None:
    """A quarter of a picture may go without a word."""
    widen(work, 1, 84)
    assert checked(work).findings.warnings == []
    widen(work, 3, 160)
    (said,) = checked(work).findings.warnings
    assert said.startswith("data: 3 of 4 items lose more than 25% to the crop: ")
    assert said.count("60% for [1, 64, 64]") == 3
    assert "finetrainers data inspect" in said
    train(config_of(work.tree))
    assert said in [event["message"] for event in events_of(work.root / "run") if event["event"] == "warning"]


def test_nothing_is_cut_off_where_pictures_are_stretched(work: Work) -> None:
    widen(work, 3, 160)
    work.change(data=[{**work.tree["data"][0], "resize": "stretch"}])
    found = checked(work)
    assert found.findings.warnings == []
    assert found.outline is not None
    assert (found.outline.num_cropped, found.outline.cropped) == (0, [])


def test_the_page_is_readable_at_80_columns_and_tells_all(work: Work) -> None:
    widen(work, 1, 160)
    work.change(validation={"held_out": 0.3})
    found = checked(work)
    text = as_text(found)
    assert widest(text) <= WIDTH
    for part in ("flux, text-to-image", "asked for 30%", "lora, rank 4", "2 steps of 4 samples", "a new run in", "OK"):
        assert part in " ".join(text.split()), part
    assert found.outline is not None
    counts = f"{found.outline.num_samples} +{found.outline.num_held_out}"
    assert re.search(rf"^ +1 +64 +64 +{counts} +\d+% +60%$", text, re.MULTILINE)
    bad = replace(found, outline=None)
    bad.findings.parts[0].errors.append("tuning.targets: no " + "layer " * 40)
    assert widest(as_text(bad)) <= WIDTH
    assert as_text(bad).endswith("1 error: train would not begin")


def test_the_command_ends_with_status_2_and_prints_json(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    (work.root / "c.yaml").write_text(yaml.safe_dump(work.tree))
    assert main(["check", str(work.root / "c.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["run"]["num_samples"]) == (True, 4)
    assert main(["check", str(work.root / "c.yaml"), "--json", "tuning.targets=[none]", "--processes", "3"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert [error.partition(":")[0] for error in report["errors"]] == ["train.batch_size", "tuning.targets"]
