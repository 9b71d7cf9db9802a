"""Runs on shards that are listed while training goes on: stopped anywhere, they go on as if nobody had stopped them."""

import json
from pathlib import Path

import pytest
import ranks
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from shards import write_shards
from test_training import same_weights, stop_after

from finetrainers import DataError, Interrupted, train
from finetrainers.config import dump_config
from finetrainers.data.order.chapters import Book
from finetrainers.events import RunEvent
from finetrainers.events.record import made
from finetrainers.events.words import as_steps
from finetrainers.runs.report.data import sentence
from finetrainers.training.check.page import as_text
from finetrainers.training.check.run import check
from finetrainers.training.console.lines import run_lines
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.rehearse.run import Rehearsing, rehearse

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on two cores
LOSSES = ("loss", "grad_norm")
STEPS = 8


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Shards mixed with a folder, shuffled, with several views; three workers read them."""
    root = tmp_path_factory.mktemp("streamed")
    streamed = {"buckets": [[1, 64, 64], [1, 64, 32]], "stream": True, "chapter_items": 6}
    views = {"resize": "random_crop", "views": 2, "caption_dropout": 0.3}
    sets = [
        {"path": str(write_shards(root / "a", 4, 3)), **streamed, **views},
        {"path": str(write_pictures(root / "indexed", 5, seed=9)), "buckets": [[1, 64, 64]], "repeats": 0.7},
    ]
    sections = {"train": {"steps": STEPS, "batch_size": 3, "micro_batch_size": 3}, "loader": {"workers": 3}}
    tree = merged(flux_tree(tiny_flux, root / "a", root, **sections), {"data": sets})
    train(config_of(tree))
    return tree


def begun(directory: str | Path) -> list[int]:
    """Steps at which chapters begin."""
    return [json.loads(file.read_text())["step"] for file in sorted((Path(directory) / "chapters").glob("*.json"))]


def test_a_run_goes_through_several_chapters(base: Tree) -> None:
    starts = begun(base["output_dir"])
    assert len(starts) >= 3
    assert starts == sorted(starts)
    assert len(curve(base["output_dir"], "loss")) == STEPS


@pytest.mark.parametrize("resumed", [False, True])
def test_whoever_looks_at_a_streamed_run_sees_what_train_sees_and_leaves_its_journal_alone(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, resumed: bool
) -> None:
    """A run that has not begun has no journal; of one that goes on, the chapter that it goes on in is looked at."""
    tree = base if resumed else merged(base, {"output_dir": str(tmp_path / "run")})
    folder, file, opened = Path(tree["output_dir"]), tmp_path / "config.yaml", list[int]()
    file.write_text(dump_config(config_of(tree)))
    before = {own: own.read_bytes() for own in sorted(folder.rglob("*.json"))}
    open_chapter = Book.open
    monkeypatch.setattr(Book, "open", lambda book, begin: (opened.append(begin.number), open_chapter(book, begin))[1])
    checked = check(file)
    assert checked.findings.errors == []
    assert rehearse(file, how=Rehearsing(with_twin=False)).errors == []
    assert opened == [len(begun(folder)) - 1 if resumed else 0] * 2
    report = inspect(config_of(tree), Inspecting(sample=0)).report
    assert report["refused"] is None
    assert checked.outline is not None
    whole = sum(own.samples for own in checked.outline.mix)
    assert as_steps(STEPS, 3, whole) in " ".join(as_text(checked).split())
    assert (report["run"]["samples_of_pass"], report["run"]["times_each"]) == (whole, round(STEPS * 3 / whole, 2))
    assert {own: own.read_bytes() for own in sorted(folder.rglob("*.json"))} == before


def test_a_finished_streamed_run_reports_itself(base: Tree) -> None:
    """What all its steps took of each data set; the event, before them, counts the steps whose chapter is known."""
    report = json.loads((Path(base["output_dir"]) / "report.json").read_text())
    (run,) = (event for event in events_of(base["output_dir"]) if event["event"] == "run")
    assert report["steps"] == STEPS
    taken, known = ([own["images"] for own in told["mix"]] for told in (report, run))
    assert sum(taken) == STEPS * 3
    assert sum(known) == begun(base["output_dir"])[1] * 3
    assert all(0 < before <= after for before, after in zip(known, taken, strict=True))
    assert [own["taken"] for own in report["mix"]] == [count / sum(taken) for count in taken]
    assert report["mix"][0]["asked"] == pytest.approx(1 - report["mix"][1]["asked"])
    assert run["sets"][0]["layout"] == "webdataset"
    whole = sum(own["samples"] for own in run["mix"])
    assert run["samples_of_pass"] == whole > run["num_samples"]
    assert report["epochs"] == STEPS * 3 / whole
    assert as_steps(STEPS, 3, whole) in sentence(run)
    assert as_steps(STEPS, 3, whole) in dict(run_lines(made(RunEvent, run)))["steps"]


@pytest.mark.parametrize("where", ["inside a chapter", "between two chapters"])
def test_a_streamed_run_goes_on_bit_for_bit(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Mixed, shuffled, read by three workers: losses, norms and weights are those of the run that nobody stopped."""
    starts = begun(base["output_dir"])
    last = next(step for step in starts if step >= 3)
    step = last if where == "between two chapters" else next(step for step in range(3, STEPS) if step not in starts)
    tree = merged(base, {"output_dir": str(tmp_path / "run")})
    with monkeypatch.context() as patch:
        patch.setattr("finetrainers.training.run.StepLog.__call__", stop_after(step))
        with pytest.raises(Interrupted):
            train(config_of(tree))
    train(config_of(tree))
    assert [event for event in events_of(tmp_path / "run") if event["event"] == "run"][-1]["resumed_from"] == step
    assert curve(tmp_path / "run", *LOSSES) == curve(base["output_dir"], *LOSSES)
    assert same_weights(tmp_path / "run", base["output_dir"])
    assert mix_of(tmp_path / "run") == mix_of(base["output_dir"])


def mix_of(directory: str | Path) -> object:
    return json.loads((Path(directory) / "report.json").read_text())["mix"]


@pytest.mark.long
def test_a_finished_streamed_run_goes_on_when_steps_are_raised(base: Tree, tmp_path: Path) -> None:
    tree = merged(base, {"output_dir": str(tmp_path / "run"), "train": {"steps": 3}})
    train(config_of(tree))
    train(config_of(merged(tree, {"train": {"steps": STEPS}})))
    assert curve(tmp_path / "run", *LOSSES) == curve(base["output_dir"], *LOSSES)


def test_a_bad_sample_of_a_later_chapter_stops_the_run_with_a_checkpoint(base: Tree, tmp_path: Path) -> None:
    """What was trained is kept: mended, it can go on."""
    folder = write_shards(tmp_path / "a", 4, 3, bad=3)
    first = base["data"][0]
    tree = merged(base, {"output_dir": str(tmp_path / "run"), "data": [{**first, "path": str(folder)}]})
    with pytest.raises(DataError, match=r"1 bad sample:"):
        train(config_of(tree))
    taken = [event["step"] for event in events_of(tmp_path / "run") if event["event"] == "step"]
    saved = [event["step"] for event in events_of(tmp_path / "run") if event["event"] == "checkpoint"]
    assert saved == taken[-1:]


@pytest.mark.distributed
def test_two_processes_go_on_as_one_that_nobody_stopped(base: Tree, tmp_path: Path) -> None:
    """Each opens the same chapters; stopped in the middle of one, both go on with the samples that would have come."""
    sections = {"train": {"batch_size": 4, "micro_batch_size": 2}, "checkpoint": {"every": 3}}
    alone = merged(base, {**sections, "output_dir": str(tmp_path / "alone")})
    train(config_of(alone))
    two = merged(base, {**sections, "output_dir": str(tmp_path / "two")})
    for name, steps in (("first", 3), ("second", STEPS)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump_config(config_of(merged(two, {"train": {"steps": steps}}))))
        assert ranks.results(ranks.command, 2, "train", str(file), folder=tmp_path / name, has_children=True) == [0, 0]
    assert begun(tmp_path / "two") == begun(tmp_path / "alone")
    for one, both in zip(curve(tmp_path / "alone", *LOSSES), curve(tmp_path / "two", *LOSSES), strict=True):
        assert both == pytest.approx(one, rel=1e-5)
