"""The cache is filled by several processes: every item is made once, by whoever lives, and all of them know what is bad."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import encode, train
from finetrainers.cli.status import INTERRUPTED, USER_ERROR
from finetrainers.config import dump_config
from finetrainers.data.cache.store import Cache
from finetrainers.errors import DataError
from finetrainers.training.checkpoint.checkpoints import Checkpoints

PATIENCE_SECONDS = 600.0
"""What never takes that long may, on a machine that does other things."""
SECONDS_OF_AN_ITEM = 0.05
"""So that no process is done before the others have begun."""
LAUNCHED_ALONE = {"WORLD_SIZE": "1"}


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    return flux_tree(tiny_flux, write_pictures(tmp_path / "data", 7), tmp_path, train={"steps": 3})


def saved(tree: Tree, tmp_path: Path, name: str = "config", **sections: Any) -> Path:
    file = tmp_path / f"{name}.yaml"
    file.write_text(dump_config(config_of(merged(tree, sections))))
    return file


def items(cache: Path) -> dict[str, bytes]:
    return {entry.key: Cache(cache).file(entry.kind, entry.key).read_bytes() for entry in Cache(cache).entries()}


def stuck(log: Path) -> Path:
    """File that a process makes when it hangs in its first item."""
    return log.with_suffix(".stuck")


def run_noted(command: str, file: str, log: Path, hangs: int | None = None) -> int:
    """Run a command, and note what this process writes into the cache and decodes; hang in the first item if told to."""
    import finetrainers.encoding.decoding as decoding

    rank, write, decode = os.environ["RANK"], Cache.write, decoding.decode

    def noted(self: Cache, kind: Any, key: str, *rest: Any) -> int:
        if rank == str(hangs):
            stuck(log).touch()
            while True:  # a signal is seen by who looks for it
                time.sleep(600)
        time.sleep(SECONDS_OF_AN_ITEM)
        count = write(self, kind, key, *rest)
        note(log, f"wrote {rank} {key}")
        return count

    def noted_decode(path: Path, *rest: Any) -> Any:
        note(log, f"decoded {rank} {Path(path).name}")
        if Path(path).name == "bad.png":
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, *rest)

    Cache.write = noted  # type: ignore[method-assign]
    decoding.decode = noted_decode
    return ranks.command(command, file)


def note(log: Path, line: str) -> None:
    with log.open("a") as out:
        out.write(line + "\n")


def noted(log: Path, what: str) -> list[tuple[str, str]]:
    """Ranks and items."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(rank, item) for kind, rank, item in lines if kind == what]


def wait_for(condition: Callable[[], bool], limit: float = PATIENCE_SECONDS) -> None:
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, "it does not come to this"
        time.sleep(0.05)


def test_four_processes_make_every_item_once_and_the_cache_serves_any_number(tree: Tree, tmp_path: Path) -> None:
    encode(config_of(merged(tree, {"cache": {"path": str(tmp_path / "reference")}, "output_dir": str(tmp_path / "one")})))
    log, file = tmp_path / "log", str(saved(tree, tmp_path))
    assert ranks.results(run_noted, 4, "encode", file, log, folder=tmp_path / "four") == [0, 0, 0, 0]
    wrote = noted(log, "wrote")
    assert Counter(key for _, key in wrote) == dict.fromkeys(items(tmp_path / "reference"), 1)
    assert {rank for rank, _ in wrote} == {"0", "1", "2", "3"}
    assert items(tmp_path / "cache") == items(tmp_path / "reference")  # to the last bit
    told = [event for event in events_of(tree["output_dir"]) if event["event"] == "progress" and "encode" in event["stage"]]
    assert {(event["stage"], event["done"], event["total"]) for event in told if event["done"] == event["total"]} == {
        ("encode text", 7, 7),
        ("encode media", 7, 7),
    }
    for count in (1, 2):
        log.unlink(missing_ok=True)
        assert ranks.results(run_noted, count, "encode", file, log, folder=tmp_path / f"again {count}") == count * [0]
        assert noted(log, "wrote") + noted(log, "decoded") == []


def test_items_of_a_killed_process_are_made_once_by_others(tree: Tree, tmp_path: Path) -> None:
    """It hangs in an item, has claimed the next ones, and is killed: the others make them, or the next start if they end."""
    encode(config_of(merged(tree, {"cache": {"path": str(tmp_path / "reference")}, "output_dir": str(tmp_path / "one")})))
    wanted, log, file = set(items(tmp_path / "reference")), tmp_path / "log", str(saved(tree, tmp_path))
    running = ranks.start(run_noted, 4, "encode", file, log, 2, folder=tmp_path / "four")
    try:
        wait_for(stuck(log).exists)
        wait_for(lambda: len(noted(log, "wrote")) >= 2)
        assert set(items(tmp_path / "cache")) < wanted
        running.processes[2].kill()
        wait_for(lambda: set(items(tmp_path / "cache")) == wanted or not any(each.is_alive() for each in running.processes))
    finally:
        for process in running.processes:  # who waits for the dead one at the end is no matter of this test
            process.kill()
    if set(items(tmp_path / "cache")) != wanted:
        assert ranks.results(run_noted, 4, "encode", file, log, folder=tmp_path / "again") == [0, 0, 0, 0]
    assert set(items(tmp_path / "cache")) == wanted
    assert set(Counter(key for _, key in noted(log, "wrote")).values()) == {1}


def test_processes_of_several_runs_share_the_work_too(tree: Tree, tmp_path: Path) -> None:
    """Without any launcher; one of them is killed, and the other ends as if it had been alone."""
    log = tmp_path / "log"
    files = [saved(tree, tmp_path, name, output_dir=str(tmp_path / name)) for name in ("one", "two")]
    one = ranks.start(run_noted, 1, "encode", str(files[0]), log, 0, folder=tmp_path / "1", environ=LAUNCHED_ALONE)
    wait_for(stuck(log).exists)
    environ = {**LAUNCHED_ALONE, "RANK": "1"}
    two = ranks.start(run_noted, 1, "encode", str(files[1]), log, 0, folder=tmp_path / "2", environ=environ)
    wait_for(lambda: len(noted(log, "wrote")) >= 2)
    one.processes[0].kill()
    assert [ended.status for ended in two.wait()] == [0]
    assert Counter(key for _, key in noted(log, "wrote")) == dict.fromkeys(items(tmp_path / "cache"), 1)
    assert len(items(tmp_path / "cache")) == 14


def test_what_one_process_finds_bad_all_leave_out(tree: Tree, tmp_path: Path) -> None:
    """One of them decodes it, once; all train on the samples of one process that found it."""
    folder, log = Path(tree["data"][0]["path"]), tmp_path / "log"
    for suffix in ("png", "txt"):
        (folder / f"00.{suffix}").rename(folder / f"bad.{suffix}")
    skipping = {"data": [{**tree["data"][0], "on_error": "skip"}], "train": {"micro_batch_size": 1, "steps": 3}}
    one = saved(tree, tmp_path, "one", **skipping, output_dir=str(tmp_path / "one"), cache={"path": str(tmp_path / "own")})
    assert ranks.results(run_noted, 1, "train", str(one), log, folder=tmp_path / "1") == [0]
    log.unlink()
    two = saved(tree, tmp_path, "two", **skipping)
    assert ranks.results(run_noted, 2, "train", str(two), log, folder=tmp_path / "2") == [0, 0]
    assert Counter(name for _, name in noted(log, "decoded"))["bad.png"] == 1
    reports = [curve(folder, "step", "loss") for folder in (tmp_path / "one", tmp_path / "run")]
    assert [step for step, _ in reports[1]] == [1, 2, 3]
    assert [loss for _, loss in reports[1]] == pytest.approx([loss for _, loss in reports[0]], rel=1e-5)
    assert (tmp_path / "run/left_out.json").read_text() == (tmp_path / "one/left_out.json").read_text()
    failing = saved(tree, tmp_path, "fail", output_dir=str(tmp_path / "fail"), cache={"path": str(tmp_path / "new")})
    ended = ranks.results(run_noted, 2, "encode", str(failing), log, folder=tmp_path / "fails")
    assert ended == [2, 2]
    assert "breaks in the middle" in (tmp_path / "fails/1.txt").read_text()


def lose_items(file: str) -> int:
    """Train; the second process deletes the cache after the first step."""
    from finetrainers.training.track.track import StepLog

    log = StepLog.__call__

    def logged(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        if trainer.step == 1 and not trainer.world.is_first:
            for item in trainer_cache.glob("*/??/*.safetensors"):
                item.unlink()

    trainer_cache = Path(file).parent / "cache"
    StepLog.__call__ = logged  # type: ignore[method-assign]
    return ranks.command("train", file)


@pytest.mark.parametrize("limit", [None, 0.7], ids=["lost", "windows"])
def test_two_processes_go_on_where_items_are_lost_and_where_the_cache_is_small(
    tree: Tree, tmp_path: Path, limit: float | None
) -> None:
    """As one process with all items: what is lost is made again while the other waits in its step, and windows are one's."""
    sections = {"train": {"steps": 5, "batch_size": 2, "micro_batch_size": 1}}
    reference = merged(tree, {**sections, "output_dir": str(tmp_path / "one"), "cache": {"path": str(tmp_path / "own")}})
    train(config_of(reference))
    size = sum(map(len, items(tmp_path / "own").values()))
    cache = {} if limit is None else {"cache": {"max_gb": limit * size / 1e9}}
    file = str(saved(tree, tmp_path, **sections, **cache))
    function, words = (lose_items, ()) if limit is None else (ranks.command, ("train",))
    assert ranks.results(function, 2, *words, file, folder=tmp_path / "ranks") == [0, 0]
    losses = [[loss for (loss,) in curve(folder, "loss")] for folder in (tmp_path / "one", tmp_path / "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    if limit is not None:
        assert sum(map(len, items(tmp_path / "cache").values())) <= limit * size


def break_later(file: str) -> int:
    """Train; from the first step on no file can be read."""
    import finetrainers.encoding.decoding as decoding
    from finetrainers.training.track.track import StepLog

    log, decode, steps = StepLog.__call__, decoding.decode, []

    def logged(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        steps.append(trainer.step)

    def broken(path: Path, *rest: Any) -> Any:
        if steps:
            raise DataError(f"{path}: is gone")
        return decode(path, *rest)

    StepLog.__call__ = logged  # type: ignore[method-assign]
    decoding.decode = broken
    return ranks.command("train", file)


def test_steps_before_bad_samples_are_saved_by_all(tree: Tree, tmp_path: Path) -> None:
    """As by one process: what cannot be encoded for later steps takes none of those before."""
    train_of = {"steps": 20, "batch_size": 2, "micro_batch_size": 1}
    file = saved(tree, tmp_path, train=train_of, cache={"max_gb": 0.00004}, checkpoint={"every": 20})
    ended = ranks.start(break_later, 2, str(file), folder=tmp_path / "ranks").wait()
    assert [each.result for each in ended] == [USER_ERROR] * 2, ended[0].said
    assert all("bad sample" in each.said for each in ended)
    taken = [event["step"] for event in events_of(tmp_path / "run") if event["event"] == "step"]
    assert 0 < len(taken) < 20
    assert Checkpoints(tmp_path / "run/checkpoints", keep=2).find("latest") == taken[-1]


def test_a_signal_to_one_process_stops_all_that_encode(tree: Tree, tmp_path: Path) -> None:
    log = tmp_path / "log"
    many = write_pictures(tmp_path / "many", 40)
    file = str(saved(tree, tmp_path, data=[{**tree["data"][0], "path": str(many)}], train={"steps": 20}))
    running = ranks.start(run_noted, 2, "encode", file, log, folder=tmp_path / "two")
    wait_for(lambda: len(noted(log, "wrote")) >= 2)
    os.kill(running.processes[1].pid or 0, signal.SIGTERM)
    ended = running.wait()
    assert [each.result for each in ended] == [INTERRUPTED, INTERRUPTED]
    assert len(noted(log, "wrote")) < 80
    assert ranks.results(run_noted, 2, "encode", file, log, folder=tmp_path / "again") == [0, 0]
    assert set(Counter(key for _, key in noted(log, "wrote")).values()) == {1}
