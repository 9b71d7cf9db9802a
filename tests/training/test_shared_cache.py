"""A run whose cache loses items, to another run or by accident: it encodes them again and trains on the same samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.test_leases import living_run
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import DataError, encode, train
from finetrainers.data.cache import writing
from finetrainers.data.cache.leases import oldest_lease
from finetrainers.data.cache.store import Cache
from finetrainers.training.track.track import StepLog

LOSSES = ("loss", "grad_norm")


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    data = write_pictures(tmp_path / "data", 6)
    return flux_tree(tiny_flux, data, tmp_path, train={"steps": 6, "batch_size": 1, "micro_batch_size": 1})


def other(tree: Tree, name: str, **sections: Any) -> Tree:
    return merged(tree, {"output_dir": str(Path(tree["output_dir"]).with_name(name)), **sections})


def warnings_of(tree: Tree) -> list[str]:
    return [event["message"] for event in events_of(tree["output_dir"]) if event["event"] == "warning"]


def after_step(step: int, do: Callable[[], None]) -> Any:
    """Log as ever, and do something after a step."""
    log = StepLog.__call__

    def logged(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        if trainer.step == step:
            do()

    return logged


def delete(cache: Path) -> None:
    for file in cache.glob("*/??/*.safetensors"):
        file.unlink()


def cut(cache: Path) -> None:
    for file in cache.glob("*/??/*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(("spoil", "workers"), [(delete, 0), (delete, 1), (cut, 0), (cut, 1)])
def test_items_that_are_lost_while_a_run_trains_are_encoded_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], workers: int
) -> None:
    """Deleted or damaged: the same losses, bit for bit, and a warning."""
    train(config_of(tree))
    spoilt = other(tree, "spoilt", loader={"workers": workers})
    monkeypatch.setattr(StepLog, "__call__", after_step(2, lambda: spoil(Path(tree["cache"]["path"]))))
    train(config_of(spoilt))
    assert curve(spoilt["output_dir"], *LOSSES) == curve(tree["output_dir"], *LOSSES)
    told = [message for message in warnings_of(spoilt) if "encoded again" in message]
    assert told
    assert all("Traceback" not in message for message in told)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items in packs of a few, as of a large cache."""
    monkeypatch.setattr(writing, "NUM_ALONE", 0)
    monkeypatch.setattr(writing, "FEW", 1)
    monkeypatch.setattr(writing, "BATCH_ITEMS", 3)


def cut_packs(cache: Path) -> None:
    for file in cache.glob("packs/*.pack"):
        file.write_bytes(file.read_bytes()[:10_000])


def delete_packs(cache: Path) -> None:
    for file in cache.glob("packs/*.pack"):
        file.unlink()


@pytest.mark.parametrize(("spoil", "workers"), [(delete_packs, 1), (cut_packs, 1), (cut_packs, 0)])
@pytest.mark.usefixtures("packed")
def test_packs_that_are_lost_while_a_run_trains_are_encoded_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], workers: int
) -> None:
    test_items_that_are_lost_while_a_run_trains_are_encoded_again(tree, monkeypatch, spoil, workers)
    assert list(Path(tree["cache"]["path"]).glob("packs/*.pack"))


@pytest.mark.usefixtures("packed")
def test_windows_of_packs_are_those_of_an_unlimited_cache(tree: Tree) -> None:
    """Packs of which the next window needs a part are written anew without the rest: the limit counts bytes on the disk."""
    train(config_of(tree))
    root = Path(tree["cache"]["path"])
    limit = 0.6 * sum(file.stat().st_size for file in root.glob("packs/*"))
    small = other(tree, "small", cache={"path": str(root.with_name("small-cache")), "max_gb": limit / 1e9})
    train(config_of(small))
    assert curve(small["output_dir"], *LOSSES) == curve(tree["output_dir"], *LOSSES)
    assert 0 < sum(file.stat().st_size for file in root.with_name("small-cache").glob("packs/*")) <= limit
    assert not [message for message in warnings_of(small) if "cache." in message]


@pytest.mark.parametrize("spoil", [delete, cut])
def test_what_validation_has_lost_is_encoded_again(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    """Held-out samples and the captions of prompts."""
    (tmp_path / "prompts.csv").write_text("prompt,num_inference_steps\na red square,1\n")
    validation = {"every": 2, "held_out": 0.3, "prompts": str(tmp_path / "prompts.csv"), "noise_levels": 2}
    tree = merged(tree, {"validation": validation, "train": {"steps": 4}})
    spoilt = other(tree, "spoilt")
    train(config_of(tree))
    monkeypatch.setattr(StepLog, "__call__", after_step(2, lambda: spoil(Path(tree["cache"]["path"]))))
    train(config_of(spoilt))
    losses = [
        [event["held_out_loss"] for event in events_of(each["output_dir"]) if event["event"] == "validation"]
        for each in (tree, spoilt)
    ]
    assert losses[0] == losses[1]
    assert curve(spoilt["output_dir"], *LOSSES) == curve(tree["output_dir"], *LOSSES)
    assert any("items of the validation are gone or damaged" in message for message in warnings_of(spoilt))
    pictures = [sorted((Path(t["output_dir"]) / "validation").rglob("*.png")) for t in (tree, spoilt)]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]


def test_a_run_takes_nothing_from_another_that_lives(tree: Tree) -> None:
    """With a small cache.max_gb; the limit is kept again once the other run is gone."""
    encode(config_of(tree))
    root = Path(tree["cache"]["path"])
    needed = [f"{entry.kind}/{entry.key}" for entry in Cache(root).entries()]
    size = sum(entry.bytes for entry in Cache(root).entries())
    data = write_pictures(root.parent / "others", 6, seed=5)
    small = {"cache": {"max_gb": 0.5 * size / 1e9}, "data": [{**tree["data"][0], "path": str(data)}]}
    with living_run(root, *needed):
        train(config_of(other(tree, "second", **small)))
        there = {f"{entry.kind}/{entry.key}" for entry in Cache(root).entries()}
        assert there >= set(needed)
    assert any(
        "GB more than" in message and "other runs that live need" in message
        for message in warnings_of(other(tree, "second"))
    )
    train(config_of(other(tree, "third", **small)))
    assert sum(entry.bytes for entry in Cache(root).entries()) <= 0.5 * size
    assert not any("GB more than" in message for message in warnings_of(other(tree, "third")))


def test_a_run_holds_a_lease_while_it_trains_and_none_afterwards(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has marked or encoded is not older than the lease."""
    root, seen = Path(tree["cache"]["path"]), []

    def look() -> None:
        seen.append((oldest_lease(root), min(entry.used for entry in Cache(root).entries())))

    monkeypatch.setattr(StepLog, "__call__", after_step(2, look))
    train(config_of(tree))
    ((lease, oldest_use),) = seen
    assert lease is not None
    assert lease <= oldest_use
    assert list((root / "leases").glob("*")) == []


def test_items_that_can_never_be_made_again_end_the_run_with_one_message(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone at once, three times over: that is no accident. No traceback of a worker is in the message."""
    encode(config_of(tree))
    read, root = Cache.read_all, Path(tree["cache"]["path"])

    def losing(self: Cache, items: Any) -> Any:
        for item in items:
            self.file(*item).unlink(missing_ok=True)
        return read(self, items)

    monkeypatch.setattr(Cache, "read_all", losing)
    with pytest.raises(DataError, match="gone or damaged") as error:
        train(config_of(merged(tree, {"loader": {"workers": 1}})))
    assert "Traceback" not in str(error.value)
    assert str(root) in str(error.value)
    assert len([message for message in warnings_of(tree) if "encoded again" in message]) == 2
