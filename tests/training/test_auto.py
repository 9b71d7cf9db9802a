"""What a configuration leaves to its model: what it becomes, who sees it, and that a run that goes on keeps it."""

import inspect as signatures
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import diffusers
import numpy as np
import pytest
from runs import Tree, config_of, curve, events_of, flux_tree, write_pictures

import finetrainers
from finetrainers.config import Config, PixelBudget, load_config
from finetrainers.data.catalog.buckets import resolve_buckets, usual_bucket
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.sampling.prompts import usual_size
from finetrainers.testing.real_sizes import write_published
from finetrainers.training.auto import settle, settle_for
from finetrainers.training.bench.run import Measuring, bench
from finetrainers.training.checks.same_run import check_same_run
from finetrainers.training.console.announce import about_own_rate
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.native_sizes import are_native
from finetrainers.training.plan.run import Asked, plan

FIGURES = {  # of each model: rate of LoRA, rate of all weights, rank, alpha
    "FLUX.1 dev": (1e-4, 1e-5, 32, 32),
    "CogView4 6B": (5e-5, 5e-5, 64, 64),
    "Wan 2.1 1.3B": (1e-4, 1e-5, 32, 32),
    "HunyuanVideo": (1e-4, 5e-6, 64, 64),
    "LTX-Video 2B": (2e-4, 1e-5, 32, 32),
    "CogVideoX-5b": (1e-4, 2e-5, 128, 64),
}
OWN = """
from finetrainers.models.facts import RecipeFacts
from finetrainers.models.flux import Flux

class Bare(Flux):
    recipe = RecipeFacts()
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture
def tree(tiny_flux: Path, pictures: Path, tmp_path: Path) -> Tree:
    """A run that names neither rate nor rank, and of its sizes a number."""
    found = flux_tree(tiny_flux, pictures, tmp_path, train={"steps": 2}, checkpoint={"every": 2})
    found = {key: value for key, value in found.items() if key not in ("optimizer", "tuning")}
    return {**found, "data": [{"path": str(pictures), "buckets": 64}]}


@pytest.fixture(scope="module", params=FIGURES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Model]:
    folder = write_published(request.param, tmp_path_factory.mktemp("published"))
    return request.param, open_model(config_of(asking(folder)).model)


def asking(model: Path, **sections: Any) -> Tree:
    return {"output_dir": "run", "model": {"path": str(model)}, "data": [{"path": "data"}], **sections}


def settled(model: Model, **sections: Any) -> Config:
    return settle_for(config_of(asking(Path(model.pretrained.config.path), **sections)), model).config


def lora_of(config: Config) -> tuple[Any, Any]:
    assert config.tuning.kind == "lora"
    return config.tuning.rank, config.tuning.alpha


def test_each_family_states_rates_for_lora_and_for_all_weights_and_a_rank(published: tuple[str, Model]) -> None:
    name, model = published
    lr, full_lr, rank, alpha = FIGURES[name]
    lora, full = settled(model), settled(model, tuning={"kind": "full"})
    assert (lora.optimizer.lr, full.optimizer.lr, *lora_of(lora)) == (lr, full_lr, rank, alpha)
    assert lora_of(settled(model, tuning={"rank": 8})) == (8, 8 * alpha / rank)
    assert lora_of(settled(model, tuning={"alpha": 3.0})) == (rank, 3)


def test_what_is_not_given_is_the_size_that_the_pipeline_draws(published: tuple[str, Model]) -> None:
    _, model = published
    size, grid = model.adapter.recipe.size, model.adapter.grid
    drawn = signatures.signature(getattr(diffusers, model.pipeline_class).__call__).parameters
    stated = tuple(drawn[name].default for name in ("height", "width"))
    assert size is not None
    assert stated in (size[1:], (None, None))  # else it takes a size from its components
    buckets = settled(model).data[0].buckets
    sizes = resolve_buckets(buckets)
    assert usual_bucket(buckets)[0] == size[0]
    assert {own[0] for own in sizes} == {size[0], 1}
    for own in sizes:
        assert grid.nearest(own) == own
        assert 0.9 * size[1] * size[2] <= own[1] * own[2] <= size[1] * size[2]
    assert size in sizes
    assert usual_size(buckets, model) == size
    if model.adapter.recipe.has_other_aspects:
        assert any(own[1] > own[2] for own in sizes) == any(own[1] < own[2] for own in sizes) is True
    else:
        assert buckets == ((size[0], *size[1:]), (1, *size[1:]))


def test_a_number_is_all_proportions_of_about_as_many_pixels(published: tuple[str, Model]) -> None:
    _, model = published
    buckets = settled(model, data=[{"path": "data", "buckets": 512}]).data[0].buckets
    sizes = {own[1:] for own in resolve_buckets(buckets)}
    assert (512, 512) in sizes
    assert usual_size(buckets, model)[1:] == (512, 512)
    assert 9 <= len(sizes) <= 25
    assert all(0.85 * 512**2 <= height * width <= 512**2 for height, width in sizes)


def test_a_run_takes_the_figures_of_its_family_and_says_and_saves_them(tree: Tree) -> None:
    finetrainers.train(config_of(tree))
    (run,) = [event for event in events_of(tree["output_dir"]) if event["event"] == "run"]
    saved = load_config(Path(tree["output_dir"]) / "config.yaml")
    assert (saved.optimizer.lr, *lora_of(saved)) == (1e-4, 32, 32)
    assert isinstance(saved.data[0].buckets, PixelBudget)
    assert saved.data[0].buckets.pixels == 64**2
    assert run["auto"][:3] == [
        "optimizer.lr: auto, which is 0.0001",
        "tuning.rank: auto, which is 32",
        "tuning.alpha: auto, which is 32",
    ]
    assert run["auto"][3].startswith("data.0.buckets: 64, which is {pixels: 4096,")
    assert {step[0] for step in curve(tree["output_dir"], "lr")} == {1e-4}


def test_a_run_that_goes_on_keeps_what_it_began_with(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are not those of the family, as those of a run that an earlier version began, without ``auto``."""
    begun = {
        "optimizer": {"lr": 5e-5},
        "tuning": {"rank": 4, "alpha": 8},
        "data": [{**tree["data"][0], "buckets": [[1, 64, 64]]}],
    }
    whole = {**tree, **begun, "output_dir": str(tmp_path / "whole"), "train": {**tree["train"], "steps": 3}}
    finetrainers.train(config_of(whole))
    finetrainers.train(config_of({**tree, **begun}))
    left = {**tree, "data": [{"path": tree["data"][0]["path"]}], "train": {**tree["train"], "steps": 3}}
    finetrainers.train(config_of(left))
    assert curve(tree["output_dir"], "loss", "grad_norm", "lr") == curve(whole["output_dir"], "loss", "grad_norm", "lr")
    warnings = [event["message"] for event in events_of(tree["output_dir"]) if event["event"] == "warning"]
    said = "optimizer.lr: auto continues with 5e-05, with which the run began; a new run would take 0.0001"
    assert said in warnings
    assert load_config(Path(tree["output_dir"]) / "config.yaml").data[0].buckets == ((1, 64, 64),)
    planned = list[Config]()
    planning = "finetrainers.training.plan.run._Planning.__init__"
    monkeypatch.setattr(planning, lambda _, config, *__: planned.append(config))
    monkeypatch.setattr("finetrainers.training.plan.run._Planning.planned", lambda _: None)
    plan(config_of(left), Asked(say=lambda _: None))
    assert (planned[0].optimizer.lr, *lora_of(planned[0])) == (5e-5, 4, 8)


def test_a_written_number_is_compared_and_not_taken_from_the_run(tree: Tree) -> None:
    before, model = settle(config_of(tree)).config, open_model(config_of(tree).model)
    after = settle_for(config_of({**tree, "data": [{**tree["data"][0], "buckets": 48}]}), model, before=before).config
    with pytest.raises(ConfigError, match=r"data\.0\.buckets\.pixels: 4096 -> 2304"):
        check_same_run(before, after)


def test_a_number_goes_on_with_what_it_was_when_the_run_began(tree: Tree) -> None:
    """Its steps are not those of today, as those of a run that an earlier version began."""
    model, budget = open_model(config_of(tree).model), {"pixels": 64**2, "step": 32}
    before = config_of({**tree, "optimizer": {"lr": 1e-4}, "data": [{**tree["data"][0], "buckets": budget}]})
    found = settle_for(config_of(tree), model, before=before)
    assert found.config.data[0].buckets == PixelBudget(pixels=64**2, step=32)
    assert [note.partition(" continues with ")[0] for note in found.notes] == ["data.0.buckets: 64"]


def test_what_is_held_out_takes_the_sizes_that_are_trained_at(tree: Tree) -> None:
    model, held_out = open_model(config_of(tree).model), {"data": [{"path": "a"}, {"path": "b", "buckets": 32}]}
    for buckets in (64, [[1, 48, 64]]):
        own = {**tree, "data": [{**tree["data"][0], "buckets": buckets}], "validation": held_out}
        config = settle_for(config_of(own), model).config
        first, second = (data.buckets for data in config.validation.data)
        assert first == config.data[0].buckets
        assert isinstance(second, PixelBudget)
        assert second.pixels == 32**2
        assert settle_for(config_of(own), model, before=config).config == config


def test_other_sizes_of_a_model_that_was_made_for_one_are_told_of(published: tuple[str, Model]) -> None:
    name, model = published
    sections = {"optimizer": {"lr": 1e-4}, "data": [{"path": "data", "buckets": 512}]}
    notes = settle_for(config_of(asking(Path(model.pretrained.config.path), **sections)), model).notes
    assert [note.startswith("data.0.buckets: 512 gives other sizes than 480 x 720") for note in notes] == [True] * (
        name == "CogVideoX-5b"
    )


def test_a_rate_for_adamw_is_taken_for_its_kind_alone_and_that_is_known_before_the_model(tree: Tree) -> None:
    absent = {**tree, "model": {"path": "nowhere/at-all"}, "optimizer": {"name": "sgd"}}
    with pytest.raises(ConfigError, match=r"^optimizer\.lr: auto is the rate .* AdamW, .* name: sgd; give one$"):
        settle(config_of(absent))
    assert settle(config_of({**tree, "optimizer": {"name": "adamw_8bit"}})).config.optimizer.lr == 1e-4


def test_what_names_all_its_values_asks_no_model(tree: Tree) -> None:
    named = {"optimizer": {"lr": 1e-3}, "tuning": {"rank": 4, "alpha": 8}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
    config = config_of({**tree, **named, "model": {"path": "nowhere/at-all"}})
    assert settle(config).config is config


def test_an_adapter_of_ones_own_without_figures_has_plain_ones_and_needs_sizes(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = {**tree, "model": {**tree["model"], "adapter": f"{tmp_path / 'own.py'}:Bare"}}
    config = settle(config_of(own)).config
    assert (config.optimizer.lr, *lora_of(config)) == (5e-5, 64, 64)
    assert usual_bucket(config.data[0].buckets) == (1, 64, 64)
    with pytest.raises(ConfigError, match=r"^data\.0\.buckets: own states no size .* write \[\[frames, height, width\]\]$"):
        settle(config_of({**own, "data": [{"path": tree["data"][0]["path"]}]}))


@pytest.mark.parametrize(
    ("buckets", "message"),
    [(8, r"data\.0\.buckets: 8 is less than the 16 pixels")],
)
def test_a_number_that_is_too_small_is_refused(tree: Tree, buckets: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settle(config_of({**tree, "data": [{**tree["data"][0], "buckets": buckets}]}))


def test_other_commands_settle_as_training_does(tree: Tree) -> None:
    config = config_of({**tree, "train": {**tree["train"], "device": "cpu"}})
    report = inspect(config, Inspecting(0, False, lambda *_: None)).report
    assert report["would_train"] is True
    measured: Mapping[str, Any] = bench(config, Measuring(1, 1, True, lambda _: None)).config
    assert (measured["optimizer"]["lr"], measured["tuning"]["rank"]) == (1e-4, 32)


@pytest.mark.long
def test_a_plan_settles_as_training_does(tree: Tree) -> None:
    config, quiet = config_of(tree), Asked(say=lambda _: None, items=4)
    assert plan(config, quiet).num_trained == plan(settle(config).config, quiet).num_trained


def test_buckets_that_nobody_asked_for_may_be_empty(tree: Tree) -> None:
    """Those for clips, in a folder of pictures; others are warned of."""
    model = open_model(config_of(tree).model)
    assert are_native(model, settle(config_of(tree)).config.data[0].buckets)
    assert not are_native(model, ((1, 64, 64),))
    assert not are_native(model, PixelBudget(pixels=64**2, step=32))


@pytest.mark.parametrize(
    ("adapter", "rate", "fps", "frames", "count"),
    [
        ("own.py:Own", None, "auto", 9, 1),
        (None, None, "auto", 9, 0),
        ("own.py:Own", 16.0, "auto", 9, 0),
        ("own.py:Own", None, None, 9, 0),
        ("own.py:Own", None, "auto", 1, 0),
    ],
)
def test_an_adapter_of_ones_own_without_a_rate_is_told_of_for_clips_that_are_left_to_it(
    tree: Tree, adapter: str | None, rate: float | None, fps: str | None, frames: int, count: int
) -> None:
    config = config_of({**tree, "model": {**tree["model"], "adapter": adapter}, "data": [{"path": "d", "fps": fps}]})
    data = SimpleNamespace(config=config.data[0], bucket=np.array([0]))
    catalog = SimpleNamespace(sets=[data], buckets=((frames, 64, 64),))
    model = SimpleNamespace(adapter=SimpleNamespace(training=SimpleNamespace(native_fps=rate)))
    said = about_own_rate(config, cast("Any", SimpleNamespace(model=model, plan=SimpleNamespace(catalog=catalog))))
    assert [message.startswith("data.N.fps: auto takes each clip's own frames") for message in said] == [True] * count
