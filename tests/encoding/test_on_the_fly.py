"""``cache.encode: on_the_fly``: items of the next steps in memory, and training as with a cache on the disk."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ranks
from runs import Tree, adapter_file, config_of, curve, events_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file
from shards import write_shards

from finetrainers import ConfigError, encode, train
from finetrainers.config import CacheConfig, dump_config
from finetrainers.data.cache.memory import MemoryCache
from finetrainers.data.cache.store import Cache
from finetrainers.data.order.jobs import Failure
from finetrainers.distributed.board import Place
from finetrainers.encoding.encoder import Encoder
from finetrainers.encoding.shares import Found
from finetrainers.errors import DataError
from finetrainers.training.track.track import StepLog

LOSSES = ("loss", "grad_norm")
BREAKS = "03.png"
"""A picture that cannot be decoded, which is seen when its window is encoded."""


def base(model: Path, root: Path, **sections: Any) -> Tree:
    """A run that measures and skips: 6 steps of one sample, with held-out samples and one that breaks."""
    once = {
        "train": {"steps": 6, "batch_size": 1, "micro_batch_size": 1},
        "validation": {"every": 3, "held_out": 0.2, "noise_levels": 2},
        "data": [{"path": str(write_pictures(root / "data", 7)), "buckets": [[1, 64, 64]], "on_error": "skip"}],
    }
    return merged(flux_tree(model, root / "data", root), merged(once, sections))


@pytest.fixture(autouse=True)
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetrainers.encoding.decoding.decode", broken())


def broken(note: Callable[[str], None] = lambda _: None) -> Callable[..., Any]:
    from finetrainers.data.media.files import decode

    def decoded(path: str, *rest: Any) -> Any:
        note(Path(path).name)
        if Path(path).name == BREAKS:
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, *rest)

    return decoded


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    return base(tiny_flux, tmp_path)


def size_of(tree: Tree) -> int:
    return sum(entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries())


def on_the_fly(tree: Tree, name: str, num_bytes: float, **sections: Any) -> Tree:
    root = Path(tree["output_dir"]).parent
    cache = {"path": str(root / f"{name}-cache"), "encode": "on_the_fly", "max_gb": num_bytes / 1e9}
    return merged(tree, {"output_dir": str(root / name), "cache": cache, **sections})


def weights(tree: Tree, step: int = 6) -> dict[str, Any]:
    file = adapter_file(Path(tree["output_dir"]) / "weights" / f"step-{step:06d}")
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


def held_out(tree: Tree) -> list[float]:
    return [event["held_out_loss"] for event in events_of(tree["output_dir"]) if event["event"] == "validation"]


def assert_same(tree: Tree, other: Tree) -> None:
    assert curve(tree["output_dir"], *LOSSES) == curve(other["output_dir"], *LOSSES)
    assert weights(tree) == weights(other)
    assert held_out(tree) == held_out(other)


def num_windows(tree: Tree) -> int:
    """Times that media were encoded."""
    events = (event for event in events_of(tree["output_dir"]) if event["event"] == "progress")
    return sum(event["stage"] == "encode media" and event["done"] == event["total"] for event in events)


def test_it_trains_as_an_unlimited_cache_does_and_writes_no_item(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with workers and without, and on from the middle of a window; the limit holds."""
    train(config_of(tree))
    limit, held, write = 0.7 * size_of(tree), [], MemoryCache.write
    largest = max(entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries())

    def watched(self: MemoryCache, *item: Any) -> int:
        count = write(self, *item)
        held.append(sum(map(len, self._items.values())))
        return count

    monkeypatch.setattr(MemoryCache, "write", watched)
    small = on_the_fly(tree, "fly", limit, loader={"workers": 1})
    train(config_of(small))
    assert_same(small, tree)
    assert num_windows(small) > 2
    assert 0 < max(held) <= limit + largest  # one is made before there is room for it, to see how large it is
    assert [file.name for file in Path(small["cache"]["path"]).rglob("*.safetensors")] == []
    assert [own["key"] for event in events_of(small["output_dir"]) for own in event.get("disk", ())] == 2 * ["output_dir"]

    cut = on_the_fly(tree, "cut", limit, checkpoint={"every": 1, "background": False})
    log = StepLog.__call__

    def killing(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        if trainer.step == 3:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "__call__", killing)
        with pytest.raises(RuntimeError, match="killed"):
            train(config_of(cut))
    train(config_of(cut))
    assert [event["resumed_from"] for event in events_of(cut["output_dir"]) if event["event"] == "run"][-1] > 0
    assert_same(cut, tree)


def test_what_memory_has_lost_is_encoded_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config_of(tree))
    lost, log, has = on_the_fly(tree, "lost", size_of(tree)), StepLog.__call__, list[MemoryCache]()
    make = MemoryCache.__init__
    monkeypatch.setattr(MemoryCache, "__init__", lambda self: (make(self), has.append(self))[0])

    def losing(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        if trainer.step == 2:
            has[0]._items.clear()

    monkeypatch.setattr(StepLog, "__call__", losing)
    train(config_of(lost))
    assert_same(lost, tree)
    told = [event["message"] for event in events_of(lost["output_dir"]) if event["event"] == "warning"]
    assert any("items of the cache are encoded again" in message for message in told)


def run_noted(file: str, log: Path) -> int:
    """Train, and note what this process decodes."""
    import finetrainers.encoding.decoding as decoding

    def note(name: str) -> None:
        with log.open("a") as out:
            out.write(f"{os.environ['RANK']} {name}\n")

    decoding.decode = broken(note)  # type: ignore[assignment]
    return ranks.command("train", file)


def test_each_of_two_processes_holds_what_it_trains_on(tiny_flux: Path, tmp_path: Path) -> None:
    """As two with an unlimited cache, bit for bit."""
    tree = base(tiny_flux, tmp_path, train={"batch_size": 2, "steps": 4}, validation={"every": 2})
    logs = []
    for name in ("whole", "fly"):
        own = tree if name == "whole" else on_the_fly(tree, name, 0.6 * size_of(tree))
        file, log = tmp_path / f"{name}.yaml", tmp_path / f"{name}.log"
        file.write_text(dump_config(config_of(own)))
        assert ranks.results(run_noted, 2, str(file), log, folder=tmp_path / f"{name}-ranks") == [0, 0]
        logs.append(Counter(log.read_text().splitlines()))
    assert curve(own["output_dir"], *LOSSES) == curve(tree["output_dir"], *LOSSES)
    assert weights(own, 4) == weights(tree, 4)
    assert held_out(own) == held_out(tree)
    left_out = [Path(each["output_dir"], "left_out.json") for each in (tree, own)]
    assert BREAKS in left_out[0].read_text()
    assert BREAKS in left_out[1].read_text()
    assert num_windows(own) > 1
    assert not list(Path(own["cache"]["path"]).rglob("*.safetensors"))
    by_rank = [{line.split()[1] for line in logs[1] if line.startswith(rank)} for rank in "01"]
    assert by_rank[0] != by_rank[1]


def streamed(model: Path, root: Path, **sections: Any) -> Tree:
    """Shards and a folder by their weights, in several chapters."""
    shards = {"path": str(write_shards(root / "a", 3, 4)), "stream": True, "chapter_items": 4, "on_error": "skip"}
    shards |= {"buckets": [[1, 64, 64], [1, 64, 32]], "weight": 2.0}
    held_out = {"path": str(write_pictures(root / "held", 2, seed=5)), "buckets": [[1, 64, 64]]}
    tree = base(model, root, **sections)
    del tree["validation"]["held_out"]
    return merged(tree, {"data": [shards, {**tree["data"][0], "weight": 1.0}], "validation": {"data": [held_out]}})


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)])
def test_streamed_sets_are_encoded_on_the_fly(tiny_flux: Path, tmp_path: Path, count: int) -> None:
    """As with a cache on the disk, bit for bit: chapters, weights of the sets, a sample that breaks, held-out losses."""
    tree = streamed(tiny_flux, tmp_path, train={"batch_size": 2})
    for name in ("whole", "fly"):
        own = tree if name == "whole" else on_the_fly(tree, name, 0.6 * size_of(tree))
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump_config(config_of(own)))
        log = tmp_path / f"{name}.log"
        if count == 1:
            train(config_of(own))
        else:
            assert ranks.results(run_noted, count, str(file), log, folder=tmp_path / f"{name}-ranks") == [0, 0]
    assert len(list((Path(own["output_dir"]) / "chapters").iterdir())) > 1
    assert num_windows(own) > 1
    assert not list(Path(own["cache"]["path"]).rglob("*.safetensors"))
    assert_same(own, tree)
    if count == 1:
        train(config_of(own))  # which has no step left, and no window: as after a kill between the last step and the end
        assert_same(own, tree)


def run_forgetting(file: str, log: Path) -> int:
    """Train; the second process loses all it holds whenever a validation has looked whether it is there."""
    import finetrainers.training.validation.validate as validate

    rank, look, made, make = os.environ["RANK"], validate.encode_for_validation, list[MemoryCache](), MemoryCache.__init__
    MemoryCache.__init__ = lambda self: (make(self), made.append(self))[0]  # type: ignore[method-assign, assignment]

    def looking(prepared: Any, *, has_failed: bool = False) -> None:
        look(prepared, has_failed=has_failed)
        with log.open("a") as out:
            out.write(f"{rank} {has_failed}\n")
        if rank == "1" and not has_failed:
            made[0]._items.clear()

    validate.encode_for_validation = looking
    return ranks.command("train", file)


@pytest.mark.long
def test_what_one_process_of_a_shared_copy_has_lost_it_encodes_again_for_a_validation(
    tiny_flux: Path, tmp_path: Path
) -> None:
    """The first process has all of it, and can mend no memory but its own."""
    sections = {"train": {"batch_size": 2, "steps": 2}, "validation": {"every": 2}, "parallel": {"shard": 2}}
    tree = on_the_fly(base(tiny_flux, tmp_path, **sections), "fly", 1e9)
    file, log = tmp_path / "fly.yaml", tmp_path / "fly.log"
    file.write_text(dump_config(config_of(tree)))
    assert ranks.results(run_forgetting, 2, str(file), log, folder=tmp_path / "ranks") == [0, 0]
    assert len(held_out(tree)) == 2
    assert Counter(log.read_text().splitlines()) == {f"{rank} {way}": 2 for rank in "01" for way in (False, True)}


def test_what_another_process_finds_to_be_bad_is_everyones() -> None:
    """Though this one lacks nothing; what several have found is there once."""
    bad = Failure("00", "00", "x.png", "breaks")
    talk = SimpleNamespace(gather=lambda own: [own, Found([bad]), Found([bad])])
    world: Any = SimpleNamespace(is_alone=False, is_first=False, apart=lambda: nullcontext(Place()), talk=talk)
    none: Any = SimpleNamespace(shares_encoders=False)
    settings = CacheConfig(encode="on_the_fly", max_gb=1.0)
    encoder = Encoder(none, MemoryCache(), none, settings, none, none, none, world=world)
    assert encoder.fill_together([], []) == [bad]


def test_nothing_can_be_encoded_beforehand(tree: Tree) -> None:
    with pytest.raises(ConfigError, match=r"^cache\.encode: on_the_fly keeps .* start finetrainers train, or set .*: ahead"):
        encode(config_of(on_the_fly(tree, "fly", 1e9)))
