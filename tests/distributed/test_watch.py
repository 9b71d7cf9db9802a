"""One process fails, is killed, is stopped or does not come: the others end within seconds, and say why."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
import torch
from torch import distributed

from finetrainers.cli.status import INTERRUPTED, USER_ERROR
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed import meet, watch
from finetrainers.distributed.talk import Talk
from finetrainers.distributed.world import World, join
from finetrainers.errors import ConfigError, FinetrainersError, Interrupted, OtherProcessError, exit_status

SECONDS = 30.0
"""In which all have ended: seconds, where nothing else runs."""


def outcome(do: Callable[[World], object]) -> tuple[int, str]:
    """Exit status and message that a command would end with."""
    try:
        with join(ParallelConfig(), "cpu") as world:
            do(world)
    except (FinetrainersError, RuntimeError, ValueError) as error:
        return exit_status(error), f"{type(error).__name__}: {error}"
    return 0, ""


def collective(world: World) -> None:
    """Wait for others in the middle of a step."""
    while True:
        world.sums([torch.ones(3)])
        time.sleep(0.01)


def fail(world: World) -> None:
    if world.launch.rank == 1:
        time.sleep(0.3)
        raise ValueError("the third column\nof a table")
    collective(world)


def fail_as_a_user_would(world: World) -> None:
    if world.launch.rank == 1:
        raise ConfigError("data.0.path: nothing is there")
    world.agree(True)


def stop(world: World) -> None:
    if world.launch.rank == 1:
        raise Interrupted("stopped by SIGTERM while encoding")
    world.agree(True)


def die(world: World) -> None:
    if world.launch.rank == int(os.environ["DIES"]):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    collective(world) if os.environ["IN"] == "collective" else world.agree(True)


def die_beside_one_that_computes(world: World) -> None:
    """Or that waits in a kernel: its main thread looks at nothing."""
    watch.GRACE_SECONDS = 0.5
    if world.launch.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def call_otherwise(world: World) -> None:
    if world.launch.rank == int(os.environ["OTHER"]):
        world.first(lambda: 1)
    world.agree(True)


def lack_a_device(world: World) -> None:
    pytest.fail("nobody gets as far")


@pytest.mark.parametrize(
    "do, status, own, others",
    [
        (fail, 1, "ValueError: the third column", "another process failed: rank 1: ValueError: the third column"),
        (
            fail_as_a_user_would,
            USER_ERROR,
            "ConfigError: data.0.path",
            "another process failed: rank 1: data.0.path: nothing",
        ),
        (stop, INTERRUPTED, "Interrupted: stopped by SIGTERM", "Interrupted: stopped by SIGTERM while encoding"),
    ],
    ids=["a bug", "a user's error", "a signal"],
)
def test_the_error_of_one_is_said_by_all(
    do: Callable[[World], object], status: int, own: str, others: str, tmp_path: Path
) -> None:
    ended = ranks.start(outcome, 3, do, folder=tmp_path / "ranks").wait(SECONDS)
    assert [each.result[0] for each in ended] == [status] * 3
    assert ended[1].result[1].startswith(own)
    for each in (ended[0], ended[2]):
        assert others in each.result[1]
        assert "\n" not in each.result[1]


@pytest.mark.parametrize("place", ["collective", "talk"])
@pytest.mark.parametrize("dies", [0, 1])
def test_a_killed_process_ends_the_others_with_its_name(dies: int, place: str, tmp_path: Path) -> None:
    environ = {"DIES": str(dies), "IN": place}
    started = ranks.start(outcome, 2, die, folder=tmp_path / "ranks", environ=environ)
    began = time.monotonic()
    ended = started.wait(SECONDS)
    assert ended[dies].status == -signal.SIGKILL
    status, said = ended[1 - dies].result
    who = f"process {started.processes[dies].pid}" if dies else "the first process"
    assert (status, time.monotonic() - began < SECONDS) == (1, True)
    assert said.startswith(f"OtherProcessError: another process failed: rank {dies}: is gone ({who}")


def test_a_process_whose_main_thread_is_busy_ends_as_well(tmp_path: Path) -> None:
    ended = ranks.start(outcome, 2, die_beside_one_that_computes, folder=tmp_path / "ranks").wait(SECONDS)
    assert ended[0].status == 1
    assert ended[0].result is None
    assert ended[0].said.splitlines()[-1].startswith("finetrainers: another process failed: rank 1: is gone (process ")


@pytest.mark.parametrize("other", [0, 1])
def test_a_process_that_makes_another_call_is_noticed(other: int, tmp_path: Path) -> None:
    ended = ranks.start(outcome, 2, call_otherwise, folder=tmp_path / "ranks", environ={"OTHER": str(other)}).wait(SECONDS)
    assert {each.result[0] for each in ended} == {1}
    assert any("the processes do not make the same calls: number" in each.result[1] for each in ended)


def meet_soon(seconds: float) -> tuple[int, str]:
    meet.MEETING_SECONDS = seconds
    return outcome(lack_a_device)


def test_who_does_not_come_is_named(tmp_path: Path) -> None:
    ended = ranks.start(meet_soon, 2, 2.0, folder=tmp_path / "ranks", environ={"WORLD_SIZE": "4"}).wait(SECONDS)
    for each in ended:
        assert each.result[0] == USER_ERROR
    assert "of 4 processes, 2 did not come within 2 s: rank 2, 3; see that" in ended[0].result[1]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("", 0)) as taken:
        environ = {"MASTER_PORT": str(taken.getsockname()[1]), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        (first,) = ranks.start(meet_soon, 1, 2.0, folder=tmp_path / "ranks", environ=environ).wait(SECONDS)
    assert first.result[0] == USER_ERROR
    assert f"port {environ['MASTER_PORT']} of this host is in use" in first.result[1]


def lay_out(words: dict[str, int]) -> tuple[int, str]:
    try:
        with join(ParallelConfig(**words), "cuda:1" if os.environ["RANK"] == "1" and not words else "cpu"):
            return 0, ""
    except ConfigError as error:
        return error.status, str(error)


@pytest.mark.parametrize(
    "words, said", [({"shard": 3}, "parallel.shard: 3"), ({}, "train.device: 'cuda:1'|train.device: cuda:1")]
)
def test_what_cannot_work_is_said_by_all(words: dict[str, int], said: str, tmp_path: Path) -> None:
    """The device is missing on one of them only."""
    import re

    ended = ranks.start(lay_out, 2, words, folder=tmp_path / "ranks").wait(SECONDS)
    for each in ended:
        assert each.result[0] == USER_ERROR
        assert re.match(said, each.result[1])


def test_who_failed_is_heard_in_its_own_words() -> None:
    """Its message and the watch's news of it come at once, and the watch may be the first to be looked at."""
    store = distributed.HashStore()

    def look() -> None:
        with pytest.raises(ConfigError), Talk(1, 2, store).together():
            raise ConfigError("train.device: there is none")
        raise OtherProcessError("another process failed: rank 1: train.device: there is none", USER_ERROR)

    with pytest.raises(ConfigError, match="^train.device: there is none"), Talk(0, 2, store, look=look).together():
        pass


def talk_for_long() -> int:
    with join(ParallelConfig(), "cpu") as world:
        store = world.talk._store
        assert store is not None
        for number in range(30):
            assert world.first(lambda number=number: number) == number
            assert world.talk.gather((world.launch.rank, number)) == [(rank, number) for rank in range(3)]
            with world.together(), world.lead():
                pass
        distributed.barrier()
        return int(store.num_keys())


def test_what_was_heard_leaves_the_store(tmp_path: Path) -> None:
    few = ranks.results(talk_for_long, 3, folder=tmp_path / "ranks")
    assert max(few) < 30


def test_alone_nothing_is_waited_for() -> None:
    talk = Talk(0, 1)
    assert talk.gather(1) == [1]
    assert talk.first(lambda: 2) == 2
    with pytest.raises(ValueError, match="x"), talk.together():
        raise ValueError("x")
    assert str(OtherProcessError("x", 3)) == "x"
