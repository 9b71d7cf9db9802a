"""Steps that were counted before are not counted again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from finetrainers.config import Bucket, Config
from finetrainers.memory import offload
from finetrainers.models import Model
from finetrainers.training.cost import StepCost, predict_step
from finetrainers.training.fit.trials import predict_largest


@contextmanager
def counted_once() -> Iterator[None]:
    """Count each step of a search and of a plan once, in whichever folder its run is."""
    known: dict[str, StepCost] = {}

    def once(config: Config, *more: object, count: Callable[[], StepCost]) -> StepCost:
        key = f"{config.model_dump_json(exclude={'output_dir'})} {more} {offload.MIN_BYTES}"  # which tests set
        return known[key] if key in known else known.setdefault(key, count())

    def largest(config: Config, model: Model) -> StepCost:
        return once(config, count=lambda: predict_largest(config, model))

    def step(config: Config, model: Model, bucket: Bucket) -> StepCost:
        return once(config, bucket, count=lambda: predict_step(config, model, bucket))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetrainers.training.fit.trials.predict_largest", largest)
        patch.setattr("finetrainers.training.plan.run.predict_step", step)
        yield
