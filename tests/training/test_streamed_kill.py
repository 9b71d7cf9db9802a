"""kill -9 of a run on shards, at moments that other runs do not have: started again, it is the run that nobody killed.

``scripts/kill_streamed.py`` does it at any number of random moments.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Tree, config_of, curve, flux_tree, merged, write_pictures
from shards import write_shards
from test_kill import PATIENCE_SECONDS, context, run_in_child

from finetrainers import train
from finetrainers.config import Config
from finetrainers.data.cache.store import Cache
from finetrainers.data.order.chapters import Book

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),  # on two cores
]
LOSSES = ("loss", "grad_norm")
STEPS = 8
Moment = tuple[type, str, Callable[..., bool], int]
"""Method, which of its calls count, and before which of those the process is killed."""


def is_in(folder: str) -> Callable[..., bool]:
    """Whether a file that is renamed or removed is in such a folder, or in one of its folders."""
    return lambda path, *others, **_: folder in Path(others[0] if others else path).parts[-3:-1]


def always(*_: Any, **__: Any) -> bool:
    return True


MOMENTS: dict[str, Moment] = {
    "while the first chapter is made": (Book, "_order", always, 1),
    "while a later chapter is made": (Book, "_order", always, 3),
    "with the journal of a chapter half written": (Path, "replace", is_in("chapters"), 3),
    "with an item of a later chapter half written": (Path, "replace", is_in("latents"), 8),
    "while the cache is evicted": (Path, "unlink", is_in("latents"), 2),
}


def die_at(config: Config, moment: str) -> None:
    """Train in a child until the moment comes."""
    owner, name, counts, number = MOMENTS[moment]
    original, seen = getattr(owner, name), []

    def instead(*args: Any, **options: Any) -> Any:
        if counts(*args, **options):
            seen.append(args)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, instead)
    run_in_child(config)


@pytest.fixture(scope="module")
def whole(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The run that nobody kills, with an unlimited cache."""
    tree = tree_of(tiny_flux, tmp_path_factory.mktemp("killed"))
    train(config_of(tree))
    return tree


def tree_of(model: Path, root: Path) -> Tree:
    """A run of several chapters that shards and a folder are mixed in by weight."""
    streamed = {"path": str(write_shards(root / "a", 4, 3)), "buckets": [[1, 64, 64], [1, 64, 32]], "stream": True}
    sets = [
        {**streamed, "chapter_items": 3, "weight": 3, "resize": "random_crop", "views": 2},
        {"path": str(write_pictures(root / "indexed", 5, seed=9)), "buckets": [[1, 64, 64]], "weight": 1},
    ]
    sections = {"train": {"steps": STEPS, "batch_size": 2, "micro_batch_size": 2}, "loader": {"workers": 3}}
    return merged(flux_tree(model, root / "a", root, **sections), {"data": sets, "checkpoint": {"every": 1, "keep": 2}})


def with_small_cache(whole: Tree, root: Path) -> Config:
    """The same run elsewhere, with room for about half of what is encoded."""
    size = sum(entry.bytes for entry in Cache(Path(whole["cache"]["path"])).entries())
    cache = {"path": str(root / "cache"), "max_gb": 0.5 * size / 1e9}
    return config_of(merged(whole, {"output_dir": str(root / "run"), "cache": cache}))


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment_a_streamed_run_goes_on_to_the_bit(whole: Tree, tmp_path: Path, moment: str) -> None:
    config = with_small_cache(whole, tmp_path)
    child = context(config).Process(target=die_at, args=(config, moment))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "run.log").read_text()[-2000:]
    train(config)
    assert curve(tmp_path / "run", *LOSSES) == curve(whole["output_dir"], *LOSSES)
    assert [file.name for file in (tmp_path / "run" / "chapters").glob(".*")] == []
