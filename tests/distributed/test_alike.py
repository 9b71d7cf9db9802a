"""Processes that were not given the same, or do not find the same: refused by name where they could not work together."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import Tree, config_of, events_of, flux_tree, merged, write_pictures

from finetrainers.cli.status import USER_ERROR
from finetrainers.config import Config, dump_config
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.world import join
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training import run as training
from finetrainers.training.checks import alike
from finetrainers.training.versions import versions


def other_layout() -> None:
    layout = ParallelConfig(shard=2) if os.environ["RANK"] == "1" else ParallelConfig(replicate=2)
    with join(layout, "cpu"):
        pytest.fail("they would wait for each other in different groups")


def other_version() -> None:
    _alike(lambda: versions().update(torch="1.0"))


def other_code() -> None:
    _alike(lambda: setattr(alike, "code_digest", lambda: "another"))  # noqa: B010 - mypy takes no other function


def _alike(change: Callable[[], None], tree: Tree | None = None) -> str | None:
    """Let the second process be another than the first."""
    if os.environ["RANK"] == "1":
        change()
    config = config_of(tree or flux_tree(Path("model"), Path("data"), Path("folder")))
    with join(ParallelConfig(), "cpu") as world:
        return alike.check_alike(world, config)


def outcome(do: Callable[[], str | None]) -> str | None:
    try:
        return do()
    except ConfigError as error:
        return str(error)


def other_config() -> str | None:
    tree = flux_tree(Path("model"), Path("data"), Path("folder"))
    more = {"train": {"steps": 77}, "optimizer": {"lr": 0.5}} if os.environ["RANK"] == "1" else {}
    return _alike(lambda: None, merged(tree, more))


@pytest.mark.parametrize(
    "do, said",
    [
        (
            other_layout,
            "parallel: process 0 was given replicate 2, shard 1, context 1, and process 1 replicate 1, shard 2, ",
        ),
        (other_version, "torch: process 1 (on "),
        (other_code, "finetrainers: process 1 (on "),
        (other_config, "process 1 (on "),
    ],
)
def test_processes_that_were_not_given_the_same_are_told(do: Callable[[], str | None], said: str, tmp_path: Path) -> None:
    found = ranks.results(outcome, 2, do, folder=tmp_path / "ranks")
    assert found[0] == found[1], "all say the same"
    assert found[0].startswith(said)
    if do is other_config:
        assert found[0].endswith(" was given another configuration (optimizer.lr, train.steps); that of process 0 counts")
    if do is other_version:
        assert " has 1.0, and process 0 (on " in found[0]


def other_place(folder: str) -> None:
    """What one host has there is not what others have."""
    prepare = training.prepare

    def prepared(config: Config, *rest: Any, **options: Any) -> Any:
        (data,) = config.data
        return prepare(config.model_copy(update={"data": (data.model_copy(update={"path": folder}),)}), *rest, **options)

    training.prepare = prepared


def other_weights(_: str) -> None:
    Model.fingerprint = lambda _: "others"  # type: ignore[method-assign]


def other_folder(_: str) -> None:
    alike.SHOWING_SECONDS = 0.0
    alike.NOTE = "nobody writes here"


def start_otherwise(file: str, folder: str, change: Callable[[str], None]) -> int:
    """Train; the second process finds something else than the first."""
    if os.environ["RANK"] == "1":
        change(folder)
    return ranks.command("train", file)


@pytest.mark.parametrize(
    "change, said",
    [
        (other_place, r"data: process 1 \(on .*\) finds 5 items in .*/data, and process 0 \(on .*\) 6; let all"),
        (other_weights, r"model\.path: process 1 \(on .*\) finds other weights there than process 0 \(on"),
        (other_folder, r"output_dir: process 1 \(on .*\) does not see in .*/run what process 0 \(on .*\) writes there"),
    ],
)
def test_processes_that_find_other_files_take_no_step(
    change: Callable[[str], None], said: str, tiny_flux: Path, tmp_path: Path
) -> None:
    """Else each would train on samples of its own, or lose all steps at the first checkpoint."""
    write_pictures(tmp_path / "fewer", 5)
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 6), tmp_path, train={"micro_batch_size": 2})
    (tmp_path / "config.yaml").write_text(dump_config(config_of(tree)))
    words = (str(tmp_path / "config.yaml"), str(tmp_path / "fewer"), change)
    ended = ranks.start(start_otherwise, 2, *words, folder=tmp_path / "ranks").wait()
    for each in ended:
        assert each.result == USER_ERROR
        assert re.search(f"finetrainers: {said}", each.said)
    events = events_of(tmp_path / "run")
    assert not [event for event in events if event["event"] == "step"]
    assert not (tmp_path / "run/.here").exists()
