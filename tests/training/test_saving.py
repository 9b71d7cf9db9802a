"""A checkpoint is staged in its step and written beside the next ones: what it holds, and when it is told of."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import train
from finetrainers.errors import CheckpointError, DataError, Interrupted, NonFiniteError, OtherProcessError
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checkpoint.saving import Saver
from finetrainers.training.checkpoint.staging import Staged
from finetrainers.training.track.track import StepLog

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("saving")
    train_of = {"steps": 5, "ema_decay": 0.5}
    return flux_tree(tiny_flux, write_pictures(root / "data", 4), root, train=train_of, optimizer={"lr": 0.05})


def run(base: Tree, directory: Path, **sections: Any) -> Path:
    return Path(train(config_of(merged(base, {"output_dir": str(directory), **sections}))).output_dir)


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def after_log(do: Callable[[int], None]) -> Any:
    """Log as ever, and do something with the number of the step."""
    log = StepLog.__call__

    def logged(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        do(metrics.step)

    return logged


def test_training_goes_on_while_a_checkpoint_is_written(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps after it are taken meanwhile; it holds the state of its own step, and is told of when it is whole."""
    whole = run(base, tmp_path / "whole/run", train={"steps": 6}, checkpoint={"every": 3, "background": False})
    write, is_taken = Staged.write, threading.Event()

    def slow(self: Staged, directory: Path) -> Any:
        assert directory.name != ".step-000003.tmp" or is_taken.wait(PATIENCE_SECONDS)
        return write(self, directory)

    def let_write(step: int) -> None:
        if step == 5:
            is_taken.set()
            until = time.monotonic() + PATIENCE_SECONDS
            while any(thread.name == "checkpoint" for thread in threading.enumerate()):
                assert time.monotonic() < until
                time.sleep(0.01)

    monkeypatch.setattr(Staged, "write", slow)
    monkeypatch.setattr(StepLog, "__call__", after_log(let_write))
    beside = run(base, tmp_path / "beside/run", train={"steps": 6}, checkpoint={"every": 3})
    told = [(event["event"], event["step"]) for event in events_of(beside) if event["event"] in ("step", "checkpoint")]
    assert told[2:] == [("step", 3), ("step", 4), ("step", 5), ("checkpoint", 3), ("step", 6), ("checkpoint", 6)]
    assert curve(beside, "loss", "grad_norm") == curve(whole, "loss", "grad_norm")
    for step in ("step-000003", "step-000006"):
        assert contents(beside / "checkpoints" / step) == contents(whole / "checkpoints" / step)
        files = [contents(directory / "weights" / step) for directory in (beside, whole)]
        assert {name for name in files[0] if files[0][name] != files[1][name]} <= {"README.md"}


def test_a_disk_that_is_full_beside_training_is_seen_soon(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Staged.write

    def full(self: Staged, directory: Path) -> Any:
        if directory.name != ".step-000001.tmp":
            raise OSError(28, "No space left on device")
        return write(self, directory)

    monkeypatch.setattr(Staged, "write", full)
    with pytest.raises(CheckpointError, match=r"step-000002: the checkpoint cannot be written \(.*No space left on device"):
        run(base, tmp_path / "run", checkpoint={"every": 1, "keep": 1})
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [folder.name for folder in checkpoints.iterdir()] == ["step-000001"]
    assert Checkpoints(checkpoints, keep=1).find("latest") == 1
    (said,) = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert re.fullmatch(r"the state of step 3 cannot be saved \(.*\); the checkpoint of step 1 is kept", said)


@pytest.mark.parametrize(
    "error, is_of_all, saves",
    [
        (RuntimeError("a defect"), False, False),
        (NonFiniteError("inf"), False, True),
        (Interrupted("SIGTERM"), False, True),
        (DataError("bad samples"), True, True),
        (DataError("bad samples"), False, False),
        (OtherProcessError("is gone"), True, False),
    ],
)
def test_what_one_of_several_processes_fails_with_begins_no_save_of_all(
    error: Exception, is_of_all: bool, saves: bool
) -> None:
    """The others would never come: they wait in the middle of a step. What all have at the same step does save."""
    staged: list[int] = []

    def stage(trainer: Any, **_: Any) -> Any:
        staged.append(trainer.step)
        raise CheckpointError("far enough")

    nothing: Any = None
    world = SimpleNamespace(
        is_alone=False, talk=SimpleNamespace(error_of_all=error if is_of_all else DataError("bad samples"))
    )
    session: Any = SimpleNamespace(world=world, config=nothing, signals=SimpleNamespace(kept=""), warn=lambda *_, **__: None)
    trainer: Any = SimpleNamespace(step=3, update=SimpleNamespace(is_whole=True, drop_gradients=lambda: None))
    saver = Saver(session, cast("Checkpoints", SimpleNamespace(stage=stage)), nothing, nothing, nothing)
    with suppress(CheckpointError):
        saver.rescue(trainer, error)
    assert staged == [3] * saves
