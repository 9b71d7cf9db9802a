"""``train.epochs``: the steps that it becomes, once and for a run that goes on, and where it cannot be counted."""

from pathlib import Path

import pytest
from runs import Tree, config_of, events_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, load_config, train
from finetrainers.config import Config
from finetrainers.models import open_model
from finetrainers.training.bench.run import Measuring, bench
from finetrainers.training.epochs import with_counted_steps
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.plan.items import Items, count_items, with_estimated_steps
from finetrainers.training.rehearse.run import rehearse


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    """Five pictures, and two that come three times: 11 samples an epoch."""
    data = write_pictures(tmp_path / "data", 5)
    tree = flux_tree(tiny_flux, data, tmp_path, train={"epochs": 2, "batch_size": 4, "micro_batch_size": 4})
    del tree["train"]["steps"]
    more = write_pictures(tmp_path / "more", 2, seed=1)
    return {**tree, "data": [*tree["data"], {"path": str(more), "buckets": [[1, 64, 64]], "repeats": 3}]}


def test_epochs_are_the_steps_that_pass_over_all_samples_and_their_repeats(tree: Tree) -> None:
    assert with_counted_steps(config_of(tree)).train.steps == 2 * 11 // 4
    counted = with_counted_steps(config_of(merged(tree, {"train": {"epochs": 4}, "schedule": {"warmup_steps": 9}})))
    assert (counted.train.steps, counted.train.epochs) == (11, None)
    with pytest.raises(ConfigError, match=r"warmup_steps: 11 must be less than train\.steps \(11\)"):
        with_counted_steps(config_of(merged(tree, {"train": {"epochs": 4}, "schedule": {"warmup_steps": 11}})))
    small = merged(tree, {"train": {"epochs": 1, "batch_size": 16}})
    with pytest.raises(ConfigError, match=r"train\.epochs: 1 of 7 samples fill no batch of train\.batch_size: 16"):
        with_counted_steps(config_of(small))


def test_a_run_says_its_steps_and_keeps_them(tree: Tree) -> None:
    directory = Path(tree["output_dir"])
    shorter = merged(tree, {"train": {"epochs": 1}})
    assert train(config_of(shorter)).steps == 2
    assert load_config(directory / "config.yaml").train.steps == 2
    assert "train.epochs: 1 are 2 steps of 4 samples" in [e.get("message") for e in events_of(directory)]
    assert train(config_of(tree)).steps == 5
    assert load_config(directory / "config.yaml").train.steps == 5


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"train": {"steps": 4}}, r"train: steps: 4 and epochs: 2 both say"),
        ({"data": [{"path": "x", "buckets": [[1, 64, 64]], "stream": True}]}, r"train\.epochs: 2 .* data\.0\.stream: true"),
        ({"data": [{"path": "x", "buckets": [[1, 64, 64]], "weight": 2}] * 2}, r"train\.epochs: 2 .* data\.0\.weight: 2\.0"),
    ],
)
def test_epochs_that_mean_nothing_are_refused(tree: Tree, changes: Tree, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(merged(tree, changes))


def test_each_command_counts_the_steps_or_refuses_epochs(tree: Tree, tmp_path: Path) -> None:
    config = config_of(tree)
    report = inspect(config, Inspecting(sample=0, decode=False, say=lambda *_: None)).report
    assert report["run"]["steps"] == 5
    with pytest.raises(
        ConfigError, match=r"train\.epochs: 2 is not counted by bench; add train\.epochs=null train\.steps=N"
    ):
        bench(config, Measuring(1, 0, True, print))
    file = tmp_path / "config.yaml"
    file.write_text(Config.model_dump_json(config, by_alias=True, exclude_unset=True))
    assert not rehearse(file).errors


def test_a_plan_estimates_the_steps_of_epochs(tree: Tree) -> None:
    """Of all items, as often as they are repeated, without those that are held out."""
    config = config_of(tree)
    items = count_items(config, open_model(config.model))
    assert items == Items(count=7, views=7, samples=11)
    assert with_estimated_steps(config, items).train.steps == 2 * 11 // 4
    held_out = config_of(merged(tree, {"validation": {"held_out": 0.5}}))
    assert with_estimated_steps(held_out, items).train.steps == 11 // 4
    assert with_estimated_steps(config, Items(count=1, views=1, samples=1)).train.steps == 1
    with pytest.raises(ConfigError, match=r"train\.epochs: 2 cannot be counted: .* add --items N to the command"):
        with_estimated_steps(config, None)
