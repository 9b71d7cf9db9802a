"""memory.preset: auto takes the fastest set of techniques that fits, and says what it has found."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from counted import counted_once
from runs import config_of, events_of, flux_tree, merged, write_pictures

import finetrainers
from finetrainers.config import Config, load_config
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.fit.choice import USABLE, as_recorded, fit
from finetrainers.training.fit.sets import BLOCKS, SETS
from finetrainers.training.fit.trials import Trial, try_sets
from finetrainers.training.plan.run import Asked, plan

Tree = dict[str, Any]
CHECKPOINTING = "train.gradient_checkpointing"


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    """A step that was counted before is not counted again."""
    with counted_once():
        yield


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("fit")
    return flux_tree(tiny_flux, write_pictures(root / "data", 4), root, train={"steps": 1})


@pytest.fixture(scope="module")
def trials(tree: Tree) -> list[Trial]:
    config = config_of(tree)
    return list(try_sets(config, open_model(config.model), SETS))


def with_budget(tree: Tree, budget: object, **sections: Any) -> Config:
    return config_of(merged(tree, {"memory": {"preset": "auto", "budget": budget}, **sections}))


def peak_of(trials: list[Trial], techniques: Mapping[str, Any]) -> int:
    (peak,) = (trial.peak_bytes for trial in trials if trial.techniques == techniques)
    assert peak is not None
    return peak


def test_sizes_are_read_with_their_units(tree: Tree) -> None:
    read = {"24GB": 24 * 10**9, "24 GiB": 24 * 2**30, "1.5MB": 1_500_000, 1000: 1000, "1000": 1000}
    assert [with_budget(tree, written).memory.budget for written in read] == list(read.values())
    for wrong in ("24Gb", "GB", "-1GB", "0GB", 0):
        with pytest.raises(ConfigError, match="memory.budget"):
            with_budget(tree, wrong)


def test_a_budget_without_a_preset_is_refused(tree: Tree) -> None:
    with pytest.raises(
        ConfigError, match=r"memory\.budget: 1000 has no effect without preset: auto or resident_blocks: auto"
    ):
        config_of(merged(tree, {"memory": {"budget": 1000}}))


def test_a_cpu_has_no_memory_of_its_own_to_count_on(tree: Tree) -> None:
    with pytest.raises(ConfigError, match="memory.budget: auto does not know how much memory cpu may give"):
        fit(with_budget(tree, None))


def test_without_a_preset_nothing_is_chosen(tree: Tree) -> None:
    config = config_of(tree)
    fitted = fit(config)
    assert fitted.config is config
    assert fitted.lines() == []


def test_each_set_is_counted_or_has_a_reason(trials: list[Trial]) -> None:
    assert all((trial.peak_bytes is None) == bool(trial.reason) for trial in trials)
    assert len(trials) == len(SETS)
    assert peak_of(trials, {CHECKPOINTING: True}) < peak_of(trials, {CHECKPOINTING: False})


def test_the_fastest_that_fits_is_taken(tree: Tree, trials: list[Trial]) -> None:
    peak = peak_of(trials, {CHECKPOINTING: False})
    for budget, is_checkpointed in ((peak / USABLE + 1, False), (peak / USABLE - 1, True)):
        fitted = fit(with_budget(tree, round(budget)))
        assert fitted.config.train.gradient_checkpointing == is_checkpointed
        assert fitted.config.memory.preset == "none"
        assert CHECKPOINTING in fitted.lines()[-1]


def test_where_nothing_fits_the_smallest_is_named(tree: Tree, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all sets, which are not counted once more for it."""

    def counted(_config: Config, _model: object, sets: object, **_: object) -> list[Trial]:
        assert sets == SETS
        return trials

    monkeypatch.setattr("finetrainers.training.fit.choice.try_sets", counted)
    smallest = min(trial.peak_bytes for trial in trials if trial.peak_bytes is not None)
    sizes = f"may use 9e-07 GB of 1e-06 GB, and the smallest that preset: auto finds needs {smallest / 1e9:.3g} GB"
    with pytest.raises(ConfigError, match=rf"{sizes} .* which a GPU of {smallest / USABLE / 1e9:.3g} GB has"):
        fit(with_budget(tree, 1000))


def test_of_shared_weights_each_process_counts_its_part(tree: Tree, trials: list[Trial]) -> None:
    """A set fits that would not fit whole; what is impossible beside shards is never chosen."""
    own = merged(tree, {"parallel": {"shard": 2}})
    fitted = fit(with_budget(own, round(peak_of(trials, {CHECKPOINTING: False}) / USABLE) - 1), layout=Layout(1, 2))
    assert fitted.config.train.gradient_checkpointing is False
    assert fitted.config.parallel.shard == 2
    config = config_of(own)
    (streamed,) = try_sets(config, open_model(config.model), [{BLOCKS: 0, CHECKPOINTING: True}], layout=Layout(1, 2))
    assert streamed.config is None
    assert "memory.resident_blocks: 0 is impossible with parallel.shard" in streamed.reason


def test_with_checkpointing_written_the_fastest_set_that_has_it_comes_first(tree: Tree) -> None:
    fitted = fit(with_budget(tree, "1GB", train={"gradient_checkpointing": True}))
    assert [trial.techniques for trial in fitted.trials] == [{"memory.checkpoint_every": 4}]


def test_what_the_user_has_written_stays(tree: Tree, trials: list[Trial]) -> None:
    train = {"gradient_checkpointing": False, "clip_norm": math.inf}
    fitted = fit(with_budget(tree, "1GB", train=train))
    assert fitted.config.train.gradient_checkpointing is False
    assert fitted.config.train.clip_norm == math.inf
    assert CHECKPOINTING not in fitted.trials[-1].techniques
    memory = {"preset": "auto", "budget": peak_of(trials, {CHECKPOINTING: False}), "weights": "none"}
    with pytest.raises(ConfigError, match=r"needs \S+ GB \(as it is written\)"):
        fit(config_of(merged(tree, {"memory": memory, "train": train})))


def test_a_run_goes_on_with_what_it_began_with(tree: Tree, trials: list[Trial], tmp_path: Path) -> None:
    tree = merged(tree, {"output_dir": str(tmp_path / "run")})
    tight = round(peak_of(trials, {CHECKPOINTING: False}) / USABLE) - 1
    finetrainers.train(with_budget(tree, tight))
    saved = load_config(tmp_path / "run/config.yaml")
    assert saved.train.gradient_checkpointing
    assert saved.memory.preset == "none"
    (begun,) = (event for event in events_of(tmp_path / "run") if event["event"] == "run")
    assert CHECKPOINTING in begun["memory"][-1]
    for config in (fit(with_budget(tree, "1GB")).config, as_recorded(with_budget(tree, "1GB"))):
        assert config.train.gradient_checkpointing  # although it would fit without
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetrainers.training.plan.run._Planning.planned", lambda self: (self.config, self.limit))
        config, limit = plan(with_budget(tree, "1GB"), Asked(say=lambda _: None))  # type: ignore[misc]  # of the patch
    assert config.train.gradient_checkpointing
    assert limit == USABLE * 1e9
    with pytest.raises(ConfigError, match="continues with what was chosen when it began"):
        fit(with_budget(tree, 1000))


def test_as_many_blocks_stay_as_fit(tree: Tree, tmp_path: Path) -> None:
    """The most whose step is counted to fit; a run that goes on keeps their number."""
    tree = merged(tree, {"output_dir": str(tmp_path / "run"), "train": {"gradient_checkpointing": True}})
    config = config_of(tree)
    streamed, whole = (
        trial.peak_bytes or 0 for trial in try_sets(config, open_model(config.model), [{BLOCKS: 0}, {BLOCKS: "all"}])
    )
    assert 0 < streamed < whole  # of four blocks, three are on the device or on their way: to stream fewer saves nothing

    def automatic(budget: float) -> Config:
        return config_of(merged(tree, {"memory": {"resident_blocks": "auto", "budget": round(budget)}}))

    for expected, peak in ((0, streamed), (0, whole - 1), ("all", whole)):
        fitted = fit(automatic(peak / USABLE + 0.5))
        assert fitted.config.memory.resident_blocks == expected
        assert fitted.trials[-1].techniques == {BLOCKS: expected}
    with pytest.raises(ConfigError, match=r"memory\.budget: .*the smallest .* finds needs .* \(memory.resident_blocks: 0\)"):
        fit(automatic(streamed / USABLE - 1000))
    finetrainers.train(automatic(streamed / USABLE + 1))
    assert load_config(tmp_path / "run/config.yaml").memory.resident_blocks == 0
    for goes_on in (fit(automatic(1e12)).config, as_recorded(automatic(1e12))):
        assert goes_on.memory.resident_blocks == 0
    with pytest.raises(ConfigError, match=r"resident_blocks: auto has no effect with preset: auto"):
        config_of(merged(tree, {"memory": {"resident_blocks": "auto", "preset": "auto", "budget": "1GB"}}))


@pytest.mark.parametrize("auto", [{"preset": "auto"}, {"resident_blocks": "auto"}])
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": [{"buckets": [[9, 64, 64]]}]}, "data.0.buckets: [9, 64, 64] is impossible"),
        ({"tuning": {"targets": ["nothing"]}}, "tuning.targets: no layer's name ends in"),
    ],
)
def test_what_no_techniques_make_possible_is_refused_as_without_them(
    auto: Tree, sections: Tree, message: str, tree: Tree
) -> None:
    """Nothing impossible is counted, which would end in an error of torch."""
    if "data" in sections:
        sections = {"data": [{**tree["data"][0], **sections["data"][0]}]}
    with pytest.raises(ConfigError) as found:
        fit(
            config_of(
                merged(tree, {"memory": {**auto, "budget": "1GB"}, "train": {"gradient_checkpointing": True}, **sections})
            )
        )
    assert str(found.value).startswith(message)
