"""Processes that were not given the same: refused by name where they could not work together, told where one counts."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
from runs import Tree, config_of, flux_tree, merged

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.world import join
from finetrainers.errors import ConfigError
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
