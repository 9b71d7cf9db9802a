"""Weights that several processes share: each holds a part of them, and all take the steps of one process."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ranks

from finetrainers.config import Config
from finetrainers.data.order.order import Order
from finetrainers.distributed.world import World, alone, join
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.training.build import build_batches, build_trainer
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning

Curve = list[tuple[float, float]]
"""Loss and gradient norm of each step."""
STEPS = 3
MODELS = {
    "flux": ("dev", (1, 64, 96), 16),
    "wan": ("2.1-t2v", (5, 32, 48), 16),
}
"""Of each family: variant, (frames, height, width), prompt tokens."""
TRAIN = {"batch_size": 4, "micro_batch_size": 1}


def built(subject: ModelUnderTest, config: Config, world: World) -> Trainer:
    tuning = build_tuning(config.tuning)
    return build_trainer(config, subject.model, objective=subject.objective, tuning=tuning, device=world.device, world=world)


def taken(trainer: Trainer, subject: ModelUnderTest, config: Config, world: World) -> Curve:
    groups = subject.prepared.plan.catalog.groups()
    prepared = replace(subject.prepared, order=Order(config.seed, config.train.batch_size, groups))
    batches = build_batches(config, prepared, objective=subject.objective, world=world, start=0, stop=STEPS)
    curve: Curve = []
    trainer.after_step = (lambda _, metrics: curve.append((metrics.loss, metrics.grad_norm)),)
    trainer.run(batches, stop=STEPS)
    return curve


def curve_of(subject: ModelUnderTest, tuning: Mapping[str, Any], sections: Mapping[str, Any]) -> Curve:
    """Losses and gradient norms of a run, in this process and those that were started with it."""
    config = subject.config("run", tuning, **sections)
    with join(config.parallel, "cpu") as world:
        return taken(built(subject, config, world), subject, config, world)


def compare(
    subject: ModelUnderTest, tuning: Mapping[str, Any], parallel: Mapping[str, int], folder: Path, **sections: Any
) -> float:
    """Return the largest relative difference of losses and norms between one process and several."""
    sections = {**sections, "train": {**TRAIN, **sections.get("train", {})}}
    one = curve_of(subject, tuning, sections)
    count = parallel.get("replicate", 1) * parallel["shard"]
    several = ranks.results(curve_of, count, replace(subject), tuning, {**sections, "parallel": parallel}, folder=folder)
    assert all(each == several[0] for each in several)
    assert len(one) == STEPS
    return max(
        abs(a - b) / abs(a) for own, other in zip(one, several[0], strict=True) for a, b in zip(own, other, strict=True)
    )


@pytest.fixture(scope="module")
def subject_of(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelUnderTest]:
    """Make a model under test; equal ones share their samples."""

    @cache
    def make(family: str, *, dtype: str = "float32", **conditioning: Any) -> ModelUnderTest:
        variant, size, length = MODELS[family]
        section = {"path": str(tiny(family, variant)), "max_sequence_length": length, "dtype": dtype}
        return ModelUnderTest(section, size, tmp_path_factory.mktemp("shards"), conditioning)

    return make


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("parallel", [{"shard": 2}, {"replicate": 2, "shard": 2}], ids=["fsdp2", "hsdp"])
def test_flux(
    subject_of: Callable[..., ModelUnderTest], tuning: Mapping[str, Any], parallel: Mapping[str, int], tmp_path: Path
) -> None:
    difference = compare(subject_of("flux"), tuning, parallel, tmp_path / "ranks")
    print("DIFF", difference)
    assert difference < 1e-5
