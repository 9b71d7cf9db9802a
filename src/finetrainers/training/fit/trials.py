"""What a step takes with one set of techniques or another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from finetrainers.config import Config
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.distributed.layout import Layout
from finetrainers.errors import FinetrainersError
from finetrainers.models import Model
from finetrainers.models.blocks import named_blocks
from finetrainers.training.checks.parts import check_computation
from finetrainers.training.checks.sharing import check_sharing
from finetrainers.training.cost import StepCost, collected, predict_step
from finetrainers.training.fit.sets import Techniques, left_open, with_techniques
from finetrainers.training.plan.devices import on_one_of, with_shared_weights


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one set."""

    techniques: Techniques
    """Of the set, those that the user has not settled."""
    config: Config | None
    """The run with them."""
    peak_bytes: int | None
    reason: str = ""
    """Why the set is impossible, where it is."""
    cost: StepCost | None = None
    """All that was counted, where it is possible."""

    @property
    def title(self) -> str:
        """Say the techniques in one line."""
        return ", ".join(f"{key}: {_written(value)}" for key, value in self.techniques.items()) or "as it is written"


def try_sets(
    config: Config,
    model: Model,
    sets: Sequence[Techniques],
    known: Sequence[Trial] = (),
    *,
    layout: Layout | None = None,
) -> Iterator[Trial]:
    """Count the step of a run's largest bucket with one set after the other; what comes to the same is tried once.

    Of processes that share weights, each is counted with its part of them. Of those that share tokens, each is counted with
    all tokens, which is an upper bound.

    Args:
        config: Of the run.
        model: None of whose weights are asked for.
        sets: Those to try.
        known: What was tried before, and is not tried again.
        layout: How processes share the work; one has all of it if None.
    """
    layout = Layout() if layout is None else layout
    tried = [trial.techniques for trial in known]
    for wanted in sets:
        techniques = {key: in_blocks(value, model) for key, value in left_open(config, wanted).items()}
        if techniques in tried:
            continue
        tried.append(techniques)
        with collected():
            trial = _try_set(config, model, techniques, layout)
        yield trial


def _try_set(config: Config, model: Model, techniques: Techniques, layout: Layout) -> Trial:
    """Count one set, or say why it is impossible."""
    try:
        chosen = with_techniques(config, techniques)
        check_sharing(chosen, layout)
        check_computation(chosen, model)
        own = on_one_of(chosen, layout)
        cost = with_shared_weights(predict_largest(own, model), own, model, layout, prefetch=chosen.parallel.prefetch)
    except FinetrainersError as error:
        return Trial(techniques, None, None, str(error).splitlines()[-1].strip())
    return Trial(techniques, chosen, cost.peak_bytes, cost=cost)


def predict_largest(config: Config, model: Model) -> StepCost:
    """Count the step of the bucket that has most tokens."""
    buckets = [bucket for data in config.data for bucket in resolve_buckets(data.buckets)]
    return predict_step(config, model, max(buckets, key=model.adapter.grid.num_tokens), is_compiled=False)


def in_blocks(value: Any, model: Model) -> Any:
    """Turn a share of the blocks into a number of them."""
    if not isinstance(value, Fraction):
        return value
    shell = model.pretrained.shell(model.denoisers.trained[0])
    return int(value * len(named_blocks(shell, model.adapter.blocks)))


def _written(value: Any) -> str:
    """Write a value as a file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """One line a set: what it takes, or why it is impossible."""
    shown = [
        f"{trial.peak_bytes / 1e9:7.1f} GB  {trial.title}"
        if trial.peak_bytes is not None
        else f"{trial.title}: {trial.reason}"
        for trial in trials
    ]
    return [f"memory: auto counted {len(shown)} sets of techniques, and uses the last:", *shown]
